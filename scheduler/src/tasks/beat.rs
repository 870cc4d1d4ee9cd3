//! The scheduler's own life sign, the other live processes, and the clock.

use crate::{
    Scheduler,
    members::{Beat, KIND},
};
use orion_fleet::REPLICA_BEAT_EVERY;
use orion_store::StoreError;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

/// Beats until shutdown.
pub async fn run(scheduler: Scheduler) {
    let mut pace = interval(pace(&scheduler));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = scheduler.shutdown.cancelled() => break,
            _ = pace.tick() => {}
        }
        if let Err(error) = live(&scheduler).await {
            tracing::warn!(%error, "the scheduler cannot reach the database");
        }
    }
    // The others need not wait until the beat is old.
    let store = &scheduler.fleet.store;
    if let Err(error) = store.remove_replica(scheduler.fleetwide.name(), KIND).await {
        tracing::warn!(%error, "the scheduler could not say goodbye");
    }
}

/// Where nobody can take nodes over, a slow beat is enough.
fn pace(scheduler: &Scheduler) -> Duration {
    if scheduler.fleet.store.is_for_one_process() { REPLICA_BEAT_EVERY } else { scheduler.config.beat_every }
}

async fn live(scheduler: &Scheduler) -> Result<(), StoreError> {
    let (store, name) = (&scheduler.fleet.store, scheduler.fleetwide.name());
    if let Some(skew) = scheduler.fleet.check_clock(scheduler.config.clock_skew_max).await? {
        // Without a beat, others whose clocks are right look after its nodes.
        tracing::error!(
            ?skew,
            "this machine's clock is off the database's: nothing is decided here until it is right"
        );
        return Ok(());
    }
    let began = (Instant::now(), scheduler.fleet.now());
    store.replica_beat(name, KIND, began.1).await?;
    let mut replicas = store.replicas().await?;
    if store.is_for_one_process() {
        // Other schedulers' rows are of earlier processes, whose nodes need not wait.
        replicas.retain(|replica| replica.kind != KIND || replica.name == name);
    }
    let before = scheduler.fleetwide.share();
    let beat = scheduler.fleetwide.beat(replicas, began);
    let share = scheduler.fleetwide.share();
    if share != before {
        let others = share.as_ref().map(|share| share.others().join(", ")).unwrap_or_default();
        tracing::info!(name, others, "the nodes are shared anew");
    }
    if beat == Beat::Back {
        tracing::warn!(name, "this scheduler was away; it looks at all of its nodes anew");
    }
    if beat == Beat::Back || share != before {
        scheduler.fleet.nudge.all();
    }
    Ok(())
}
