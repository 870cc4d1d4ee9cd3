//! A node is being drained from an admin's order until it holds no lease. Its leases are moved off one at a time over
//! the whole fleet; what is left at the deadline is taken from it.

use crate::{
    context::Scheduler,
    driver::{Lanes, Report, Task},
};
use orion_domain::{lease::Holding, names::Tag};
use orion_fleet::NotProvisioned;
use orion_store::{Cas, MoveOutcome, MoveReason, StoreError};
use std::collections::HashMap;

/// Leases that are tried in one run, until one can move.
const BATCH_MAX: u32 = 1_000;

/// The task that drains nodes.
pub struct Drain {
    /// One: a whole rack that is drained must not storm the rest. Several schedulers take turns in the database.
    lanes: Lanes<()>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { lanes: Lanes::new(Self::NAME, 1) }
    }
}

impl Task for Drain {
    const NAME: &'static str = "drain";

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let fleet = &scheduler.fleet;
        if !fleet.store.nodes().is_draining().await? {
            return Ok(Report::default());
        }
        let changed = end_and_finish(scheduler).await?;
        if changed > 0 {
            fleet.nudge.all();
        }
        if !scheduler.fleetwide.brake_engaged() {
            let worker = scheduler.clone();
            self.lanes.start(scheduler, (), async move { move_one(&worker).await });
        }
        Ok(Report::new(changed, changed))
    }
}

/// Ends the drains whose deadline came, and finishes those of empty nodes. Returns how many.
async fn end_and_finish(scheduler: &Scheduler) -> Result<usize, StoreError> {
    let fleet = &scheduler.fleet;
    let mut changed = 0;
    for node in fleet.store.nodes().due_drains(fleet.now()).await? {
        if let Cas::Done(leases) = fleet.store.nodes().end_drain(node, fleet.now()).await? {
            tracing::info!(%node, ?leases, "the deadline of a drain came; its leases lost the node");
            changed += 1;
        }
    }
    for node in fleet.store.nodes().emptied(fleet.now()).await? {
        if let Cas::Done(_) = fleet.store.nodes().finish_drain(node, fleet.now()).await? {
            tracing::info!(%node, "a node is drained");
            changed += 1;
        }
    }
    Ok(changed)
}

/// Moves the first lease for which a node is free, and waits until its login works there. Until then the old node
/// keeps its account: if no node takes the lease, it goes back.
async fn move_one(scheduler: &Scheduler) -> Result<(), StoreError> {
    let fleet = &scheduler.fleet;
    // Many leases want the same; where none is free, no move is tried.
    let mut free: HashMap<(Vec<Tag>, Holding), bool> = HashMap::new();
    for (lease, node) in fleet.store.nodes().leases_to_move_off(fleet.now(), BATCH_MAX).await? {
        let Some(drain) = &node.drain else { continue };
        let wanted = (lease.tags.clone(), lease.holding);
        let is_free = match free.get(&wanted) {
            Some(is_free) => *is_free,
            None => {
                let is_free = fleet.store.nodes().has_free(&lease.tags, lease.holding).await?;
                free.insert(wanted, is_free);
                is_free
            }
        };
        if !is_free {
            continue;
        }
        let why = MoveReason::Draining(drain.why());
        match fleet.move_on(lease.id, node.id, None, why).await? {
            MoveOutcome::Placed(placement) => {
                return match fleet.provision(placement).await {
                    Ok(done) => {
                        tracing::info!(lease = %done.lease, from = %node.id, to = %done.node, "a lease left a draining node");
                        Ok(())
                    }
                    Err(NotProvisioned::Store(error)) => Err(error),
                    Err(error) => {
                        tracing::warn!(lease = %lease.id, ?error, "a lease found no node to leave a draining one for");
                        Ok(())
                    }
                };
            }
            // It cannot go there, or it changed, or another scheduler has the turn: the next one, or the next run.
            MoveOutcome::NoneFree { .. } | MoveOutcome::Stale => {}
        }
    }
    Ok(())
}
