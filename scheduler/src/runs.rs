//! The last run of each task, and the one that goes on.

use orion_domain::Timestamp;
use orion_store::{StoreError, TaskState, TaskStatus};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Most characters of an error that are kept.
const ERROR_CHARS_MAX: usize = 300;

/// The result of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Pieces of work that were due.
    pub found: usize,
    /// Pieces that were done or started; the others are under way, another scheduler's, or wait for room.
    pub started: usize,
    /// Pause until the next run, where the period is not it.
    pub next: Option<Duration>,
}

impl Report {
    /// Reports so much work.
    pub const fn new(found: usize, started: usize) -> Self {
        Self { found, started, next: None }
    }

    /// Sets the pause until the next run.
    #[must_use]
    pub const fn next_in(self, pause: Duration) -> Self {
        Self { next: Some(pause), ..self }
    }
}

/// State of the runs of one task.
#[derive(Default)]
struct Progress {
    period: Duration,
    /// Start of the run that goes on.
    running: Option<(Instant, Timestamp)>,
    last: Option<LastRun>,
    /// Runs that failed in a row.
    failures: u32,
}

/// A run that ended.
struct LastRun {
    began: Timestamp,
    took: Duration,
    result: Result<Report, String>,
}

/// The runs of all tasks of a scheduler.
#[derive(Default)]
pub struct Runs(Mutex<BTreeMap<&'static str, Progress>>);

impl Runs {
    fn with(&self, task: &'static str, change: impl FnOnce(&mut Progress)) {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(task).or_default());
    }

    /// Adds a task that has not run yet.
    pub(super) fn add(&self, task: &'static str, period: Duration) {
        self.with(task, |progress| progress.period = period);
    }

    /// Records that a run begins.
    pub(super) fn begin(&self, task: &'static str, period: Duration, now: Timestamp) {
        self.with(task, |progress| {
            progress.period = period;
            progress.running = Some((Instant::now(), now));
        });
    }

    /// Records how the run that was begun ended.
    pub(super) fn end(&self, task: &'static str, result: &Result<Report, StoreError>) {
        let result = match result {
            Ok(report) => Ok(*report),
            Err(error) => Err(error.to_string().chars().take(ERROR_CHARS_MAX).collect()),
        };
        self.with(task, |progress| {
            let Some((began, at)) = progress.running.take() else { return };
            progress.failures = if result.is_ok() { 0 } else { progress.failures.saturating_add(1) };
            progress.last = Some(LastRun { began: at, took: began.elapsed(), result });
        });
    }

    /// The pause between two runs of a task that is there.
    #[cfg(test)]
    pub(crate) fn period(&self, task: &str) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[task].period
    }

    /// Returns how each task is, by name. One hangs whose run goes on for longer than `hang_min` and three periods.
    pub fn statuses(&self, hang_min: Duration) -> Vec<TaskStatus> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, progress)| progress.status(name, hang_min)).collect()
    }
}

impl Progress {
    fn status(&self, name: &str, hang_min: Duration) -> TaskStatus {
        let hang_after = hang_min.max(self.period * 3);
        let running = self.running.map(|(began, at)| (began.elapsed(), at));
        let error = self.last.as_ref().and_then(|last| last.result.as_ref().err().cloned());
        let state = if running.is_some_and(|(running_for, _)| running_for > hang_after) {
            TaskState::Hanging
        } else if error.is_some() {
            TaskState::Failing
        } else {
            TaskState::Ok
        };
        let report = self.last.as_ref().and_then(|last| last.result.as_ref().ok());
        TaskStatus {
            name: name.to_owned(),
            state,
            last_run: self.last.as_ref().map(|last| last.began),
            took_ms: self.last.as_ref().map(|last| u64::try_from(last.took.as_millis()).unwrap_or(u64::MAX)),
            running_since: running.map(|(_, at)| at),
            failures: self.failures,
            found: report.map(|report| report.found),
            started: report.map(|report| report.started),
            error,
        }
    }
}
