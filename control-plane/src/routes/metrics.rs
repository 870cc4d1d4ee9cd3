//! `GET /metrics`: what Prometheus scrapes. Counts only, no names.

use crate::{App, error::ApiError};
use axum::{extract::State, http::header, response::IntoResponse};
use orion_domain::lease::Phase;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

/// The media type of the text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Every state a lease can be counted in, so that a state without leases is 0 and not absent.
const LIVE: [Phase; 4] = [Phase::Provisioning, Phase::Active, Phase::Migrating, Phase::Releasing];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LeaseLabels {
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NodeLabels {
    health: String,
}

/// `GET /metrics`
pub async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let mut registry = Registry::with_prefix("orion");
    let leases = Family::<LeaseLabels, Gauge>::default();
    registry.register("leases", "Leases that are not over, by state", leases.clone());
    for phase in LIVE {
        leases.get_or_create(&LeaseLabels { state: phase.as_str().into() }).set(0);
    }
    for (state, count) in app.store.tally_leases().await? {
        leases.get_or_create(&LeaseLabels { state }).set(count);
    }
    let nodes = Family::<NodeLabels, Gauge>::default();
    registry.register("nodes", "Nodes, by health", nodes.clone());
    let mut gauge = |name: &str, help: &str| {
        let gauge = Gauge::<i64>::default();
        registry.register(name, help, gauge.clone());
        gauge
    };
    let offered = gauge("nodes_offered", "Nodes that a new lease could have now");
    let dirty = gauge("nodes_dirty", "Nodes that do not hold yet what they should");
    let quarantined = gauge("nodes_quarantined", "Nodes that are kept out of use");
    for tally in app.store.tally_nodes().await? {
        let usable = tally.health == "alive" && tally.admission == "admitted";
        if usable && !(tally.quarantined || tally.cordoned || tally.leased || tally.dirty) {
            offered.inc_by(tally.count);
        }
        if tally.dirty {
            dirty.inc_by(tally.count);
        }
        if tally.quarantined {
            quarantined.inc_by(tally.count);
        }
        nodes.get_or_create(&NodeLabels { health: tally.health }).inc_by(tally.count);
    }
    let sessions = i64::try_from(app.fleet.pool.session_count()).unwrap_or(i64::MAX);
    gauge("ssh_sessions", "Pooled SSH sessions of this process").set(sessions);
    let links = i64::try_from(app.links.count()).unwrap_or(i64::MAX);
    gauge("agent_links", "Agents' links that this process holds").set(links);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text))
}
