//! Pages of nodes: of each the columns that a list shows, and no others.

use super::{Nodes, row};
use crate::engine::{Checked, Columns, StoreError, at, record, vals};
use orion_domain::{
    LeaseId, NodeId, Timestamp, UserId,
    lease::{Lease, Phase},
    names::Port,
    node::{Admission, Availability, Capacity, Facts, Health, LinkState, Node},
    way_in::Way,
};
use sqlx::{AssertSqlSafe, ColumnIndex, Decode, FromRow, Row, Type};

/// A node of a page, and what is shown with it.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedNode {
    /// Row of the node, as far as a page shows it.
    pub node: NodeSummary,
    /// Time at which a lease account was last seen to be let in; none if it never was.
    pub open_at: Option<Timestamp>,
    /// The lease that has all of it; none where there are slices.
    pub lease: Option<LeaseGlance>,
}

/// The part of a node that a list shows. Its texts are as they were checked when they were written.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSummary {
    /// Number of the node.
    pub id: NodeId,
    /// Host name that the worker reports.
    pub hostname: String,
    /// Its sshd; none of a node that only dials out.
    pub sshd: Option<SshdSummary>,
    /// The fingerprint that was seen at a pending node.
    pub seen_fingerprint: Option<String>,
    /// Progress in establishing trust in the node.
    pub admission: Admission,
    /// Whether it answers.
    pub health: Health,
    /// Human-readable reason of the health.
    pub health_reason: String,
    /// Start of the current health.
    pub health_since: Timestamp,
    /// Reason of the quarantine, if there is one.
    pub quarantine: Option<String>,
    /// Start of the quarantine.
    pub quarantine_since: Option<Timestamp>,
    /// Reason of the drain, if there is one.
    pub drain: Option<String>,
    /// Time at which a drain had emptied it.
    pub drained_at: Option<Timestamp>,
    /// The agent's link.
    pub link: LinkState,
    /// Start of the link's current state.
    pub link_since: Timestamp,
    /// Whether the agent says that its sshd answers; none if it did not say.
    pub agent_sees_sshd: Option<bool>,
    /// Whether lease accounts can log in.
    pub way_in: Way,
    /// Reason why they cannot.
    pub way_in_reason: Option<String>,
    /// Time since which `way_in` has its present value.
    pub way_in_since: Timestamp,
    /// Milliseconds by which the node's clock is ahead of the control plane's.
    pub clock_off_ms: Option<i64>,
    /// Inventory of the worker.
    pub facts: Facts,
    /// Tags of the node.
    pub tags: Vec<String>,
    /// Goes up with every change of what it should hold.
    pub desired_version: i64,
    /// The last version that was applied to it.
    pub applied_version: i64,
    /// The whole-node lease that has it.
    pub whole_lease: Option<LeaseId>,
    /// Processors and memory for slices, and the part that slices hold.
    pub capacity: Capacity,
    /// Why the disk of its container engine is too full for containers; none where it is not.
    pub disk_full: Option<String>,
    /// Its container engine as it was last seen; none where it has none.
    pub engine: Option<String>,
    /// Time since which the engine does not answer.
    pub engine_down_since: Option<Timestamp>,
    /// Time of the first registration.
    pub registered_at: Timestamp,
    /// Report of the last cleaning (JSON).
    pub last_clean_report: Option<serde_json::Value>,
    /// Number of failures in a row to reconcile the node.
    pub reconcile_failures: u32,
}

/// A node's sshd as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshdSummary {
    /// Its address.
    pub addr: String,
    /// Its port.
    pub port: Port,
    /// Pinned (or reported) host keys, `type base64` each.
    pub host_keys: Vec<String>,
}

impl NodeSummary {
    /// Returns what decides whether it is offered.
    pub const fn availability(&self) -> Availability {
        Availability {
            admission: self.admission,
            health: self.health,
            is_quarantined: self.quarantine.is_some(),
            is_drained: match &self.drain {
                Some(_) => Some(self.drained_at.is_some()),
                None => None,
            },
            has_whole_lease: self.whole_lease.is_some(),
            is_held: self.whole_lease.is_some() || self.capacity.is_held(),
            is_dirty: self.applied_version < self.desired_version,
            way_in: self.way_in,
            is_dialled: self.sshd.is_some(),
        }
    }
}

