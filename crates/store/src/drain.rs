//! Draining: nodes that are emptied, and what is left on them.
//!
//! Lives here: beginning and ending a drain, what is to be done next, and the word that a node is empty. Does not
//! live here: the move of a lease (`moves`) and the cleaning of a node (`claims`, `reconcile`).
//!
//! A drain is `drain_since` on a node; `cordon`, its reason, keeps new leases away (I7).

use crate::{
    Store,
    attempts::{Tx, transaction},
    claims::CLAIMABLE,
    db::vals,
    error::{Cas, Fault, Result, StoreError},
    nodes::NodeChange,
    rows::{LeaseRecord, clip, each, lease_sql},
    transitions::lease_event,
    values::in_lists,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp, UserId,
    lease::{Lease, LeaseEvent, LeaseState},
    names::Tag,
    node::Node,
};
use serde_json::json;
use sqlx::AssertSqlSafe;
use std::collections::HashMap;

/// A lease of this node is on its way to another one, which has not confirmed it.
pub(crate) const IS_BEING_LEFT: &str = "EXISTS (SELECT 1 FROM leases moving WHERE moving.state = 'migrating' \
                                        AND moving.from_node = nodes.id AND moving.occupies_node <> nodes.id)";

/// A node that is drained and empty now, and not known to be so yet; binds `now`. Clean or dead; one that was
/// never admitted never held anything. What lost it at the deadline ([`Node::is_kept_by`]) is not there any more.
const IS_EMPTIED: &str = "drained_at IS NULL AND drain_since IS NOT NULL \
    AND (health = 'dead' OR admission <> 'admitted' OR applied_version = desired_version) \
    AND NOT EXISTS (SELECT 1 FROM leases here WHERE here.occupies_node = nodes.id AND NOT (here.state = 'migrating' \
    AND here.from_node = nodes.id AND nodes.drain_deadline IS NOT NULL AND nodes.drain_deadline <= ?))";

/// A lease is on its way off a drained node that lives.
const A_LEASE_IS_LEAVING: &str = "SELECT COUNT(*) FROM leases l JOIN nodes n ON n.id = l.from_node \
     WHERE l.state = 'migrating' AND l.occupies_node <> l.from_node \
     AND n.drain_since IS NOT NULL AND n.health <> 'dead'";

/// The setting that counts moves off drained nodes: who raises it has the turn.
const TURN: &str = "drain_turn";

/// The wish to drain a node, or to change how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainRequest {
    /// Why; none: as before.
    pub reason: Option<String>,
    /// By when: `Some(None)` for no limit; none: as before.
    pub deadline: Option<Option<Timestamp>>,
    /// Who wishes it.
    pub actor: Option<UserId>,
}

impl Tx {
    /// Whether it is the caller's turn to move a lease off a drained node. Of two that ask at once one is run again
    /// and finds the other's lease on its way.
    pub(crate) async fn take_drain_turn(&mut self) -> Result<bool> {
        let find = "SELECT value FROM settings WHERE name = ?";
        let turn = self.one::<(String,)>(find, vals![TURN]).await?.map(|(turn,)| turn);
        if self.one::<(i64,)>(A_LEASE_IS_LEAVING, vec![]).await?.is_some_and(|(count,)| count > 0) {
            return Ok(false);
        }
        let written = match &turn {
            Some(turn) => {
                let next = turn.parse::<u64>().unwrap_or(0).wrapping_add(1).to_string();
                let sql = "UPDATE settings SET value = ? WHERE name = ? AND value = ?";
                self.exec(sql, vals![next, TURN, turn]).await
            }
            None => self.exec("INSERT INTO settings (name, value) VALUES (?, '1')", vals![TURN]).await,
        };
        match written {
            Ok(1) => Ok(true),
            Ok(_) | Err(Fault::Unique(_)) => Err(Fault::Retry("another lease leaves a drained node".into())),
            Err(fault) => Err(fault),
        }
    }

    /// Tells the owner of the lease on a node what becomes of the node; nothing if the lease ends anyway.
    async fn tell_tenant(
        &mut self,
        lease: Option<&Lease>,
        node: NodeId,
        event: &LeaseEvent,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<()> {
        match lease.filter(|lease| lease.state.wants_account_on() == Some(node)) {
            Some(lease) => self.tell(&[lease_event(lease, node, event, actor)], now).await,
            None => Ok(()),
        }
    }
}

impl Store {
    /// Begins to drain a node, or changes the reason or the deadline of its drain: it takes no new leases at once.
    /// The same again changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn drain(
        &self,
        id: NodeId,
        request: &DrainRequest,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        Ok(transaction!(&self.db, |tx| { drain(tx, id, request, now).await })?)
    }

