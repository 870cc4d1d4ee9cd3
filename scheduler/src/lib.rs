//! The scheduler: looks at the nodes' health, moves leases off dead ones, ends leases whose time is up,
//! makes nodes clean, and sends events to webhooks.
//!
//! Lives here: loops and their timing. Each takes no input but the database, is idempotent, runs on a timer
//! and on a nudge, and may be killed at any instruction. Does not live here: the rules
//! ([`orion_domain::health`], [`orion_domain::brake`], [`orion_domain::lease`]) and the work on a node
//! ([`orion_fleet::Fleet::apply`]).
//!
//! The decision to migrate is made in [`tasks::watch`] (is the node dead?) and [`tasks::migrate`] (where to?).
//!
//! Any number of schedulers share the nodes of one database: [`members`] says who lives, [`orion_domain::share`]
//! who looks after which node. Work on a node is claimed in the database, so nothing is done twice whoever does
//! it; each does what lies with its own nodes first.

pub mod config;
pub mod fleetwide;
pub mod members;
pub mod tasks;

pub use config::SchedulerConfig;

use fleetwide::Fleetwide;
use members::Limits;
use orion_domain::Timestamp;
use orion_fleet::Fleet;
use std::sync::Arc;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What nodes remember is compared with the database for so many of them side by side.
const COMPARISONS_AT_ONCE: usize = 4;

/// One scheduler process.
#[derive(Clone)]
pub struct Scheduler(Arc<Parts>);

/// What the tasks share.
pub struct Parts {
    /// Work on nodes, and the database.
    pub fleet: Fleet,
    /// Timing and limits.
    pub config: SchedulerConfig,
    /// What is known of all nodes together.
    pub fleetwide: Fleetwide,
    /// Places for watchers that write a verdict: thousands of nodes may change at once, and the beat and the loops
    /// need the database, too.
    pub verdicts: Semaphore,
    /// Places for comparisons of what nodes remember with the database: after a start each node asks for one.
    pub comparisons: Semaphore,
    /// When this process's looks began.
    pub started: Instant,
    /// Set when the process is to end.
    pub shutdown: CancellationToken,
    /// Everything that runs.
    pub tasks: TaskTracker,
}

impl std::ops::Deref for Scheduler {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Scheduler {
    /// Puts a scheduler together.
    pub fn new(fleet: Fleet, config: SchedulerConfig, shutdown: CancellationToken) -> Self {
        fleet.metrics.schedule();
        let limits = Limits {
            gone_after: config.gone_after,
            own_late_after: config.own_late_after,
            clock_skew_max: config.clock_skew_max,
        };
        let fleetwide = Fleetwide::new(&fleet.config.holder, limits, fleet.now());
        let verdicts = Semaphore::new(config.verdicts_at_once.max(1));
        let comparisons = Semaphore::new(COMPARISONS_AT_ONCE);
        let tasks = TaskTracker::new();
        let started = Instant::now();
        Self(Arc::new(Parts { fleet, config, fleetwide, verdicts, comparisons, started, shutdown, tasks }))
    }

    /// Runs until shutdown, then waits for what is under way.
    pub async fn run(self) {
        self.spawn(tasks::beat::run(self.clone()));
        self.spawn(tasks::brake::run(self.clone()));
        self.spawn(tasks::second_look::run(self.clone()));
        self.spawn(tasks::inventory::run(self.clone()));
        self.spawn(tasks::reconcile::run(self.clone()));
        self.spawn(tasks::migrate::run(self.clone()));
        self.spawn(tasks::doctor::run(self.clone()));
        self.spawn(tasks::drain::run(self.clone()));
        self.spawn(tasks::expire::run(self.clone()));
        self.spawn(tasks::sweep::run(self.clone()));
        self.spawn(tasks::webhooks::run(self.clone()));
        self.shutdown.cancelled().await;
        self.tasks.close();
        if tokio::time::timeout(self.config.soft_stop, self.tasks.wait()).await.is_err() {
            tracing::warn!("some work was still going on; the next process finishes it");
        }
    }

    /// Whether a verdict may be written that rests on what was seen since `absences`
    /// ([`Fleetwide::may_judge`]); one that shares with nobody always may.
    pub(crate) fn may_judge(&self, absences: u64, now: Timestamp) -> bool {
        self.fleet.store.is_for_one_process() || self.fleetwide.may_judge(absences, now)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}
