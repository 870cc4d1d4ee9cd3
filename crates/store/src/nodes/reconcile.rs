//! What a reconcile of a node came to: written under its claim, or dropped if the claim was lost.

use super::Nodes;
use crate::{
    engine::{Cas, Fault, Result, StoreError, Tx, clip, json, transaction, vals},
    nodes::NodeChange,
    nodes::claimed::NodeClaim,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    event::NodeEvent,
    lease::{Lease, LeaseState, Phase},
    node::{Health, Node, QuarantineCause},
};

use sqlx::AssertSqlSafe;

/// Result of a reconcile.
#[derive(Clone, Debug, Default)]
pub struct FinishReconcile {
    /// [`NodeClaim::desired_version`], as read before it was applied.
    pub applied_version: i64,
    /// The leases whose accounts were confirmed, each with the time up to which the node itself keeps it open.
    pub ready: Vec<(LeaseId, Option<Timestamp>)>,
    /// Report of what was found and removed; none when nothing was.
    pub report: Option<serde_json::Value>,
    /// The subordinate uid ranges of the node, `(start, count)`, if they were read.
    pub subordinate: Option<Vec<(u32, u32)>>,
    /// Reason why the containers could not be looked at: then the node stays dirty, and what ends there stays.
    pub unfinished: Option<Unfinished>,
}

/// The accounts of a node are in order and its containers are not, as when its engine does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Reason, for people.
    pub reason: String,
    /// Time of the next try.
    pub retry_at: Timestamp,
}

/// Changes that a finished reconcile made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Leases that became `Active`.
    pub activated: Vec<LeaseId>,
    /// Activated leases that lost a node and are on another one now, each with the time of the loss. A lease
    /// that leaves a node which is there, as for a drain, is not among them.
    pub recovered: Vec<(LeaseId, Timestamp)>,
    /// Leases that became `Ended`.
    pub ended: Vec<LeaseId>,
    /// Leases that gave the node up to others, and became `Queued`.
    pub queued: Vec<LeaseId>,
    /// The node was given up for dead while it was worked on: nothing was written.
    pub node_is_dead: bool,
}

/// The claim is over.
const UNCLAIM: &str = "claimed_by = NULL, claim_token = NULL, claimed_until = NULL";

impl Nodes<'_> {
    /// The node holds what it should have held when it was claimed. In one transaction: the version that
    /// was applied, the end of the claim, the confirmed account (`Provisioning`, `Migrating` become
    /// `Active`), the deadline that the node keeps, and the end of a lease whose account is gone.
    ///
    /// With [`FinishReconcile::unfinished`] only confirmed accounts are written: the node stays dirty, and no lease ends.
    ///
    /// What was changed meanwhile leaves the node dirty. `Stale`: the claim was lost, nothing was written. Of a node
    /// that was given up for dead meanwhile nothing is confirmed: only [`Finished::node_is_dead`] comes back, and the
    /// claim stays the caller's, who gives it back with [`crate::Nodes::fail_reconcile`] or moves the lease on.
    pub async fn finish_reconcile(
        self,
        claim: &NodeClaim,
        result: &FinishReconcile,
        now: Timestamp,
    ) -> Result<Cas<Finished>, StoreError> {
        Ok(transaction!(&self.store.db, |tx| { finish(tx, claim, result, now).await })?)
    }

    /// The node could not be brought to what it should hold. The claim ends; it is tried again at
    /// `retry_at`; with `quarantine` the node is taken out of use for that cause, unless it is for an admin to judge
    /// already. `Stale`: the claim was lost.
    pub async fn fail_reconcile(
        self,
        claim: &NodeClaim,
        reason: &str,
        retry_at: Timestamp,
        quarantine: Option<QuarantineCause>,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let reason = clip(reason);
        let outcome = transaction!(&self.store.db, |tx| {
            let change = NodeChange {
                sets: "claimed_by = NULL, claim_token = NULL, claimed_until = NULL, \
                       reconcile_failures = reconcile_failures + 1, retry_at = ?",
                values: vals![retry_at],
                guard: "AND claim_token = ?",
                guard_values: vals![&claim.token],
                ..NodeChange::default()
            };
            let failed = tx.change_node(claim.node.id, change, now).await?;
            if !matches!(failed, Cas::Done(_)) {
                return Ok(failed);
            }
            // The move of a lease may have quarantined it for the same reason already.
            if let Some(cause) = quarantine
                && let Cas::Done(node) = tx.quarantine(claim.node.id, cause, &reason, now).await?
            {
                return Ok(Cas::Done(node));
            }
            tx.append_node_event(NodeEvent::ReconcileFailed { reason: reason.clone() }, claim.node.id, now)
                .await?;
            Ok(failed)
        });
        Ok(outcome?)
    }
}

