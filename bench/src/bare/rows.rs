//! Rows as the API shows them, read by one query each and written by serde alone.

use serde::Serialize;
use sqlx::{FromRow, MySqlPool};

/// Fields of a node of which the reply of `GET /api/nodes` is made.
#[derive(Debug, FromRow, Serialize)]
pub struct NodeRow {
    /// The node.
    pub id: i64,
    open_at: Option<i64>,
    hostname: String,
    addr: Option<String>,
    ssh_port: Option<i64>,
    host_keys: Option<String>,
    seen_fingerprint: Option<String>,
    admission: String,
    health: String,
    health_reason: String,
    health_since: i64,
    quarantine: Option<String>,
    quarantine_since: Option<i64>,
    cordon: Option<String>,
    drained_at: Option<i64>,
    link: String,
    link_since: i64,
    agent_sees_sshd: Option<i64>,
    way_in: String,
    way_in_reason: Option<String>,
    way_in_since: i64,
    clock_off_ms: Option<i64>,
    cpu_cores: Option<i64>,
    memory_mb: Option<i64>,
    gpus: String,
    mac: Option<String>,
    agent_version: Option<String>,
    tags: String,
    desired_version: i64,
    applied_version: i64,
    cpu_milli: i64,
    cpu_held: i64,
    memory_capacity_mb: i64,
    memory_held_mb: i64,
    disk_full: Option<String>,
    engine: Option<String>,
    engine_down_since: Option<i64>,
    registered_at: i64,
    last_clean_report: Option<String>,
    reconcile_failures: i64,
    rental_id: Option<i64>,
    user_id: Option<i64>,
    leased_from: Option<i64>,
    leased_until: Option<i64>,
    state: Option<String>,
}

/// The next `limit` nodes after `after`, with their leases.
///
/// # Errors
/// The database's.
pub async fn nodes_page(pool: &MySqlPool, after: i64, limit: u32) -> Result<Vec<NodeRow>, sqlx::Error> {
    sqlx::query_as(
        "SELECT n.id, s.open_at, n.hostname, n.addr, n.ssh_port, n.host_keys, n.seen_fingerprint, \
         n.admission, n.health, n.health_reason, n.health_since, n.quarantine, n.quarantine_since, n.cordon, \
         n.drained_at, n.link, n.link_since, n.agent_sees_sshd, n.way_in, n.way_in_reason, n.way_in_since, \
         n.clock_off_ms, n.cpu_cores, n.memory_mb, n.gpus, n.mac, n.agent_version, n.tags, n.desired_version, \
         n.applied_version, n.cpu_milli, n.cpu_held, n.memory_capacity_mb, n.memory_held_mb, n.disk_full, \
         n.engine, n.engine_down_since, n.registered_at, n.last_clean_report, n.reconcile_failures, l.id AS \
         rental_id, l.user_id, l.leased_from, l.leased_until, l.state FROM nodes n LEFT JOIN node_seen s ON \
         s.node_id = n.id LEFT JOIN leases l ON l.id = n.whole_lease WHERE n.id > ? ORDER BY n.id LIMIT ?",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Fields of a lease in the reply of `GET /api/rentals`.
#[derive(Debug, FromRow, Serialize)]
pub struct RentalRow {
    id: i64,
    name: Option<String>,
    user_id: i64,
    state: String,
    state_since: i64,
    state_reason: Option<String>,
    client_user: String,
    leased_from: i64,
    leased_until: i64,
    on_node_loss: String,
    deadline_applied: Option<i64>,
    node_id: i64,
    hostname: Option<String>,
    addr: Option<String>,
    ssh_port: Option<i64>,
    host_keys: Option<String>,
}

/// A user's leases that are not over.
///
/// # Errors
/// The database's.
pub async fn rentals(pool: &MySqlPool, user: i64, limit: u32) -> Result<Vec<RentalRow>, sqlx::Error> {
    sqlx::query_as(
        "SELECT l.id, l.name, l.user_id, l.state, l.state_since, l.state_reason, l.client_user, l.leased_from, \
         l.leased_until, l.on_node_loss, l.deadline_applied, l.node_id, n.hostname, n.addr, n.ssh_port, \
         n.host_keys FROM leases l LEFT JOIN nodes n ON n.id = l.node_id \
         WHERE l.id > 0 AND l.user_id = ? AND l.state <> 'ended' ORDER BY l.id LIMIT ?",
    )
    .bind(user)
    .bind(limit)
    .fetch_all(pool)
    .await
}
