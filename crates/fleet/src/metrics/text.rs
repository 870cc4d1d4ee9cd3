//! The text of `/metrics`: what this process counts, and what the database counts if it answers.

use super::{ByHealth, ByReason, ByState, containers::CountedContainers, text_of};
use crate::Fleet;
use orion_domain::{lease::Phase, way_in::Way};
use orion_store::{NodeTally, RetryTally, StoreError};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Counts taken from the database.
struct Counted {
    leases: Vec<(String, i64)>,
    nodes: Vec<NodeTally>,
    brake_engaged: bool,
    containers: CountedContainers,
}

impl Fleet {
    /// The text of `/metrics`: what this process counts, and what the database counts if it answers.
    pub async fn metrics_text(&self) -> String {
        let counted = self.counted().await;
        let mut registry = self.metrics.registry();
        let gauge = |registry: &mut Registry, name: &str, help: &str, value: i64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        };
        register_retries(&mut registry, self.store.retries());
        let sessions = i64::try_from(self.pool.session_count()).unwrap_or(i64::MAX);
        gauge(&mut registry, "ssh_sessions", "Pooled SSH sessions of this process", sessions);
        let up = i64::from(counted.is_ok());
        gauge(&mut registry, "database_up", "Whether the database answered this scrape", up);
        match counted {
            Ok(counted) => register_counted(&mut registry, &counted),
            Err(error) => tracing::warn!(%error, "leases and nodes could not be counted for a scrape"),
        }
        text_of(&registry)
    }

    async fn counted(&self) -> Result<Counted, StoreError> {
        let (leases, nodes, brake, containers) = tokio::try_join!(
            self.store.admin().lease_counts(),
            self.store.admin().node_counts(),
            self.store.cluster().brake(),
            CountedContainers::read(&self.store)
        )?;
        Ok(Counted { leases, nodes, brake_engaged: brake.engaged.is_some(), containers })
    }
}

fn register_retries(registry: &mut Registry, retries: RetryTally) {
    let RetryTally { conflict, host_lost, commit_unknown } = retries;
    let family = Family::<ByReason, Counter>::default();
    for (reason, count) in
        [("conflict", conflict), ("host_lost", host_lost), ("commit_unknown", commit_unknown)]
    {
        family.get_or_create(&ByReason { reason }).inc_by(count);
    }
    let help = "Transactions and reads of this process that were run again, by why";
    registry.register("database_retries", help, family);
}

fn register_counted(registry: &mut Registry, counted: &Counted) {
    let leases = Family::<ByState, Gauge>::default();
    for phase in Phase::ALL.into_iter().filter(|phase| phase.is_live()) {
        leases.get_or_create(&ByState { state: phase.as_str().into() }).set(0);
    }
    for (state, count) in &counted.leases {
        leases.get_or_create(&ByState { state: state.clone() }).set(*count);
    }
    registry.register("leases", "Leases that are not over, by state", leases);
    let nodes = Family::<ByHealth, Gauge>::default();
    for health in ["unknown", "alive", "suspect", "unreachable", "dead"] {
        nodes.get_or_create(&ByHealth { health: health.into() }).set(0);
    }
    let (mut offered, mut dirty, mut quarantined, mut draining) = (0, 0, 0, 0);
    for tally in &counted.nodes {
        let usable = tally.health == "alive" && tally.admission == "admitted";
        if usable
            && !(tally.quarantined || tally.cordoned || tally.leased || tally.dirty)
            && tally.way_in == "open"
        {
            offered += tally.count;
        }
        dirty += if tally.dirty { tally.count } else { 0 };
        quarantined += if tally.quarantined { tally.count } else { 0 };
        draining += if tally.cordoned { tally.count } else { 0 };
        nodes.get_or_create(&ByHealth { health: tally.health.clone() }).inc_by(tally.count);
    }
    registry.register("nodes", "Nodes, by health", nodes);
    counted.containers.register(registry);
    let ways = Family::<ByState, Gauge>::default();
    for way in [Way::Unknown, Way::Open, Way::Shut] {
        ways.get_or_create(&ByState { state: way.as_str().into() }).set(0);
    }
    for tally in &counted.nodes {
        ways.get_or_create(&ByState { state: tally.way_in.clone() }).inc_by(tally.count);
    }
    registry.register("nodes_way_in", "Nodes, by whether lease accounts can log in", ways);
    for (name, help, value) in [
        ("nodes_offered", "Nodes that a new lease could have now", offered),
        ("nodes_dirty", "Nodes that do not hold yet what they should", dirty),
        ("nodes_quarantined", "Nodes that are kept out of use", quarantined),
        ("nodes_draining", "Nodes that are being emptied, or are empty, and take no new leases", draining),
        ("brake_engaged", "1 while the brake is on and no lease is moved", i64::from(counted.brake_engaged)),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
}
