use super::*;
use crate::{config::SchedulerConfig, tasks::heartbeat::Heartbeat};
use orion_domain::Timestamp;
use orion_service::{
    assemble::{Settings, assemble},
    sealed::MasterKey,
};
use orion_store::{TaskState, TaskStatus};
use orion_testkit::wait_until;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Longest wait of a test for a state that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A scheduler without tasks on a database of its own.
struct World {
    scheduler: Scheduler,
    _directory: TempDir,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings::new(
            vec![format!("sqlite:{}", directory.path().join("orion.db").display())],
            2,
            MasterKey::generate(),
        );
        let fleet = assemble(&settings).await.unwrap().fleet;
        let config = SchedulerConfig {
            period: Duration::from_millis(20),
            task_hang_min: Duration::from_millis(200),
            ..SchedulerConfig::default()
        };
        Self { scheduler: Scheduler::new(fleet, config, CancellationToken::new()), _directory: directory }
    }

    async fn until(&self, what: &str, wanted: impl Fn(&TaskStatus) -> bool) -> TaskStatus {
        wait_until(what, PATIENCE, async || {
            let statuses = self.scheduler.runs.statuses(self.scheduler.config.task_hang_min);
            statuses.iter().find(|status| wanted(status)).cloned().ok_or_else(|| format!("{statuses:?}"))
        })
        .await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.scheduler.shutdown.cancel();
    }
}

/// Fails a number of times, then succeeds.
struct Failing {
    times: u32,
    runs: Arc<AtomicU32>,
}

impl Task for Failing {
    const NAME: &'static str = "failing";
    const TAKES_CLAIMS: bool = false;

    async fn run(&mut self, _: &Scheduler) -> Result<Report, StoreError> {
        if self.runs.fetch_add(1, SeqCst) < self.times {
            return Err(StoreError::Unavailable("no such database".into()));
        }
        Ok(Report::new(7, 3))
    }
}

/// Task whose run never ends.
struct Hanging;

impl Task for Hanging {
    const NAME: &'static str = "hanging";
    const TAKES_CLAIMS: bool = false;

    async fn run(&mut self, _: &Scheduler) -> Result<Report, StoreError> {
        std::future::pending().await
    }
}

/// Needs the clock to be right, and a nudge.
struct Nudged(Arc<AtomicU32>);

impl Task for Nudged {
    const NAME: &'static str = "nudged";

    fn period(&self, _: &Scheduler) -> Duration {
        Duration::from_secs(3600)
    }

    async fn run(&mut self, _: &Scheduler) -> Result<Report, StoreError> {
        self.0.fetch_add(1, SeqCst);
        Ok(Report::default())
    }
}

#[tokio::test]
async fn a_task_that_fails_says_why_until_it_succeeds() {
    let world = World::new().await;
    let runs = Arc::new(AtomicU32::new(0));
    world.scheduler.drive(Failing { times: 3, runs: runs.clone() });
    let failing = world.until("it failed", |status| status.state == TaskState::Failing).await;
    assert!(failing.error.is_some_and(|error| error.contains("no such database")));
    assert!(failing.failures >= 1 && failing.last_run.is_some());
    let ok = world.until("it succeeded", |status| status.found.is_some()).await;
    assert_eq!((ok.state, ok.failures, ok.error), (TaskState::Ok, 0, None));
    assert_eq!((ok.found, ok.started), (Some(7), Some(3)));
    let metrics = world.scheduler.fleet.metrics.encode();
    assert!(metrics.contains("orion_task_failures_total{task=\"failing\"} 3\n"), "{metrics}");
    assert!(metrics.contains("orion_task_last_success_timestamp_seconds{task=\"failing\"}"), "{metrics}");
}

#[tokio::test]
async fn tasks_that_fail_or_hang_are_written_beside_the_heartbeat() {
    let world = World::new().await;
    world.scheduler.drive(Failing { times: u32::MAX, runs: Arc::default() });
    world.scheduler.drive(Hanging);
    world.scheduler.drive(Heartbeat::default());
    let statuses = wait_until("the database has them", PATIENCE, async || {
        let cluster = world.scheduler.fleet.store.cluster();
        let long_ago = Timestamp::from_micros(0);
        let statuses = cluster.task_statuses(long_ago).await.map_err(|error| error.to_string())?;
        let hangs = statuses.iter().any(|status| status.state == TaskState::Hanging);
        if hangs { Ok(statuses) } else { Err(format!("{statuses:?}")) }
    })
    .await;
    let states: Vec<_> = statuses.iter().map(|status| (status.name.as_str(), status.state)).collect();
    assert_eq!(
        states,
        [("failing", TaskState::Failing), ("hanging", TaskState::Hanging), ("heartbeat", TaskState::Ok)]
    );
    assert!(statuses[1].running_since.is_some() && statuses[1].last_run.is_none(), "{statuses:?}");
}

#[tokio::test]
async fn a_task_waits_for_the_clock_and_runs_at_a_nudge() {
    let world = World::new().await;
    let runs = Arc::new(AtomicU32::new(0));
    assert!(!world.scheduler.fleet.may_claim(), "no clock was compared yet");
    world.scheduler.drive(Nudged(runs.clone()));
    world.scheduler.drive(Failing { times: 0, runs: Arc::default() });
    world.until("another task ran", |status| status.name == "failing" && status.found.is_some()).await;
    assert_eq!(runs.load(SeqCst), 0);
    world.scheduler.fleet.check_clock(Duration::from_secs(60)).await.unwrap();
    let ran = async |times| {
        wait_until("it ran", PATIENCE, async || (runs.load(SeqCst) == times).then_some(())).await;
    };
    ran(1).await;
    world.until("it is over", |status| status.name == "nudged" && status.running_since.is_none()).await;
    world.scheduler.fleet.nudge.all();
    ran(2).await;
}

#[tokio::test]
async fn the_heartbeat_s_row_is_gone_after_shutdown() {
    let world = World::new().await;
    world.scheduler.drive(Heartbeat::default());
    world.until("it beats", |status| status.last_run.is_some()).await;
    let replicas = async || world.scheduler.fleet.store.cluster().replicas().await.unwrap().len();
    assert_eq!(replicas().await, 1);
    world.scheduler.shutdown.cancel();
    wait_until("its row is gone", PATIENCE, async || (replicas().await == 0).then_some(())).await;
}
