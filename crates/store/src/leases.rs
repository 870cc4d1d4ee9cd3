//! Reading leases: for their owners, and for the scheduler's work.

use crate::{
    Store,
    db::{Val, vals},
    error::{Result, StoreError},
    model::{LeaseNodeEntry, LeaseRow},
    rows::{LeaseNodeRecord, LeaseRecord, each, lease_sql},
    values::in_lists,
};
use orion_domain::{LeaseId, NodeId, Timestamp, UserId, lease::Lease, names::LeaseName, node::Node};
use std::collections::HashMap;

/// States in which a lease's time runs. (A `const` of the words, so that the index is used.)
const RUNNING: &str = "('provisioning', 'active', 'migrating')";

impl Store {
    async fn leases_where(&self, rest: &str, values: Vec<Val>) -> Result<Vec<Lease>, StoreError> {
        each(self.db.all::<LeaseRecord>(lease_sql(rest), values).await?)
    }

    /// A lease.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, StoreError> {
        Ok(self.leases_where("WHERE l.id = ?", vals![id]).await?.pop())
    }

    /// A user's live lease of that name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lease_by_name(&self, user: UserId, name: &LeaseName) -> Result<Option<Lease>, StoreError> {
        let rest = "WHERE l.user_id = ? AND l.live_name = ?";
        Ok(self.leases_where(rest, vals![user, name.as_str()]).await?.pop())
    }

    /// The next `limit` leases after `after` by number, with their nodes: of a user, or of all.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leases_of(
        &self,
        user: Option<UserId>,
        include_ended: bool,
        after: LeaseId,
        limit: u32,
    ) -> Result<Vec<LeaseRow>, StoreError> {
        let ended = if include_ended { "" } else { "AND l.state <> 'ended'" };
        let (owner, mut values) = match user {
            Some(user) => ("AND l.user_id = ?", vals![after, user]),
            None => ("", vals![after]),
        };
        values.push(limit.into());
        let rest = format!("WHERE l.id > ? {owner} {ended} ORDER BY l.id LIMIT ?");
        let records = self.db.all::<LeaseRecord>(lease_sql(&rest), values).await?;
        self.with_nodes(records).await
    }

    /// A lease with its node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lease_row(&self, id: LeaseId) -> Result<Option<LeaseRow>, StoreError> {
        let records = self.db.all::<LeaseRecord>(lease_sql("WHERE l.id = ?"), vals![id]).await?;
        Ok(self.with_nodes(records).await?.pop())
    }

    async fn with_nodes(&self, records: Vec<LeaseRecord>) -> Result<Vec<LeaseRow>, StoreError> {
        let mut ids: Vec<NodeId> = records.iter().map(|record| NodeId(record.node_id)).collect();
        ids.sort_unstable();
        ids.dedup();
        let nodes = self.nodes_of(&ids).await?;
        let nodes: HashMap<NodeId, Node> = nodes.into_iter().map(|node| (node.id, node)).collect();
        let mut rows = Vec::with_capacity(records.len());
        for record in records {
            let node = nodes.get(&NodeId(record.node_id)).cloned();
            let ended_at = record.ended_at.map(Timestamp::from_micros);
            rows.push(LeaseRow { lease: record.try_into()?, node, ended_at });
        }
        Ok(rows)
    }

    /// The nodes that a lease has been on, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lease_history(&self, id: LeaseId) -> Result<Vec<LeaseNodeEntry>, StoreError> {
        let sql = "SELECT node_id, at, left_at, why FROM lease_nodes WHERE lease_id = ? ORDER BY id";
        let rows = self.db.all::<LeaseNodeRecord>(sql, vals![id]).await?;
        Ok(rows.into_iter().map(LeaseNodeEntry::from).collect())
    }

    /// The leases that have these nodes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leases_on_nodes(&self, nodes: &[NodeId]) -> Result<HashMap<NodeId, Lease>, StoreError> {
        let mut found = HashMap::with_capacity(nodes.len());
        for (list, values) in in_lists(nodes) {
            let rest = format!("WHERE l.occupies_node IN ({list})");
            let leases = self.leases_where(&rest, values).await?;
            found.extend(leases.into_iter().filter_map(|lease| Some((lease.state.occupies()?, lease))));
        }
        Ok(found)
    }

    /// The leases of one request.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leases_of_request(&self, request_key: &str) -> Result<Vec<Lease>, StoreError> {
        self.leases_where("WHERE l.request_key = ? ORDER BY l.id", vals![request_key]).await
    }

    /// Leases whose time is up, the longest overdue first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn due_leases(&self, now: Timestamp, limit: u32) -> Result<Vec<Lease>, StoreError> {
        let rest = format!(
            "WHERE l.state IN {RUNNING} AND l.leased_until <= ? ORDER BY l.leased_until, l.id LIMIT ?"
        );
        self.leases_where(&rest, vals![now, limit]).await
    }

    /// When the next lease is due after `now` (those that are overdue: [`Store::due_leases`]).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_due(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT MIN(leased_until) FROM leases \
                   WHERE state IN ('provisioning', 'active', 'migrating') AND leased_until > ?";
        let row = self.db.one::<(Option<i64>,)>(sql, vals![now]).await?;
        Ok(row.and_then(|(at,)| at).map(Timestamp::from_micros))
    }

    /// The next `limit` leases in `Migrating` that have no new node, the longest waiting first: those after the one
    /// that `after` names by [`Lease::since`] and number. Not those that are to wait for their own node and say so
    /// already, with `its_own`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leases_to_move(
        &self,
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

    /// Leases on their way to a node on which nobody works (any more), the oldest first: those in
    /// `Provisioning`, whose provisioner is gone, and those in `Migrating` to a target that is not alive either.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn orphaned_leases(&self, now: Timestamp, limit: u32) -> Result<Vec<Lease>, StoreError> {
        let rest = "JOIN nodes n ON n.id = l.occupies_node WHERE l.state IN ('provisioning', 'migrating') \
                    AND (l.state = 'provisioning' OR (l.occupies_node <> l.from_node AND n.health <> 'alive')) \
                    AND (n.claimed_until IS NULL OR n.claimed_until <= ?) ORDER BY l.state_since, l.id LIMIT ?";
        self.leases_where(rest, vals![now, limit]).await
    }
}