async fn finish(
    tx: &mut Tx,
    claim: &NodeClaim,
    result: &FinishReconcile,
    now: Timestamp,
) -> Result<Cas<Finished>> {
    let id = claim.node.id;
    let confirmed = match &result.unfinished {
        None => write_done(tx, claim, result, now).await?,
        Some(unfinished) => write_unfinished(tx, claim, result, unfinished, now).await?,
    };
    if !confirmed {
        let sql = "SELECT COALESCE(claim_token, ''), health FROM nodes WHERE id = ?";
        return Ok(match tx.one::<(String, String)>(sql, vals![id]).await? {
            None => Cas::Gone,
            // What the node confirmed came before its death: it is no news of a node that lives.
            Some((token, health)) if token == claim.token && health == Health::Dead.as_str() => {
                Cas::Done(Finished { node_is_dead: true, ..Finished::default() })
            }
            Some(_) => Cas::Stale,
        });
    }
    if let Some(report) = &result.report {
        tx.append_node_event(NodeEvent::Cleaned(report.clone()), id, now).await?;
    }
    if result.unfinished.is_none() {
        tx.end_quarantine(&claim.node, now).await?;
        for (lease, version) in &claim.holds {
            if result.ready.iter().any(|(ready, _)| ready == lease) {
                tx.apply_hold(*lease, id, *version).await?;
            }
        }
        let is_clean = "SELECT id FROM nodes WHERE id = ? AND applied_version = desired_version";
        if tx.one::<(i64,)>(is_clean, vals![id]).await?.is_some() {
            tx.drop_leaving(id).await?;
        }
    }
    let mut finished = Finished::default();
    for lease in tx.leases_on(id).await? {
        let lease_id = lease.id;
        let ready = result.ready.iter().find(|(ready, _)| *ready == lease_id);
        if let Some((_, deadline)) = ready {
            confirm(tx, lease, claim, *deadline, &mut finished, now).await?;
        } else if result.unfinished.is_none()
            && matches!(lease.state, LeaseState::Releasing { .. } | LeaseState::Yielding { .. })
            && covers_removal(tx, claim, lease_id, result).await?
        {
            match tx.finish_removal(lease, id, now).await? {
                Some(Phase::Queued) => finished.queued.push(lease_id),
                Some(_) => finished.ended.push(lease_id),
                None => {}
            }
        }
    }
    Ok(Cas::Done(finished))
}

/// Writes that the node holds what it should have held. False: the claim was lost, or the node is dead.
async fn write_done(
    tx: &mut Tx,
    claim: &NodeClaim,
    result: &FinishReconcile,
    now: Timestamp,
) -> Result<bool> {
    let mut sets = format!(
        "applied_version = ?, unclean = CASE WHEN desired_version = ? THEN 0 ELSE unclean END, {UNCLAIM}, \
         reconcile_failures = 0, retry_at = 0, \
         lock_observed_at = CASE WHEN lock_ordered_at = ? THEN NULL ELSE lock_observed_at END, \
         lock_ordered_at = CASE WHEN lock_ordered_at = ? THEN NULL ELSE lock_ordered_at END"
    );
    // An order that was given since the node was claimed stands.
    let ordered_at = claim.node.lock_order.map(|order| order.at);
    let mut values = vals![result.applied_version, result.applied_version, ordered_at, ordered_at];
    if !result.ready.is_empty() {
        // It makes accounts again.
        sets.push_str(", refusals = 0");
    }
    if let Some(report) = &result.report {
        sets.push_str(", last_clean_report = ?, last_clean_at = ?");
        values.extend(vals![json(report)?, now]);
    }
    if let Some(ranges) = &result.subordinate {
        sets.push_str(", subordinate_uids = ?");
        values.extend(vals![json(ranges)?]);
    }
    let sql = format!(
        "UPDATE nodes SET {sets}, version = version + 1, changed_at = ? \
         WHERE id = ? AND claim_token = ? AND applied_version <= ? AND desired_version >= ? \
         AND health <> 'dead'"
    );
    let version = result.applied_version;
    values.extend(vals![now, claim.node.id, &claim.token, version, version]);
    Ok(tx.exec(AssertSqlSafe(sql), values).await? == 1)
}

