//! The end of leases, and new ends: release, expiry, extension, and what a waiting lease says of itself.

use super::Leases;
use crate::{
    engine::{Cas, Fault, Result, StoreError, Tx, clip, transaction, vals},
    events::new_ulid,
    idempotency::REPLY_KEPT,
    leases::transition::lease_event,
    nodes::claimed::NodeClaim,
};
use orion_domain::{
    LeaseId, Refused, Timestamp, UserId,
    lease::{EndReason, Lease, LeaseEvent},
    node::Health,
};
use std::time::Duration;

/// Outcome of [`crate::Leases::end_request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// Request whose key is free again; these leases were ended, its others were ending or over.
    Ended(Vec<LeaseId>),
    /// Request whose reply is kept, so that its client may have it: nothing was written, and the leases stay.
    Acknowledged,
}

/// Leases that end in one transaction.
const BATCH: usize = 50;
/// A node that can be worked on now.
const REACHABLE: &str = "AND health = 'alive' AND admission = 'admitted' AND transport = 'ssh'";

fn clipped(reason: &EndReason) -> EndReason {
    match reason {
        EndReason::Failed { detail } => EndReason::Failed { detail: clip(detail) },
        EndReason::Released
        | EndReason::Expired
        | EndReason::NodeLost
        | EndReason::Drained
        | EndReason::Reset => reason.clone(),
    }
}

/// Ends one lease; one without a node, or whose node is dead, is over at once. Refused: it is ending or over already.
async fn end(
    tx: &mut Tx,
    lease: &Lease,
    reason: &EndReason,
    actor: Option<UserId>,
    now: Timestamp,
) -> Result<std::result::Result<Lease, Refused>> {
    let next = match lease.state.clone().end(clipped(reason)) {
        Ok(next) => next,
        Err(refused) => return Ok(Err(refused)),
    };
    let lease = tx.write_lease(lease, next, actor, now).await?;
    let Some(node) = lease.state.occupies() else { return Ok(Ok(lease)) };
    let health = tx.one::<(String,)>("SELECT health FROM nodes WHERE id = ?", vals![node]).await?;
    if health.is_none_or(|(health,)| health == Health::Dead.as_str())
        && let Ok(next) = lease.state.clone().finish(node)
    {
        return Ok(Ok(tx.write_lease(&lease, next, None, now).await?));
    }
    Ok(Ok(lease))
}

