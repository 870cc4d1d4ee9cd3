//! What fell between the other loops: leases whose provisioner died, and idempotency keys and deliveries to
//! webhooks that are no longer kept.

use super::{Lying, next_look};
use crate::Scheduler;
use orion_domain::{
    LeaseId, Timestamp,
    lease::{EndReason, Lease, Phase},
    node::Health,
};
use orion_store::{MoveOutcome, MoveReason, StoreError};
use std::time::Duration;

/// Leases read at one look.
const AT_ONCE: u32 = 256;
/// Why a request without an idempotency key ends when its provisioner died: nobody knows its passwords.
pub(super) const NOBODY_KNOWS: &str = "the control plane stopped before it could answer";
/// Pause between two sweeps.
const EVERY: Duration = Duration::from_secs(2);
/// Pause between two sweeps of the idempotency keys and of what was sent to webhooks.
const KEYS_EVERY: Duration = Duration::from_secs(600);

/// Sweeps until shutdown.
pub async fn run(scheduler: Scheduler) {
    let mut lying: Lying<LeaseId> = Lying::new();
    let mut nudged = scheduler.fleet.nudge.listen();
    let mut keys_swept = Timestamp::from_micros(0);
    let mut swept = keys_swept;
    loop {
        let now = scheduler.fleet.now();
        if scheduler.fleet.may_claim() && now.since(swept) >= EVERY {
            swept = now;
            if let Err(error) = sweep(&scheduler, &mut lying).await {
                tracing::warn!(%error, "the sweep failed");
            }
        }
        if scheduler.fleet.may_claim() && now.since(keys_swept) >= KEYS_EVERY {
            keys_swept = now;
            if let Err(error) = scheduler.fleet.store.idem_sweep(now).await {
                tracing::warn!(%error, "old idempotency keys could not be removed");
            }
            if let Err(error) = scheduler.fleet.store.sweep_deliveries(now).await {
                tracing::warn!(%error, "old deliveries to webhooks could not be removed");
            }
        }
        if !next_look(&scheduler, &mut nudged, EVERY).await {
            return;
        }
    }
}

async fn sweep(scheduler: &Scheduler, lying: &mut Lying<LeaseId>) -> Result<(), StoreError> {
    let (store, now) = (&scheduler.fleet.store, scheduler.fleet.now());
    let leases = store.orphaned_leases(now, AT_ONCE).await?;
    for lease in lying.due(scheduler, leases, |lease| (lease.id, lease.state.occupies())) {
        orphaned(scheduler, lease).await?;
    }
    Ok(())
}

/// A lease whose provisioner died, on a node that is not alive (on one that is, its reconcile finishes it).
async fn orphaned(scheduler: &Scheduler, lease: Lease) -> Result<(), StoreError> {
    let fleet = &scheduler.fleet;
    let Some(node) = lease.state.occupies() else { return Ok(()) };
    let gone = match fleet.store.node(node).await?.map(|node| node.health) {
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
    fleet.store.end_request(&lease.request_key, &reason, fleet.now()).await?;
    fleet.nudge.all();
    Ok(())
}
