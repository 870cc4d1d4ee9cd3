//! A node's health changes, and what that means for the lease on it, in one transaction.

use crate::{
    Store,
    attempts::{Tx, transaction},
    db::vals,
    error::{Cas, Result, StoreError},
    model::HealthChanged,
    nodes::NodeChange,
    rows::clip,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    lease::{Lease, LeaseState},
    node::{Health, Node},
};
use serde_json::json;

impl Store {
    /// Writes a verdict. A node that answers again is dirty, because it is not known what happened to it
    /// meanwhile. `Dead` also makes the node dirty and takes the lease on it away: `Active` and
    /// `Migrating` lose their node by their policy, `Releasing` ends (dirt stays with the node). A lease in
    /// `Provisioning` is left to its provisioner. A migrating lease whose target died goes back to waiting
    /// for its own node; if another lease has that one by now, it keeps the dead target and waits there.
    ///
    /// `Stale`: the node changed since `expected_version` was read, or it is `Dead` and the verdict would only
    /// doubt that (`Suspect`, `Unknown`): what it lost is not undone by a doubt; or the verdict is `Dead` and the
    /// brake is on, also when another scheduler pulled it only now. The same verdict again changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_health(
        &self,
        id: NodeId,
        expected_version: i64,
        health: Health,
        reason: &str,
        now: Timestamp,
    ) -> Result<Cas<HealthChanged>, StoreError> {
        let (maria, reason) = (self.db.is_maria(), clip(reason));
        let outcome = transaction!(&self.db, |tx| {
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
            if health == Health::Dead && before.health != Health::Dead && tx.brake_is_on(maria).await? {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            change_health(tx, &before, health, &reason, now).await
        });
        Ok(outcome?)
    }
}

async fn change_health(
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
    let kind = match health {
        Health::Unknown => "node.unknown",
        Health::Alive => "node.alive",
        Health::Suspect => "node.suspect",
        Health::Unreachable => "node.unreachable",
        Health::Dead => "node.dead",
    };
    let change = NodeChange {
        sets: "health = ?, health_reason = ?, health_since = ?, desired_version = desired_version + ?",
        values: vals![health.as_str(), reason, since, i64::from(died || answers_again)],
        guard: "AND version = ?",
        guard_values: vals![before.version],
        event: differs.then(|| (kind, json!({ "reason": reason, "was": before.health.as_str() }))),
    };
    let node = match tx.change_node(before.id, change, now).await? {
        Cas::Done(node) => node,
        Cas::Stale => return Ok(Cas::Stale),
        Cas::Gone => return Ok(Cas::Gone),
    };
    let mut leases = Vec::new();
    if died && let Some(lease) = tx.lease_on(node.id).await? {
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
            tx.finish_if_releasing(lease, node, now).await?;
        }
        LeaseState::Migrating { from, to: Some(_), .. } => {
            if !tx.take_back(*from, &lease, now).await? {
                return Ok(None);
            }
            let next = lease.state.clone().lose_node(node, lease.on_node_loss, reason);
            let Ok(next) = next else { return Ok(None) };
            tx.write_lease(&lease, next, None, now).await?;
        }
        LeaseState::Releasing { .. } => {
            tx.finish_if_releasing(lease, node, now).await?;
        }
        LeaseState::Provisioning { .. } | LeaseState::Migrating { .. } | LeaseState::Ended { .. } => {
            return Ok(None);
        }
    }
    Ok(Some(id))
}

impl Tx {
    /// Ends a lease in `Releasing` on `node`, which is clean, or dead. Says whether it did.
    pub(crate) async fn finish_if_releasing(
        &mut self,
        lease: Lease,
        node: NodeId,
        now: Timestamp,
    ) -> Result<bool> {
        let Ok(next) = lease.state.clone().finish(node) else { return Ok(false) };
        self.write_lease(&lease, next, None, now).await?;
        Ok(true)
    }
}
