//! Nodes that are being drained: moves their leases off, one at a time over the fleet, takes at the deadline what is
//! left, and says when a node is empty.

use super::{Lanes, next_look};
use crate::Scheduler;
use orion_domain::names::Tag;
use orion_fleet::NotProvisioned;
use orion_store::{Cas, MoveOutcome, MoveReason, StoreError};
use std::collections::HashMap;

/// Leases that are tried at one look, until one can move.
const AT_ONCE: u32 = 1_000;

/// Drains until shutdown.
pub async fn run(scheduler: Scheduler) {
    // One at a time: a whole rack that is drained must not storm the rest. Several schedulers take turns in the
    // database.
    let lanes: Lanes<()> = Lanes::new(1);
    let mut nudged = scheduler.fleet.nudge.listen();
    loop {
        if scheduler.fleet.may_claim()
            && let Err(error) = look(&scheduler, &lanes).await
        {
            tracing::warn!(%error, "draining nodes could not be looked at");
        }
        if !next_look(&scheduler, &mut nudged, scheduler.config.look_every).await {
            return;
        }
    }
}

async fn look(scheduler: &Scheduler, lanes: &Lanes<()>) -> Result<(), StoreError> {
    let fleet = &scheduler.fleet;
    if !fleet.store.is_draining().await? {
        return Ok(());
    }
    let mut changed = false;
    for node in fleet.store.due_drains(fleet.now()).await? {
        if let Cas::Done(lease) = fleet.store.end_drain_time(node, fleet.now()).await? {
            tracing::info!(%node, %lease, "the deadline of a drain came; its lease lost the node");
            changed = true;
        }
    }
    for node in fleet.store.emptied_nodes(fleet.now()).await? {
        if let Cas::Done(_) = fleet.store.finish_drain(node, fleet.now()).await? {
            tracing::info!(%node, "a node is drained");
            changed = true;
        }
    }
    if changed {
        fleet.nudge.all();
    }
    if !scheduler.fleetwide.brake_engaged() {
        let worker = scheduler.clone();
        lanes.start(scheduler, (), async move {
            if let Err(error) = move_one(&worker).await {
                tracing::warn!(%error, "a lease could not be moved off a draining node");
            }
        });
    }
    Ok(())
}

/// Moves the first lease for which a node is free, and waits until its login works there. Until then the old node
/// keeps its account: if no node takes the lease, it goes back.
async fn move_one(scheduler: &Scheduler) -> Result<(), StoreError> {
    let fleet = &scheduler.fleet;
    // Many leases want the same tags; where none is free, no move is tried.
    let mut free: HashMap<Vec<Tag>, bool> = HashMap::new();
    for (lease, node) in fleet.store.leases_to_move_off(fleet.now(), AT_ONCE).await? {
        let Some(drain) = &node.drain else { continue };
        let is_free = match free.get(&lease.tags) {
            Some(is_free) => *is_free,
            None => {
                let is_free = fleet.store.has_free_node(&lease.tags, fleet.now()).await?;
                free.insert(lease.tags.clone(), is_free);
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
            // It cannot go there, or it changed, or another scheduler has the turn: the next one, or the next look.
            MoveOutcome::NoneFree { .. } | MoveOutcome::Stale => {}
        }
    }
    Ok(())
}
