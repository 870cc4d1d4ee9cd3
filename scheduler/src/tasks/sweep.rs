//! A lease is orphaned when it is being provided and the claim of its provisioner ran out. On a node that is alive the
//! reconcile finishes it; on any other the sweep moves it on or ends its request. A lease on a dead node that was not
//! taken off it is taken off.

use crate::{
    context::Scheduler,
    driver::{ForeignWork, Report, Task},
};
use orion_domain::{
    LeaseId,
    lease::{EndReason, Lease, Phase},
    node::Health,
};
use orion_store::{Cas, MoveOutcome, MoveReason, StoreError};
use std::time::Duration;

/// Leases read in one run.
const BATCH_MAX: u32 = 256;
/// Reason for the end of a request without an idempotency key whose provisioner died: nobody knows its
/// passwords.
pub(crate) const NOBODY_KNOWS: &str = "the control plane stopped before it could answer";
/// Pause between two runs.
const PERIOD: Duration = Duration::from_secs(2);

/// The task that sweeps.
#[derive(Default)]
pub struct Sweep {
    foreign: ForeignWork<LeaseId>,
}

impl Task for Sweep {
    const NAME: &'static str = "sweep";
    const NUDGED: bool = false;

    fn period(&self, _: &Scheduler) -> Duration {
        PERIOD
    }

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let (store, now) = (&scheduler.fleet.store, scheduler.fleet.now());
        let leases = store.leases().orphaned(now, BATCH_MAX).await?;
        let on_dead = store.nodes().leases_on_dead_nodes(BATCH_MAX).await?;
        let found = leases.len() + on_dead.len();
        let ready = self.foreign.ready_items(scheduler, leases, |lease| (lease.id, lease.state.occupies()));
        let started = ready.len() + on_dead.len();
        for lease in ready {
            move_on_or_end(scheduler, lease).await?;
        }
        for lease in on_dead {
            if let Cas::Done(_) = store.nodes().take_off_dead_node(lease, now).await? {
                tracing::warn!(%lease, "a lease was on a dead node; it is taken off it");
                scheduler.fleet.nudge.all();
            }
        }
        Ok(Report::new(found, started))
    }
}

/// Moves an orphaned lease to another node, or ends its request, unless its node is alive.
async fn move_on_or_end(scheduler: &Scheduler, lease: Lease) -> Result<(), StoreError> {
    let fleet = &scheduler.fleet;
    let Some(node) = lease.state.occupies() else { return Ok(()) };
    let gone = match fleet.store.nodes().get(node).await?.map(|node| node.health) {
        Some(Health::Dead | Health::Unreachable) | None => true,
        // It will answer in a moment, or be dead.
        Some(Health::Alive | Health::Suspect | Health::Unknown) => false,
    };
    if !gone {
        return Ok(());
    }
    let provisioning = lease.state.phase() == Phase::Provisioning;
    if provisioning && !lease.finish_after_crash {
        return end_request(scheduler, &lease, NOBODY_KNOWS).await;
    }
    let why = MoveReason::Lost("the node was lost while the account was being made".into());
    match fleet.move_on(lease.id, node, None, why).await? {
        MoveOutcome::Placed(placement) => {
            let worker = scheduler.clone();
            scheduler.spawn(async move {
                if let Err(error) = worker.fleet.provision(placement).await {
                    tracing::warn!(?error, "an orphaned lease found no node");
                }
            });
            Ok(())
        }
        MoveOutcome::NoneFree { .. } if provisioning => {
            end_request(
                scheduler,
                &lease,
                "its node was lost while it was being provided, and no other is free",
            )
            .await
        }
        MoveOutcome::NoneFree { .. } | MoveOutcome::Stale => Ok(()),
    }
}

/// All leases of a request end together: its client gets all or none.
pub(super) async fn end_request(
    scheduler: &Scheduler,
    lease: &Lease,
    detail: &str,
) -> Result<(), StoreError> {
    let fleet = &scheduler.fleet;
    let reason = EndReason::Failed { detail: detail.into() };
    fleet.store.leases().end_request(&lease.request_key, &reason, fleet.now()).await?;
    fleet.nudge.all();
    Ok(())
}
