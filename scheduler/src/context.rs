//! What every task of a scheduler is given: its parts, and the limits of what goes on side by side.

use crate::{
    config::SchedulerConfig, fleetwide::Fleetwide, members::Limits, runs::Runs, sightings::Sightings,
    tick::Tick,
};
use orion_domain::{
    Timestamp,
    node::watch::{Moment, WatchPolicy},
};
use orion_fleet::Fleet;
use std::sync::Arc;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Nodes whose high-water marks are compared with the database side by side.
const COMPARISONS_MAX: usize = 4;

/// Nodes that prove their way in side by side.
const PROBES_MAX: usize = 32;

/// One scheduler process.
#[derive(Clone)]
pub struct Scheduler(Arc<Parts>);

/// State that the tasks share.
pub struct Parts {
    /// Work on nodes, and the database.
    pub fleet: Fleet,
    /// Timing and limits.
    pub config: SchedulerConfig,
    /// The limits of each node's watch.
    pub watch_policy: Arc<WatchPolicy>,
    /// Knowledge about all nodes together.
    pub fleetwide: Fleetwide,
    /// Runs of the background tasks.
    pub runs: Runs,
    /// Places for watchers that write a verdict: thousands of nodes may change at once, and the heartbeat and the
    /// tasks need the database, too.
    pub verdicts: Semaphore,
    /// Places for comparisons of nodes' high-water marks with the database: after a start each node asks for one.
    pub comparisons: Semaphore,
    /// Places for probes of nodes' ways in.
    pub probes: Semaphore,
    /// Sightings of nodes that are to be written.
    pub sightings: Sightings,
    /// Time at which this process began to probe.
    pub started: Instant,
    /// Set when the process is to end.
    pub shutdown: CancellationToken,
    /// Tracker of everything that runs.
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
        let verdicts = Semaphore::new(config.verdicts_max.max(1));
        let comparisons = Semaphore::new(COMPARISONS_MAX);
        let probes = Semaphore::new(PROBES_MAX);
        let tasks = TaskTracker::new();
        let started = Instant::now();
        let watch_policy = Arc::new(config.watch_policy());
        Self(Arc::new(Parts {
            fleet,
            config,
            watch_policy,
            fleetwide,
            runs: Runs::default(),
            verdicts,
            comparisons,
            probes,
            sightings: Sightings::default(),
            started,
            shutdown,
            tasks,
        }))
    }

    /// Returns this instant, for a node's watch.
    pub(crate) fn moment(&self) -> Moment {
        Moment { wall: self.fleet.now(), steady: self.started.elapsed(), chance: rand::random() }
    }

    /// Returns whether a verdict may be written that rests on what was observed since `suspension_count`: not if this
    /// scheduler was suspended since ([`Fleetwide::is_awake`]), nor while others may take it for gone
    /// ([`Fleetwide::may_judge`]), where it shares with others.
    pub(crate) fn may_judge(&self, suspension_count: u64, now: Timestamp) -> bool {
        self.fleetwide.is_awake(suspension_count, Tick::now(now))
            && (self.fleet.store.is_for_one_process() || self.fleetwide.may_judge(suspension_count, now))
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}
