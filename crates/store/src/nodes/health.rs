//! A node's health changes, and what that means for the lease on it, in one transaction.

use super::Nodes;
use crate::{
    engine::{Cas, Result, StoreError, Tx, clip, transaction, vals},
    nodes::NodeChange,
    nodes::claimed::NodeClaim,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    event::HealthChange,
    event::NodeEvent,
    lease::{Lease, LeaseState, Phase},
    node::{Health, LockOrder, Node},
};

/// Result of a change of health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChanged {
    /// The node after it.
    pub node: Node,
    /// Leases that changed with it (`Migrating`, `Ended`).
    pub leases: Vec<LeaseId>,
}

impl Nodes<'_> {
    /// Writes a verdict. A node that answers again is dirty, because it is not known what happened to it
    /// meanwhile. `Dead` also makes the node dirty, ends the claim on it and takes the lease on it away: `Active` and
    /// `Migrating` lose their node by their policy, `Releasing` ends and `Yielding` queues (dirt stays with the
    /// node). A lease in
    /// `Provisioning` is left to its provisioner, which keeps its claim: it moves the lease on, because a dead node
    /// confirms nothing. A migrating lease whose target died goes back to waiting for its own node; if another lease
    /// has that one by now, it keeps the dead target and waits there.
    ///
    /// `Stale`: the node changed since `expected_version` was read, or it is `Dead` and the verdict would only
    /// doubt that (`Suspect`, `Unknown`): what it lost is not undone by a doubt; or the verdict is `Dead` and the
    /// brake is on, also when another scheduler engaged it only now. The same verdict again changes nothing.
    pub async fn set_health(
        self,
        id: NodeId,
        expected_version: i64,
        health: Health,
        reason: &str,
        now: Timestamp,
    ) -> Result<Cas<HealthChanged>, StoreError> {
        let (maria, reason) = (self.store.db.is_maria(), clip(reason));
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            if record.version != expected_version {
                return Ok(Cas::Stale);
            }
            let before = Node::try_from(record)?;
            if before.health == health && before.health_reason == reason {
                tx.abandon();
                return Ok(Cas::Done(HealthChanged { node: before, leases: Vec::new() }));
            }
            if before.health == Health::Dead && matches!(health, Health::Suspect | Health::Unknown) {
                return Ok(Cas::Stale);
            }
            if health == Health::Dead && before.health != Health::Dead && tx.brake_is_on(maria, now).await? {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            change_health(tx, &before, health, &reason, now).await
        });
        Ok(outcome?)
    }

    /// Orders a node to lock its lease accounts: only its agent answers, says that its sshd is down, and the node will
    /// soon be given up. `Stale`: the node changed since `expected_version` was read, is not in that state, was ordered
    /// already, or the brake is on.
    pub async fn order_lock(
        self,
        id: NodeId,
        expected_version: i64,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let maria = self.store.db.is_maria();
        Ok(transaction!(&self.store.db, |tx| {
            if tx.brake_is_on(maria, now).await? {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            let change = NodeChange {
                sets: "lock_ordered_at = ?, lock_observed_at = health_since",
                values: vals![now],
                guard: "AND version = ? AND health = 'unreachable' AND link = 'up' AND agent_sees_sshd = 0 \
                        AND lock_ordered_at IS NULL",
                guard_values: vals![expected_version],
                event: Some(NodeEvent::Locking { reason: "its agent says that its sshd is down".into() }),
                ..NodeChange::default()
            };
            tx.change_node(id, change, now).await
        })?)
    }

    /// The lease whose login worked on the node of `claim` loses it, by its policy: the node does not make its account
    /// again. Its new state; the claim stays the caller's. `Stale`: the claim was lost, the lease is in another
    /// state, or
    /// the brake is on.
    pub async fn leave_refusing_node(
        self,
        claim: &NodeClaim,
        lease: LeaseId,
        why: &str,
        now: Timestamp,
    ) -> Result<Cas<Phase>, StoreError> {
        let (maria, node, why) = (self.store.db.is_maria(), claim.node.id, clip(why));
        Ok(transaction!(&self.store.db, |tx| {
            let Some(record) = tx.node_record(node).await? else { return Ok(Cas::Gone) };
            let Some(lease) = tx.lease(lease).await? else { return Ok(Cas::Stale) };
            if record.claim_token.as_deref() != Some(claim.token.as_str())
                || lease.state != (LeaseState::Active { node })
                || tx.brake_is_on(maria, now).await?
            {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            let next = lease.state.clone().lose_node(node, lease.on_node_loss, &why);
            let Ok(next) = next else { return Ok(Cas::Stale) };
            let lease = tx.write_lease(&lease, next, None, now).await?;
            // Where no other node takes it, the node gives it back with its next reconcile.
            tx.change_desired(&lease, now).await?;
            Ok(Cas::Done(lease.state.phase()))
        })?)
    }

    /// Leases in `Active`, `Yielding` or `Releasing` on a node that is dead: no transition leads there, but a
    /// database of an
    /// older version may hold some. At most `limit`, by number.
    pub async fn leases_on_dead_nodes(self, limit: u32) -> Result<Vec<LeaseId>, StoreError> {
        let sql = "SELECT l.id FROM nodes n JOIN leases l ON l.occupies_node = n.id \
                   WHERE n.health = 'dead' AND l.state IN ('active', 'yielding', 'releasing') ORDER BY l.id LIMIT ?";
        let rows = self.store.db.all::<(i64,)>(sql, vals![limit]).await?;
        Ok(rows.into_iter().map(|(id,)| LeaseId(id)).collect())
    }

    /// Takes the lease off its dead node, by its policy. `Stale`: it is on no dead node (any more), or it would lose
    /// its node and the brake is on.
    pub async fn take_off_dead_node(self, id: LeaseId, now: Timestamp) -> Result<Cas<LeaseId>, StoreError> {
        let maria = self.store.db.is_maria();
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(lease) = tx.lease(id).await? else { return Ok(Cas::Gone) };
            let Some(node) = lease.state.occupies() else { return Ok(Cas::Stale) };
            let Some(record) = tx.node_record(node).await? else { return Ok(Cas::Stale) };
            let node = Node::try_from(record)?;
            let loses = match lease.state {
                LeaseState::Active { .. } => true,
                LeaseState::Releasing { .. } | LeaseState::Yielding { .. } => false,
                LeaseState::Requested
                | LeaseState::Scheduled { .. }
                | LeaseState::Queued { .. }
                | LeaseState::Provisioning { .. }
                | LeaseState::Migrating { .. }
                | LeaseState::Ended { .. } => return Ok(Cas::Stale),
            };
            if node.health != Health::Dead || (loses && tx.brake_is_on(maria, now).await?) {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            let taken = lose_node(tx, lease, node.id, &node.health_reason, now).await?;
            Ok(taken.map_or(Cas::Stale, Cas::Done))
        });
        Ok(outcome?)
    }
}

