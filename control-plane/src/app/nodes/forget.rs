//! One node is forgotten: what an admin may, and what becomes of its agent.

use super::Nodes;
use crate::error::{ApiError, NODE};
use orion_domain::{NodeId, names::Hostname};
use orion_store::{ForgetOutcome, ForgetRequest};

impl Nodes<'_> {
    /// Forgets a node; its name.
    ///
    /// # Errors
    /// 404 for an unknown node; 409 `node_leased`, `node_busy` or `node_dirty` for one that has to stay for now.
    pub async fn forget(self, id: NodeId, request: ForgetRequest) -> Result<Hostname, ApiError> {
        match self.app.store.nodes().forget(id, request, self.app.now()).await? {
            ForgetOutcome::Forgotten(node) => {
                self.app.links.register_again(id);
                self.app.fleet.pool.drop_session(id.0);
                self.app.fleet.nudge.all();
                tracing::info!(node = %id, hostname = %node.hostname, force = request.force, "a node is forgotten");
                Ok(node.hostname)
            }
            ForgetOutcome::Gone => Err(NODE.missing(id)),
            ForgetOutcome::Leased(lease) => Err(ApiError::conflict(
                "node_leased",
                format!("lease {lease} is on node {id}, which cannot be forgotten before"),
            )
            .hint(format!(
                "end the lease first (orion release {lease}) or empty the node (orion nodes drain {id}); if the \
                 machine is gone, say so (orion nodes declare-dead {id} --reason …)"
            ))),
            ForgetOutcome::Leaving(lease) => Err(ApiError::conflict(
                "node_leased",
                format!("lease {lease} is on its way from node {id}, which cannot be forgotten before"),
            )
            .hint("try again when its login works there")),
            ForgetOutcome::Busy => {
                Err(ApiError::conflict("node_busy", format!("node {id} is being worked on and cannot be forgotten"))
                    .hint("try again in some seconds, or insist with force (orion nodes forget --force)"))
            }
            ForgetOutcome::Dirty(node) => {
                let what = format!(
                    "node {id} is {} and not clean, and cannot be forgotten: an account may be left on it",
                    node.health.as_str()
                );
                Err(ApiError::conflict("node_dirty", what).hint(
                    "wait until it is clean, or insist with force (orion nodes forget --force): nobody will clean \
                     it then",
                ))
            }
        }
    }
}
