//! From a placed lease to a login that works: on the node it was placed on, or on the next one that takes it.

use crate::{Applied, Change, Fleet};
use orion_domain::{LeaseId, NodeId, Timestamp};
use orion_store::{MoveOutcome, MoveReason, MoveRequest, Placement, StoreError};

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
    /// Makes the account of a placed lease; where a node cannot, moves the lease on to the next.
    ///
    /// # Errors
    /// [`NotProvisioned`]; the lease is then left in the state that the database has.
    pub async fn provision(&self, placement: Placement) -> Result<Provisioned, NotProvisioned> {
        let mut placement = placement;
        let lease = placement.lease.id;
        for _ in 0..self.config.nodes_tried_max {
            let node = placement.claim.node.id;
            let applied = self.apply(&placement.claim, Change::Placed).await?;
            let (why, said) = match &applied {
                Applied::Done(finished, _) if finished.activated.contains(&lease) => {
                    return Ok(Provisioned { lease, node });
                }
                // The node is as it should be, but that is without this lease by now.
                Applied::Done(..) | Applied::Superseded => return Err(NotProvisioned::Superseded),
                Applied::Unfit(reason) => (MoveReason::Unfit(reason.clone()), reason.clone()),
                Applied::Refused(reason) => (MoveReason::Refused(reason.clone()), reason.clone()),
                Applied::Unreached(reason) => (MoveReason::Lost(reason.clone()), reason.clone()),
            };
            tracing::warn!(%lease, %node, reason = %said, "a node did not take a lease; trying the next");
            let moved = self
                .store
                .move_lease(&MoveRequest {
                    lease,
                    away_from: node,
                    claim_of_old: Some(&placement.claim),
                    why,
                    holder: &self.config.holder,
                    claim_ttl: self.config.claim_ttl,
                    now: self.now(),
                })
                .await?;
            self.nudge.all();
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
