//! A lease on its way goes to another node: because the one it was to have refused, is unfit, cannot be
//! reached, or is dead.

use crate::{
    Store,
    attempts::{Tx, transaction},
    claims::node_claim,
    db::vals,
    error::{Fault, Result, StoreError},
    model::{MoveOutcome, MoveReason, MoveRequest, Placement},
    place::Claimer,
    rows::clip,
};
use orion_domain::lease::{Lease, LeaseState};
use serde_json::json;

impl Store {
    /// Brings a lease in `Provisioning` or `Migrating` to another free node, in one transaction with what
    /// happens to the one it leaves: that is dirty, nobody's, no longer claimed, and quarantined if it
    /// refused.
    ///
    /// When no node is free, a lease in `Provisioning` is not touched. One in `Migrating` waits: it leaves
    /// a target that could not take it and goes back to its own lost node (if another lease has that by
    /// now, it stays at the target); on its own node it stays.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn move_lease(&self, request: &MoveRequest<'_>) -> Result<MoveOutcome, StoreError> {
        Ok(transaction!(&self.db, |tx| { move_lease(tx, request).await })?)
    }
}

async fn move_lease(tx: &mut Tx, request: &MoveRequest<'_>) -> Result<MoveOutcome> {
    let now = request.now;
    let Some(lease) = tx.lease(request.lease).await? else { return Ok(MoveOutcome::Stale) };
    let on_its_way = matches!(lease.state, LeaseState::Provisioning { .. } | LeaseState::Migrating { .. });
    if !on_its_way || lease.state.occupies() != Some(request.away_from) {
        return Ok(MoveOutcome::Stale);
    }
    if let Some(claim) = request.claim_of_old {
        let record = tx.node_record(request.away_from).await?;
        if record.and_then(|record| record.claim_token).as_deref() != Some(claim.token.as_str()) {
            return Ok(MoveOutcome::Stale);
        }
    }
    if let MoveReason::Unfit(reason) = &request.why {
        let sql = "DELETE FROM lease_unfit WHERE lease_id = ? AND node_id = ?";
        tx.exec(sql, vals![lease.id, request.away_from]).await?;
        let sql = "INSERT INTO lease_unfit (lease_id, node_id, reason) VALUES (?, ?, ?)";
        tx.exec(sql, vals![lease.id, request.away_from, clip(reason)]).await?;
    }
    let candidates = tx.candidates(&lease.tags, Some(lease.id), 1, now).await?;
    let Some(node) = candidates.into_iter().find(|node| node.may_have_uid(lease.account.uid)) else {
        return none_free(tx, &lease, request).await;
    };
    let reason = clip(request.why.text());
    let Ok(next) = lease.state.clone().place_on(node.id, &reason) else { return Ok(MoveOutcome::Stale) };
    leave_old(tx, &lease, request, true).await?;
    let claimer = Claimer { holder: request.holder, ttl: request.claim_ttl };
    let token = tx.occupy(node.id, lease.id, claimer, now).await?;
    let lease = tx.write_lease(&lease, next, None, now).await?;
    let Some(record) = tx.node_record(node.id).await? else {
        return Err(Fault::Retry("the new node vanished".into()));
    };
    let claim = node_claim(record, token, Some(&lease))?;
    Ok(MoveOutcome::Placed(Placement { lease, claim }))
}

/// The old node loses its claim; if the lease leaves it, it is free and dirty; if it refused, it is
/// quarantined.
async fn leave_old(tx: &mut Tx, lease: &Lease, request: &MoveRequest<'_>, leaves: bool) -> Result<()> {
    let refused = match &request.why {
        MoveReason::Refused(reason) => Some(clip(reason)),
        MoveReason::Unfit(_) | MoveReason::Lost(_) | MoveReason::NodeDead => None,
    };
    let sql = "UPDATE nodes SET lease_id = CASE WHEN ? = 1 THEN NULL ELSE lease_id END, \
               desired_version = desired_version + ?, claimed_by = NULL, claim_token = NULL, \
               claimed_until = NULL, quarantine = COALESCE(?, quarantine), version = version + 1, \
               changed_at = ? WHERE id = ? AND lease_id = ?";
    let values = vals![leaves, i64::from(leaves), refused.clone(), request.now, request.away_from, lease.id];
    if tx.exec(sql, values).await? == 0 {
        return Err(Fault::Retry(format!("lease {} left its node meanwhile", lease.id)));
    }
    if let Some(reason) = refused {
        let data = json!({ "reason": reason, "lease_id": lease.id });
        tx.tell_of_node("node.quarantined", request.away_from, data, request.now).await?;
    }
    Ok(())
}

async fn none_free(tx: &mut Tx, lease: &Lease, request: &MoveRequest<'_>) -> Result<MoveOutcome> {
    let now = request.now;
    let outcome = MoveOutcome::NoneFree { next_end: tx.next_end(now).await? };
    let LeaseState::Migrating { from, to, .. } = &lease.state else {
        tx.abandon();
        return Ok(outcome);
    };
    let why = format!("no node is free ({})", clip(request.why.text()));
    let next = match to {
        None => {
            leave_old(tx, lease, request, false).await?;
            lease.state.clone().wait_for(&why)
        }
        Some(target) => {
            leave_old(tx, lease, request, false).await?;
            let goes_back = tx.take_back(*from, lease, now).await?;
            let lost = lease.state.clone().lose_node(*target, lease.on_node_loss, &why);
            lost.ok().filter(|_| goes_back)
        }
    };
    if let Some(next) = next {
        tx.write_lease(lease, next, None, now).await?;
    }
    Ok(outcome)
}
