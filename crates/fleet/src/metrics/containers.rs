//! What is counted of containers and of the pulls of their images.

use super::{ByResult, ByState};
use orion_store::StoreError;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::time::Duration;

/// Seconds: a small image of a near registry is there within one, a large one takes minutes.
const PULL_BUCKETS: [f64; 10] = [0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1_800.0];

/// Outcome of a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullResult {
    Done,
    /// The registry has no such image, or not for this user.
    Refused,
    Failed,
}

impl PullResult {
    const ALL: [Self; 3] = [Self::Done, Self::Refused, Self::Failed];

    const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Counters of one process.
#[derive(Debug)]
pub(super) struct ContainerMetrics {
    starts: Family<ByResult, Counter>,
    pulls: Family<ByResult, Counter>,
    pull: Histogram,
}

impl Default for ContainerMetrics {
    fn default() -> Self {
        let metrics =
            Self { starts: Family::default(), pulls: Family::default(), pull: Histogram::new(PULL_BUCKETS) };
        for result in ["started", "failed"] {
            let _ = metrics.starts.get_or_create(&ByResult { result });
        }
        for result in PullResult::ALL {
            let _ = metrics.pulls.get_or_create(&ByResult { result: result.word() });
        }
        metrics
    }
}

impl ContainerMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Starts of containers, by what they came to";
        registry.register("container_starts", help, self.starts.clone());
        let help = "Pulls of images, by what they came to";
        registry.register("image_pulls", help, self.pulls.clone());
        let help = "How long pulls of images took that came to their end";
        registry.register_with_unit("image_pull", help, Unit::Seconds, self.pull.clone());
    }
}

impl super::Metrics {
    /// Counts a start of a container.
    pub(crate) fn container_started(&self, is_started: bool) {
        let result = if is_started { "started" } else { "failed" };
        self.0.containers.starts.get_or_create(&ByResult { result }).inc();
    }

    /// Counts a pull of an image.
    pub(crate) fn image_pulled(&self, result: PullResult, took: Duration) {
        self.0.containers.pulls.get_or_create(&ByResult { result: result.word() }).inc();
        if result == PullResult::Done {
            self.0.containers.pull.observe(took.as_secs_f64());
        }
    }
}

/// Counts of containers, taken from the database.
pub(super) struct CountedContainers {
    states: Vec<(String, i64)>,
    full_disks: i64,
}

impl CountedContainers {
    pub(super) async fn read(store: &orion_store::Store) -> Result<Self, StoreError> {
        let (states, full_disks) =
            tokio::try_join!(store.admin().container_counts(), store.admin().full_disks())?;
        Ok(Self { states, full_disks })
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let states = Family::<ByState, Gauge>::default();
        for state in ["pending", "pulling", "running", "exited", "failed"] {
            states.get_or_create(&ByState { state: state.into() }).set(0);
        }
        for (state, count) in &self.states {
            states.get_or_create(&ByState { state: state.clone() }).set(*count);
        }
        registry.register("containers", "Containers of leases, by state", states);
        let full = Gauge::<i64>::default();
        full.set(self.full_disks);
        let help = "Nodes that are not offered for containers because the disk of their engine is too full";
        registry.register("nodes_disk_full", help, full);
    }
}
