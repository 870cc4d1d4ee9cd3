//! What a reconcile of a node came to: written under its claim, or dropped if the claim was lost.

use crate::{
    Store,
    attempts::{Tx, transaction},
    db::vals,
    error::{Cas, Fault, Result, StoreError},
    model::{FinishReconcile, Finished, NodeClaim},
    nodes::NodeChange,
    rows::{clip, json},
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    lease::{Lease, LeaseState},
    node::{Health, Node},
};
use serde_json::json;
use sqlx::AssertSqlSafe;

/// The claim is over.
const UNCLAIM: &str = "claimed_by = NULL, claim_token = NULL, claimed_until = NULL";

impl Store {
    /// The node holds what it should have held when it was claimed. In one transaction: the version that
    /// was applied, the end of the claim, the confirmed account (`Provisioning`, `Migrating` become
    /// `Active`), the deadline that the node keeps, and the end of a lease whose account is gone.
    ///
    /// What was changed meanwhile leaves the node dirty. `Stale`: the claim was lost, nothing was written.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn finish_reconcile(
        &self,
        claim: &NodeClaim,
        result: &FinishReconcile,
        now: Timestamp,
    ) -> Result<Cas<Finished>, StoreError> {
        Ok(transaction!(&self.db, |tx| { finish(tx, claim, result, now).await })?)
    }

    /// The node could not be brought to what it should hold. The claim ends; it is tried again at
    /// `retry_at`; with `quarantine` the node is taken out of use. `Stale`: the claim was lost.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn fail_reconcile(
        &self,
        claim: &NodeClaim,
        reason: &str,
        retry_at: Timestamp,
        quarantine: bool,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let reason = clip(reason);
        let outcome = transaction!(&self.db, |tx| {
            let Some(record) = tx.node_record(claim.node.id).await? else { return Ok(Cas::Gone) };
            // The move of a lease may have quarantined it for the same reason already.
            let is_news = quarantine && record.quarantine.as_deref() != Some(reason.as_str());
            let kind = if is_news { "node.quarantined" } else { "node.reconcile_failed" };
            let change = NodeChange {
                sets: "claimed_by = NULL, claim_token = NULL, claimed_until = NULL, \
                       reconcile_failures = reconcile_failures + 1, retry_at = ?, \
                       quarantine = CASE WHEN ? = 1 THEN ? ELSE quarantine END",
                values: vals![retry_at, quarantine, &reason],
                guard: "AND claim_token = ?",
                guard_values: vals![&claim.token],
                event: Some((kind, json!({ "reason": reason }))),
            };
            tx.change_node(claim.node.id, change, now).await
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
    let mut sets = format!("applied_version = ?, {UNCLAIM}, reconcile_failures = 0, retry_at = 0");
    let mut values = vals![result.applied_version];
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
         WHERE id = ? AND claim_token = ? AND applied_version <= ? AND desired_version >= ?"
    );
    values.extend(vals![now, id, &claim.token, result.applied_version, result.applied_version]);
    if tx.exec(AssertSqlSafe(sql), values).await? == 0 {
        let exists = tx.one::<(i64,)>("SELECT id FROM nodes WHERE id = ?", vals![id]).await?;
        return Ok(if exists.is_some() { Cas::Stale } else { Cas::Gone });
    }
    if let Some(report) = &result.report {
        tx.tell_of_node("node.cleaned", id, report.clone(), now).await?;
    }
    let mut finished = Finished::default();
    let Some(lease) = tx.lease_on(id).await? else { return Ok(Cas::Done(finished)) };
    if result.account_ready == Some(lease.id) {
        confirm(tx, lease, claim, result, &mut finished, now).await?;
    } else if matches!(lease.state, LeaseState::Releasing { .. })
        && result.account_ready.is_none()
        && covers_release(tx, claim, lease.id, result).await?
    {
        let lease_id = lease.id;
        if tx.finish_if_releasing(lease, id, now).await? {
            finished.ended.push(lease_id);
        }
    }
    Ok(Cas::Done(finished))
}

/// Whether what was applied was "no account", for this lease's release: it was in `Releasing` when the node
/// was claimed, or nothing has changed since.
async fn covers_release(
    tx: &mut Tx,
    claim: &NodeClaim,
    lease: LeaseId,
    result: &FinishReconcile,
) -> Result<bool> {
    if claim.desired.is_none() && claim.retiring.as_ref().is_some_and(|(retiring, _)| *retiring == lease) {
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
    result: &FinishReconcile,
    finished: &mut Finished,
    now: Timestamp,
) -> Result<()> {
    let known = lease.deadline_applied;
    lease.deadline_applied = result.deadline_applied.or(known);
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
