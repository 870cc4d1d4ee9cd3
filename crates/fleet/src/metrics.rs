//! What a process counts and measures, and its text for Prometheus.
//!
//! Lives here: every metric of Orion with its name and its help, and the text of `/metrics`
//! ([`crate::Fleet::metrics_text`]). Does not live here: who serves the text (the API; `orion_service::probe_page`).
//! No metric has a label that names a node, a lease or a user: 10,000 nodes are as many lines as ten.
//!
//! What is counted in the database (leases, nodes, the brake) is the same in every process: of those take the
//! maximum over the processes, of all others the sum.

mod containers;
mod text;

pub(crate) use containers::PullResult;

use containers::ContainerMetrics;
use orion_domain::{
    Timestamp,
    doctor::{Check, Finding},
};
use orion_store::Prunable;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// The media type of the text.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds: a login that is made at once takes a third of a second, one on the eighth node tried minutes.
const RENT_BUCKETS: [f64; 11] = [0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// Seconds: most leases move within one; those that wait for a node take hours.
const MOVE_BUCKETS: [f64; 11] = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0];
/// Seconds: a keep-alive in a rack takes a millisecond, none takes longer than the dial's limits.
const PROBE_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Method of a liveness probe of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A keep-alive on the kept session.
    Keepalive,
    /// A trivial command on the kept session.
    Command,
    /// A dial to the end of its login, beside the kept session.
    Handshake,
    /// A dial that makes the kept session.
    Connect,
}

impl Probe {
    const ALL: [Self; 4] = [Self::Keepalive, Self::Command, Self::Handshake, Self::Connect];

    const fn word(self) -> &'static str {
        match self {
            Self::Keepalive => "keepalive",
            Self::Command => "command",
            Self::Handshake => "handshake",
            Self::Connect => "connect",
        }
    }
}

/// Result of one try to send an event to a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryResult {
    /// The target took it.
    Delivered,
    /// Failed try; the delivery is tried again.
    Failed,
    /// Failed try; the delivery is not tried any more.
    GivenUp,
}

impl DeliveryResult {
    const ALL: [Self; 3] = [Self::Delivered, Self::Failed, Self::GivenUp];

    const fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
        }
    }
}

/// Result of a reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReconcileResult {
    Done,
    Unfit,
    Invalid,
    Refused,
    Unreached,
    Superseded,
    DatabaseAway,
}

