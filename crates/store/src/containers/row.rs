//! Rows of `containers`.

use crate::engine::{Checked, StoreError, record};
use orion_domain::{
    ContainerId, LeaseId, NodeId, Timestamp,
    container::{ContainerExit, ContainerPhase, StoredSpec},
};
use sqlx::AssertSqlSafe;

/// What the owner wants of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// To run once; what comes after its end is said by its restart policy.
    Started,
    /// To run again, though it has ended.
    Restarted,
    /// Not to run, and to be kept.
    Stopped,
    /// To be removed.
    Removed,
}

impl Wanted {
    const ALL: [Self; 4] = [Self::Started, Self::Restarted, Self::Stopped, Self::Removed];

    /// The word in the database and in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Restarted => "restarted",
            Self::Stopped => "stopped",
            Self::Removed => "removed",
        }
    }
}

/// A port of a container, and the port of its node that leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePort {
    /// Port of the container.
    pub port: u16,
    /// Port of the node.
    pub node_port: u16,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRow {
    /// Number of the container, unique in the system.
    pub id: ContainerId,
    /// Its ULID.
    pub uid: String,
    /// The lease that it belongs to.
    pub lease: LeaseId,
    /// Number in its lease.
    pub number: u32,
    /// Name in its lease.
    pub name: String,
    /// The specification without the values of `env` and `files`, as JSON.
    pub spec: String,
    /// The values of `env` and `files`, sealed.
    pub spec_sealed: Vec<u8>,
    /// What its owner wants.
    pub wanted: Wanted,
    /// What was last seen of it.
    pub phase: ContainerPhase,
    /// Start of the phase.
    pub since: Timestamp,
    /// Reason of the phase, for people.
    pub reason: Option<String>,
    /// Goes up each time that it is to be made anew.
    pub incarnation: u64,
    /// What was made under this incarnation or a later one is taken for the container: the lease came back to a node that
    /// it had left.
    pub oldest_incarnation: u64,
    /// Start of the run that a restart is to end; none where it is to run whatever it does now.
    pub restart_of: Option<Timestamp>,
    /// The node that it is on.
    pub node: Option<NodeId>,
    /// The engine's id of it.
    pub engine_id: Option<String>,
    /// Its ports, and those of the node that lead there; none before it was placed there.
    pub node_ports: Vec<NodePort>,
    /// How it ended last.
    pub exit: Option<ContainerExit>,
    /// What is being done, with bytes done and in all.
    pub step: Option<String>,
    /// Bytes that the step has done.
    pub bytes_done: Option<u64>,
    /// Bytes of the step in all, as far as known.
    pub bytes_total: Option<u64>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was started last.
    pub started_at: Option<Timestamp>,
    /// When it ended last.
    pub finished_at: Option<Timestamp>,
    /// Goes up with every write.
    pub version: i64,
}

impl ContainerRow {
    /// Puts the specification together, with its sealed part as the caller opened it.
    pub fn stored_spec(&self, opened: orion_domain::Secret) -> StoredSpec {
        StoredSpec { open: self.spec.clone(), sealed: opened }
    }
}

record! {
    pub(crate) struct ContainerRecord {
        id: i64,
        uid: String,
        lease_id: i64,
        number: i64,
        name: String,
        spec: String,
        spec_sealed: Vec<u8>,
        wanted: String,
        state: String,
        state_since: i64,
        reason: Option<String>,
        incarnation: i64,
        oldest_incarnation: i64,
        restart_of: Option<i64>,
        node_id: Option<i64>,
        engine_id: Option<String>,
        node_ports: Option<String>,
        exit_code: Option<i64>,
        oom_killed: i64,
        step: Option<String>,
        bytes_done: Option<i64>,
        bytes_total: Option<i64>,
        created_at: i64,
        started_at: Option<i64>,
        finished_at: Option<i64>,
        version: i64,
    }
}

/// A query for rows of `containers`, which it calls `c`.
pub(crate) fn container_sql(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {} FROM containers c {rest}", ContainerRecord::columns("c")))
}

impl TryFrom<ContainerRecord> for ContainerRow {
    type Error = StoreError;

    fn try_from(row: ContainerRecord) -> Result<Self, StoreError> {
        let check = Checked { table: "containers", id: row.id };
        let at = Timestamp::from_micros;
        let bytes = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok());
        let exit = row.exit_code.map(|code| ContainerExit {
            code,
            oom_killed: row.oom_killed != 0,
            error: String::new(),
        });
        Ok(Self {
            id: ContainerId(row.id),
            uid: row.uid,
            lease: LeaseId(row.lease_id),
            number: check.number("number", row.number)?,
            name: row.name,
            spec: row.spec,
            spec_sealed: row.spec_sealed,
            wanted: check.word("wanted", &row.wanted, &Wanted::ALL, Wanted::as_str)?,
            phase: check.word("state", &row.state, &ContainerPhase::ALL, ContainerPhase::as_str)?,
            since: at(row.state_since),
            reason: row.reason,
            incarnation: u64::try_from(row.incarnation).unwrap_or(0),
            oldest_incarnation: u64::try_from(row.oldest_incarnation).unwrap_or(0),
            restart_of: row.restart_of.map(at),
            node: row.node_id.map(NodeId),
            engine_id: row.engine_id,
            node_ports: ports_of(row.node_ports.as_deref().unwrap_or_default())
                .ok_or_else(|| check.corrupt("node_ports".to_owned()))?,
            exit,
            step: row.step,
            bytes_done: bytes(row.bytes_done),
            bytes_total: bytes(row.bytes_total),
            created_at: at(row.created_at),
            started_at: row.started_at.map(at),
            finished_at: row.finished_at.map(at),
            version: row.version,
        })
    }
}

/// Returns the ports as `containers.node_ports` has them: `8080:20001,9090:20002`.
pub(super) fn text_of(ports: &[NodePort]) -> String {
    let texts = ports.iter().map(|port| format!("{}:{}", port.port, port.node_port));
    texts.collect::<Vec<_>>().join(",")
}

/// Reads what [`text_of`] gave.
pub(super) fn ports_of(text: &str) -> Option<Vec<NodePort>> {
    let port = |text: &str| {
        let (port, node_port) = text.split_once(':')?;
        Some(NodePort { port: port.parse().ok()?, node_port: node_port.parse().ok()? })
    };
    text.split(',').filter(|text| !text.is_empty()).map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_were_written() {
        let ports = [NodePort { port: 8080, node_port: 20_001 }, NodePort { port: 9, node_port: 20_000 }];
        assert_eq!(text_of(&ports), "8080:20001,9:20000");
        assert_eq!(ports_of(&text_of(&ports)).unwrap(), ports);
        assert_eq!(ports_of(""), Some(Vec::new()));
        assert_eq!(ports_of("8080"), None);
    }
}
