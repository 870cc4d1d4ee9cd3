//! Draining: nodes that are emptied, and what is left on them.
//!
//! Lives here: beginning and ending a drain, what is to be done next, and the word that a node is empty. Does not
//! live here: the move of a lease (`moves`) and the cleaning of a node (`claims`, `reconcile`).
//!
//! A drain is `drain_since` on a node; `cordon`, its reason, keeps new leases away (I7).

use super::Nodes;
use crate::{
    engine::{Cas, Fault, Result, StoreError, Tx, clip, each, in_lists, transaction, vals},
    events::NewEvent,
    leases::candidates::has_room,
    leases::row::{LeaseRecord, lease_sql},
    leases::transition::lease_event,
    nodes::conditions::{CLAIMABLE, HAS_OUTGOING_MIGRATION},
    nodes::{NodeChange, must_be_current},
};
use orion_domain::{
    LeaseId, NodeId, Refused, Timestamp, UserId,
    event::NodeEvent,
    lease::{Holding, Lease, LeaseEvent, LeaseState},
    names::Tag,
    node::Node,
};

use sqlx::AssertSqlSafe;
use std::collections::HashMap;

/// A node that is drained and empty now, and not known to be so yet; binds `now`. Clean or dead; one that was
/// never admitted never held anything. What lost it at the deadline ([`Node::blocks_drain_of`]) is not there any more.
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
    /// Reason for the drain; none keeps the previous one.
    pub reason: Option<String>,
    /// Deadline of the drain: `Some(None)` for no limit; none keeps the previous one.
    pub deadline: Option<Option<Timestamp>>,
    /// User who requests that the node is forgotten.
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

    /// Takes a node whose drain is due from a lease whose login works there, by the lease's policy.
    async fn lose_drained_node(
        &mut self,
        lease: Lease,
        node: NodeId,
        why: &str,
        now: Timestamp,
    ) -> Result<()> {
        let Ok(next) = lease.state.clone().lose_drained_node(node, lease.on_node_loss, why) else {
            return Ok(());
        };
        let lease = self.write_lease(&lease, next, None, now).await?;
        if !matches!(lease.state, LeaseState::Migrating { .. }) {
            return Ok(());
        }
        // It keeps the node as its own, but its account has to go.
        let sql = "UPDATE nodes SET desired_version = desired_version + 1, version = version + 1, changed_at = ? \
                   WHERE id = ? AND (whole_lease = ? OR ? = 1)";
        self.change_hold(lease.id, node).await?;
        if self.exec(sql, vals![now, node, lease.id, !lease.holding.is_whole()]).await? == 0 {
            return Err(Fault::Retry(format!("lease {} left its node meanwhile", lease.id)));
        }
        Ok(())
    }

    /// Appends an event about the node for the owner of each lease on it that does not end anyway.
    async fn append_tenant_events(
        &mut self,
        leases: &[Lease],
        node: NodeId,
        event: &LeaseEvent,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<()> {
        let stay = leases.iter().filter(|lease| lease.state.wants_account_on() == Some(node));
        let events: Vec<NewEvent> = stay.map(|lease| lease_event(lease, node, event, actor)).collect();
        self.append_events(&events, now).await
    }
}