pub(crate) async fn change_health(
    tx: &mut Tx,
    before: &Node,
    health: Health,
    reason: &str,
    now: Timestamp,
) -> Result<Cas<HealthChanged>> {
    let differs = before.health != health;
    let died = differs && health == Health::Dead;
    // What happened to it meanwhile is not known: it may have been booted, or its agent may have locked the
    // accounts. So it is looked at.
    let answers_again = differs && health == Health::Alive && before.health != Health::Unknown;
    let since = if differs { now } else { before.health_since };
    let held = if died { tx.leases_on(before.id).await? } else { Vec::new() };
    // A late word of whoever worked on it must not make the lease `Active` there.
    let ends_claim = died && !held.iter().any(is_left_to_its_provisioner);
    // What is given up is locked where an agent hears of it; what changes otherwise is not about to be given up.
    let lock = before
        .lock_order_of_admin()
        .or(died.then_some(LockOrder { at: now, observed_at: Some(before.health_since) }));
    let change = NodeChange {
        sets: "health = ?, health_reason = ?, health_since = ?, desired_version = desired_version + ?, \
               unclean = CASE WHEN ? = 1 THEN 1 ELSE unclean END, \
               engine_next_at = CASE WHEN ? = 1 THEN 0 ELSE engine_next_at END, \
               claimed_by = CASE WHEN ? = 1 THEN NULL ELSE claimed_by END, \
               claimed_until = CASE WHEN ? = 1 THEN NULL ELSE claimed_until END, \
               claim_token = CASE WHEN ? = 1 THEN NULL ELSE claim_token END, \
               lock_ordered_at = CASE WHEN ? = 1 THEN ? ELSE lock_ordered_at END, \
               lock_observed_at = CASE WHEN ? = 1 THEN ? ELSE lock_observed_at END, \
               way_in = CASE WHEN ? = 1 AND NOT (link = 'up' AND way_in_by_agent = 1) THEN 'unknown' ELSE way_in END",
        values: vals![
            health.as_str(),
            reason,
            since,
            i64::from(died || answers_again),
            died || answers_again,
            answers_again,
            ends_claim,
            ends_claim,
            ends_claim,
            differs,
            lock.map(|lock| lock.at),
            differs,
            lock.and_then(|lock| lock.observed_at),
            // What a machine lets in after its death is proven anew.
            died
        ],
        guard: "AND version = ?",
        guard_values: vals![before.version],
        event: differs.then(|| {
            NodeEvent::of_health(health, HealthChange { reason: reason.to_owned(), was: before.health })
        }),
        ..NodeChange::default()
    };
    let node = match tx.change_node(before.id, change, now).await? {
        Cas::Done(node) => node,
        Cas::Stale => return Ok(Cas::Stale),
        Cas::Gone => return Ok(Cas::Gone),
    };
    let mut leases = Vec::new();
    if died {
        tx.drop_leaving(before.id).await?;
    }
    for lease in held {
        leases.extend(lose_node(tx, lease, node.id, reason, now).await?);
    }
    if leases.is_empty() {
        return Ok(Cas::Done(HealthChanged { node, leases }));
    }
    // The lease's transition wrote the node again.
    let record = tx.node_record(node.id).await?;
    let node = record.map(Node::try_from).transpose()?.unwrap_or(node);
    Ok(Cas::Done(HealthChanged { node, leases }))
}