impl From<Node> for NodeSummary {
    fn from(node: Node) -> Self {
        let sshd = node.sshd().map(|sshd| SshdSummary {
            addr: sshd.addr.to_string(),
            port: sshd.port,
            host_keys: sshd.host_keys.clone(),
        });
        let drained_at = node.drain.as_ref().and_then(|drain| drain.drained_at);
        Self {
            id: node.id,
            hostname: node.hostname.to_string(),
            sshd,
            seen_fingerprint: node.seen_fingerprint,
            admission: node.admission,
            health: node.health,
            health_reason: node.health_reason,
            health_since: node.health_since,
            quarantine: node.quarantine,
            quarantine_since: node.quarantine_since,
            drain: node.drain.map(|drain| drain.reason),
            drained_at,
            link: node.link,
            link_since: node.link_since,
            agent_sees_sshd: node.agent_sees_sshd,
            way_in: node.way_in.way,
            way_in_reason: node.way_in.reason,
            way_in_since: node.way_in.since,
            clock_off_ms: node.clock_off_ms,
            facts: node.facts,
            tags: node.tags.iter().map(ToString::to_string).collect(),
            desired_version: node.desired_version,
            applied_version: node.applied_version,
            whole_lease: node.whole_lease,
            capacity: node.capacity,
            disk_full: node.disk_full,
            engine: node.engine,
            engine_down_since: node.engine_down_since,
            registered_at: node.registered_at,
            last_clean_report: node.last_clean_report,
            reconcile_failures: node.reconcile_failures,
        }
    }
}

/// What is shown of a lease with its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGlance {
    /// The lease.
    pub id: LeaseId,
    /// Account of the token.
    pub user: UserId,
    /// Start of the lease.
    pub from: Timestamp,
    /// End of the lease.
    pub until: Timestamp,
    /// Whether its login works.
    pub is_active: bool,
}

impl From<&Lease> for LeaseGlance {
    fn from(lease: &Lease) -> Self {
        Self {
            id: lease.id,
            user: lease.user,
            from: lease.from,
            until: lease.until,
            is_active: lease.state.phase() == Phase::Active,
        }
    }
}

record! {
    /// Columns of [`LeaseGlance`].
    struct LeaseGlanceRow<'r> {
        id: i64,
        user_id: i64,
        leased_from: i64,
        leased_until: i64,
        state: &'r str,
    }
}

impl From<LeaseGlanceRow<'_>> for LeaseGlance {
    fn from(row: LeaseGlanceRow) -> Self {
        Self {
            id: LeaseId(row.id),
            user: UserId(row.user_id),
            from: at(row.leased_from),
            until: at(row.leased_until),
            is_active: row.state == Phase::Active.as_str(),
        }
    }
}

record! {
    /// Columns of [`NodeSummary`].
    struct SummaryRow<'r> {
        id: i64,
        hostname: String,
        transport: &'r str,
        addr: Option<String>,
        ssh_port: Option<i64>,
        host_keys: Option<&'r str>,
        seen_fingerprint: Option<String>,
        admission: &'r str,
        health: &'r str,
        health_reason: String,
        health_since: i64,
        quarantine: Option<String>,
        quarantine_since: Option<i64>,
        cordon: Option<String>,
        drained_at: Option<i64>,
        link: &'r str,
        link_since: i64,
        agent_sees_sshd: Option<i64>,
        way_in: &'r str,
        way_in_reason: Option<String>,
        way_in_since: i64,
        clock_off_ms: Option<i64>,
        cpu_cores: Option<i64>,
        memory_mb: Option<i64>,
        gpus: &'r str,
        mac: Option<String>,
        agent_version: Option<String>,
        tags: &'r str,
        desired_version: i64,
        applied_version: i64,
        whole_lease: Option<i64>,
        cpu_milli: i64,
        cpu_held: i64,
        memory_capacity_mb: i64,
        memory_held_mb: i64,
        disk_full: Option<String>,
        cpu_reported: i64,
        memory_reported_mb: i64,
        engine: Option<String>,
        engine_down_since: Option<i64>,
        registered_at: i64,
        last_clean_report: Option<&'r str>,
        reconcile_failures: i64,
    }
}

