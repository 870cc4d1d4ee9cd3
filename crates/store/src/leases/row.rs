//! Rows of `leases`.

use super::LeaseNodeEntry;
use crate::{
    engine::{Checked, Columns, StoreError, at, json, record},
    leases::LeaseRow,
    nodes::row::NodeRow,
};
use orion_domain::{
    LeaseId, NodeId, Secret, UserId,
    lease::{Account, EndReason, Holding, Lease, LeaseState, OnNodeLoss, Phase},
};
use sqlx::{AssertSqlSafe, ColumnIndex, Decode, FromRow, Row, Type};

record! {
    /// A row of `leases`.
    #[derive(Clone, Debug)]
    pub(crate) struct LeaseRecord {
        pub id: i64,
        uid: String,
        user_id: i64,
        name: Option<String>,
        client_user: Option<String>,
        account_uid: Option<i64>,
        password_hash: Option<String>,
        public_key: Option<String>,
        state: String,
        state_since: i64,
        state_reason: Option<String>,
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
        holding: String,
        cpu_milli: i64,
        memory_mb: i64,
        gpus: i64,
        containers: i64,
        version: i64,
    }
}

/// A query for rows of `leases`, which it calls `l`.
pub(crate) fn lease_sql(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {} FROM leases l {rest}", LeaseRecord::columns("l")))
}

/// A lease with the node that it has, or had last.
pub(crate) struct LeaseWithNode {
    lease: LeaseRecord,
    open_at: Option<i64>,
    node: Option<NodeRow>,
}

impl<'r, R: Row> FromRow<'r, R> for LeaseWithNode
where
    usize: ColumnIndex<R>,
    LeaseRecord: Columns<'r, R>,
    Option<NodeRow>: Columns<'r, R>,
    Option<i64>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let mut places = 0..row.len();
        let lease = LeaseRecord::read(row, &mut places)?;
        let open_at = row.try_get(places.next().unwrap_or(usize::MAX))?;
        Ok(Self { lease, open_at, node: Columns::read(row, &mut places)? })
    }
}

impl TryFrom<LeaseWithNode> for LeaseRow {
    type Error = StoreError;

    fn try_from(row: LeaseWithNode) -> Result<Self, StoreError> {
        let ended_at = row.lease.ended_at.map(at);
        let node = row.node.map(TryInto::try_into).transpose()?;
        Ok(Self { lease: row.lease.try_into()?, node, open_at: row.open_at.map(at), ended_at })
    }
}

/// A query for [`LeaseWithNode`]s of `leases`, which it calls `l`.
pub(crate) fn lease_with_node_sql(rest: &str) -> AssertSqlSafe<String> {
    let (lease, node) = (LeaseRecord::columns("l"), NodeRow::columns("n"));
    AssertSqlSafe(format!(
        "SELECT {lease}, s.open_at, {node} FROM leases l LEFT JOIN nodes n ON n.id = l.node_id \
         LEFT JOIN node_seen s ON s.node_id = l.node_id {rest}"
    ))
}

/// The columns that hold a lease's state.
pub(crate) struct StateColumns {
    pub state_reason: Option<String>,
    pub from_node: Option<i64>,
    pub occupies_node: Option<i64>,
}

pub(crate) fn state_columns(state: &LeaseState) -> Result<StateColumns, StoreError> {
    let occupies_node = state.occupies().map(|node| node.0);
    let (state_reason, from_node) = match state {
        LeaseState::Requested | LeaseState::Provisioning { .. } | LeaseState::Active { .. } => (None, None),
        LeaseState::Scheduled { reason } => (reason.clone(), None),
        LeaseState::Queued { reason } | LeaseState::Yielding { reason, .. } => (Some(reason.clone()), None),
        LeaseState::Migrating { from, reason, .. } => (Some(reason.clone()), Some(from.0)),
        LeaseState::Releasing { reason, .. } | LeaseState::Ended { reason } => (Some(json(reason)?), None),
    };
    Ok(StateColumns { state_reason, from_node, occupies_node })
}

impl LeaseRecord {
    fn lease_state(&self, check: &Checked) -> Result<LeaseState, StoreError> {
        let phase = check.word("state", &self.state, &Phase::ALL, Phase::as_str)?;
        let node = || {
            let node = self.occupies_node.map(NodeId);
            node.ok_or_else(|| check.corrupt(format!("it is {} but occupies no node", self.state)))
        };
        let end_reason =
            || check.json::<EndReason>("state_reason", self.state_reason.as_deref().unwrap_or(""));
        let reason = || self.state_reason.clone().unwrap_or_default();
        Ok(match phase {
            Phase::Requested => LeaseState::Requested,
            Phase::Scheduled => LeaseState::Scheduled { reason: self.state_reason.clone() },
            Phase::Queued => LeaseState::Queued { reason: reason() },
            Phase::Yielding => LeaseState::Yielding { node: node()?, reason: reason() },
            Phase::Provisioning => LeaseState::Provisioning { node: node()? },
            Phase::Active => LeaseState::Active { node: node()? },
            Phase::Migrating => {
                let node = node()?;
                let from = self.from_node.map(NodeId);
                let from =
                    from.ok_or_else(|| check.corrupt("it is migrating but from_node is empty".into()))?;
                LeaseState::Migrating { from, to: (node != from).then_some(node), reason: reason() }
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
            account: match (row.client_user, row.account_uid, row.password_hash) {
                (None, None, None) => None,
                (Some(user), Some(uid), Some(hash)) => Some(Account {
                    user: check.parse("client_user", &user)?,
                    uid: check.number("account_uid", uid)?,
                    password_hash: Secret::new(hash),
                    public_key: row.public_key,
                }),
                (..) => return Err(check.corrupt("it has a part of an account".into())),
            },
            holding: match row.holding.as_str() {
                "slice" => Holding::Slice {
                    cpu_milli: check.number("cpu_milli", row.cpu_milli)?,
                    memory_mb: check.number("memory_mb", row.memory_mb)?,
                    gpus: check.number("gpus", row.gpus)?,
                },
                _ => Holding::WholeNode,
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
            containers: check.number("containers", row.containers)?,
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
