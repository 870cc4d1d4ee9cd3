//! Dirty nodes: makes each hold what it should.

use super::{
    Lanes, Lying, next_look, rest,
    sweep::{NOBODY_KNOWS, end_request},
};
use crate::Scheduler;
use orion_domain::{NodeId, lease::Phase};
use orion_fleet::{Applied, Change};
use orion_store::{MoveOutcome, NodeClaim, StoreError};
use std::time::Instant;

/// Dirty nodes read at one look.
const AT_ONCE: u32 = 256;

/// Reconciles until shutdown.
pub async fn run(scheduler: Scheduler) {
    let lanes: Lanes<NodeId> = Lanes::new(scheduler.config.side_by_side_max);
    let mut lying: Lying<NodeId> = Lying::new();
    let mut nudged = scheduler.fleet.nudge.listen();
    loop {
        let began = Instant::now();
        if scheduler.fleet.may_claim() {
            match scheduler.fleet.store.dirty_nodes(scheduler.fleet.now(), AT_ONCE).await {
                Ok(nodes) => {
                    for id in lying.due(&scheduler, nodes, |id| (*id, Some(*id))) {
                        let worker = scheduler.clone();
                        lanes.start(&scheduler, id, async move {
                            if let Err(error) = reconcile(&worker, id).await {
                                tracing::warn!(node = %id, %error, "a node could not be reconciled");
                            }
                        });
                    }
                }
                Err(error) => tracing::warn!(%error, "dirty nodes could not be read"),
            }
        }
        rest(began).await;
        if !next_look(&scheduler, &mut nudged, scheduler.config.look_every).await {
            return;
        }
    }
}

async fn reconcile(scheduler: &Scheduler, id: NodeId) -> Result<(), StoreError> {
    let fleet = &scheduler.fleet;
    let claimed =
        fleet.store.claim_node(id, &fleet.config.holder, fleet.config.claim_ttl, fleet.now()).await?;
    let Some(claim) = claimed else { return Ok(()) };
    if claim.desired_state == Some(Phase::Provisioning) && undone(scheduler, &claim).await? {
        return Ok(());
    }
    if claim.desired.as_ref().is_some_and(|desired| desired.until <= fleet.now()) {
        // Its time is up: it is ended, not opened again.
        return fleet.store.release_claim(&claim, fleet.now()).await;
    }
    let applied = fleet.apply(&claim, Change::Unknown).await?;
    if let Applied::Done(_, Some(report)) = &applied {
        tracing::info!(node = %id, %report, "a node was cleaned");
    }
    let Some(why) = applied.why_move_on() else { return Ok(()) };
    let on_its_way = matches!(claim.desired_state, Some(Phase::Provisioning | Phase::Migrating));
    if let (Some(desired), true) = (&claim.desired, on_its_way) {
        // The lease that was on its way to this node goes to another one.
        let moved = fleet.move_on(desired.lease, id, Some(&claim), why).await?;
        if let MoveOutcome::Placed(placement) = moved {
            if let Err(error) = fleet.provision(placement).await {
                tracing::warn!(lease = %desired.lease, ?error, "a lease found no node yet");
            }
            return Ok(());
        }
    }
    fleet.leave(&claim, applied).await.map(drop)
}

/// Ends a request whose provisioner is gone and whose client will not come back for it: it carried no
/// idempotency key, so nobody knows its passwords. Whether it did.
async fn undone(scheduler: &Scheduler, claim: &NodeClaim) -> Result<bool, StoreError> {
    let fleet = &scheduler.fleet;
    let Some(desired) = &claim.desired else { return Ok(false) };
    let Some(lease) = fleet.store.lease(desired.lease).await? else { return Ok(false) };
    if lease.finish_after_crash {
        return Ok(false);
    }
    fleet.store.release_claim(claim, fleet.now()).await?;
    end_request(scheduler, &lease, NOBODY_KNOWS).await?;
    Ok(true)
}
