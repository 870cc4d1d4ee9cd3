//! The frame of every background task: when it runs, how much of its work goes on side by side, what it leaves to
//! another scheduler for a while, and how its last run went.
//!
//! Lives here: timer, nudge, one run at a time, the gate of the clock, and each task's [`crate::runs::Runs`]. Does not live here:
//! what a task does ([`crate::tasks`]), and the watchers, of which there is one for each node
//! ([`crate::tasks::watch`]).

mod lanes;

pub use crate::runs::Report;
pub use lanes::{ForeignWork, Lanes};

use crate::context::Scheduler;
use orion_store::StoreError;
use std::time::{Duration, Instant};
use tracing::Instrument;

/// Nudges that come within this time are one.
const COALESCE_WINDOW: Duration = Duration::from_millis(10);
/// Longest pause after a run that took long.
const REST_MAX: Duration = Duration::from_millis(500);
/// Longest pause of a task that waits for the clock to be right.
const GATE_PERIOD: Duration = Duration::from_secs(1);

/// A background task: it takes no input but the database, is idempotent, and may be killed at any instruction.
pub trait Task: Send + Sync + 'static {
    /// The name in logs, metrics and `/api/health`.
    const NAME: &'static str;
    /// Whether a nudge starts a run before the period is over.
    const NUDGED: bool = true;
    /// Whether it runs only while this machine's clock agrees with the database's.
    const TAKES_CLAIMS: bool = true;
    /// Shortest pause between two runs, however many nudges come.
    const PAUSE_MIN: Duration = Duration::ZERO;

    /// Returns the pause between two runs that nobody nudges.
    fn period(&self, scheduler: &Scheduler) -> Duration {
        scheduler.config.period
    }

    /// Does what is due now.
    fn run(&mut self, scheduler: &Scheduler) -> impl Future<Output = Result<Report, StoreError>> + Send;

    /// Resolves when a run is wanted for a reason that the task alone knows.
    fn woken(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Ends what a run leaves behind; called once, at shutdown.
    fn stop(&mut self, _scheduler: &Scheduler) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Runs `task` until shutdown, one run after another.
pub(crate) async fn drive<T: Task>(scheduler: Scheduler, mut task: T) {
    let mut nudged = scheduler.fleet.nudge.listen();
    scheduler.runs.add(T::NAME, task.period(&scheduler));
    scheduler.fleet.metrics.task_added(T::NAME);
    while !scheduler.shutdown.is_cancelled() {
        let pause = if T::TAKES_CLAIMS && !scheduler.fleet.may_claim() {
            task.period(&scheduler).min(GATE_PERIOD)
        } else {
            run_once(&scheduler, &mut task).await
        };
        let again = async {
            tokio::select! {
                () = task.woken() => {}
                () = nudged.within(pause), if T::NUDGED => {}
                () = tokio::time::sleep(pause) => {}
            }
            if T::NUDGED {
                tokio::time::sleep(COALESCE_WINDOW).await;
            }
        };
        tokio::select! {
            () = scheduler.shutdown.cancelled() => break,
            () = again => {}
        }
    }
    task.stop(&scheduler).await;
}

/// Runs `task`, rests, and returns the pause until the next run.
async fn run_once<T: Task>(scheduler: &Scheduler, task: &mut T) -> Duration {
    let period = task.period(scheduler);
    let began = Instant::now();
    scheduler.runs.begin(T::NAME, period, scheduler.fleet.now());
    let result = task.run(scheduler).instrument(tracing::debug_span!("task", name = T::NAME)).await;
    scheduler.runs.end(T::NAME, &result);
    let metrics = &scheduler.fleet.metrics;
    let pause = match result {
        Ok(report) => {
            metrics.task_succeeded(T::NAME, scheduler.fleet.now());
            report.next.unwrap_or(period)
        }
        Err(error) => {
            metrics.task_failed(T::NAME);
            tracing::warn!(task = T::NAME, %error, "a background task failed; it runs again");
            period
        }
    };
    // As long as the run took: while everything changes at once, reading must not take all of the time.
    if T::NUDGED {
        let rest = began.elapsed().clamp(T::PAUSE_MIN, REST_MAX);
        let _ = tokio::time::timeout(rest, scheduler.shutdown.cancelled()).await;
    }
    pause
}

#[cfg(test)]
mod tests;
