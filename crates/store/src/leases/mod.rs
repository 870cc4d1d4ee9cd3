//! Reading leases: for their owners, and for the scheduler's work.

pub(crate) mod candidates;
pub(crate) mod end;
pub(crate) mod first_container;
pub(crate) mod hold;
pub(crate) mod insert;
pub(crate) mod migrate;
pub(crate) mod place;
pub(crate) mod placement;
pub(crate) mod rooms;
pub(crate) mod row;
pub(crate) mod slice;
pub(crate) mod transition;
pub(crate) mod uids;
pub(crate) mod waiting;

pub(crate) use candidates::CandidateCache;
pub use end::RequestEnd;
pub use first_container::{Largest, Room};
pub use migrate::{MoveOutcome, MoveReason, MoveRequest, NO_NODE_IS_FREE};
pub use placement::{FirstContainer, NewAccount, PlaceOutcome, PlaceRequest, Placement};
pub(crate) use rooms::RoomCache;
pub(crate) use uids::UidAllocator;
pub use waiting::{Start, Step};

use crate::{
    Store,
    engine::{Result, StoreError, Val, each, in_lists, vals},
    leases::row::{LeaseNodeRecord, LeaseRecord, LeaseWithNode, lease_sql, lease_with_node_sql},
};
use orion_domain::{LeaseId, NodeId, Timestamp, UserId, lease::Lease, names::LeaseName, node::Node};
use sqlx::AssertSqlSafe;
use std::collections::HashMap;

/// Queries and transactions on leases.
#[derive(Clone, Copy, Debug)]
pub struct Leases<'a> {
    store: &'a Store,
}

impl Store {
    /// Gives the leases.
    pub const fn leases(&self) -> Leases<'_> {
        Leases { store: self }
    }
}

/// A lease with the node that it has, or had last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// Row of the lease.
    pub lease: Lease,
    /// Its node; none if it had none yet, or that was forgotten.
    pub node: Option<Node>,
    /// Time at which the node was last seen to accept the login of a lease account.
    pub open_at: Option<Timestamp>,
    /// Time at which the lease was over.
    pub ended_at: Option<Timestamp>,
}

/// A node that a lease has been on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseNodeEntry {
    /// Number of the node.
    pub node: NodeId,
    /// Start of the lease's time on the node.
    pub at: Timestamp,
    /// End of the lease's time on the node; none if the lease is still there.
    pub left_at: Option<Timestamp>,
    /// Reason why the lease left the node.
    pub why: Option<String>,
}

/// Phases of a lease that is not over ([`orion_domain::lease::Phase::is_live`]). (Words in the text, so that the
/// index is used.)
pub(crate) const LIVE: &str =
    "('requested', 'scheduled', 'queued', 'provisioning', 'active', 'migrating', 'yielding', 'releasing')";
/// Those of them that hold a node ([`orion_domain::lease::Phase::holds_node`]).
pub(crate) const HOLDING: &str = "('provisioning', 'active', 'migrating', 'yielding', 'releasing')";
/// Phases of a lease that ends when its time is up ([`orion_domain::lease::Phase::expires`]).
pub(crate) const EXPIRING: &str =
    "('requested', 'scheduled', 'queued', 'provisioning', 'active', 'migrating', 'yielding')";

