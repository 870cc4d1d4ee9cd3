//! A node is dirty when it may not hold what it should: its lease changed, or it was lost and is back. It is made to hold
//! what it should.

use super::sweep::{NOBODY_KNOWS, end_request};
use crate::{
    context::Scheduler,
    driver::{ForeignWork, Lanes, Report, Task},
};
use orion_domain::{
    LeaseId, NodeId,
    lease::{EndReason, Phase},
    node::QuarantineCause,
};
use orion_fleet::{Applied, Change};
use orion_store::{Cas, MoveOutcome, NodeClaim, StoreError};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Dirty nodes read in one run.
const BATCH_MAX: u32 = 256;
/// Refusals in a row after which a lease whose login worked on a node loses it: a quarter of a minute.
const REFUSALS: u32 = 6;
/// Time that a row of refusals must last if their cause may pass: the account may well be there and open.
const PASSING_FOR: Duration = Duration::from_secs(5 * 60);

/// The task that makes dirty nodes clean.
pub struct Reconcile {
    lanes: Lanes<NodeId>,
    foreign: ForeignWork<NodeId>,
    refusing: Refusing,
}

impl Reconcile {
    /// Makes the task.
    pub fn new(scheduler: &Scheduler) -> Self {
        let lanes = Lanes::new(Self::NAME, scheduler.config.side_by_side_max);
        Self { lanes, foreign: ForeignWork::default(), refusing: Refusing::default() }
    }
}

impl Task for Reconcile {
    const NAME: &'static str = "reconcile";

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let dirty = scheduler.fleet.store.nodes().dirty(scheduler.fleet.now(), BATCH_MAX).await?;
        let found = dirty.len();
        let ready = self.foreign.ready_items(scheduler, dirty, |id| (*id, Some(*id)));
        let started = self.lanes.start_all(
            scheduler,
            ready,
            |id| *id,
            |scheduler, id| {
                let refusing = self.refusing.clone();
                async move { reconcile(&scheduler, &refusing, id).await }
            },
        );
        Ok(Report::new(found, started))
    }
}

async fn reconcile(scheduler: &Scheduler, refusing: &Refusing, id: NodeId) -> Result<(), StoreError> {
    let fleet = &scheduler.fleet;
    let claimed =
        fleet.store.nodes().claim(id, &fleet.config.holder, fleet.config.claim_ttl, fleet.now()).await?;
    let Some(claim) = claimed else { return Ok(()) };
    for desired in claim.desired.iter().filter(|desired| desired.phase == Phase::Provisioning) {
        if undone(scheduler, &claim, desired.lease).await? {
            return Ok(());
        }
    }
    if claim.desired.iter().any(|desired| desired.until <= fleet.now()) {
        // Its time is up: it is ended, not opened again.
        return fleet.store.nodes().release_claim(&claim, fleet.now()).await;
    }
    let applied = fleet.apply(&claim, Change::Unknown).await?;
    // What is about one lease says nothing of the others on the node.
    let concerns = |lease: LeaseId| match &applied {
        Applied::Unfit(Some(of), _) | Applied::Invalid(Some(of), _) => *of == lease,
        Applied::Unfit(None, _)
        | Applied::Invalid(None, _)
        | Applied::Done(..)
        | Applied::Refused(..)
        | Applied::Unreached(_)
        | Applied::Superseded => true,
    };
    let of_phase = |phases: &[Phase]| -> Vec<LeaseId> {
        let desired = claim.desired.iter().filter(|desired| phases.contains(&desired.phase));
        desired.map(|desired| desired.lease).filter(|lease| concerns(*lease)).collect()
    };
    let active = of_phase(&[Phase::Active]);
    let mut on_its_way = of_phase(&[Phase::Provisioning, Phase::Migrating]);
    let is_given_up = refusing.is_given_up(
        id,
        (!active.is_empty()).then_some(&applied),
        claim.node.reconcile_failures,
        Instant::now(),
    );
    if let Applied::Done(_, Some(report)) = &applied {
        tracing::info!(node = %id, %report, "a node was cleaned");
    }
    if let Applied::Invalid(_, detail) = &applied
        && !claim.desired.is_empty()
    {
        tracing::error!(node = %id, detail, "a lease has a value that no node takes");
        let reason = EndReason::Failed { detail: detail.clone() };
        fleet.leave(&claim, applied).await?;
        for lease in on_its_way {
            fleet.end_lease(lease, &reason, None).await?;
        }
        return Ok(());
    }
    let Some(why) = applied.retry_elsewhere_reason() else { return Ok(()) };
    if is_given_up {
        let why = format!("its node does not make its account again: {}", why.text());
        for lease in active {
            let lost = fleet.store.nodes().leave_refusing_node(&claim, lease, &why, fleet.now()).await?;
            on_its_way.extend((lost == Cas::Done(Phase::Migrating)).then_some(lease));
        }
    }
    for lease in on_its_way {
        // The lease that was on its way to this node goes to another one, and the claim ends with that.
        let moved = fleet.move_on(lease, id, Some(&claim), why.clone()).await?;
        if let MoveOutcome::Placed(placement) = moved {
            if let Err(error) = fleet.provision(placement).await {
                tracing::warn!(%lease, ?error, "a lease found no node yet");
            }
            return Ok(());
        }
    }
    fleet.leave(&claim, applied).await.map(drop)
}

/// Nodes that refuse the account of a lease whose login worked there. A restart forgets them; they are counted anew.
#[derive(Clone, Default)]
struct Refusing(Arc<Mutex<HashMap<NodeId, Row>>>);