/// Writes that the accounts are in order and the containers are not. False: the claim was lost, or the node is dead.
async fn write_unfinished(
    tx: &mut Tx,
    claim: &NodeClaim,
    result: &FinishReconcile,
    unfinished: &Unfinished,
    now: Timestamp,
) -> Result<bool> {
    let sql = format!(
        "UPDATE nodes SET {UNCLAIM}, reconcile_failures = reconcile_failures + 1, retry_at = ?, \
         version = version + 1, changed_at = ? \
         WHERE id = ? AND claim_token = ? AND applied_version <= ? AND desired_version >= ? \
         AND health <> 'dead'"
    );
    let version = result.applied_version;
    let values = vals![unfinished.retry_at, now, claim.node.id, &claim.token, version, version];
    if tx.exec(AssertSqlSafe(sql), values).await? == 0 {
        return Ok(false);
    }
    let event = NodeEvent::ReconcileFailed { reason: clip(&unfinished.reason) };
    tx.append_node_event(event, claim.node.id, now).await?;
    Ok(true)
}

/// Whether what was applied was "no account", for the removal of this lease: it was under way when the node
/// was claimed, or nothing has changed since.
async fn covers_removal(
    tx: &mut Tx,
    claim: &NodeClaim,
    lease: LeaseId,
    result: &FinishReconcile,
) -> Result<bool> {
    if claim.retires(lease) {
        return Ok(true);
    }
    let sql = "SELECT desired_version FROM nodes WHERE id = ?";
    let desired = tx.one::<(i64,)>(sql, vals![claim.node.id]).await?;
    Ok(desired.is_some_and(|(desired,)| desired == result.applied_version))
}

impl Tx {
    /// Whether a node is given up, or forgotten.
    async fn is_lost(&mut self, node: NodeId) -> Result<bool> {
        let health = self.one::<(String,)>("SELECT health FROM nodes WHERE id = ?", vals![node]).await?;
        Ok(health.is_none_or(|(health,)| health == Health::Dead.as_str()))
    }
}

/// The account of `lease` was confirmed on its node.
async fn confirm(
    tx: &mut Tx,
    mut lease: Lease,
    claim: &NodeClaim,
    deadline: Option<Timestamp>,
    finished: &mut Finished,
    now: Timestamp,
) -> Result<()> {
    let known = lease.deadline_applied;
    lease.deadline_applied = deadline.or(known);
    if let Ok(next) = lease.state.clone().confirm(claim.node.id) {
        tx.write_lease(&lease, next, None, now).await?;
        if let LeaseState::Migrating { from, .. } = lease.state
            && from != claim.node.id
            && tx.is_lost(from).await?
        {
            finished.recovered.push((lease.id, lease.since));
        }
        finished.activated.push(lease.id);
        return Ok(());
    }
    // It is Active already (a new end was applied), or it ends by now: the node stays dirty then.
    if lease.deadline_applied != known {
        let sql =
            "UPDATE leases SET deadline_applied = ?, version = version + 1 WHERE id = ? AND version = ?";
        if tx.exec(sql, vals![lease.deadline_applied, lease.id, lease.version]).await? == 0 {
            return Err(Fault::Retry(format!("lease {} changed meanwhile", lease.id)));
        }
    }
    Ok(())
}