impl Leases<'_> {
    /// Ends leases: `Releasing`, their nodes dirty. Gives those that could be ended; the others are ending
    /// or over. The idempotency key of their request is left alone; see [`crate::Leases::end_request`].
    ///
    /// # Errors
    /// [`StoreError`]; up to 50 at a time are ended together or not at all.
    pub async fn end(
        self,
        ids: &[LeaseId],
        reason: &EndReason,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Vec<LeaseId>, StoreError> {
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut ended = Vec::with_capacity(sorted.len());
        for batch in sorted.chunks(BATCH) {
            let some = transaction!(&self.store.db, |tx| { end_batch(tx, batch, reason, actor, now).await })?;
            ended.extend(some);
        }
        Ok(ended)
    }

    /// Ends a request whose client has no reply: its idempotency key (if it carried one) is free again, and
    /// all its leases end, together. `Acknowledged` when the reply is kept; of this function and
    /// [`crate::Idempotency::finish`] only one succeeds.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was written.
    pub async fn end_request(
        self,
        request_key: &str,
        reason: &EndReason,
        now: Timestamp,
    ) -> Result<RequestEnd, StoreError> {
        let find_key = self.store.db.sql(
            "SELECT state FROM idempotency WHERE request_key = ? FOR UPDATE",
            "SELECT state FROM idempotency WHERE request_key = ?",
        );
        let outcome = transaction!(&self.store.db, |tx| {
            let states = tx.all::<(String,)>(find_key, vals![request_key]).await?;
            if states.iter().any(|(state,)| state == "done") {
                tx.abandon();
                return Ok(RequestEnd::Acknowledged);
            }
            let sql = "DELETE FROM idempotency WHERE request_key = ? AND state = 'running'";
            if tx.exec(sql, vals![request_key]).await? != states.len() as u64 {
                return Err(Fault::Retry("the request got its reply meanwhile".into()));
            }
            let sql = "SELECT id FROM leases WHERE request_key = ? ORDER BY id";
            let ids: Vec<LeaseId> = tx
                .all::<(i64,)>(sql, vals![request_key])
                .await?
                .into_iter()
                .map(|(id,)| LeaseId(id))
                .collect();
            Ok(RequestEnd::Ended(end_batch(tx, &ids, reason, None, now).await?))
        });
        Ok(outcome?)
    }

    /// Ends a lease and claims its node for the caller, who cleans it at once. `Done(None)`: the node is
    /// claimed by somebody or does not answer; the scheduler cleans it. `Refused`: the lease is ending or over.
    pub async fn release_and_claim(
        self,
        id: LeaseId,
        reason: &EndReason,
        actor: Option<UserId>,
        holder: &str,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Cas<Option<NodeClaim>, Refused>, StoreError> {
        let token = new_ulid(now);
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(lease) = tx.lease(id).await? else { return Ok(Cas::Gone) };
            let lease = match end(tx, &lease, reason, actor, now).await? {
                Ok(lease) => lease,
                Err(refused) => return Ok(Cas::Refused(refused)),
            };
            let Some(node) = lease.state.occupies() else { return Ok(Cas::Done(None)) };
            Ok(Cas::Done(tx.claim(node, (holder, &token, ttl), (REACHABLE, Vec::new()), now).await?))
        });
        Ok(outcome?)
    }

    /// Gives a lease a later end and claims its node for the caller, who tells it to the node. `Done` without
    /// a claim: the node is claimed by somebody or does not answer; the scheduler tells it. The reply kept
    /// for the request of the lease is kept longer, too. `Refused`: the lease is ending or over. `Stale`:
    /// `new_until` is not later than its end (somebody extended it meanwhile): read it and add again.
    pub async fn extend(
        self,
        id: LeaseId,
        new_until: Timestamp,
        holder: &str,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Cas<(Lease, Option<NodeClaim>), Refused>, StoreError> {
        let token = new_ulid(now);
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(lease) = tx.lease(id).await? else { return Ok(Cas::Gone) };
            if let Err(refused) = lease.state.may_be_extended() {
                return Ok(Cas::Refused(refused));
            }
            let node = lease.state.occupies().filter(|_| new_until > lease.until);
            let Some(node) = node else { return Ok(Cas::Stale) };
            let lease = write_extension(tx, lease, new_until, now).await?;
            // Whoever makes the account claims the node for it, and tells it the new end.
            let claim = if lease.state.is_active() {
                tx.claim(node, (holder, &token, ttl), (REACHABLE, Vec::new()), now).await?
            } else {
                None
            };
            Ok(Cas::Done((lease, claim)))
        });
        Ok(outcome?)
    }

    /// Says what a migrating lease waits for. `Stale`: it does not wait, or says so already.
    pub async fn set_waiting(self, id: LeaseId, why: &str, now: Timestamp) -> Result<Cas<Lease>, StoreError> {
        let why = clip(why);
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(lease) = tx.lease(id).await? else { return Ok(Cas::Gone) };
            let Some(next) = lease.state.clone().wait_for(&why) else { return Ok(Cas::Stale) };
            Ok(Cas::Done(tx.write_lease(&lease, next, None, now).await?))
        });
        Ok(outcome?)
    }
}

async fn end_batch(
    tx: &mut Tx,
    ids: &[LeaseId],
    reason: &EndReason,
    actor: Option<UserId>,
    now: Timestamp,
) -> Result<Vec<LeaseId>> {
    let mut ended = Vec::with_capacity(ids.len());
    for id in ids {
        let Some(lease) = tx.lease(*id).await? else { continue };
        if end(tx, &lease, reason, actor, now).await?.is_ok() {
            ended.push(*id);
        }
    }
    Ok(ended)
}

async fn write_extension(tx: &mut Tx, mut lease: Lease, until: Timestamp, now: Timestamp) -> Result<Lease> {
    let Some(node) = lease.state.occupies() else {
        return Err(Fault::Retry(format!("lease {} has no node", lease.id)));
    };
    let sql = "UPDATE nodes SET desired_version = desired_version + 1, version = version + 1, \
               changed_at = ? WHERE id = ? AND (whole_lease = ? OR ? = 1)";
    tx.exec(sql, vals![now, node, lease.id, !lease.holding.is_whole()]).await?;
    tx.change_hold(lease.id, node).await?;
    let sql = "UPDATE leases SET leased_until = ?, version = version + 1 WHERE id = ? AND version = ?";
    if tx.exec(sql, vals![until, lease.id, lease.version]).await? == 0 {
        return Err(Fault::Retry(format!("lease {} changed meanwhile", lease.id)));
    }
    lease.until = until;
    lease.version += 1;
    let kept = until.plus(REPLY_KEPT);
    let sql = "UPDATE idempotency SET expires_at = ? WHERE request_key = ? AND expires_at < ?";
    tx.exec(sql, vals![kept, &lease.request_key, kept]).await?;
    tx.append_events(&[lease_event(&lease, node, &LeaseEvent::Extended { until }, None)], now).await?;
    Ok(lease)
}
