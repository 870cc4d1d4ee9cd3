//! Leases that wait for a node: they are asked for, approved, begun on a free node, and give one up to another lease.
//!
//! No route makes one yet.

use super::{
    Leases,
    candidates::Candidate,
    insert::{GiveUp, insert_lease, lease_names, next_uid},
    placement::{PlaceOutcome, PlaceRequest, Placement},
};
use crate::{
    engine::{Cas, Fault, Result, StoreError, Tx, clip, transaction},
    leases::transition::lease_event,
};
use orion_domain::{
    LeaseId, NodeId, Refused, Timestamp, UserId,
    lease::{Lease, LeaseEvent, LeaseState},
};
use std::time::Duration;

/// What a lease without a node waits for first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Somebody's approval.
    Requested,
    /// Its time.
    Scheduled,
    /// Room; the text says what is missing.
    Queued(String),
}

/// A change of a lease's state that takes no node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// [`LeaseState::approve`].
    Approve,
    /// [`LeaseState::preempt`], with why.
    Preempt(String),
}

impl Leases<'_> {
    /// Writes leases that wait for a node, all or none. They count for no quota of nodes: they hold none.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Config`] when there are accounts, but not one for each lease.
    pub async fn wait(
        self,
        request: &PlaceRequest,
        start: &Start,
    ) -> Result<Result<Vec<Lease>, PlaceOutcome>, StoreError> {
        request.check_accounts()?;
        let outcome = transaction!(&self.store.db, |tx| {
            match insert_waiting(self, tx, request, start).await {
                Ok(leases) => Ok(Ok(leases)),
                Err(GiveUp::As(outcome)) => {
                    tx.abandon();
                    Ok(Err(outcome))
                }
                Err(GiveUp::Missed(why)) => Err(Fault::Retry(why)),
                Err(GiveUp::Fault(fault)) => Err(fault),
            }
        });
        Ok(outcome?)
    }

    /// Changes the state of a lease.
    pub async fn step(
        self,
        id: LeaseId,
        step: &Step,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Cas<Lease, Refused>, StoreError> {
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(lease) = tx.lease(id).await? else { return Ok(Cas::Gone) };
            let next = match step {
                Step::Approve => lease.state.clone().approve(),
                Step::Preempt(why) => lease.state.clone().preempt(&clip(why)),
            };
            Ok(match next {
                Ok(next) => Cas::Done(tx.write_lease(&lease, next, actor, now).await?),
                Err(refused) => Cas::Refused(refused),
            })
        });
        Ok(outcome?)
    }

    /// Gives a lease in `Scheduled` or `Queued` a free node, which the caller claims and provisions on. Done with none:
    /// no node is free.
    pub async fn begin(
        self,
        id: LeaseId,
        first_turn: Duration,
        now: Timestamp,
    ) -> Result<Cas<Option<Placement>, Refused>, StoreError> {
        Ok(transaction!(&self.store.db, |tx| { begin(tx, id, now.plus(first_turn), now).await })?)
    }
}

async fn insert_waiting(
    leases: Leases<'_>,
    tx: &mut Tx,
    request: &PlaceRequest,
    start: &Start,
) -> std::result::Result<Vec<Lease>, GiveUp> {
    let stored = next_uid(&leases.store.db, tx).await?;
    let mut next = stored.max(request.first_uid);
    let mut waiting = Vec::with_capacity(request.count);
    for (number, name) in lease_names(request)?.into_iter().enumerate() {
        let (state, event) = match start {
            Start::Requested => (LeaseState::Requested, LeaseEvent::Requested),
            Start::Scheduled => (LeaseState::Scheduled { reason: None }, LeaseEvent::Scheduled),
            Start::Queued(why) => {
                let reason = clip(why);
                (LeaseState::Queued { reason: reason.clone() }, LeaseEvent::Queued { reason })
            }
        };
        let account = request.account(number, &[], &mut next)?;
        let lease = insert_lease(tx, request, state, account, name).await?;
        tx.append_events(&[lease_event(&lease, None::<NodeId>, &event, None)], request.now).await?;
        waiting.push(lease);
    }
    if !request.accounts.is_empty() {
        tx.set_next_uid(stored, next).await?;
    }
    Ok(waiting)
}

async fn begin(
    tx: &mut Tx,
    id: LeaseId,
    turn_until: Timestamp,
    now: Timestamp,
) -> Result<Cas<Option<Placement>, Refused>> {
    let Some(lease) = tx.lease(id).await? else { return Ok(Cas::Gone) };
    if let Err(refused) = lease.state.may_begin() {
        return Ok(Cas::Refused(refused));
    }
    let candidates = tx.candidates(&lease, None, 1, now).await?;
    let fits = |node: &Candidate| lease.account.as_ref().is_none_or(|account| node.may_have_uid(account.uid));
    let Some(node) = candidates.into_iter().find(fits).map(|node| node.id) else {
        tx.abandon();
        return Ok(Cas::Done(None));
    };
    let next = match lease.state.clone().place_on(node, "") {
        Ok(next) => next,
        Err(refused) => return Ok(Cas::Refused(refused)),
    };
    if !tx.occupy((node, None), (lease.id, lease.holding), turn_until, now).await? {
        return Err(Fault::Retry(format!("node {node} was taken meanwhile")));
    }
    let lease = tx.write_lease(&lease, next, None, now).await?;
    Ok(Cas::Done(Some(Placement::read(tx, lease, node, now).await?)))
}