    /// The node takes leases again, after a look at it. `Stale`: it is not drained.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn undrain(
        &self,
        id: NodeId,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let outcome = transaction!(&self.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            if Node::try_from(record.clone())?.drain.is_none() {
                return Ok(Cas::Stale);
            }
            let lease = tx.lease_on(id).await?;
            // It may have been repaired: it is looked at. A login that works there is left alone.
            let looked_at =
                !matches!(&lease, Some(lease) if matches!(lease.state, LeaseState::Active { .. }));
            let change = NodeChange {
                sets: "cordon = NULL, drain_since = NULL, drain_deadline = NULL, drained_at = NULL, \
                       desired_version = desired_version + ?",
                values: vals![i64::from(looked_at)],
                guard: "AND version = ?",
                guard_values: vals![record.version],
                event: Some(("node.undrained", json!({ "actor": actor }))),
            };
            let changed = must_be_current(tx.change_node(id, change, now).await?, id)?;
            let event = LeaseEvent::NodeUndrained { node: id };
            tx.tell_tenant(lease.as_ref(), id, &event, actor, now).await?;
            Ok(changed)
        });
        Ok(outcome?)
    }

    /// Whether any node is being drained that is not empty yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_draining(&self) -> Result<bool, StoreError> {
        let sql = "SELECT id FROM nodes WHERE drained_at IS NULL AND drain_since IS NOT NULL LIMIT 1";
        Ok(self.db.one::<(i64,)>(sql, vec![]).await?.is_some())
    }

    /// The leases that may leave drained nodes now, with the reason of the drain, the longest waiting first: their
    /// logins work, their policy is to move, and nobody works on their nodes. None while one is on its way.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leases_to_move_off(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(Lease, Node)>, StoreError> {
        if self.db.one::<(i64,)>(A_LEASE_IS_LEAVING, vec![]).await?.is_some_and(|(count,)| count > 0) {
            return Ok(Vec::new());
        }
        let rest = "JOIN nodes n ON n.id = l.occupies_node WHERE l.state = 'active' AND l.on_node_loss = 'migrate' \
                    AND n.drained_at IS NULL AND n.drain_since IS NOT NULL AND n.health IN ('alive', 'unreachable') \
                    AND (n.claimed_until IS NULL OR n.claimed_until <= ?) ORDER BY n.drain_since, l.id LIMIT ?";
        let leases: Vec<Lease> = each(self.db.all::<LeaseRecord>(lease_sql(rest), vals![now, limit]).await?)?;
        let nodes: Vec<NodeId> = leases.iter().filter_map(|lease| lease.state.occupies()).collect();
        let nodes = self.nodes_of(&nodes).await?;
        let mut nodes: HashMap<NodeId, Node> = nodes.into_iter().map(|node| (node.id, node)).collect();
        let of = |lease: Lease| Some((nodes.remove(&lease.state.occupies()?)?, lease));
        Ok(leases.into_iter().filter_map(of).map(|(node, lease)| (lease, node)).collect())
    }

    /// Whether a node with all these tags is free.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_free_node(&self, tags: &[Tag], now: Timestamp) -> Result<bool, StoreError> {
        let outcome = transaction!(&self.db, |tx| {
            tx.abandon();
            Ok(!tx.candidates(tags, None, 1, now).await?.is_empty())
        });
        Ok(outcome?)
    }

    /// Nodes whose drain is due while a login still works there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn due_drains(&self, now: Timestamp) -> Result<Vec<NodeId>, StoreError> {
        let sql = "SELECT n.id FROM nodes n JOIN leases l ON l.occupies_node = n.id WHERE n.drained_at IS NULL \
                   AND n.drain_since IS NOT NULL AND n.drain_deadline <= ? AND l.state = 'active' ORDER BY n.id";
        Ok(self.db.all::<(i64,)>(sql, vals![now]).await?.into_iter().map(|(id,)| NodeId(id)).collect())
    }

    /// The deadline of a node's drain has come: the lease whose login works there loses the node by its own policy,
    /// and the node is dirty. Gives that lease. `Stale`: the drain is not due, or no login works there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_drain_time(&self, id: NodeId, now: Timestamp) -> Result<Cas<LeaseId>, StoreError> {
        let outcome = transaction!(&self.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            let node = Node::try_from(record)?;
            let Some(drain) = node.drain.filter(|drain| drain.is_due(now)) else { return Ok(Cas::Stale) };
            let Some(lease) = tx.lease_on(id).await? else { return Ok(Cas::Stale) };
            let why = format!("{}; its time was up", drain.why());
            let next = lease.state.clone().lose_drained_node(id, lease.on_node_loss, &why);
            let Ok(next) = next else { return Ok(Cas::Stale) };
            let lease = tx.write_lease(&lease, next, None, now).await?;
            if matches!(lease.state, LeaseState::Migrating { .. }) {
                // It keeps the node as its own, but its account has to go.
                let sql = "UPDATE nodes SET desired_version = desired_version + 1, version = version + 1, \
                           changed_at = ? WHERE id = ? AND lease_id = ?";
                if tx.exec(sql, vals![now, id, lease.id]).await? == 0 {
                    return Err(Fault::Retry(format!("lease {} left its node meanwhile", lease.id)));
                }
            }
            Ok(Cas::Done(lease.id))
        });
        Ok(outcome?)
    }

    /// Nodes that are empty and clean (or dead) now, and not known to be drained yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn emptied_nodes(&self, now: Timestamp) -> Result<Vec<NodeId>, StoreError> {
        let sql = format!(
            "SELECT id FROM nodes WHERE {IS_EMPTIED} AND NOT {IS_BEING_LEFT} AND {CLAIMABLE} ORDER BY id"
        );
        let rows = self.db.all::<(i64,)>(AssertSqlSafe(sql), vals![now, now]).await?;
        Ok(rows.into_iter().map(|(id,)| NodeId(id)).collect())
    }

    /// The node is drained. `Stale`: it is not empty, or this was said before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn finish_drain(&self, id: NodeId, now: Timestamp) -> Result<Cas<Node>, StoreError> {
        let sql = format!(
            "UPDATE nodes SET drained_at = ?, version = version + 1, changed_at = ? \
             WHERE id = ? AND {IS_EMPTIED} AND NOT {IS_BEING_LEFT} AND {CLAIMABLE}"
        );
        let outcome = transaction!(&self.db, |tx| {
            let written = tx.exec(AssertSqlSafe(sql.clone()), vals![now, now, id, now, now]).await? == 1;
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            if !written {
                return Ok(Cas::Stale);
            }
            let node = Node::try_from(record)?;
            let reason = node.drain.as_ref().map(|drain| drain.reason.as_str());
            let data = json!({ "reason": reason, "health": node.health.as_str() });
            tx.tell_of_node("node.drained", id, data, now).await?;
            Ok(Cas::Done(node))
        });
        Ok(outcome?)
    }

    /// The leases that are on their way from one of these nodes to another.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leases_leaving(
        &self,
        nodes: &[NodeId],
    ) -> Result<HashMap<NodeId, Vec<LeaseId>>, StoreError> {
        let mut leaving: HashMap<NodeId, Vec<LeaseId>> = HashMap::new();
        for (list, values) in in_lists(nodes) {
            let sql = format!(
                "SELECT from_node, id FROM leases WHERE state = 'migrating' AND occupies_node <> from_node \
                 AND from_node IN ({list}) ORDER BY id"
            );
            for (node, lease) in self.db.all::<(i64, i64)>(AssertSqlSafe(sql), values).await? {
                leaving.entry(NodeId(node)).or_default().push(LeaseId(lease));
            }
        }
        Ok(leaving)
    }
}