impl TryFrom<SummaryRow<'_>> for NodeSummary {
    type Error = StoreError;

    fn try_from(row: SummaryRow<'_>) -> Result<Self, StoreError> {
        let check = Checked { table: "nodes", id: row.id };
        let sshd = match (row.transport, row.addr, row.ssh_port, row.host_keys) {
            ("ssh", Some(addr), Some(port), Some(host_keys)) => Some(SshdSummary {
                addr,
                port: check.number("ssh_port", port)?,
                host_keys: check.json("host_keys", host_keys)?,
            }),
            ("pull", ..) => None,
            (transport, ..) => {
                return Err(check.corrupt(format!("transport: {transport} without an address")));
            }
        };
        Ok(Self {
            id: NodeId(row.id),
            hostname: row.hostname,
            sshd,
            seen_fingerprint: row.seen_fingerprint,
            admission: row::admission(&check, row.admission)?,
            health: row::health(&check, row.health)?,
            health_reason: row.health_reason,
            health_since: at(row.health_since),
            quarantine_since: row.quarantine_since.filter(|_| row.quarantine.is_some()).map(at),
            quarantine: row.quarantine,
            drained_at: row.drained_at.filter(|_| row.cordon.is_some()).map(at),
            drain: row.cordon,
            link: row::link(&check, row.link)?,
            link_since: at(row.link_since),
            agent_sees_sshd: row.agent_sees_sshd.map(|sees| sees != 0),
            way_in: row::way_in(&check, row.way_in)?,
            way_in_reason: row.way_in_reason,
            way_in_since: at(row.way_in_since),
            clock_off_ms: row.clock_off_ms,
            facts: Facts {
                cpu_cores: row.cpu_cores.map(|count| check.number("cpu_cores", count)).transpose()?,
                memory_mb: row.memory_mb.map(|size| check.number("memory_mb", size)).transpose()?,
                gpus: check.json("gpus", row.gpus)?,
                gpu_devices: Vec::new(),
                mac: row.mac,
                agent_version: row.agent_version,
            },
            tags: check.json("tags", row.tags)?,
            desired_version: row.desired_version,
            applied_version: row.applied_version,
            whole_lease: row.whole_lease.map(LeaseId),
            capacity: Capacity {
                cpu_milli: row.cpu_milli,
                cpu_held: row.cpu_held,
                memory_mb: row.memory_capacity_mb,
                memory_held_mb: row.memory_held_mb,
                cpu_reported: row.cpu_reported,
                memory_reported_mb: row.memory_reported_mb,
            },
            disk_full: row.disk_full,
            engine: row.engine,
            engine_down_since: row.engine_down_since.map(at),
            registered_at: at(row.registered_at),
            last_clean_report: row
                .last_clean_report
                .map(|report| check.json("last_clean_report", report))
                .transpose()?,
            reconcile_failures: check.number("reconcile_failures", row.reconcile_failures)?,
        })
    }
}

/// Reads a row to the end at once: what a row takes is done while the server still sends others.
impl<'r, R: Row> FromRow<'r, R> for ListedNode
where
    usize: ColumnIndex<R>,
    SummaryRow<'r>: Columns<'r, R>,
    Option<LeaseGlanceRow<'r>>: Columns<'r, R>,
    Option<i64>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let open_at: Option<i64> = row.try_get(0)?;
        let mut places = 1..row.len();
        let node = SummaryRow::<'r>::read(row, &mut places)?;
        let lease: Option<LeaseGlanceRow<'r>> = Columns::read(row, &mut places)?;
        Ok(Self {
            node: node.try_into().map_err(|error: StoreError| sqlx::Error::Decode(error.into()))?,
            open_at: open_at.map(at),
            lease: lease.map(LeaseGlance::from),
        })
    }
}

impl Nodes<'_> {
    /// The next `limit` nodes after `after`, by number.
    pub async fn page(self, after: NodeId, limit: u32) -> Result<Vec<ListedNode>, StoreError> {
        self.page_as(after, limit, |listed| listed).await
    }

    /// As [`Nodes::page`], but makes something of each node while the database still sends others.
    pub async fn page_as<T: Send>(
        self,
        after: NodeId,
        limit: u32,
        make: impl Fn(ListedNode) -> T + Send + Sync,
    ) -> Result<Vec<T>, StoreError> {
        let (node, lease) = (SummaryRow::columns("n"), LeaseGlanceRow::columns("l"));
        let sql = format!(
            "SELECT s.open_at, {node}, {lease} FROM nodes n LEFT JOIN node_seen s ON s.node_id = n.id \
             LEFT JOIN leases l ON l.id = n.whole_lease WHERE n.id > ? ORDER BY n.id LIMIT ?"
        );
        Ok(self.store.db.all_as(AssertSqlSafe(sql), vals![after, limit], make).await?)
    }
}
