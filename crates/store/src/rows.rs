//! Rows become domain types here and nowhere else; a row that says something impossible is
//! [`StoreError::Corrupt`] with its table and number.

use crate::{
    error::StoreError,
    model::{Event, IdemRow, IdemState, JoinToken, LeaseNodeEntry, Role, User},
    record::record,
};
use orion_domain::{
    EventId, LeaseId, NodeId, Secret, Timestamp, TokenId, UserId,
    drain::Drain,
    lease::{Account, EndReason, Lease, LeaseState, OnNodeLoss, Phase},
    names::Port,
    node::{Admission, Facts, Health, LinkState, Node},
};
use serde::de::DeserializeOwned;
use sqlx::{AssertSqlSafe, FromRow};

/// Longest free text (reasons, errors) that is kept, in characters.
const TEXT_MAX: usize = 2_000;

/// Free text, cut to what a column takes.
pub(crate) fn clip(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

/// JSON for a TEXT column.
pub(crate) fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Sql(sqlx::Error::Encode(error.into())))
}

/// What a column of a certain row says, or that the row is corrupt.
struct Checked {
    table: &'static str,
    id: i64,
}

impl Checked {
    fn corrupt(&self, detail: String) -> StoreError {
        StoreError::Corrupt { table: self.table, id: self.id, detail }
    }

    fn parse<T: std::str::FromStr>(&self, column: &str, text: &str) -> Result<T, StoreError>
    where
        T::Err: std::fmt::Display,
    {
        text.parse().map_err(|error| self.corrupt(format!("{column}: {error}")))
    }

    fn number<T: TryFrom<i64>>(&self, column: &str, value: i64) -> Result<T, StoreError> {
        T::try_from(value).map_err(|_| self.corrupt(format!("{column}: {value} is out of range")))
    }

    fn json<T: DeserializeOwned>(&self, column: &str, text: &str) -> Result<T, StoreError> {
        serde_json::from_str(text).map_err(|error| self.corrupt(format!("{column}: {error}")))
    }

    fn word<T: Copy>(
        &self,
        column: &str,
        word: &str,
        all: &[T],
        name: fn(T) -> &'static str,
    ) -> Result<T, StoreError> {
        let known = all.iter().copied().find(|value| name(*value) == word);
        known.ok_or_else(|| self.corrupt(format!("{column}: '{word}' is no word of it")))
    }
}

const fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

record! {
    /// What of a row of `nodes` the domain knows.
    #[derive(Clone, Debug)]
    pub(crate) struct NodeRow {
        pub id: i64,
        hostname: String,
        addr: String,
        ssh_port: i64,
        host_keys: String,
        pub seen_fingerprint: Option<String>,
        admission: String,
        health: String,
        health_reason: String,
        health_since: i64,
        pub quarantine: Option<String>,
        cordon: Option<String>,
        drain_since: Option<i64>,
        drain_deadline: Option<i64>,
        drained_at: Option<i64>,
        link: String,
        link_since: i64,
        link_replica: Option<String>,
        agent_sees_sshd: Option<i64>,
        cpu_cores: Option<i64>,
        memory_mb: Option<i64>,
        gpus: String,
        mac: Option<String>,
        agent_version: Option<String>,
        tags: String,
        subordinate_uids: String,
        desired_version: i64,
        applied_version: i64,
        pub lease_id: Option<i64>,
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

    /// The row after [`crate::attempts::Tx::occupy`] wrote it.
    pub(crate) fn occupied(self, lease: LeaseId, token: &str, claimed_until: Timestamp) -> Self {
        let row = NodeRow {
            lease_id: Some(lease.0),
            desired_version: self.desired_version + 1,
            claimed_until: Some(claimed_until.as_micros()),
            version: self.version + 1,
            ..self.row
        };
        Self { row, epoch: self.epoch + 1, claim_token: Some(token.to_owned()), ..self }
    }
}

impl TryFrom<NodeRecord> for Node {
    type Error = StoreError;

    fn try_from(record: NodeRecord) -> Result<Self, StoreError> {
        record.row.try_into()
    }
}

impl TryFrom<NodeRow> for Node {
    type Error = StoreError;

