//! A lease on its way goes to another node: because the one it was to have refused, is unfit, cannot be
//! reached, or is dead. One whose login works does when its node is drained.

use super::Leases;
use crate::nodes::NodeClaim;
use crate::{
    engine::{Fault, Result, StoreError, Tx, clip, transaction, vals},
    leases::candidates::Candidate,
    leases::placement::Placement,
    leases::transition::Next,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    lease::{Lease, LeaseState},
    node::QuarantineCause,
    node::{Admission, Health, Node},
};

use std::time::Duration;

/// Reason why a lease leaves a node: before its account worked there, or because the node is drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveReason {
    /// The node refused to make an account: it is quarantined for that cause.
    Refused(String, QuarantineCause),
    /// The node is fine, but not for this lease (its name exists there): it is not tried again for it.
    Unfit(String),
    /// The node could not be reached.
    Lost(String),
    /// The node is dead.
    NodeDead,
    /// The node is being drained ([`orion_domain::drain::Drain::why`]); its login works.
    Draining(String),
}

impl MoveReason {
    /// Returns the reason as text for people.
    pub fn text(&self) -> &str {
        match self {
            Self::Refused(text, _) | Self::Unfit(text) | Self::Lost(text) | Self::Draining(text) => text,
            Self::NodeDead => "the node is dead",
        }
    }
}

/// A wish to bring a lease to another node.
#[derive(Clone, Debug)]
pub struct MoveRequest<'a> {
    /// The lease: `Provisioning` or `Migrating`; `Active` only for [`MoveReason::Draining`].
    pub lease: LeaseId,
    /// The node that it occupies now.
    pub away_from: NodeId,
    /// The claim on that node, if the caller has one; it ends when the lease leaves the node.
    pub claim_of_old: Option<&'a NodeClaim>,
    /// Reason for the move.
    pub why: MoveReason,
    /// How long the scheduler leaves the new node to who provisions there.
    pub first_turn: Duration,
    /// The time.
    pub now: Timestamp,
}

/// The beginning of the reason of a lease that waits because no node is free.
pub const NO_NODE_IS_FREE: &str = "no node is free";

/// Outcome of a [`MoveRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one is made at a time, and used at once")]
pub enum MoveOutcome {
    /// Placement on a new node.
    Placed(Placement),
    /// Lack of a free node. A `Migrating` lease waits and has left the old node (or keeps it, if it is its
    /// own); a `Provisioning` or `Active` one is as it was. Of a node that the lease keeps, the caller keeps
    /// the claim.
    NoneFree {
        /// End of the lease that ends next.
        next_end: Option<Timestamp>,
    },
    /// The lease is not (any more) on that node, or not on its way, or the claim was lost, or its own node is
    /// about to give it back, or it is another lease's turn to leave a drained node: do nothing.
    Stale,
}

impl Leases<'_> {
    /// Brings a lease in `Provisioning` or `Migrating` to another free node, in one transaction with what
    /// happens to the one it leaves: that is dirty, nobody's, no longer claimed, and quarantined if it
    /// refused the holder of its claim.
    ///
    /// When no node is free, a lease in `Provisioning` stays as it was. One in `Migrating` waits: it leaves a
    /// target that could not take it and goes back to its own lost node (if another lease has that by now, it
    /// stays at the target); on its own node it stays. A node on which the lease stays keeps its claim, also
    /// that of the caller, who gives it back with [`crate::Nodes::fail_reconcile`]; it is quarantined if it refused.
    ///
    /// `Stale` for a caller without a claim while a `Migrating` lease on its own node may be given back
    /// there: that node is claimed, or alive and admitted.
    ///
    /// For [`MoveReason::Draining`] also one in `Active`: the old node keeps its account until the new one has
    /// confirmed it. One lease of the fleet at a time, the others are `Stale`; so is one whose node is claimed, not
    /// reachable, or not drained any more. When no node is free it stays as it was.
    pub async fn migrate(self, request: &MoveRequest<'_>) -> Result<MoveOutcome, StoreError> {
        Ok(transaction!(&self.store.db, |tx| { move_lease(tx, request).await })?)
    }
}

