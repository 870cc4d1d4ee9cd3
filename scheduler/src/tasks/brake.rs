//! The brake: follows the one in the database, and pulls or lets it go when what is seen asks for it.

use super::next_look;
use crate::Scheduler;
use orion_domain::{Timestamp, brake::BrakeChange};
use orion_store::{Cas, StoreError};

/// Looks until shutdown.
pub async fn run(scheduler: Scheduler) {
    let mut nudged = scheduler.fleet.nudge.listen();
    loop {
        if let Err(error) = follow(&scheduler).await {
            tracing::warn!(%error, "the brake could not be read or written");
        }
        if !next_look(&scheduler, &mut nudged, scheduler.config.look_every).await {
            return;
        }
    }
}

/// Reads the brake, then looks at it.
///
/// # Errors
/// The database's.
pub async fn follow(scheduler: &Scheduler) -> Result<(), StoreError> {
    let known = scheduler.fleet.store.brake().await?;
    if scheduler.fleetwide.set_brake(known) {
        scheduler.fleet.nudge.all();
    }
    look(scheduler).await
}

/// Looks at all nodes, and pulls the brake or lets it go if need be.
///
/// # Errors
/// The database's. Nothing is given up then: that needs the database, too, and asks for the brake in the same
/// transaction.
pub async fn look(scheduler: &Scheduler) -> Result<(), StoreError> {
    let (fleetwide, store, now) = (&scheduler.fleetwide, &scheduler.fleet.store, scheduler.fleet.now());
    let Some(change) = fleetwide.look(&scheduler.config.brake, now) else { return Ok(()) };
    let known = fleetwide.brake();
    let (written, what, reason) = match &change {
        BrakeChange::Pull { reason } => {
            (store.pull_brake(&known, fleetwide.name(), reason, now).await?, "pulled", reason)
        }
        BrakeChange::Lift { reason } => {
            (store.lift_brake(known.engaged.as_ref(), reason, None, now).await?, "let go", reason)
        }
    };
    match written {
        Cas::Done(brake) => {
            tracing::warn!(reason, "the brake is {what}");
            fleetwide.set_brake(brake);
        }
        // Somebody else was faster.
        Cas::Stale | Cas::Gone => {
            fleetwide.set_brake(store.brake().await?);
        }
    }
    scheduler.fleet.nudge.all();
    Ok(())
}

/// Looks at the brake before a node is given up: with what the other schedulers have seen up to now.
///
/// # Errors
/// The database's.
pub async fn look_before_giving_up(scheduler: &Scheduler, now: Timestamp) -> Result<(), StoreError> {
    if scheduler.fleetwide.share().is_some_and(|share| !share.is_alone()) {
        let since = now.minus(scheduler.config.brake.window);
        let glances = scheduler.fleet.store.nodes_silent_since(since).await?;
        scheduler.fleetwide.hear_of_silence(&glances);
    }
    look(scheduler).await
}
