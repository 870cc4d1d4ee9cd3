//! Background tasks of a scheduler that fail or hang, as `/api/health` shows them.

use crate::api::{Api, Database};
use orion_domain::Timestamp;
use orion_scheduler::{
    Scheduler, SchedulerConfig,
    driver::{Report, Task},
    tasks::heartbeat::Heartbeat,
};
use orion_store::{StoreError, TaskState, TaskStatus};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

struct Failing;

impl Task for Failing {
    const NAME: &'static str = "failing";

    async fn run(&mut self, _: &Scheduler) -> Result<Report, StoreError> {
        Err(StoreError::Unavailable("db-1.internal does not answer".into()))
    }
}

struct Hanging;

impl Task for Hanging {
    const NAME: &'static str = "hanging";

    async fn run(&mut self, _: &Scheduler) -> Result<Report, StoreError> {
        std::future::pending().await
    }
}

fn task<'a>(health: &'a Value, name: &str) -> Option<&'a Value> {
    health["tasks"].as_array()?.iter().find(|task| task["name"] == name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_fails_and_one_that_hangs_are_shown_as_such_and_the_error_only_to_admins() {
    let api = Api::start(Database::Sqlite).await;
    let (admin, user) = (api.admin("chief").await, api.user("alice").await);
    let config = SchedulerConfig {
        period: Duration::from_millis(20),
        task_hang_min: Duration::from_millis(200),
        ..SchedulerConfig::default()
    };
    let shutdown = CancellationToken::new();
    let scheduler = Scheduler::new(api.app.fleet.clone(), config, shutdown.clone());
    scheduler.drive(Failing);
    scheduler.drive(Hanging);
    scheduler.drive(Heartbeat::default());
    let health = orion_testkit::wait_until("both are shown", Duration::from_secs(20), async || {
        // 503 until the first heartbeat.
        let health: Value = serde_json::from_str(&api.get("/api/health", &admin).await.text).expect("JSON");
        let state = |name| task(&health, name).map(|task| task["state"].clone());
        let shown = (state("failing"), state("hanging")) == (Some(json!("failing")), Some(json!("hanging")));
        if shown { Ok(health.clone()) } else { Err(health.to_string()) }
    })
    .await;
    assert_eq!(health["status"], "healthy", "no part is down: {health}");
    let (failing, hanging) =
        (task(&health, "failing").expect("shown"), task(&health, "hanging").expect("shown"));
    assert!(failing["error"].as_str().is_some_and(|error| error.contains("db-1.internal")), "{failing}");
    assert!(failing["failures"].as_u64() >= Some(1) && failing["last_run"].is_string(), "{failing}");
    assert!(hanging["running_since"].is_string() && hanging["last_run"].is_null(), "{hanging}");
    assert_eq!(task(&health, "heartbeat").expect("shown")["state"], "ok");
    for token in ["", &user] {
        let health = api.get("/api/health", token).await.expect(200);
        assert_eq!(task(&health, "failing").expect("shown")["state"], "failing");
        assert!(!health.to_string().contains("db-1.internal"), "{health}");
    }
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_schedulers_a_task_is_shown_where_it_is_worst_and_those_that_are_gone_do_not_count() {
    let api = Api::start(Database::Sqlite).await;
    let (now, cluster) = (api.app.now(), api.app.store.cluster());
    let long_ago = now.minus(Duration::from_secs(31));
    for (name, beat, state) in
        [("s1", now, TaskState::Ok), ("s2", now, TaskState::Failing), ("s3", long_ago, TaskState::Hanging)]
    {
        cluster.heartbeat(name, "scheduler", beat).await.expect("written");
        let status = status(state, beat);
        cluster.put_task_statuses(name, "scheduler", &[status]).await.expect("written");
    }
    // One of an older version says nothing of its tasks.
    cluster.heartbeat("s0", "scheduler", now).await.expect("written");
    let health = api.get("/api/health", "").await.expect(200);
    let states: Vec<_> =
        health["tasks"].as_array().expect("tasks").iter().map(|task| &task["state"]).collect();
    assert_eq!(states, ["failing"], "{health}");
}

fn status(state: TaskState, last_run: Timestamp) -> TaskStatus {
    TaskStatus {
        name: "expire".into(),
        state,
        last_run: Some(last_run),
        took_ms: Some(3),
        running_since: None,
        failures: 1,
        found: None,
        started: None,
        error: None,
    }
}
