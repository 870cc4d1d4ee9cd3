//! Leases whose time is up.

use super::{Lanes, Lying, next_look};
use crate::Scheduler;
use orion_domain::{LeaseId, lease::EndReason};
use std::time::Duration;

/// Due leases read at one look.
const AT_ONCE: u32 = 256;

/// Ends due leases until shutdown.
pub async fn run(scheduler: Scheduler) {
    let lanes: Lanes<LeaseId> = Lanes::new(scheduler.config.side_by_side_max);
    let mut lying: Lying<LeaseId> = Lying::new();
    let mut nudged = scheduler.fleet.nudge.listen();
    loop {
        let fleet = &scheduler.fleet;
        if scheduler.fleet.may_claim() {
            match fleet.store.due_leases(fleet.now(), AT_ONCE).await {
                Ok(leases) => {
                    for lease in lying.due(&scheduler, leases, |lease| (lease.id, lease.state.occupies())) {
                        let (worker, id) = (scheduler.clone(), lease.id);
                        lanes.start(&scheduler, id, async move {
                            if let Err(error) = worker.fleet.end_lease(id, &EndReason::Expired, None).await {
                                tracing::warn!(lease = %id, %error, "a lease that is due could not be ended");
                            }
                        });
                    }
                }
                Err(error) => tracing::warn!(%error, "due leases could not be read"),
            }
        }
        // Sleeps to the moment when the next one is due, if that comes first.
        let next = fleet.store.next_due(fleet.now()).await.ok().flatten();
        let until_next = next.map_or(Duration::MAX, |at| at.since(fleet.now()) + Duration::from_millis(1));
        if !next_look(&scheduler, &mut nudged, until_next.min(scheduler.config.look_every)).await {
            return;
        }
    }
}