impl ReconcileResult {
    const ALL: [Self; 7] = [
        Self::Done,
        Self::Unfit,
        Self::Invalid,
        Self::Refused,
        Self::Unreached,
        Self::Superseded,
        Self::DatabaseAway,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unfit => "unfit",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Unreached => "unreached",
            Self::Superseded => "superseded",
            Self::DatabaseAway => "database_away",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByTable {
    table: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByTask {
    task: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByState {
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByHealth {
    health: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByProbe {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByInvariant {
    invariant: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByVersion {
    version: &'static str,
}

/// Counters and gauges of this process. Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    serves_api: AtomicBool,
    schedules: AtomicBool,
    rent_to_login: Histogram,
    death_to_moved: Histogram,
    probes: Family<ByProbe, Histogram, fn() -> Histogram>,
    reconciles: Family<ByResult, Counter>,
    deliveries: Family<ByResult, Counter>,
    pruned: Family<ByTable, Counter>,
    containers: ContainerMetrics,
    task_successes: Family<ByTask, Gauge>,
    task_failures: Family<ByTask, Counter>,
    agent_links: Gauge,
    event_streams: Gauge,
    /// Violations that the last check of the database found; none in a process that does not check.
    violations: Mutex<Option<Family<ByInvariant, Gauge>>>,
}

impl Default for Parts {
    fn default() -> Self {
        let parts = Self {
            serves_api: AtomicBool::new(false),
            schedules: AtomicBool::new(false),
            rent_to_login: Histogram::new(RENT_BUCKETS),
            death_to_moved: Histogram::new(MOVE_BUCKETS),
            probes: Family::new_with_constructor(|| Histogram::new(PROBE_BUCKETS)),
            reconciles: Family::default(),
            deliveries: Family::default(),
            pruned: Family::default(),
            containers: ContainerMetrics::default(),
            task_successes: Family::default(),
            task_failures: Family::default(),
            agent_links: Gauge::default(),
            event_streams: Gauge::default(),
            violations: Mutex::default(),
        };
        // What has not happened yet is 0 and not absent: rates then begin with the first time.
        for result in ReconcileResult::ALL {
            let _ = parts.reconciles.get_or_create(&ByResult { result: result.word() });
        }
        for what in Prunable::ALL {
            let _ = parts.pruned.get_or_create(&ByTable { table: what.table() });
        }
        for result in DeliveryResult::ALL {
            let _ = parts.deliveries.get_or_create(&ByResult { result: result.word() });
        }
        for probe in Probe::ALL {
            let _ = parts.probes.get_or_create(&ByProbe { kind: probe.word(), outcome: "ok" });
        }
        parts
    }
}

impl Metrics {
    /// Marks this process as one that serves the API, so that it exposes the metrics of an API.
    pub fn serve_api(&self) {
        self.0.serves_api.store(true, Relaxed);
    }

    /// Marks this process as a scheduler, so that it exposes the metrics of a scheduler.
    pub fn schedule(&self) {
        self.0.schedules.store(true, Relaxed);
    }

    /// Records the findings of this process's check of the invariants; none: this process does not check them
    /// (any more).
    pub fn examined(&self, findings: Option<&[Finding]>) {
        let family = findings.map(|findings| {
            let family = Family::<ByInvariant, Gauge>::default();
            for check in Check::ALL.into_iter().filter(|check| !check.is_warning()) {
                let count = findings.iter().filter(|finding| finding.check == check).count();
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                family.get_or_create(&ByInvariant { invariant: check.as_str() }).set(count);
            }
            family
        });
        *self.0.violations.lock().unwrap_or_else(PoisonError::into_inner) = family;
    }

    /// A rental's login works, so long after its request came.
    pub fn rented(&self, took: Duration) {
        self.0.rent_to_login.observe(took.as_secs_f64());
    }

    /// The login of a lease works on another node, so long after its node was given up.
    pub fn moved(&self, took: Duration) {
        self.0.death_to_moved.observe(took.as_secs_f64());
    }

    /// Counts rows of a table that were deleted because of their age.
    pub fn pruned(&self, table: &'static str, rows: u64) {
        self.0.pruned.get_or_create(&ByTable { table }).inc_by(rows);
    }

    /// Counts a background task that has not run yet.
    pub fn task_added(&self, task: &'static str) {
        let _ = self.0.task_failures.get_or_create(&ByTask { task });
    }

    /// Records that a run of a background task ended well at `now`.
    pub fn task_succeeded(&self, task: &'static str, now: Timestamp) {
        self.0.task_successes.get_or_create(&ByTask { task }).set(now.as_secs());
    }

    /// Counts a run of a background task that failed.
    pub fn task_failed(&self, task: &'static str) {
        self.0.task_failures.get_or_create(&ByTask { task }).inc();
    }

    /// A node was asked whether it lives, and `outcome` is a word for what it said: `ok`, or a verdict.
    pub fn probed(&self, probe: Probe, outcome: &'static str, took: Duration) {
        self.0.probes.get_or_create(&ByProbe { kind: probe.word(), outcome }).observe(took.as_secs_f64());
    }

    /// One try to send an event to a webhook is over.
    pub fn tried_delivery(&self, result: DeliveryResult) {
        self.0.deliveries.get_or_create(&ByResult { result: result.word() }).inc();
    }

    pub(crate) fn reconciled(&self, result: ReconcileResult) {
        self.0.reconciles.get_or_create(&ByResult { result: result.word() }).inc();
    }

    /// Sets the numbers of agents' links and event streams that this process holds now.
    pub fn hold(&self, agent_links: usize, event_streams: usize) {
        self.0.agent_links.set(i64::try_from(agent_links).unwrap_or(i64::MAX));
        self.0.event_streams.set(i64::try_from(event_streams).unwrap_or(i64::MAX));
    }

    /// The text of what this process knows by itself.
    pub fn encode(&self) -> String {
        text_of(&self.registry())
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("orion");
        let parts = &self.0;
        let build = Family::<ByVersion, Gauge>::default();
        build.get_or_create(&ByVersion { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "Which version runs; always 1", build);
        let help = "Work on nodes, by what it came to";
        registry.register("reconcile", help, parts.reconciles.clone());
        parts.containers.register(&mut registry);
        if parts.serves_api.load(Relaxed) {
            let help = "From the arrival of a rental's request to its confirmed login";
            registry.register_with_unit("rent_to_login", help, Unit::Seconds, parts.rent_to_login.clone());
            let help = "Agents' links that this process holds";
            registry.register("agent_links", help, parts.agent_links.clone());
            let help = "Event streams that this process serves";
            registry.register("events_streams", help, parts.event_streams.clone());
        }
        if parts.schedules.load(Relaxed) {
            let help = "From the loss of a lease's node to its confirmed login on another one";
            registry.register_with_unit("death_to_moved", help, Unit::Seconds, parts.death_to_moved.clone());
            let help = "How long nodes took to answer, or not to, by kind of probe and outcome";
            registry.register_with_unit("probe", help, Unit::Seconds, parts.probes.clone());
            let help = "Tries to send an event to a webhook, by what they came to";
            registry.register("webhook_deliveries", help, parts.deliveries.clone());
            let help = "Rows that were deleted because they were old, by table";
            registry.register("pruned_rows", help, parts.pruned.clone());
            let (name, help) =
                ("task_last_success_timestamp", "When each background task last ended a run well");
            registry.register_with_unit(name, help, Unit::Seconds, parts.task_successes.clone());
            let help = "Runs of background tasks that failed";
            registry.register("task_failures", help, parts.task_failures.clone());
        }
        let violations = parts.violations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(violations) = violations.as_ref() {
            let help = "What must hold and does not, by the last look at the database (orion doctor)";
            registry.register("invariant_violations", help, violations.clone());
        }
        drop(violations);
        registry
    }
}

fn text_of(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing into a String does not fail.
    if let Err(error) = encode(&mut text, registry) {
        tracing::error!(%error, "the metrics could not be written");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_shows_what_it_has() {
        let (api, scheduler) = (Metrics::default(), Metrics::default());
        api.serve_api();
        scheduler.schedule();
        let (of_api, of_scheduler) = (api.encode(), scheduler.encode());
        for name in ["orion_rent_to_login_seconds", "orion_agent_links", "orion_events_streams"] {
            assert!(of_api.contains(name) && !of_scheduler.contains(name), "{name}");
        }
        for name in ["orion_death_to_moved_seconds", "orion_probe_seconds", "orion_webhook_deliveries_total"]
        {
            assert!(of_scheduler.contains(name) && !of_api.contains(name), "{name}");
        }
    }

    #[test]
    fn violations_are_shown_by_a_process_that_looks_and_by_no_other() {
        let metrics = Metrics::default();
        assert!(!metrics.encode().contains("orion_invariant_violations"));
        metrics.examined(Some(&[Finding::new(Check::I4, "x"), Finding::new(Check::Brake, "y")]));
        let text = metrics.encode();
        assert!(text.contains("orion_invariant_violations{invariant=\"I4\"} 1\n"), "{text}");
        assert!(text.contains("orion_invariant_violations{invariant=\"I1\"} 0\n"), "{text}");
        assert!(!text.contains("\"brake\""), "the brake has a metric of its own: {text}");
        metrics.examined(None);
        assert!(!metrics.encode().contains("orion_invariant_violations"));
    }

    #[test]
    fn what_is_measured_stands_in_the_text() {
        let metrics = Metrics::default();
        metrics.serve_api();
        metrics.schedule();
        metrics.clone().rented(Duration::from_millis(400));
        metrics.probed(Probe::Keepalive, "silent", Duration::from_secs(2));
        metrics.probed(Probe::Keepalive, "ok", Duration::from_millis(2));
        metrics.tried_delivery(DeliveryResult::GivenUp);
        metrics.reconciled(ReconcileResult::Unreached);
        metrics.container_started(true);
        metrics.image_pulled(PullResult::Refused, Duration::from_secs(1));
        metrics.hold(3, 4);
        metrics.task_added("expire");
        metrics.task_failed("sweep");
        metrics.task_succeeded("expire", Timestamp::from_micros(1_700_000_000_900_000));
        let text = metrics.encode();
        for line in [
            "orion_rent_to_login_seconds_bucket{le=\"0.25\"} 0",
            "orion_rent_to_login_seconds_bucket{le=\"0.5\"} 1",
            "orion_rent_to_login_seconds_count 1",
            "orion_probe_seconds_count{kind=\"keepalive\",outcome=\"silent\"} 1",
            "orion_probe_seconds_bucket{le=\"0.0025\",kind=\"keepalive\",outcome=\"ok\"} 1",
            "orion_webhook_deliveries_total{result=\"given_up\"} 1",
            "orion_webhook_deliveries_total{result=\"delivered\"} 0",
            "orion_reconcile_total{result=\"unreached\"} 1",
            "orion_container_starts_total{result=\"started\"} 1",
            "orion_container_starts_total{result=\"failed\"} 0",
            "orion_image_pulls_total{result=\"refused\"} 1",
            "orion_image_pull_seconds_count 0",
            "orion_task_failures_total{task=\"expire\"} 0",
            "orion_task_failures_total{task=\"sweep\"} 1",
            "orion_task_last_success_timestamp_seconds{task=\"expire\"} 1700000000",
            "orion_agent_links 3",
            "orion_events_streams 4",
        ] {
            assert!(text.lines().any(|found| found == line), "no '{line}' in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
