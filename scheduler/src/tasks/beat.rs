//! The scheduler's own life sign, the live replicas, the clock, and the brake.

use super::next_look;
use crate::Scheduler;
use orion_domain::{Timestamp, brake::BrakeChange};
use orion_fleet::REPLICA_BEAT_EVERY;
use orion_store::{NewEvent, StoreError};
use serde_json::json;
use std::sync::atomic::Ordering;

/// The setting that shows the brake to the API.
const BRAKE: &str = "brake";

/// Beats until shutdown.
pub async fn run(scheduler: Scheduler) {
    let mut nudged = scheduler.fleet.nudge.listen();
    let name = scheduler.fleet.config.holder.clone();
    let mut beat = Timestamp::from_micros(0);
    loop {
        let now = scheduler.fleet.now();
        if now.since(beat) >= REPLICA_BEAT_EVERY {
            beat = now;
            if let Err(error) = live(&scheduler, &name).await {
                tracing::warn!(%error, "the scheduler cannot reach the database");
            }
        }
        if let Err(error) = look_at_brake(&scheduler).await {
            tracing::warn!(%error, "the brake could not be recorded");
        }
        if !next_look(&scheduler, &mut nudged, scheduler.config.look_every).await {
            let _ = scheduler.fleet.store.remove_replica(&name, "scheduler").await;
            return;
        }
    }
}

async fn live(scheduler: &Scheduler, name: &str) -> Result<(), StoreError> {
    let store = &scheduler.fleet.store;
    let before = scheduler.fleet.now();
    let theirs = store.now().await?;
    let ours = scheduler.fleet.now();
    // The database's word lies between the two; how long it took must not count as skew.
    let skew = before.since(theirs).max(theirs.since(ours));
    let skewed = skew > scheduler.config.clock_skew_max;
    if skewed {
        tracing::error!(
            ?skew,
            "this machine's clock is off the database's: no claims are taken until it is right"
        );
    }
    scheduler.fleet.clock_is_off.store(skewed, Ordering::Relaxed);
    store.replica_beat(name, "scheduler", ours).await?;
    scheduler.fleetwide.set_replicas(store.replicas().await?);
    Ok(())
}

/// Looks at the brake and writes what changed: a setting for the API, and an event.
///
/// # Errors
/// The database's; the brake itself has changed then all the same.
pub async fn look_at_brake(scheduler: &Scheduler) -> Result<(), StoreError> {
    let now = scheduler.fleet.now();
    let Some(change) = scheduler.fleetwide.look(&scheduler.config.brake, now) else { return Ok(()) };
    let (kind, setting, reason) = match change {
        BrakeChange::Engaged { reason } => {
            ("brake.engaged", json!({ "engaged": true, "since": now, "reason": reason }), reason)
        }
        BrakeChange::Lifted { reason } => {
            ("brake.lifted", json!({ "engaged": false, "since": now, "reason": reason }), reason)
        }
    };
    tracing::warn!(kind, reason, "the brake changed");
    scheduler.fleet.store.put_setting(BRAKE, &setting.to_string()).await?;
    let event = NewEvent { kind, lease: None, node: None, user: None, data: json!({ "reason": reason }) };
    scheduler.fleet.store.append_event(&event, now).await?;
    scheduler.fleet.nudge.all();
    Ok(())
}

/// Takes over a brake that an earlier process left on.
pub async fn restore_brake(scheduler: &Scheduler) {
    let Ok(Some(text)) = scheduler.fleet.store.get_setting(BRAKE).await else { return };
    let Ok(setting) = serde_json::from_str::<serde_json::Value>(&text) else { return };
    if setting["engaged"] == json!(true) {
        let since = setting["since"].as_str().and_then(|at| at.parse().ok());
        let reason = setting["reason"].as_str().unwrap_or_default().to_owned();
        scheduler.fleetwide.restore_brake(since.map(|since| (since, reason)));
    }
}