async fn drain(tx: &mut Tx, id: NodeId, request: &DrainRequest, now: Timestamp) -> Result<Cas<Node>> {
    let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
    let version = record.version;
    let node = Node::try_from(record)?;
    let before = node.drain.as_ref();
    let reason = request.reason.as_deref().map(clip);
    let reason = reason.or_else(|| before.map(|drain| drain.reason.clone()));
    let reason = reason.unwrap_or_else(|| "an admin drains it".into());
    let deadline = request.deadline.unwrap_or_else(|| before.and_then(|drain| drain.deadline));
    if before.is_some_and(|drain| drain.reason == reason && drain.deadline == deadline) {
        tx.abandon();
        return Ok(Cas::Done(node));
    }
    let lease = tx.lease_on(id).await?;
    // With a new deadline it may give back, or have to give up, the lease that waits for it.
    let waits =
        matches!(&lease, Some(lease) if matches!(lease.state, LeaseState::Migrating { to: None, .. }));
    let since = before.map_or(now, |drain| drain.since);
    let drained_at = before.and_then(|drain| drain.drained_at).filter(|_| lease.is_none());
    let change = NodeChange {
        sets: "cordon = ?, drain_since = ?, drain_deadline = ?, drained_at = ?, \
               desired_version = desired_version + ?",
        values: vals![&reason, since, deadline, drained_at, i64::from(waits)],
        guard: "AND version = ?",
        guard_values: vals![version],
        event: Some((
            "node.draining",
            json!({ "reason": reason, "deadline": deadline, "actor": request.actor }),
        )),
    };
    let changed = must_be_current(tx.change_node(id, change, now).await?, id)?;
    let event = LeaseEvent::NodeDraining { node: id, reason, deadline };
    tx.tell_tenant(lease.as_ref(), id, &event, request.actor, now).await?;
    Ok(changed)
}

/// A write on the version that this very transaction has read.
fn must_be_current(written: Cas<Node>, id: NodeId) -> Result<Cas<Node>> {
    match written {
        Cas::Stale => Err(Fault::Retry(format!("node {id} changed meanwhile"))),
        Cas::Done(_) | Cas::Gone => Ok(written),
    }
}
