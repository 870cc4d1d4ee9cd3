//! A lease on its way goes to another node: because the one it was to have refused, is unfit, cannot be
//! reached, or is dead. One whose login works does when its node is drained.

use crate::{
    Store,
    attempts::{Tx, transaction},
    claims::node_claim,
    db::vals,
    error::{Fault, Result, StoreError},
    model::{MoveOutcome, MoveReason, MoveRequest, Placement},
    place::Claimer,
    rows::clip,
    transitions::Next,
};
use orion_domain::{
    NodeId, Timestamp,
    lease::{Lease, LeaseState},
    node::{Admission, Health, Node},
};
use serde_json::json;

impl Store {
    /// Brings a lease in `Provisioning` or `Migrating` to another free node, in one transaction with what
    /// happens to the one it leaves: that is dirty, nobody's, no longer claimed, and quarantined if it
    /// refused the holder of its claim.
    ///
    /// When no node is free, a lease in `Provisioning` stays as it was. One in `Migrating` waits: it leaves a
    /// target that could not take it and goes back to its own lost node (if another lease has that by now, it
    /// stays at the target); on its own node it stays. A node on which the lease stays keeps its claim, also
    /// that of the caller, who gives it back with [`Store::fail_reconcile`]; it is quarantined if it refused.
    ///
    /// `Stale` for a caller without a claim while a `Migrating` lease on its own node may be given back
    /// there: that node is claimed, or alive and admitted.
    ///
    /// For [`MoveReason::Draining`] also one in `Active`: the old node keeps its account until the new one has
    /// confirmed it. One lease of the fleet at a time, the others are `Stale`; so is one whose node is claimed, not
    /// reachable, or not drained any more. When no node is free it stays as it was.
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
    let draining = matches!(request.why, MoveReason::Draining(_));
    let fits = match lease.state {
        LeaseState::Provisioning { .. } | LeaseState::Migrating { .. } => !draining,
        LeaseState::Active { .. } => draining,
        LeaseState::Releasing { .. } | LeaseState::Ended { .. } => false,
    };
    if !fits || lease.state.occupies() != Some(request.away_from) {
        return Ok(MoveOutcome::Stale);
    }
    let record = tx.node_record(request.away_from).await?;
    if draining {
        let Some(record) = record else { return Ok(MoveOutcome::Stale) };
        if !may_leave(&Node::try_from(record)?, now) || !tx.take_drain_turn().await? {
            return Ok(MoveOutcome::Stale);
        }
    } else if let Some(claim) = request.claim_of_old {
        if record.and_then(|record| record.claim_token).as_deref() != Some(claim.token.as_str()) {
            return Ok(MoveOutcome::Stale);
        }
    } else if let (LeaseState::Migrating { to: None, .. }, Some(record)) = (&lease.state, record)
        && may_give_back(&Node::try_from(record)?, now)
    {
        return Ok(MoveOutcome::Stale);
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
    let next = if draining {
        lease.state.clone().leave_node(request.away_from, node.id, &reason)
    } else {
        lease.state.clone().place_on(node.id, &reason)
    };
    let Ok(next) = next else { return Ok(MoveOutcome::Stale) };
    leave_old(tx, &lease, request).await?;
    let claimer = Claimer { holder: request.holder, ttl: request.claim_ttl };
    let Some(token) = tx.occupy((node.id, None), lease.id, claimer, now).await? else {
        return Err(Fault::Retry(format!("node {} was taken meanwhile", node.id)));
    };
    let lease = tx.write_lease(&lease, next, None, now).await?;
    let Some(record) = tx.node_record(node.id).await? else {
        return Err(Fault::Retry("the new node vanished".into()));
    };
    let claim = node_claim(record, token, Some(&lease), now)?;
    Ok(MoveOutcome::Placed(Placement { lease, claim }))
}

/// Whether somebody works on the node or soon will: then the lease that waits for it gets it back there.
fn may_give_back(own: &Node, now: Timestamp) -> bool {
    own.gives_back(now)
        && (own.claimed_until.is_some_and(|until| until > now)
            || (own.health == Health::Alive && own.admission == Admission::Admitted))
}

/// Whether a lease whose login works on the node may leave it: it is drained, nobody works on it, and it is not
/// about to be found dead.
fn may_leave(own: &Node, now: Timestamp) -> bool {
    own.drain.is_some()
        && own.claimed_until.is_none_or(|until| until <= now)
        && matches!(own.health, Health::Alive | Health::Unreachable)
}

/// The lease leaves its old node: that is nobody's, dirty and not claimed, and quarantined if it refused.
async fn leave_old(tx: &mut Tx, lease: &Lease, request: &MoveRequest<'_>) -> Result<()> {
    let sql = "UPDATE nodes SET lease_id = NULL, desired_version = desired_version + 1, claimed_by = NULL, \
               claim_token = NULL, claimed_until = NULL, version = version + 1, changed_at = ? \
               WHERE id = ? AND lease_id = ?";
    if tx.exec(sql, vals![request.now, request.away_from, lease.id]).await? == 0 {
        return Err(Fault::Retry(format!("lease {} left its node meanwhile", lease.id)));
    }
    quarantine_old(tx, lease, request).await.map(|_| ())
}

/// The old node is quarantined if it refused the holder of its claim. Whether that was written.
async fn quarantine_old(tx: &mut Tx, lease: &Lease, request: &MoveRequest<'_>) -> Result<bool> {
    let refused = match &request.why {
        MoveReason::Refused(reason) => request.claim_of_old.map(|_| clip(reason)),
        MoveReason::Unfit(_) | MoveReason::Lost(_) | MoveReason::NodeDead | MoveReason::Draining(_) => None,
    };
    let Some(reason) = refused else { return Ok(false) };
    let sql = "UPDATE nodes SET quarantine = ?, version = version + 1, changed_at = ? \
               WHERE id = ? AND (quarantine IS NULL OR quarantine <> ?)";
    if tx.exec(sql, vals![&reason, request.now, request.away_from, &reason]).await? == 0 {
        return Ok(false);
    }
    let data = json!({ "reason": reason, "lease_id": lease.id });
    tx.tell_of_node("node.quarantined", request.away_from, data, request.now).await?;
    Ok(true)
}

async fn none_free(tx: &mut Tx, lease: &Lease, request: &MoveRequest<'_>) -> Result<MoveOutcome> {
    let now = request.now;
    let outcome = MoveOutcome::NoneFree { next_end: tx.next_end(now).await? };
    let why = format!("no node is free ({})", tx.why_moving(request).await?);
    if let LeaseState::Migrating { from, to: Some(target), .. } = &lease.state
        && let Ok(next) = lease.state.clone().lose_node(*target, lease.on_node_loss, &why)
        && tx.is_nobodys(*from).await?
    {
        return go_back(tx, lease, *from, next, request).await.map(|()| outcome);
    }
    let quarantined = quarantine_old(tx, lease, request).await?;
    match lease.state.clone().wait_for(&why) {
        Some(next) => {
            tx.write_lease(lease, next, None, now).await?;
        }
        None if quarantined => {}
        None => tx.abandon(),
    }
    Ok(outcome)
}

impl Tx {
    /// Why the lease moves, for people. One that lost a node which was drained has not lost it to death.
    async fn why_moving(&mut self, request: &MoveRequest<'_>) -> Result<String> {
        let node = match request.why {
            MoveReason::NodeDead => self.node_record(request.away_from).await?,
            MoveReason::Refused(_) | MoveReason::Unfit(_) | MoveReason::Lost(_) | MoveReason::Draining(_) => {
                None
            }
        };
        let node = node.map(Node::try_from).transpose()?.filter(|node| node.health != Health::Dead);
        let drained = node.and_then(|node| node.drain).map(|drain| drain.why());
        Ok(clip(&drained.unwrap_or_else(|| request.why.text().to_owned())))
    }
}

/// From a target that could not take it, to its own lost node.
async fn go_back(
    tx: &mut Tx,
    lease: &Lease,
    own: NodeId,
    next: Next,
    request: &MoveRequest<'_>,
) -> Result<()> {
    leave_old(tx, lease, request).await?;
    if !tx.take_back(own, lease, request.now).await? {
        return Err(Fault::Retry("another lease took the lost node meanwhile".into()));
    }
    tx.write_lease(lease, next, None, request.now).await.map(|_| ())
}
