//! Rows of `nodes`.

use crate::engine::{Checked, StoreError, at, record};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    drain::Drain,
    names::Port,
    node::{
        Admission, Capacity, Facts, Health, LinkState, LockOrder, Node, QuarantineCause, Sshd, Transport,
    },
    way_in::{Way, WayIn},
};
use sqlx::AssertSqlSafe;

record! {
    /// Columns of `nodes` that the domain knows.
    #[derive(Clone, Debug)]
    pub(crate) struct NodeRow {
        pub id: i64,
        hostname: String,
        transport: String,
        addr: Option<String>,
        ssh_port: Option<i64>,
        host_keys: Option<String>,
        pub seen_fingerprint: Option<String>,
        admission: String,
        health: String,
        health_reason: String,
        health_since: i64,
        pub quarantine: Option<String>,
        pub quarantine_cause: Option<String>,
        quarantine_since: Option<i64>,
        cordon: Option<String>,
        drain_since: Option<i64>,
        drain_deadline: Option<i64>,
        drained_at: Option<i64>,
        link: String,
        link_since: i64,
        link_replica: Option<String>,
        agent_sees_sshd: Option<i64>,
        lock_ordered_at: Option<i64>,
        lock_observed_at: Option<i64>,
        way_in: String,
        way_in_reason: Option<String>,
        way_in_since: i64,
        way_in_by_agent: i64,
        engine: Option<String>,
        engine_down_since: Option<i64>,
        clock_off_ms: Option<i64>,
        cpu_cores: Option<i64>,
        memory_mb: Option<i64>,
        gpus: String,
        mac: Option<String>,
        agent_version: Option<String>,
        tags: String,
        subordinate_uids: String,
        pub desired_version: i64,
        applied_version: i64,
        pub whole_lease: Option<i64>,
        unclean: i64,
        cpu_milli: i64,
        cpu_held: i64,
        memory_capacity_mb: i64,
        memory_held_mb: i64,
        disk_full: Option<String>,
        cpu_reported: i64,
        memory_reported_mb: i64,
        claimed_until: Option<i64>,
        reconcile_failures: i64,
        last_clean_report: Option<String>,
        registered_at: i64,
        pub version: i64,
    }
}

record! {
    /// A row of `nodes`.
    #[derive(Clone, Debug)]
    pub(crate) struct NodeRecord {
        ..pub row: NodeRow,
        pub host_key_fp: Option<String>,
        pub seen_key: Option<String>,
        pub link_epoch: i64,
        pub node_token_sha256: Option<String>,
        pub registration_sha256: String,
        pub claim_token: Option<String>,
        pub epoch: i64,
    }
}

/// A query for whole rows of `nodes`, which it calls `n`.
pub(crate) fn node_record_sql(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {} FROM nodes n {rest}", NodeRecord::columns("n")))
}

/// A query for [`NodeRow`]s of `nodes`, which it calls `n`.
pub(crate) fn node_sql(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {} FROM nodes n {rest}", NodeRow::columns("n")))
}

impl std::ops::Deref for NodeRecord {
    type Target = NodeRow;
    fn deref(&self) -> &NodeRow {
        &self.row
    }
}

impl NodeRecord {
    /// The subordinate uid ranges, `(start, count)`.
    pub(crate) fn subordinate(&self) -> Result<Vec<(u32, u32)>, StoreError> {
        Checked { table: "nodes", id: self.id }.json("subordinate_uids", &self.subordinate_uids)
    }

    /// Returns whether somebody works on the node.
    pub(crate) fn is_claimed(&self, now: Timestamp) -> bool {
        self.claimed_until.is_some_and(|until| until > now.as_micros())
    }

    /// Returns the row as it is after a lease took the whole node.
    pub(crate) fn occupied(self, lease: LeaseId) -> Self {
        let row = NodeRow {
            whole_lease: Some(lease.0),
            desired_version: self.desired_version + 1,
            version: self.version + 1,
            ..self.row
        };
        Self { row, ..self }
    }
}

impl TryFrom<NodeRecord> for Node {
    type Error = StoreError;

    fn try_from(record: NodeRecord) -> Result<Self, StoreError> {
        record.row.try_into()
    }
}

/// Reads the word of the column `admission`.
pub(super) fn admission(check: &Checked, word: &str) -> Result<Admission, StoreError> {
    // Nearly all are admitted: that word comes first, as the commonest does in the lists below.
    let all = [Admission::Admitted, Admission::Reported, Admission::Pending];
    check.word("admission", word, &all, Admission::as_str)
}

