//! Draining nodes: what an admin asks for, and what everybody sees of its progress.

use super::{
    Nodes,
    views::{DrainView, NodeView},
};
use crate::error::{ApiError, NODE, OrProblem as _};
use orion_domain::{
    NodeId, UserId,
    lease::{Holding, Lease, OnNodeLoss},
    names::Tag,
    node::Node,
};
use orion_store::{Cas, DrainRequest};
use std::collections::HashMap;

impl Nodes<'_> {
    /// Begins to drain a node, or changes how; the node after it.
    ///
    /// # Errors
    /// 404 for an unknown node.
    pub async fn drain(self, id: NodeId, request: &DrainRequest) -> Result<NodeView, ApiError> {
        let drained = self.app.store.nodes().drain(id, request, self.app.now()).await?;
        self.app.fleet.nudge.all();
        match drained {
            Cas::Done(node) => self.view(node, None).await,
            Cas::Stale => Err(NODE.changed(id)),
            Cas::Gone => Err(NODE.missing(id)),
        }
    }

    /// Ends the drain of a node; the node after it.
    ///
    /// # Errors
    /// 404 for an unknown node, 409 for one that is not drained.
    pub async fn undrain(self, id: NodeId, actor: UserId) -> Result<NodeView, ApiError> {
        let undrained = self.app.store.nodes().undrain(id, Some(actor), self.app.now()).await?;
        self.app.fleet.nudge.all();
        self.view(undrained.or_problem(NODE, id, "not_draining")?, None).await
    }

    /// Returns the progress of each drain among `nodes`. `leases` are those that have the nodes.
    ///
    /// # Errors
    /// The database's.
    pub(super) async fn drains(
        self,
        nodes: &[Node],
        leases: &HashMap<NodeId, Vec<Lease>>,
        viewer: Option<UserId>,
    ) -> Result<HashMap<NodeId, DrainView>, ApiError> {
        let ids: Vec<NodeId> = nodes.iter().filter(|node| node.drain.is_some()).map(|node| node.id).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let now = self.app.now();
        let mut leaving = self.app.store.nodes().leases_leaving(&ids).await?;
        // Leases of one list often want the same.
        let mut free: HashMap<(&[Tag], Holding), bool> = HashMap::new();
        let mut views = HashMap::with_capacity(ids.len());
        for node in nodes {
            let Some(drain) = &node.drain else { continue };
            let on_it = leases.get(&node.id).map(Vec::as_slice).unwrap_or_default();
            let kept: Vec<&Lease> = on_it.iter().filter(|lease| node.blocks_drain_of(lease, now)).collect();
            let lease = kept.first().copied();
            let mut left = leaving.remove(&node.id).unwrap_or_default();
            let may_move = lease.filter(|lease| left.is_empty() && lease.on_node_loss == OnNodeLoss::Migrate);
            let is_free = match may_move {
                None => false,
                Some(lease) => match free.get(&(lease.tags.as_slice(), lease.holding)) {
                    Some(is_free) => *is_free,
                    None => {
                        let is_free = self.app.store.nodes().has_free(&lease.tags, lease.holding).await?;
                        free.insert((&lease.tags, lease.holding), is_free);
                        is_free
                    }
                },
            };
            let Some(state) = node.drain_state(lease, !left.is_empty(), is_free, now) else { continue };
            left.extend(kept.iter().map(|lease| lease.id));
            let view = DrainView {
                reason: drain.reason.clone(),
                since: drain.since,
                deadline: drain.deadline,
                state,
                leases_left: left.len(),
                leases: viewer.is_none().then_some(left),
                drained_at: drain.drained_at,
            };
            views.insert(node.id, view);
        }
        Ok(views)
    }
}
