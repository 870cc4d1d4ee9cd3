//! `POST /api/reset`: every lease ends through the normal release, clean nodes are forgotten.

use super::Operations;
use crate::error::ApiError;
use futures_util::{StreamExt, stream};
use orion_domain::{LeaseId, UserId, lease::EndReason};
use orion_store::Forgotten;

/// Leases that are released side by side.
const SIDE_BY_SIDE: usize = 16;
/// Leases that are read at once.
const PAGE: u32 = 500;

impl Operations<'_> {
    /// Ends every lease and forgets the nodes that are clean then.
    ///
    /// # Errors
    /// The database's.
    pub async fn reset(self, actor: UserId) -> Result<Forgotten, ApiError> {
        let app = self.app.clone();
        self.app.run_detached(async move { app.operations().reset_detached(actor).await }).await
    }

    async fn reset_detached(self, actor: UserId) -> Result<Forgotten, ApiError> {
        let mut after = LeaseId(0);
        loop {
            let page = self.app.store.leases().list(None, false, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.lease.id;
            let ids: Vec<LeaseId> = page.iter().map(|row| row.lease.id).collect();
            let ends = stream::iter(ids)
                .map(|id| self.app.leases().end_and_clean(id, EndReason::Reset, Some(actor)));
            let ended: Vec<_> = ends.buffer_unordered(SIDE_BY_SIDE).collect().await;
            for result in ended {
                result?;
            }
        }
        let forgotten = self.app.store.nodes().forget_clean(self.app.now()).await?;
        for node in &forgotten.forgotten {
            self.app.links.register_again(*node);
            self.app.fleet.pool.drop_session(node.0);
        }
        self.app.fleet.nudge.all();
        Ok(forgotten)
    }
}
