//! From a placed lease to a login that works: on the node it was placed on, or on the next one that takes it.

use crate::{Applied, Change, Fleet, turns::ClaimFor};
use orion_domain::{LeaseId, NodeId, Timestamp, lease::Phase};
use orion_store::{MoveOutcome, MoveReason, MoveRequest, NodeClaim, Placement, StoreError};
use std::time::Duration;

/// How long work on a node by somebody else is waited for, before the lease goes to another node.
const CLAIM_WAIT: Duration = Duration::from_secs(5);
/// The same where others have slices of the node, too: work for them is no sign that anything is wrong.
const SHARED_CLAIM_WAIT: Duration = Duration::from_secs(30);
/// Longest pause between two tries to claim a node.
const CLAIM_AGAIN: Duration = Duration::from_millis(100);

/// A lease whose account a node confirmed; or one without an account, whose container its node has, or has yet to make
/// ([`Fleet::provide_container`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provisioned {
    /// Number of the lease.
    pub lease: LeaseId,
    /// The lease's node.
    pub node: NodeId,
}

/// Reason why no node took a lease.
#[derive(Debug)]
pub enum NotProvisioned {
    /// Every node that was tried failed, and no other is free.
    NoneFree {
        /// End of the lease that ends next.
        next_end: Option<Timestamp>,
        /// Message from the last node that was tried.
        last: String,
    },
    /// Orion's own check refuses a value of the lease: no node would take it.
    Invalid(String),
    /// The lease was ended or taken over meanwhile.
    Superseded,
    /// The database.
    Store(StoreError),
}

impl From<StoreError> for NotProvisioned {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fleet {
    /// Brings a lease that is on its way to another free node.
    ///
    /// # Errors
    /// The database's.
    pub async fn move_on(
        &self,
        lease: LeaseId,
        away_from: NodeId,
        claim_of_old: Option<&NodeClaim>,
        why: MoveReason,
    ) -> Result<MoveOutcome, StoreError> {
        let request = MoveRequest {
            lease,
            away_from,
            claim_of_old,
            why,
            first_turn: self.config.claim_ttl,
            now: self.now(),
        };
        let moved = self.store.leases().migrate(&request).await?;
        // Only a move is news: a loop that finds no node must not wake itself.
        if matches!(moved, MoveOutcome::Placed(_)) {
            self.nudge.all();
        }
        Ok(moved)
    }

    /// Claims the node of a placed lease and makes its account; where a node cannot, moves the lease on to the next.
    ///
    /// # Errors
    /// [`NotProvisioned`]; the lease is then left in the state that the database has.
    #[tracing::instrument(name = "provision", skip_all, fields(lease = %placement.lease.id))]
    pub async fn provision(&self, placement: Placement) -> Result<Provisioned, NotProvisioned> {
        let mut placement = placement;
        let (lease, has_account) = (placement.lease.id, placement.lease.account.is_some());
        for _ in 0..self.config.nodes_tried_max {
            let node = placement.node();
            let Some(claim) = self.claim_placed(&placement).await? else {
                if !has_account {
                    // No reply waits for a password: the scheduler goes on, on this node.
                    return Ok(Provisioned { lease, node });
                }
                let why = MoveReason::Lost("somebody else works on the node".into());
                let said = why.text().to_owned();
                tracing::warn!(%lease, %node, reason = %said, "a node was not free for work; trying the next");
                match self.move_on(lease, node, None, why).await? {
                    MoveOutcome::Placed(next) => placement = next,
                    MoveOutcome::NoneFree { next_end } => {
                        return Err(NotProvisioned::NoneFree { next_end, last: said });
                    }
                    MoveOutcome::Stale => return Err(NotProvisioned::Superseded),
                }
                continue;
            };
            // Whoever worked on the node before may have made it, for a later end.
            let is_ready = claim.desired_of(lease).is_some_and(|desired| {
                // All there is to do for one without an account may be done, but for its image.
                desired.phase == Phase::Active || (!has_account && !claim.node.is_dirty())
            });
            if is_ready || claim.desired_of(lease).is_none() {
                self.store.nodes().release_claim(&claim, self.now()).await?;
                return if is_ready {
                    Ok(Provisioned { lease, node })
                } else {
                    Err(NotProvisioned::Superseded)
                };
            }
            let applied = self.apply(&claim, Change::Placed(lease)).await?;
            if let Applied::Done(finished, _) = &applied
                && (finished.activated.contains(&lease) || !has_account)
            {
                tracing::info!(%lease, %node, "a lease's login works");
                return Ok(Provisioned { lease, node });
            }
            if let Applied::Invalid(of, reason) = applied {
                self.leave(&claim, Applied::Invalid(of, reason.clone())).await?;
                return Err(NotProvisioned::Invalid(reason));
            }
            // The node is as it should be, but that is without this lease by now; or somebody else has it.
            let Some(why) = applied.retry_elsewhere_reason() else { return Err(NotProvisioned::Superseded) };
            let said = why.text().to_owned();
            tracing::warn!(%lease, %node, reason = %said, "a node did not take a lease; trying the next");
            let moved = self.move_on(lease, node, Some(&claim), why).await?;
            match moved {
                MoveOutcome::Placed(next) => placement = next,
                MoveOutcome::NoneFree { next_end } => {
                    // The node is given back at once, into quarantine if it refused.
                    self.leave(&claim, applied).await?;
                    return Err(NotProvisioned::NoneFree { next_end, last: said });
                }
                MoveOutcome::Stale => return Err(NotProvisioned::Superseded),
            }
        }
        Err(NotProvisioned::NoneFree { next_end: None, last: "too many nodes failed in a row".into() })
    }

    /// Claims the node of a placement, as soon as nobody else works on it. None: that took too long.
    async fn claim_placed(&self, placement: &Placement) -> Result<Option<NodeClaim>, StoreError> {
        let (holder, ttl) = (&self.config.holder, self.config.claim_ttl);
        let wait = if placement.lease.holding.is_whole() { CLAIM_WAIT } else { SHARED_CLAIM_WAIT };
        let claim = |now| self.store.nodes().claim_placed(placement, holder, ttl, now);
        self.claim_when_free(ClaimFor::Placed(placement.node()), wait, claim).await
    }

    /// Claims a node by `claim` as soon as nobody else works on it. None: not within `wait`.
    pub(crate) async fn claim_when_free<Claiming>(
        &self,
        what: ClaimFor,
        wait: Duration,
        claim: impl Fn(Timestamp) -> Claiming,
    ) -> Result<Option<NodeClaim>, StoreError>
    where
        Claiming: Future<Output = Result<Option<NodeClaim>, StoreError>>,
    {
        let give_up = self.now().plus(wait);
        let mut nudged = self.nudge.listen();
        loop {
            // A hundred that wait for one node would keep the database busy with asking.
            let Some(turn) = self.turns.next(what, give_up.since(self.now())).await else { return Ok(None) };
            let claim = claim(self.now()).await?;
            if claim.is_some() || self.now() >= give_up {
                return Ok(claim);
            }
            nudged.within(CLAIM_AGAIN).await;
            // The next one asks: what this one waits for may be something else.
            drop(turn);
        }
    }
}