async fn move_lease(tx: &mut Tx, request: &MoveRequest<'_>) -> Result<MoveOutcome> {
    let now = request.now;
    let Some(lease) = tx.lease(request.lease).await? else { return Ok(MoveOutcome::Stale) };
    let draining = matches!(request.why, MoveReason::Draining(_));
    let fits = match lease.state {
        LeaseState::Provisioning { .. } | LeaseState::Migrating { .. } => !draining,
        LeaseState::Active { .. } => draining,
        LeaseState::Requested
        | LeaseState::Scheduled { .. }
        | LeaseState::Queued { .. }
        | LeaseState::Yielding { .. }
        | LeaseState::Releasing { .. }
        | LeaseState::Ended { .. } => false,
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
    let mover = Some((lease.id, request.away_from));
    let candidates = tx.candidates(&lease, mover, 1, now).await?;
    let fits = |node: &Candidate| lease.account.as_ref().is_none_or(|account| node.may_have_uid(account.uid));
    let Some(node) = candidates.into_iter().find(fits) else {
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
    let turn_until = now.plus(request.first_turn);
    if !tx.occupy((node.id, None), (lease.id, lease.holding), turn_until, now).await? {
        return Err(Fault::Retry(format!("node {} was taken meanwhile", node.id)));
    }
    let lease = tx.write_lease(&lease, next, None, now).await?;
    Ok(MoveOutcome::Placed(Placement::read(tx, lease, node.id, now).await?))
}

/// Whether somebody works on the node or soon will: then the lease that waits for it gets it back there.
fn may_give_back(own: &Node, now: Timestamp) -> bool {
    own.accepts_return_of(now)
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

/// The lease leaves its old node: that is nobody's, dirty and not claimed by the caller any more, and quarantined if it
/// refused.
async fn leave_old(tx: &mut Tx, lease: &Lease, request: &MoveRequest<'_>) -> Result<()> {
    let sql = "UPDATE nodes SET whole_lease = CASE WHEN whole_lease = ? THEN NULL ELSE whole_lease END, \
               unclean = CASE WHEN ? = 1 THEN unclean ELSE 1 END, desired_version = desired_version + 1, \
               first_turn_until = 0, \
               claimed_by = CASE WHEN claim_token = ? THEN NULL ELSE claimed_by END, \
               claimed_until = CASE WHEN claim_token = ? THEN NULL ELSE claimed_until END, \
               claim_token = CASE WHEN claim_token = ? THEN NULL ELSE claim_token END, \
               version = version + 1, changed_at = ? WHERE id = ? AND (whole_lease = ? OR ? = 1)";
    let (is_slice, drained) = (!lease.holding.is_whole(), matches!(request.why, MoveReason::Draining(_)));
    let sql_token = "SELECT claim_token FROM nodes WHERE id = ? AND (claim_token = ? OR claimed_until <= ?)";
    let own = request.claim_of_old.map(|claim| claim.token.as_str());
    let over = tx.one::<(String,)>(sql_token, vals![request.away_from, own, request.now]).await?;
    let token = over.map(|(token,)| token);
    let mut values = vals![lease.id, drained, token.clone(), token.clone(), token];
    values.extend(vals![request.now, request.away_from, lease.id, is_slice]);
    if tx.exec(sql, values).await? == 0 {
        return Err(Fault::Retry(format!("lease {} left its node meanwhile", lease.id)));
    }
    quarantine_old(tx, lease, request).await.map(|_| ())
}

/// The old node is quarantined if it refused the holder of its claim. Whether that was written.
async fn quarantine_old(tx: &mut Tx, lease: &Lease, request: &MoveRequest<'_>) -> Result<bool> {
    let refused = match &request.why {
        MoveReason::Refused(reason, cause) => request.claim_of_old.map(|_| (*cause, clip(reason))),
        MoveReason::Unfit(_) | MoveReason::Lost(_) | MoveReason::NodeDead | MoveReason::Draining(_) => None,
    };
    let Some((cause, reason)) = refused else { return Ok(false) };
    tx.quarantine_refusing(request.away_from, (cause, &reason), lease.id, request.now).await
}

async fn none_free(tx: &mut Tx, lease: &Lease, request: &MoveRequest<'_>) -> Result<MoveOutcome> {
    let now = request.now;
    let outcome = MoveOutcome::NoneFree { next_end: tx.next_end(&lease.tags, now).await? };
    let why = format!("{NO_NODE_IS_FREE} ({})", tx.why_moving(request).await?);
    if let LeaseState::Migrating { from, to: Some(target), .. } = &lease.state
        && let Ok(next) = lease.state.clone().lose_node(*target, lease.on_node_loss, &why)
        && (tx.is_unoccupied(*from).await? || tx.holds_slice(lease, *from).await?)
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
    /// Whether the room of a slice on a node that it left is still its own.
    async fn holds_slice(&mut self, lease: &Lease, node: NodeId) -> Result<bool> {
        let sql = "SELECT node_id FROM holds WHERE lease_id = ? AND node_id = ?";
        Ok(!lease.holding.is_whole() && self.one::<(i64,)>(sql, vals![lease.id, node]).await?.is_some())
    }

    /// Returns the reason for the lease's move, for people. A lease that lost a drained node has not lost it
    /// to death.
    async fn why_moving(&mut self, request: &MoveRequest<'_>) -> Result<String> {
        let node = match request.why {
            MoveReason::NodeDead => self.node_record(request.away_from).await?,
            MoveReason::Refused(..)
            | MoveReason::Unfit(_)
            | MoveReason::Lost(_)
            | MoveReason::Draining(_) => None,
        };
        let node = node.map(Node::try_from).transpose()?.filter(|node| node.health != Health::Dead);
        let drained = node.and_then(|node| node.drain).map(|drain| drain.why());
        Ok(clip(&drained.unwrap_or_else(|| request.why.text().to_owned())))
    }
}

/// Moves a lease back from a target that could not take it to its own lost node.
async fn go_back(
    tx: &mut Tx,
    lease: &Lease,
    own: NodeId,
    next: Next,
    request: &MoveRequest<'_>,
) -> Result<()> {
    leave_old(tx, lease, request).await?;
    if !tx.reclaim(own, lease, request.now).await? {
        return Err(Fault::Retry("another lease took the lost node meanwhile".into()));
    }
    tx.write_lease(lease, next, None, request.now).await.map(|_| ())
}
