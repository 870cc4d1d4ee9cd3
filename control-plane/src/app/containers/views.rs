//! What the API shows of containers.

use orion_containers::Stats;
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    container::{AppsDomain, ContainerPhase},
    node::{Health, Node},
};
use orion_store::{ContainerRow, Wanted};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A port of a container.
#[derive(Serialize, ToSchema)]
#[schema(as = ContainerPort)]
pub struct PortView {
    /// Port of the container.
    port: u16,
    /// Port of its node that leads there; it stays the same until the lease moves.
    node_port: u16,
    /// Where browsers reach it; none where ports have no names here.
    #[schema(required)]
    access_url: Option<String>,
}

/// A container of a lease.
#[derive(Serialize, ToSchema)]
#[schema(as = Container)]
pub struct ContainerView {
    /// Name of the container in its lease.
    pub name: String,
    #[schema(value_type = i64)]
    rental_id: LeaseId,
    /// `pending`, `pulling`, `running`, `exited`, `failed` or `removed`.
    #[schema(value_type = String)]
    state: ContainerPhase,
    #[schema(value_type = String, format = DateTime)]
    state_since: Timestamp,
    /// A sentence for people: why it failed, or how it ended.
    #[schema(required)]
    state_reason: Option<String>,
    /// What was asked for last: `started`, `restarted`, `stopped` or `removed`.
    wanted: &'static str,
    image: String,
    /// Its specification, without the values of `env` and `files`.
    #[schema(value_type = Object)]
    spec: Value,
    /// The node that it is on.
    #[schema(value_type = Option<i64>, required)]
    node_id: Option<NodeId>,
    /// The engine's id of it on that node.
    #[schema(required)]
    engine_id: Option<String>,
    /// Its ports that are reached from outside, once it is on its node.
    ports: Vec<PortView>,
    /// Where browsers reach its first port: its owner by `openContainer`, everybody where it is public.
    #[schema(required)]
    access_url: Option<String>,
    #[schema(required)]
    exit_code: Option<i64>,
    /// Whether the kernel ended a process of it because of its memory limit.
    oom_killed: bool,
    /// What is being done now, such as the pull of its image.
    #[schema(required)]
    step: Option<String>,
    /// Bytes that the step has done.
    #[schema(required)]
    bytes_done: Option<u64>,
    /// Bytes of the step in all, as far as known.
    #[schema(required)]
    bytes_total: Option<u64>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime, required)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime, required)]
    finished_at: Option<Timestamp>,
}

impl ContainerView {
    /// Shows a container on its node. What was last seen of it on a node that does not answer is said to be old.
    pub fn new(row: &ContainerRow, node: Option<&Node>) -> Self {
        let away = node.filter(|node| node.health != Health::Alive && row.phase == ContainerPhase::Running);
        let silent = node.and_then(|node| node.engine_down_since);
        let not_known = match (away, silent) {
            (Some(node), _) => {
                Some(format!("not known since {}: its node is {}", node.health_since, node.health.as_str()))
            }
            (None, Some(since)) => {
                Some(format!("not known since {since}: the container engine of its node does not answer"))
            }
            (None, None) => None,
        };
        let spec: Value = serde_json::from_str(&row.spec).unwrap_or_default();
        Self {
            name: row.name.clone(),
            rental_id: row.lease,
            state: row.phase,
            state_since: row.since,
            state_reason: not_known.or_else(|| row.reason.clone()),
            wanted: row.wanted.as_str(),
            image: spec["image"].as_str().unwrap_or_default().to_owned(),
            spec,
            node_id: row.node,
            engine_id: row.engine_id.clone(),
            ports: row
                .node_ports
                .iter()
                .map(|port| PortView { port: port.port, node_port: port.node_port, access_url: None })
                .collect(),
            access_url: None,
            exit_code: row.exit.as_ref().map(|exit| exit.code),
            oom_killed: row.exit.as_ref().is_some_and(|exit| exit.oom_killed),
            step: row.step.clone(),
            bytes_done: row.bytes_done,
            bytes_total: row.bytes_total,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        }
    }

    /// Says where browsers reach its ports.
    #[must_use]
    pub fn named(mut self, domain: Option<&AppsDomain>) -> Self {
        let Some(domain) = domain else { return self };
        let lease = self.rental_id;
        for port in &mut self.ports {
            port.access_url = Some(domain.url(&domain.host(lease, port.port)));
        }
        self.access_url = self.ports.first().and_then(|port| port.access_url.clone());
        self
    }

    /// Returns whether a client that waits for it has its answer.
    pub fn is_settled(row: &ContainerRow) -> bool {
        row.phase.is_settled() && row.wanted != Wanted::Restarted
    }
}

/// Use of a container.
#[derive(Serialize, ToSchema)]
#[schema(as = ContainerStats)]
pub struct StatsView {
    #[schema(value_type = String, format = DateTime)]
    read_at: Timestamp,
    /// Processor cores that were busy with it since the look before, half a second or a second ago.
    cpus_used: f64,
    /// Memory in bytes, without what is only cache.
    memory_bytes: u64,
    memory_limit_bytes: u64,
    /// Bytes that it received since its start.
    received_bytes: u64,
    /// Bytes that it sent since its start.
    sent_bytes: u64,
    /// Processes and threads.
    pids: u64,
}

impl StatsView {
    /// Shows the use between two looks, and what was in use at the second.
    pub fn new(before: &Stats, now: &Stats, read_at: Timestamp) -> Self {
        Self {
            read_at,
            cpus_used: now.cpu_milli_since(before) as f64 / 1000.0,
            memory_bytes: now.memory_bytes,
            memory_limit_bytes: now.memory_max_bytes,
            received_bytes: now.received_bytes,
            sent_bytes: now.sent_bytes,
            pids: now.pids,
        }
    }
}