const fn is_left_to_its_provisioner(lease: &Lease) -> bool {
    matches!(lease.state, LeaseState::Provisioning { .. })
}

/// The lease that had a node which is dead now.
async fn lose_node(
    tx: &mut Tx,
    lease: Lease,
    node: NodeId,
    reason: &str,
    now: Timestamp,
) -> Result<Option<LeaseId>> {
    let id = lease.id;
    match &lease.state {
        LeaseState::Active { .. } => {
            let next = lease.state.clone().lose_node(node, lease.on_node_loss, reason);
            let Ok(next) = next else { return Ok(None) };
            let lease = tx.write_lease(&lease, next, None, now).await?;
            tx.finish_removal(lease, node, now).await?;
        }
        LeaseState::Migrating { from, to: Some(_), .. } => {
            if !tx.reclaim(*from, &lease, now).await? {
                return Ok(None);
            }
            let next = lease.state.clone().lose_node(node, lease.on_node_loss, reason);
            let Ok(next) = next else { return Ok(None) };
            tx.write_lease(&lease, next, None, now).await?;
        }
        LeaseState::Releasing { .. } | LeaseState::Yielding { .. } => {
            tx.finish_removal(lease, node, now).await?;
        }
        LeaseState::Requested
        | LeaseState::Scheduled { .. }
        | LeaseState::Queued { .. }
        | LeaseState::Provisioning { .. }
        | LeaseState::Migrating { .. }
        | LeaseState::Ended { .. } => return Ok(None),
    }
    Ok(Some(id))
}

impl Tx {
    /// Takes a lease in `Releasing` or `Yielding` off `node`, which is clean, or dead: it is over, or queues.
    /// Returns its
    /// new phase; none if it is in another state.
    pub(crate) async fn finish_removal(
        &mut self,
        lease: Lease,
        node: NodeId,
        now: Timestamp,
    ) -> Result<Option<Phase>> {
        let Ok(next) = lease.state.clone().finish(node) else { return Ok(None) };
        Ok(Some(self.write_lease(&lease, next, None, now).await?.state.phase()))
    }
}
