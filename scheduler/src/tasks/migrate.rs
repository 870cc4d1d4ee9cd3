//! Leases that lost their node: finds each a new one. Where none is free they wait, visibly.

use super::{Lanes, Lying, next_look};
use crate::Scheduler;
use orion_domain::{
    LeaseId,
    lease::{Lease, LeaseState, OnNodeLoss, Phase},
};
use orion_fleet::NotProvisioned;
use orion_store::{MoveOutcome, MoveReason, StoreError};

/// Migrating leases read at one look.
const AT_ONCE: u32 = 256;

/// Migrates until shutdown.
pub async fn run(scheduler: Scheduler) {
    let lanes: Lanes<LeaseId> = Lanes::new(scheduler.config.side_by_side_max);
    let mut lying: Lying<LeaseId> = Lying::new();
    let mut nudged = scheduler.fleet.nudge.listen();
    loop {
        if scheduler.fleet.may_claim() {
            let now = scheduler.fleet.now();
            match scheduler.fleet.store.leases_in(Phase::Migrating, now, AT_ONCE).await {
                Ok(leases) => {
                    for lease in lying.due(&scheduler, leases, |lease| (lease.id, lease.state.occupies())) {
                        let (worker, id) = (scheduler.clone(), lease.id);
                        lanes.start(&scheduler, id, async move {
                            if let Err(error) = migrate(&worker, lease).await {
                                tracing::warn!(lease = %id, %error, "a lease could not be moved");
                            }
                        });
                    }
                }
                Err(error) => tracing::warn!(%error, "migrating leases could not be read"),
            }
        }
        if !next_look(&scheduler, &mut nudged, scheduler.config.look_every).await {
            return;
        }
    }
}

async fn migrate(scheduler: &Scheduler, lease: Lease) -> Result<(), StoreError> {
    let fleet = &scheduler.fleet;
    let LeaseState::Migrating { from, to: None, .. } = lease.state else {
        // It has a node. Whoever claimed that provisions there; if they died, the reconcile of the node does,
        // or, on one that is not alive, the sweep moves the lease on.
        return Ok(());
    };
    let wait = async |why: &str| fleet.store.set_waiting(lease.id, why, fleet.now()).await.map(drop);
    match lease.on_node_loss {
        OnNodeLoss::Wait => return wait("it waits for its own node, as its policy says").await,
        OnNodeLoss::Migrate | OnNodeLoss::End => {}
    }
    if scheduler.fleetwide.brake_engaged() {
        return wait("the brake is on: too many nodes went silent at once").await;
    }
    match fleet.move_on(lease.id, from, None, MoveReason::NodeDead).await? {
        MoveOutcome::Placed(placement) => {
            match fleet.provision(placement).await {
                Ok(done) => {
                    tracing::info!(lease = %done.lease, node = %done.node, from = %from, "a lease moved")
                }
                Err(NotProvisioned::Store(error)) => return Err(error),
                Err(error) => tracing::warn!(lease = %lease.id, ?error, "a lease found no node yet"),
            }
            Ok(())
        }
        // It waits, and says so: it takes the first node that comes, or its own if that returns.
        MoveOutcome::NoneFree { .. } | MoveOutcome::Stale => Ok(()),
    }
}