    fn try_from(row: NodeRow) -> Result<Self, StoreError> {
        let check = Checked { table: "nodes", id: row.id };
        Ok(Self {
            id: NodeId(row.id),
            hostname: check.parse("hostname", &row.hostname)?,
            addr: check.parse("addr", &row.addr)?,
            ssh_port: check.number::<Port>("ssh_port", row.ssh_port)?,
            host_keys: check.json("host_keys", &row.host_keys)?,
            seen_fingerprint: row.seen_fingerprint,
            admission: check.word(
                "admission",
                &row.admission,
                &[Admission::Pending, Admission::Reported, Admission::Admitted],
                Admission::as_str,
            )?,
            health: check.word(
                "health",
                &row.health,
                &[Health::Unknown, Health::Alive, Health::Suspect, Health::Unreachable, Health::Dead],
                Health::as_str,
            )?,
            health_reason: row.health_reason,
            health_since: at(row.health_since),
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
            link: check.word(
                "link",
                &row.link,
                &[LinkState::None, LinkState::Up, LinkState::Lost],
                LinkState::as_str,
            )?,
            link_since: at(row.link_since),
            link_replica: row.link_replica,
            agent_sees_sshd: row.agent_sees_sshd.map(|sees| sees != 0),
            facts: Facts {
                cpu_cores: row.cpu_cores.map(|count| check.number("cpu_cores", count)).transpose()?,
                memory_mb: row.memory_mb.map(|size| check.number("memory_mb", size)).transpose()?,
                gpus: check.json("gpus", &row.gpus)?,
                mac: row.mac,
                agent_version: row.agent_version,
            },
            tags: check.json("tags", &row.tags)?,
            subordinate_uids: check.json("subordinate_uids", &row.subordinate_uids)?,
            desired_version: row.desired_version,
            applied_version: row.applied_version,
            lease: row.lease_id.map(LeaseId),
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

record! {
    /// A row of `leases`.
    #[derive(Clone, Debug)]
    pub(crate) struct LeaseRecord {
        pub id: i64,
        uid: String,
        user_id: i64,
        name: Option<String>,
        client_user: String,
        account_uid: i64,
        password_hash: String,
        public_key: Option<String>,
        state: String,
        state_since: i64,
        state_reason: Option<String>,
        pub node_id: i64,
        from_node: Option<i64>,
        occupies_node: Option<i64>,
        leased_from: i64,
        leased_until: i64,
        on_node_loss: String,
        tags: String,
        request_key: String,
        finish_after_crash: i64,
        deadline_applied: Option<i64>,
        pub ended_at: Option<i64>,
        version: i64,
    }
}

/// A query for rows of `leases`, which it calls `l`.
pub(crate) fn lease_sql(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {} FROM leases l {rest}", LeaseRecord::columns("l")))
}

/// The columns that hold a lease's state.
pub(crate) struct StateColumns {
    pub state_reason: Option<String>,
    pub node_id: i64,
    pub from_node: Option<i64>,
    pub occupies_node: Option<i64>,
}

/// `last` is the node that an ended lease keeps as its last.
pub(crate) fn state_columns(state: &LeaseState, last: i64) -> Result<StateColumns, StoreError> {
    let occupies_node = state.occupies().map(|node| node.0);
    let (state_reason, from_node) = match state {
        LeaseState::Provisioning { .. } | LeaseState::Active { .. } => (None, None),
        LeaseState::Migrating { from, reason, .. } => (Some(reason.clone()), Some(from.0)),
        LeaseState::Releasing { reason, .. } | LeaseState::Ended { reason } => (Some(json(reason)?), None),
    };
    Ok(StateColumns { state_reason, node_id: occupies_node.unwrap_or(last), from_node, occupies_node })
}

impl LeaseRecord {
    fn lease_state(&self, check: &Checked) -> Result<LeaseState, StoreError> {
        let phase = check.word(
            "state",
            &self.state,
            &[Phase::Provisioning, Phase::Active, Phase::Migrating, Phase::Releasing, Phase::Ended],
            Phase::as_str,
        )?;
        let node = || {
            let node = self.occupies_node.map(NodeId);
            node.ok_or_else(|| check.corrupt(format!("it is {} but occupies no node", self.state)))
        };
        let end_reason =
            || check.json::<EndReason>("state_reason", self.state_reason.as_deref().unwrap_or(""));
        Ok(match phase {
            Phase::Provisioning => LeaseState::Provisioning { node: node()? },
            Phase::Active => LeaseState::Active { node: node()? },
            Phase::Migrating => {
                let node = node()?;
                let from = self.from_node.map(NodeId);
                let from =
                    from.ok_or_else(|| check.corrupt("it is migrating but from_node is empty".into()))?;
                LeaseState::Migrating {
                    from,
                    to: (node != from).then_some(node),
                    reason: self.state_reason.clone().unwrap_or_default(),
                }
            }
            Phase::Releasing => LeaseState::Releasing { node: node()?, reason: end_reason()? },
            Phase::Ended => LeaseState::Ended { reason: end_reason()? },
        })
    }
}

impl TryFrom<LeaseRecord> for Lease {
    type Error = StoreError;

    fn try_from(row: LeaseRecord) -> Result<Self, StoreError> {
        let check = Checked { table: "leases", id: row.id };
        let state = row.lease_state(&check)?;
        Ok(Self {
            id: LeaseId(row.id),
            ulid: row.uid,
            user: UserId(row.user_id),
            name: row.name.as_deref().map(|name| check.parse("name", name)).transpose()?,
            account: Account {
                user: check.parse("client_user", &row.client_user)?,
                uid: check.number("account_uid", row.account_uid)?,
                password_hash: Secret::new(row.password_hash),
                public_key: row.public_key,
            },
            from: at(row.leased_from),
            until: at(row.leased_until),
            on_node_loss: check.word(
                "on_node_loss",
                &row.on_node_loss,
                &[OnNodeLoss::Migrate, OnNodeLoss::Wait, OnNodeLoss::End],
                on_node_loss_word,
            )?,
            tags: check.json("tags", &row.tags)?,
            request_key: row.request_key,
            finish_after_crash: row.finish_after_crash != 0,
            state,
            since: at(row.state_since),
            deadline_applied: row.deadline_applied.map(at),
            version: row.version,
        })
    }
}

pub(crate) const fn on_node_loss_word(policy: OnNodeLoss) -> &'static str {
    match policy {
        OnNodeLoss::Migrate => "migrate",
        OnNodeLoss::Wait => "wait",
        OnNodeLoss::End => "end",
    }
}

/// `records` as domain values; the first corrupt one is the error.
pub(crate) fn each<R, T: TryFrom<R, Error = StoreError>>(records: Vec<R>) -> Result<Vec<T>, StoreError> {
    records.into_iter().map(T::try_from).collect()
}

#[derive(FromRow)]
pub(crate) struct UserRecord {
    pub id: i64,
    username: String,
    password_hash: String,
    role: String,
    token_generation: i64,
    created_at: i64,
}

impl TryFrom<UserRecord> for User {
    type Error = StoreError;

    fn try_from(row: UserRecord) -> Result<Self, StoreError> {
        let check = Checked { table: "users", id: row.id };
        Ok(Self {
            id: UserId(row.id),
            username: check.parse("username", &row.username)?,
            password_hash: Secret::new(row.password_hash),
            role: check.word("role", &row.role, &[Role::User, Role::Admin], Role::as_str)?,
            token_generation: row.token_generation,
            created_at: at(row.created_at),
        })
    }
}

#[derive(FromRow)]
pub(crate) struct TokenRecord {
    pub id: i64,
    note: String,
    created_by: Option<i64>,
    created_at: i64,
    pub expires_at: Option<i64>,
    pub uses_left: Option<i64>,
    pub revoked: i64,
}

impl From<TokenRecord> for JoinToken {
    fn from(row: TokenRecord) -> Self {
        Self {
            id: TokenId(row.id),
            note: row.note,
            created_by: row.created_by.map(UserId),
            created_at: at(row.created_at),
            expires_at: row.expires_at.map(at),
            uses_left: row.uses_left,
            revoked: row.revoked != 0,
        }
    }
}

record! {
    pub(crate) struct EventRecord {
        id: i64,
        uid: String,
        at: i64,
        kind: String,
        lease_id: Option<i64>,
        node_id: Option<i64>,
        user_id: Option<i64>,
        data: String,
    }
}

/// A query for rows of `events`, which it calls `e`.
pub(crate) fn event_sql(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {} FROM events e {rest}", EventRecord::columns("e")))
}

impl TryFrom<EventRecord> for Event {
    type Error = StoreError;

    fn try_from(row: EventRecord) -> Result<Self, StoreError> {
        let check = Checked { table: "events", id: row.id };
        Ok(Self {
            id: EventId(row.id),
            uid: row.uid,
            at: at(row.at),
            kind: row.kind,
            lease: row.lease_id.map(LeaseId),
            node: row.node_id.map(NodeId),
            user: row.user_id.map(UserId),
            data: check.json("data", &row.data)?,
        })
    }
}

#[derive(FromRow)]
pub(crate) struct LeaseNodeRecord {
    node_id: i64,
    at: i64,
    left_at: Option<i64>,
    why: Option<String>,
}

impl From<LeaseNodeRecord> for LeaseNodeEntry {
    fn from(row: LeaseNodeRecord) -> Self {
        Self { node: NodeId(row.node_id), at: at(row.at), left_at: row.left_at.map(at), why: row.why }
    }
}

#[derive(FromRow)]
pub(crate) struct IdemRecord {
    body_sha256: String,
    state: String,
    request_key: Option<String>,
    secrets_sealed: Option<Vec<u8>>,
    reply_status: Option<i64>,
    reply_sealed: Option<Vec<u8>>,
    created_at: i64,
    pub expires_at: i64,
}

impl TryFrom<IdemRecord> for IdemRow {
    type Error = StoreError;

    fn try_from(row: IdemRecord) -> Result<Self, StoreError> {
        let check = Checked { table: "idempotency", id: 0 };
        let states = [IdemState::Running, IdemState::Done];
        Ok(Self {
            body_sha256: row.body_sha256,
            state: check.word("state", &row.state, &states, |state| match state {
                IdemState::Running => "running",
                IdemState::Done => "done",
            })?,
            request_key: row.request_key,
            secrets_sealed: row.secrets_sealed,
            reply_status: row.reply_status.map(|status| check.number("reply_status", status)).transpose()?,
            reply_sealed: row.reply_sealed,
            created_at: at(row.created_at),
        })
    }
}
