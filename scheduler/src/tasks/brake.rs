//! The mass-failure brake (as Kubernetes' full-disruption mode, Eureka's self-preservation): follows the one in the
//! database, and engages or releases it when what is observed asks for it.

use crate::{
    context::Scheduler,
    driver::{Report, Task},
};
use orion_domain::{Timestamp, brake::BrakeChange};
use orion_store::{Cas, StoreError};

/// The task that keeps the brake.
pub struct Brake;

impl Task for Brake {
    const NAME: &'static str = "brake";
    const TAKES_CLAIMS: bool = false;

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        follow(scheduler).await.map(|()| Report::default())
    }
}

/// Reads the brake, then evaluates it.
///
/// # Errors
/// The database's.
pub async fn follow(scheduler: &Scheduler) -> Result<(), StoreError> {
    let known = scheduler.fleet.store.cluster().brake().await?;
    if scheduler.fleetwide.set_brake(known) {
        scheduler.fleet.nudge.all();
    }
    evaluate(scheduler).await
}

/// Evaluates all nodes, and engages or releases the brake if need be.
///
/// # Errors
/// The database's. Nothing is given up then: that needs the database, too, and asks for the brake in the same
/// transaction.
pub async fn evaluate(scheduler: &Scheduler) -> Result<(), StoreError> {
    let (fleetwide, store, now) = (&scheduler.fleetwide, &scheduler.fleet.store, scheduler.fleet.now());
    let Some(change) = fleetwide.evaluate_brake(&scheduler.config.brake, now) else { return Ok(()) };
    let known = fleetwide.brake();
    let (written, what, reason) = match &change {
        BrakeChange::Pull { reason } => {
            (store.cluster().engage_brake(&known, fleetwide.name(), reason, now).await?, "engaged", reason)
        }
        BrakeChange::Lift { reason } => (
            store.cluster().release_brake(known.engaged.as_ref(), reason, None, now).await?,
            "released",
            reason,
        ),
    };
    match written {
        Cas::Done(brake) => {
            tracing::warn!(reason, "brake {what}");
            fleetwide.set_brake(brake);
        }
        // Somebody else was faster.
        Cas::Stale | Cas::Gone => {
            fleetwide.set_brake(store.cluster().brake().await?);
        }
    }
    scheduler.fleet.nudge.all();
    Ok(())
}

/// Evaluates the brake before a node is given up, with what the other schedulers have observed up to now.
///
/// # Errors
/// The database's.
pub async fn evaluate_before_giving_up(scheduler: &Scheduler, now: Timestamp) -> Result<(), StoreError> {
    if scheduler.fleetwide.share().is_some_and(|share| !share.is_alone()) {
        let since = now.minus(scheduler.config.brake.window);
        let summaries = scheduler.fleet.store.nodes().silent_since(since).await?;
        scheduler.fleetwide.apply_db_silence(&summaries);
    }
    evaluate(scheduler).await
}