impl Leases<'_> {
    async fn leases_where(self, rest: &str, values: Vec<Val>) -> Result<Vec<Lease>, StoreError> {
        each(self.store.db.all::<LeaseRecord>(lease_sql(rest), values).await?)
    }

    /// A lease.
    pub async fn get(self, id: LeaseId) -> Result<Option<Lease>, StoreError> {
        Ok(self.leases_where("WHERE l.id = ?", vals![id]).await?.pop())
    }

    /// A user's live lease of that name.
    pub async fn by_name(self, user: UserId, name: &LeaseName) -> Result<Option<Lease>, StoreError> {
        let rest = "WHERE l.user_id = ? AND l.live_name = ?";
        Ok(self.leases_where(rest, vals![user, name.as_str()]).await?.pop())
    }

    /// The next `limit` leases after `after` by number, with their nodes: of a user, or of all.
    pub async fn list(
        self,
        user: Option<UserId>,
        include_ended: bool,
        after: LeaseId,
        limit: u32,
    ) -> Result<Vec<LeaseRow>, StoreError> {
        let mut values = vals![after];
        values.extend(user.map(Val::from));
        values.push(limit.into());
        let rest = if include_ended {
            let owner = if user.is_some() { "AND l.user_id = ?" } else { "" };
            format!("WHERE l.id > ? {owner} ORDER BY l.id LIMIT ?")
        } else {
            // `+`: SQLite would otherwise walk through all that are over, which are many more, by number or by owner.
            let owner = if user.is_some() { "AND +l.user_id = ?" } else { "" };
            format!("WHERE l.state IN {LIVE} AND +l.id > ? {owner} ORDER BY +l.id LIMIT ?")
        };
        self.rows_where(&rest, values).await
    }

    /// A lease with its node.
    pub async fn with_node(self, id: LeaseId) -> Result<Option<LeaseRow>, StoreError> {
        Ok(self.rows_where("WHERE l.id = ?", vals![id]).await?.pop())
    }

    async fn rows_where(self, rest: &str, values: Vec<Val>) -> Result<Vec<LeaseRow>, StoreError> {
        each(self.store.db.all::<LeaseWithNode>(lease_with_node_sql(rest), values).await?)
    }

    /// The nodes that a lease has been on, oldest first.
    pub async fn history(self, id: LeaseId) -> Result<Vec<LeaseNodeEntry>, StoreError> {
        let sql = "SELECT node_id, at, left_at, why FROM lease_nodes WHERE lease_id = ? ORDER BY id";
        let rows = self.store.db.all::<LeaseNodeRecord>(sql, vals![id]).await?;
        Ok(rows.into_iter().map(LeaseNodeEntry::from).collect())
    }

    /// The living nodes that a lease was on and that may hold something of it still, without `here`, and without those
    /// whose container engine is silent since before `lost_before`.
    pub async fn nodes_left(
        self,
        id: LeaseId,
        here: NodeId,
        lost_before: Timestamp,
    ) -> Result<Vec<NodeId>, StoreError> {
        let sql = "SELECT n.id FROM nodes n WHERE n.id IN (SELECT node_id FROM lease_nodes WHERE lease_id = ?) \
                   AND n.id <> ? AND n.health <> 'dead' AND (n.engine_down_since IS NULL OR n.engine_down_since > ?) \
                   AND (n.unclean = 1 \
                   OR EXISTS (SELECT 1 FROM holds h WHERE h.node_id = n.id AND h.lease_id = ?) \
                   OR EXISTS (SELECT 1 FROM leases l WHERE l.id = ? AND l.state = 'migrating' AND l.from_node = n.id)) \
                   ORDER BY n.id";
        let rows = self.store.db.all::<(i64,)>(sql, vals![id, here, lost_before, id, id]).await?;
        Ok(rows.into_iter().map(|(node,)| NodeId(node)).collect())
    }

    /// The leases that have these nodes.
    pub async fn on_nodes(self, nodes: &[NodeId]) -> Result<HashMap<NodeId, Vec<Lease>>, StoreError> {
        let mut found: HashMap<NodeId, Vec<Lease>> = HashMap::with_capacity(nodes.len());
        for (list, values) in in_lists(nodes) {
            let rest = format!("WHERE l.occupies_node IN ({list}) ORDER BY l.id");
            for lease in self.leases_where(&rest, values).await? {
                if let Some(node) = lease.state.occupies() {
                    found.entry(node).or_default().push(lease);
                }
            }
        }
        Ok(found)
    }

    /// The leases of one request.
    pub async fn of_request(self, request_key: &str) -> Result<Vec<Lease>, StoreError> {
        self.leases_where("WHERE l.request_key = ? ORDER BY l.id", vals![request_key]).await
    }

    /// Leases whose time is up, the longest overdue first.
    pub async fn due(self, now: Timestamp, limit: u32) -> Result<Vec<Lease>, StoreError> {
        let rest = format!(
            "WHERE l.state IN {EXPIRING} AND l.leased_until <= ? ORDER BY l.leased_until, l.id LIMIT ?"
        );
        self.leases_where(&rest, vals![now, limit]).await
    }

    /// Returns when the next lease is due after `now` (those that are overdue: [`crate::Leases::due`]).
    pub async fn next_due(self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let sql =
            format!("SELECT MIN(leased_until) FROM leases WHERE state IN {EXPIRING} AND leased_until > ?");
        let row = self.store.db.one::<(Option<i64>,)>(AssertSqlSafe(sql), vals![now]).await?;
        Ok(row.and_then(|(at,)| at).map(Timestamp::from_micros))
    }

    /// The next `limit` leases in `Migrating` that have no new node, the longest waiting first: those after the one
    /// that `after` names by [`Lease::since`] and number. Not those that are to wait for their own node and say so
    /// already, with `its_own`.
    pub async fn to_migrate(
        self,
        its_own: &str,
        after: Option<(Timestamp, LeaseId)>,
        limit: u32,
    ) -> Result<Vec<Lease>, StoreError> {
        let (since, id) = after.unwrap_or((Timestamp::from_micros(i64::MIN), LeaseId(0)));
        let rest = "WHERE l.state = 'migrating' AND l.occupies_node = l.from_node \
                    AND (l.on_node_loss <> 'wait' OR COALESCE(l.state_reason, '') <> ?) \
                    AND (l.state_since > ? OR (l.state_since = ? AND l.id > ?)) \
                    ORDER BY l.state_since, l.id LIMIT ?";
        self.leases_where(rest, vals![its_own, since, since, id, limit]).await
    }

    /// Leases on their way to a node on which nobody works (any more, or in their first turn), the oldest first:
    /// those in
    /// `Provisioning`, whose provisioner is gone, and those in `Migrating` to a target that is not alive either.
    pub async fn orphaned(self, now: Timestamp, limit: u32) -> Result<Vec<Lease>, StoreError> {
        let rest = "JOIN nodes n ON n.id = l.occupies_node WHERE l.state IN ('provisioning', 'migrating') \
                    AND (l.state = 'provisioning' OR (l.occupies_node <> l.from_node AND n.health <> 'alive')) \
                    AND (n.claimed_until IS NULL OR n.claimed_until <= ?) AND n.first_turn_until <= ? \
                    ORDER BY l.state_since, l.id LIMIT ?";
        self.leases_where(rest, vals![now, now, limit]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_domain::lease::Phase;

    #[test]
    fn the_lists_of_phases_are_those_of_the_domain() {
        let lists = [
            (LIVE, Phase::is_live as fn(Phase) -> bool),
            (HOLDING, Phase::holds_node),
            (EXPIRING, Phase::expires),
        ];
        for (list, is_in) in lists {
            let words: Vec<String> = Phase::ALL
                .into_iter()
                .filter(|phase| is_in(*phase))
                .map(|phase| format!("'{}'", phase.as_str()))
                .collect();
            assert_eq!(list, format!("({})", words.join(", ")));
        }
    }
}
