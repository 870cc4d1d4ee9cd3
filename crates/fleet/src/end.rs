//! Ending a lease, and work on a claimed node that may fail: then the scheduler goes on with it.

use crate::{Applied, Change, Fleet, retry::retry_after};
use orion_domain::{LeaseId, UserId, lease::EndReason};
use orion_store::{Cas, NodeClaim, StoreError};

impl Fleet {
    /// Starts the end of a lease, and removes its account at once if its node is free to be worked on.
    ///
    /// # Errors
    /// The database's.
    pub async fn end_lease(
        &self,
        id: LeaseId,
        reason: &EndReason,
        actor: Option<UserId>,
    ) -> Result<(), StoreError> {
        let (holder, ttl) = (&self.config.holder, self.config.claim_ttl);
        let claimed =
            self.store.leases().release_and_claim(id, reason, actor, holder, ttl, self.now()).await?;
        self.nudge.all();
        if let Cas::Done(Some(claim)) = claimed {
            self.apply_or_leave(&claim, Change::Released(id)).await?;
        }
        Ok(())
    }

    /// Applies what the node should hold. If that fails, gives the claim back with a time for the next try.
    /// Whether it succeeded.
    ///
    /// # Errors
    /// The database's.
    pub async fn apply_or_leave(&self, claim: &NodeClaim, change: Change) -> Result<bool, StoreError> {
        let applied = self.apply(claim, change).await?;
        self.leave(claim, applied).await
    }

    /// Gives a claim back whose work came to `applied`. Whether the work was done.
    ///
    /// # Errors
    /// The database's.
    pub async fn leave(&self, claim: &NodeClaim, applied: Applied) -> Result<bool, StoreError> {
        let (reason, quarantine) = match applied {
            Applied::Done(..) => return Ok(true),
            Applied::Superseded => return Ok(false),
            Applied::Refused(reason, cause) => (reason, Some(cause)),
            Applied::Unfit(_, reason) | Applied::Invalid(_, reason) | Applied::Unreached(reason) => {
                (reason, None)
            }
        };
        let node = claim.node.id;
        let pause = retry_after(claim.node.reconcile_failures);
        tracing::warn!(%node, reason, ?quarantine, ?pause, "work on a node failed; it is tried again");
        let now = self.now();
        self.store.nodes().fail_reconcile(claim, &reason, now.plus(pause), quarantine, now).await?;
        self.nudge.all();
        Ok(false)
    }
}