/// Refusals in a row of one node.
struct Row {
    since: Instant,
    /// The node's failures in a row before the last of them.
    failures: u32,
    refusals: u32,
    /// Refusals whose cause does not pass by itself.
    lasting: u32,
}

impl Refusing {
    /// Whether the node refuses for good: six times in a row for what does not pass by itself, or at least as often
    /// and for five minutes for whatever cause. Any other outcome ends the row: a success, a node that was not
    /// reached, and what others left there. `applied` is none where the work was for no lease whose login worked;
    /// `failures` is how often in a row the node could not be brought in order before.
    fn is_given_up(&self, id: NodeId, applied: Option<&Applied>, failures: u32, now: Instant) -> bool {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lasts = match applied {
            Some(Applied::Unfit(..) | Applied::Refused(_, QuarantineCause::Operator)) => true,
            Some(Applied::Refused(_, QuarantineCause::Passing)) => false,
            Some(
                Applied::Refused(_, QuarantineCause::Cleaning)
                | Applied::Done(..)
                | Applied::Invalid(..)
                | Applied::Unreached(_)
                | Applied::Superseded,
            )
            | None => {
                rows.remove(&id);
                return false;
            }
        };
        // One that was brought in order meanwhile, by somebody else, fails anew.
        if rows.get(&id).is_some_and(|row| failures <= row.failures) {
            rows.remove(&id);
        }
        let row = rows.entry(id).or_insert(Row { since: now, failures, refusals: 0, lasting: 0 });
        row.failures = failures;
        row.refusals += 1;
        row.lasting += u32::from(lasts);
        let is_long = now.saturating_duration_since(row.since) >= PASSING_FOR;
        row.lasting >= REFUSALS || (row.refusals >= REFUSALS && is_long)
    }
}

/// Ends a request whose provisioner is gone and whose client will not come back for it: it carried no
/// idempotency key, so nobody knows its passwords. Whether it did.
async fn undone(scheduler: &Scheduler, claim: &NodeClaim, lease: LeaseId) -> Result<bool, StoreError> {
    let fleet = &scheduler.fleet;
    let Some(lease) = fleet.store.leases().get(lease).await? else { return Ok(false) };
    if lease.finish_after_crash {
        return Ok(false);
    }
    fleet.store.nodes().release_claim(claim, fleet.now()).await?;
    end_request(scheduler, &lease, NOBODY_KNOWS).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_store::Finished;

    const NODE: NodeId = NodeId(1);

    /// Whether the node is given up after each of these outcomes of an active lease, `apart` seconds from each other.
    fn given_up(outcomes: &[Applied], apart: u64) -> Vec<bool> {
        let (refusing, start) = (Refusing::default(), Instant::now());
        let mut failures = 0;
        let told = outcomes.iter().zip(0..).map(|(applied, number)| {
            let at = start + Duration::from_secs(apart * number);
            let told = refusing.is_given_up(NODE, Some(applied), failures, at);
            failures = if matches!(applied, Applied::Done(..)) { 0 } else { failures + 1 };
            told
        });
        told.collect()
    }

    fn times(number: usize, applied: fn() -> Applied) -> Vec<Applied> {
        std::iter::repeat_with(applied).take(number).collect()
    }

    fn unfit() -> Applied {
        Applied::Unfit(None, "the name is taken".into())
    }

    fn passing() -> Applied {
        Applied::Refused("no room".into(), QuarantineCause::Passing)
    }

    fn unreached() -> Applied {
        Applied::Unreached("no answer".into())
    }

    #[test]
    fn an_active_lease_leaves_after_six_refusals_in_a_row() {
        assert_eq!(given_up(&times(7, unfit), 3), [false, false, false, false, false, true, true]);
        for between in [
            unreached(),
            Applied::Refused("a tenant's files".into(), QuarantineCause::Cleaning),
            Applied::Done(Finished::default(), None),
        ] {
            let mut outcomes = times(5, unfit);
            outcomes.push(between);
            outcomes.extend(times(5, unfit));
            assert!(!given_up(&outcomes, 3).contains(&true), "{outcomes:?}");
        }
        let mut outcomes = times(5, unreached);
        outcomes.extend([unfit(), passing()]);
        assert!(!given_up(&outcomes, 300).contains(&true), "failures are no refusals");
    }

    #[test]
    fn what_may_pass_makes_an_active_lease_leave_after_five_minutes_only() {
        assert!(!given_up(&times(100, passing), 3).contains(&true), "297 seconds");
        assert_eq!(given_up(&times(7, passing), 60), [false, false, false, false, false, true, true]);
        assert!(!given_up(&times(5, passing), 300).contains(&true), "too few");
        let mut outcomes = times(5, passing);
        outcomes.push(unfit());
        assert!(!given_up(&outcomes, 3).contains(&true));
    }

    #[test]
    fn a_row_ends_where_the_node_was_brought_in_order_by_another_or_is_there_for_another_lease() {
        let (refusing, now) = (Refusing::default(), Instant::now());
        let refused = |failures| refusing.is_given_up(NODE, Some(&unfit()), failures, now);
        assert!((0..5).all(|failures| !refused(failures)));
        assert!((1..6).all(|failures| !refused(failures)), "its failures are fewer than they were");
        assert!(!refusing.is_given_up(NODE, None, 6, now));
        assert!((7..12).all(|failures| !refused(failures)));
        assert!(refused(12));
    }
}