/// Reads the word of the column `health`.
pub(super) fn health(check: &Checked, word: &str) -> Result<Health, StoreError> {
    let all = [Health::Alive, Health::Dead, Health::Unreachable, Health::Suspect, Health::Unknown];
    check.word("health", word, &all, Health::as_str)
}

/// Reads the word of the column `link`.
pub(super) fn link(check: &Checked, word: &str) -> Result<LinkState, StoreError> {
    check.word("link", word, &[LinkState::Up, LinkState::None, LinkState::Lost], LinkState::as_str)
}

/// Reads the word of the column `way_in`.
pub(super) fn way_in(check: &Checked, word: &str) -> Result<Way, StoreError> {
    check.word("way_in", word, &[Way::Open, Way::Unknown, Way::Shut], Way::as_str)
}

impl TryFrom<NodeRow> for Node {
    type Error = StoreError;

    fn try_from(row: NodeRow) -> Result<Self, StoreError> {
        let check = Checked { table: "nodes", id: row.id };
        Ok(Self {
            id: NodeId(row.id),
            hostname: check.parse("hostname", &row.hostname)?,
            transport: match (row.transport.as_str(), row.addr, row.ssh_port, row.host_keys) {
                ("ssh", Some(addr), Some(port), Some(host_keys)) => Transport::Ssh(Sshd {
                    addr: check.parse("addr", &addr)?,
                    port: check.number::<Port>("ssh_port", port)?,
                    host_keys: check.json("host_keys", &host_keys)?,
                }),
                ("pull", ..) => Transport::Pull,
                (transport, ..) => {
                    return Err(check.corrupt(format!("transport: {transport} without an address")));
                }
            },
            seen_fingerprint: row.seen_fingerprint,
            admission: admission(&check, &row.admission)?,
            health: health(&check, &row.health)?,
            health_reason: row.health_reason,
            health_since: at(row.health_since),
            // One that a version without causes wrote is left to an admin.
            quarantine_cause: row
                .quarantine
                .is_some()
                .then_some(row.quarantine_cause.as_deref().unwrap_or(QuarantineCause::Operator.as_str()))
                .map(|word| {
                    let all =
                        [QuarantineCause::Passing, QuarantineCause::Cleaning, QuarantineCause::Operator];
                    check.word("quarantine_cause", word, &all, QuarantineCause::as_str)
                })
                .transpose()?,
            quarantine_since: row.quarantine_since.filter(|_| row.quarantine.is_some()).map(at),
            quarantine: row.quarantine,
            drain: match (row.cordon, row.drain_since) {
                (None, None) => None,
                (Some(reason), Some(since)) => Some(Drain {
                    reason,
                    since: at(since),
                    deadline: row.drain_deadline.map(at),
                    drained_at: row.drained_at.map(at),
                }),
                (Some(_), None) | (None, Some(_)) => {
                    return Err(check.corrupt("of cordon and drain_since only one is set".into()));
                }
            },
            link: link(&check, &row.link)?,
            link_since: at(row.link_since),
            link_replica: row.link_replica,
            agent_sees_sshd: row.agent_sees_sshd.map(|sees| sees != 0),
            lock_order: row
                .lock_ordered_at
                .map(|ordered| LockOrder { at: at(ordered), observed_at: row.lock_observed_at.map(at) }),
            way_in: WayIn {
                way: way_in(&check, &row.way_in)?,
                reason: row.way_in_reason,
                since: at(row.way_in_since),
                by_agent: row.way_in_by_agent != 0,
            },
            engine: row.engine,
            engine_down_since: row.engine_down_since.map(at),
            clock_off_ms: row.clock_off_ms,
            facts: Facts {
                cpu_cores: row.cpu_cores.map(|count| check.number("cpu_cores", count)).transpose()?,
                memory_mb: row.memory_mb.map(|size| check.number("memory_mb", size)).transpose()?,
                gpus: check.json("gpus", &row.gpus)?,
                gpu_devices: Vec::new(),
                mac: row.mac,
                agent_version: row.agent_version,
            },
            tags: check.json("tags", &row.tags)?,
            subordinate_uids: check.json("subordinate_uids", &row.subordinate_uids)?,
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
            unclean: row.unclean != 0,
            disk_full: row.disk_full,
            registered_at: at(row.registered_at),
            last_clean_report: row
                .last_clean_report
                .map(|report| check.json("last_clean_report", &report))
                .transpose()?,
            claimed_until: row.claimed_until.map(at),
            reconcile_failures: check.number("reconcile_failures", row.reconcile_failures)?,
            version: row.version,
        })
    }
}