impl Nodes<'_> {
    /// Begins to drain a node, or changes the reason or the deadline of its drain: it takes no new leases at once.
    /// The same again changes nothing.
    pub async fn drain(
        self,
        id: NodeId,
        request: &DrainRequest,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        Ok(transaction!(&self.store.db, |tx| { drain(tx, id, request, now).await })?)
    }

    /// The node takes leases again, after a look at it. `Refused`: it is not drained.
    pub async fn undrain(
        self,
        id: NodeId,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Cas<Node, Refused>, StoreError> {
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            if let Err(refused) = Node::try_from(record.clone())?.may_be_undrained() {
                return Ok(Cas::Refused(refused));
            }
            let leases = tx.leases_on(id).await?;
            // It may have been repaired: it is looked at. A login that works there is left alone.
            let looked_at = !leases.iter().any(|lease| lease.state.is_active());
            let change = NodeChange {
                sets: "cordon = NULL, drain_since = NULL, drain_deadline = NULL, drained_at = NULL, \
                       desired_version = desired_version + ?, unclean = CASE WHEN ? = 1 THEN 1 ELSE unclean END",
                values: vals![i64::from(looked_at), looked_at],
                guard: "AND version = ?",
                guard_values: vals![record.version],
                event: Some(NodeEvent::Undrained {}),
                actor,
            };
            let changed = must_be_current(tx.change_node(id, change, now).await?, id)?;
            let event = LeaseEvent::NodeUndrained { node: id };
            tx.append_tenant_events(&leases, id, &event, actor, now).await?;
            Ok(changed.refusable())
        });
        Ok(outcome?)
    }

    /// Whether any node is being drained that is not empty yet.
    pub async fn is_draining(self) -> Result<bool, StoreError> {
        let sql = "SELECT id FROM nodes WHERE drained_at IS NULL AND drain_since IS NOT NULL LIMIT 1";
        Ok(self.store.db.one::<(i64,)>(sql, vec![]).await?.is_some())
    }

    /// The leases that may leave drained nodes now, with the reason of the drain, the longest waiting first: their
    /// logins work, their policy is to move, and nobody works on their nodes. None while one is on its way.
    pub async fn leases_to_move_off(
        self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(Lease, Node)>, StoreError> {
        if self.store.db.one::<(i64,)>(A_LEASE_IS_LEAVING, vec![]).await?.is_some_and(|(count,)| count > 0) {
            return Ok(Vec::new());
        }
        let rest = "JOIN nodes n ON n.id = l.occupies_node WHERE l.state = 'active' AND l.on_node_loss = 'migrate' \
                    AND n.drained_at IS NULL AND n.drain_since IS NOT NULL AND n.health IN ('alive', 'unreachable') \
                    AND (n.claimed_until IS NULL OR n.claimed_until <= ?) ORDER BY n.drain_since, l.id LIMIT ?";
        let leases: Vec<Lease> =
            each(self.store.db.all::<LeaseRecord>(lease_sql(rest), vals![now, limit]).await?)?;
        let mut nodes: Vec<NodeId> = leases.iter().filter_map(|lease| lease.state.occupies()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let nodes = self.by_ids(&nodes).await?;
        let nodes: HashMap<NodeId, Node> = nodes.into_iter().map(|node| (node.id, node)).collect();
        let of = |lease: Lease| Some((nodes.get(&lease.state.occupies()?)?.clone(), lease));
        Ok(leases.into_iter().filter_map(of).map(|(node, lease)| (lease, node)).collect())
    }

    /// Tells whether a node with all these tags has room for what a lease holds.
    pub async fn has_free(self, tags: &[Tag], holding: Holding) -> Result<bool, StoreError> {
        let (room, values) = has_room(tags, holding);
        let sql = format!("SELECT id FROM nodes WHERE {room} LIMIT 1");
        Ok(self.store.db.one::<(i64,)>(AssertSqlSafe(sql), values).await?.is_some())
    }

    /// Nodes whose drain is due while a login still works there.
    pub async fn due_drains(self, now: Timestamp) -> Result<Vec<NodeId>, StoreError> {
        let sql = "SELECT DISTINCT n.id FROM nodes n JOIN leases l ON l.occupies_node = n.id WHERE n.drained_at IS NULL \
                   AND n.drain_since IS NOT NULL AND n.drain_deadline <= ? AND l.state = 'active' ORDER BY n.id";
        Ok(self.store.db.all::<(i64,)>(sql, vals![now]).await?.into_iter().map(|(id,)| NodeId(id)).collect())
    }

    /// The deadline of a node's drain has come: each lease whose login works there loses the node by its own policy,
    /// and the node is dirty. Gives these leases. `Stale`: the drain is not due, or no login works there.
    pub async fn end_drain(self, id: NodeId, now: Timestamp) -> Result<Cas<Vec<LeaseId>>, StoreError> {
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            let node = Node::try_from(record)?;
            let Some(drain) = node.drain.filter(|drain| drain.is_due(now)) else { return Ok(Cas::Stale) };
            let why = format!("{}; its time was up", drain.why());
            let mut lost = Vec::new();
            for lease in tx.leases_on(id).await? {
                if lease.state.is_active() {
                    lost.push(lease.id);
                    tx.lose_drained_node(lease, id, &why, now).await?;
                }
            }
            Ok(if lost.is_empty() { Cas::Stale } else { Cas::Done(lost) })
        });
        Ok(outcome?)
    }

    /// Nodes that are empty and clean (or dead) now, and not known to be drained yet.
    pub async fn emptied(self, now: Timestamp) -> Result<Vec<NodeId>, StoreError> {
        let sql = format!(
            "SELECT id FROM nodes WHERE {IS_EMPTIED} AND NOT {HAS_OUTGOING_MIGRATION} AND {CLAIMABLE} ORDER BY id"
        );
        let rows = self.store.db.all::<(i64,)>(AssertSqlSafe(sql), vals![now, now]).await?;
        Ok(rows.into_iter().map(|(id,)| NodeId(id)).collect())
    }

    /// The node is drained. `Stale`: it is not empty, or this was said before.
    pub async fn finish_drain(self, id: NodeId, now: Timestamp) -> Result<Cas<Node>, StoreError> {
        let sql = format!(
            "UPDATE nodes SET drained_at = ?, version = version + 1, changed_at = ? \
             WHERE id = ? AND {IS_EMPTIED} AND NOT {HAS_OUTGOING_MIGRATION} AND {CLAIMABLE}"
        );
        let outcome = transaction!(&self.store.db, |tx| {
            let written = tx.exec(AssertSqlSafe(sql.clone()), vals![now, now, id, now, now]).await? == 1;
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            if !written {
                return Ok(Cas::Stale);
            }
            let node = Node::try_from(record)?;
            let reason = node.drain.as_ref().map(|drain| drain.reason.clone());
            tx.append_node_event(NodeEvent::Drained { reason, health: node.health }, id, now).await?;
            Ok(Cas::Done(node))
        });
        Ok(outcome?)
    }

    /// The leases that are on their way from one of these nodes to another.
    pub async fn leases_leaving(self, nodes: &[NodeId]) -> Result<HashMap<NodeId, Vec<LeaseId>>, StoreError> {
        let mut leaving: HashMap<NodeId, Vec<LeaseId>> = HashMap::new();
        for (list, values) in in_lists(nodes) {
            let sql = format!(
                "SELECT from_node, id FROM leases WHERE state = 'migrating' AND occupies_node <> from_node \
                 AND from_node IN ({list}) ORDER BY id"
            );
            for (node, lease) in self.store.db.all::<(i64, i64)>(AssertSqlSafe(sql), values).await? {
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
    let leases = tx.leases_on(id).await?;
    // With a new deadline it may give back, or have to give up, the lease that waits for it.
    let waits = leases.iter().any(|lease| matches!(lease.state, LeaseState::Migrating { to: None, .. }));
    let since = before.map_or(now, |drain| drain.since);
    let drained_at = before.and_then(|drain| drain.drained_at).filter(|_| leases.is_empty());
    let change = NodeChange {
        sets: "cordon = ?, drain_since = ?, drain_deadline = ?, drained_at = ?, \
               desired_version = desired_version + ?",
        values: vals![&reason, since, deadline, drained_at, i64::from(waits)],
        guard: "AND version = ?",
        guard_values: vals![version],
        event: Some(NodeEvent::Draining { reason: reason.clone(), deadline }),
        actor: request.actor,
    };
    let changed = must_be_current(tx.change_node(id, change, now).await?, id)?;
    let event = LeaseEvent::NodeDraining { node: id, reason, deadline };
    tx.append_tenant_events(&leases, id, &event, request.actor, now).await?;
    Ok(changed)
}
