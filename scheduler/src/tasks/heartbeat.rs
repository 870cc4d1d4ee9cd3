//! A scheduler lives as long as its heartbeat in the database changes. Writes it, with how this scheduler's tasks are;
//! reads the other processes' heartbeats; and compares the clocks.

use crate::{
    context::Scheduler,
    driver::{Report, Task},
    members::{Heartbeat as Seen, KIND},
};
use orion_fleet::REPLICA_BEAT_EVERY;
use orion_store::{StoreError, TaskState, TaskStatus};
use std::time::{Duration, Instant};

/// Longest time for which the database has old figures of the tasks, while no state changes.
const STATUSES_PERIOD: Duration = Duration::from_secs(5);

/// The task that writes the heartbeat.
#[derive(Default)]
pub struct Heartbeat {
    /// The states that were written last, and when.
    written: Option<(Instant, Vec<(String, TaskState)>)>,
}

impl Task for Heartbeat {
    const NAME: &'static str = "heartbeat";
    const NUDGED: bool = false;
    const TAKES_CLAIMS: bool = false;

    /// Returns the pause between two heartbeats: a long one where nobody can take nodes over.
    fn period(&self, scheduler: &Scheduler) -> Duration {
        let is_alone = scheduler.fleet.store.is_for_one_process();
        if is_alone { REPLICA_BEAT_EVERY } else { scheduler.config.heartbeat_period }
    }

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let began = Instant::now();
        self.beat(scheduler).await?;
        Ok(Report::default().next_in(self.period(scheduler).saturating_sub(began.elapsed())))
    }

    /// Takes the row away: the others need not wait until the heartbeat is old.
    async fn stop(&mut self, scheduler: &Scheduler) {
        if let Err(error) =
            scheduler.fleet.store.cluster().remove_replica(scheduler.fleetwide.name(), KIND).await
        {
            tracing::warn!(%error, "could not deregister");
        }
    }
}

impl Heartbeat {
    async fn beat(&mut self, scheduler: &Scheduler) -> Result<(), StoreError> {
        let (store, name) = (&scheduler.fleet.store, scheduler.fleetwide.name());
        if let Some(skew) = scheduler.fleet.check_clock(scheduler.config.clock_skew_max).await? {
            // Without a heartbeat, others whose clocks are right look after its nodes.
            tracing::error!(
                ?skew,
                "this machine's clock is off the database's: nothing is decided here until it is right"
            );
            return Ok(());
        }
        let began = (Instant::now(), scheduler.fleet.now());
        store.cluster().heartbeat(name, KIND, began.1).await?;
        self.write_statuses(scheduler).await?;
        let mut replicas = store.cluster().replicas().await?;
        if store.is_for_one_process() {
            // Other schedulers' rows are of earlier processes, whose nodes need not wait.
            replicas.retain(|replica| replica.kind != KIND || replica.name == name);
        }
        let before = scheduler.fleetwide.share();
        let seen = scheduler.fleetwide.heartbeat(replicas, began);
        let share = scheduler.fleetwide.share();
        if share != before {
            let others = share.as_ref().map(|share| share.others().join(", ")).unwrap_or_default();
            tracing::info!(name, others, "node ownership rebalanced");
        }
        if seen == Seen::Resumed {
            tracing::warn!(name, "this scheduler was suspended; it probes all of its nodes anew");
        }
        if seen == Seen::Resumed || share != before {
            scheduler.fleet.nudge.all();
        }
        Ok(())
    }

    /// Writes how the tasks are, if a state changed or the figures are old.
    async fn write_statuses(&mut self, scheduler: &Scheduler) -> Result<(), StoreError> {
        let statuses = scheduler.runs.statuses(scheduler.config.task_hang_min);
        let states: Vec<_> = statuses.iter().map(|status| (status.name.clone(), status.state)).collect();
        if let Some((at, written)) = &self.written
            && *written == states
            && at.elapsed() < STATUSES_PERIOD
        {
            return Ok(());
        }
        for TaskStatus { name, running_since, .. } in statuses.iter().filter(|status| self.is_news(status)) {
            tracing::error!(task = name, ?running_since, "a background task hangs");
        }
        scheduler
            .fleet
            .store
            .cluster()
            .put_task_statuses(scheduler.fleetwide.name(), KIND, &statuses)
            .await?;
        self.written = Some((Instant::now(), states));
        Ok(())
    }

    /// Returns whether the task hangs and did not when the statuses were written last.
    fn is_news(&self, status: &TaskStatus) -> bool {
        let known = self.written.as_ref().is_some_and(|(_, states)| {
            states.iter().any(|(name, state)| *name == status.name && *state == TaskState::Hanging)
        });
        status.state == TaskState::Hanging && !known
    }
}
