//! From a placed lease to a login that works: on the node it was placed on, or on the next one that takes it.

use crate::{Applied, Change, Fleet};
use orion_domain::{LeaseId, NodeId, Timestamp};
use orion_store::{MoveOutcome, MoveReason, MoveRequest, NodeClaim, Placement, StoreError};

/// A lease whose account a node confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provisioned {
    /// The lease.
    pub lease: LeaseId,
    /// Where its login works.
    pub node: NodeId,
}

/// Why no node took a lease.
#[derive(Debug)]
pub enum NotProvisioned {
    /// Every node that was tried failed, and no other is free.
    NoneFree {
        /// When the next lease ends.
        next_end: Option<Timestamp>,
        /// What the last node said.
        last: String,
    },
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
    /// Brings a lease that is on its way to another free node, claimed for this process.
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
            holder: &self.config.holder,
            claim_ttl: self.config.claim_ttl,
            now: self.now(),
        };
        let moved = self.store.move_lease(&request).await?;
        // Only a move is news: a loop that finds no node must not wake itself.
        if matches!(moved, MoveOutcome::Placed(_)) {
            self.nudge.all();
        }
        Ok(moved)
    }

    /// Makes the account of a placed lease; where a node cannot, moves the lease on to the next.
    ///
    /// # Errors
    /// [`NotProvisioned`]; the lease is then left in the state that the database has.
    #[tracing::instrument(name = "provision", skip_all, fields(lease = %placement.lease.id))]
    pub async fn provision(&self, placement: Placement) -> Result<Provisioned, NotProvisioned> {
        let mut placement = placement;
        let lease = placement.lease.id;
        for _ in 0..self.config.nodes_tried_max {
            let node = placement.claim.node.id;
            let applied = self.apply(&placement.claim, Change::Placed).await?;
            if let Applied::Done(finished, _) = &applied
                && finished.activated.contains(&lease)
            {
                tracing::info!(%lease, %node, "a lease's login works");
                return Ok(Provisioned { lease, node });
            }
            // The node is as it should be, but that is without this lease by now; or somebody else has it.
            let Some(why) = applied.why_move_on() else { return Err(NotProvisioned::Superseded) };
            let said = why.text().to_owned();
            tracing::warn!(%lease, %node, reason = %said, "a node did not take a lease; trying the next");
            let moved = self.move_on(lease, node, Some(&placement.claim), why).await?;
            match moved {
                MoveOutcome::Placed(next) => placement = next,
                MoveOutcome::NoneFree { next_end } => {
                    // The node is given back at once, into quarantine if it refused.
                    self.leave(&placement.claim, applied).await?;
                    return Err(NotProvisioned::NoneFree { next_end, last: said });
                }
                MoveOutcome::Stale => return Err(NotProvisioned::Superseded),
            }
        }
        Err(NotProvisioned::NoneFree { next_end: None, last: "too many nodes failed in a row".into() })
    }
}
