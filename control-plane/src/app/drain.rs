//! Draining nodes: what an admin asks for, and what everybody sees of its progress.

use super::views::NodeView;
use crate::{App, error::ApiError, openapi::schemas};
use orion_domain::{
    LeaseId, NodeId, Timestamp, UserId,
    drain::DrainState,
    lease::{Lease, LeaseState, OnNodeLoss},
    names::Tag,
    node::Node,
};
use orion_store::{Cas, DrainRequest};
use serde::Serialize;
use std::collections::HashMap;
use utoipa::ToSchema;

/// A node that is emptied, or was.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = Drain)]
pub struct DrainView {
    /// Why.
    reason: String,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// When what is left loses the node by its own policy; `null`: never.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    deadline: Option<Timestamp>,
    #[schema(value_type = schemas::DrainProgress)]
    state: DrainState,
    /// How many leases are not off the node yet: their logins there work, or may.
    leases_left: usize,
    /// Which; for admins only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<i64>>, nullable = false)]
    leases: Option<Vec<LeaseId>>,
    /// When it was empty and clean; `null`: not yet.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    drained_at: Option<Timestamp>,
}

/// What becomes of a lease whose node is emptied.
#[derive(Serialize, ToSchema)]
#[schema(as = RentalDrain)]
pub struct RentalDrainView {
    /// Why the node is emptied.
    reason: String,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Until when the login can work there; `null`: as long as it takes.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    deadline: Option<Timestamp>,
    /// What happens, in a sentence, by the lease's `on_node_loss`.
    pub(super) plan: &'static str,
}

impl RentalDrainView {
    /// Of a lease that has, or will have, its login on `node`.
    pub fn new(lease: &Lease, node: &Node) -> Option<Self> {
        let drain = node.drain.as_ref()?;
        let here = match &lease.state {
            LeaseState::Provisioning { .. } | LeaseState::Active { .. } => {
                lease.state.occupies() == Some(node.id)
            }
            LeaseState::Migrating { .. } | LeaseState::Releasing { .. } | LeaseState::Ended { .. } => false,
        };
        let plan = match (lease.on_node_loss, drain.deadline) {
            (OnNodeLoss::Migrate, None) => "it moves to another node as soon as one is free",
            (OnNodeLoss::Migrate, Some(_)) => {
                "it moves to another node as soon as one is free; at the deadline its login here ends all the same"
            }
            (OnNodeLoss::Wait | OnNodeLoss::End, None) => "it may stay until it ends",
            (OnNodeLoss::Wait, Some(_)) => {
                "its login works until the deadline, and again when the node is back"
            }
            (OnNodeLoss::End, Some(_)) => "it ends at the deadline, as its policy says",
        };
        here.then(|| Self {
            reason: drain.reason.clone(),
            since: drain.since,
            deadline: drain.deadline,
            plan,
        })
    }
}

impl App {
    /// Begins to drain a node, or changes how; the node after it.
    ///
    /// # Errors
    /// 404 for an unknown node.
    pub async fn drain(&self, id: NodeId, request: &DrainRequest) -> Result<NodeView, ApiError> {
        let drained = self.store.drain(id, request, self.now()).await?;
        self.fleet.nudge.all();
        match drained {
            Cas::Done(node) => self.node_view(node, None).await,
            Cas::Stale => Err(ApiError::unavailable(format!("node {id} changed meanwhile; try again"))),
            Cas::Gone => Err(ApiError::not_found(format!("there is no node {id}"))),
        }
    }

    /// Ends the drain of a node; the node after it.
    ///
    /// # Errors
    /// 404 for an unknown node, 409 for one that is not drained.
    pub async fn undrain(&self, id: NodeId, actor: UserId) -> Result<NodeView, ApiError> {
        let undrained = self.store.undrain(id, Some(actor), self.now()).await?;
        self.fleet.nudge.all();
        match undrained {
            Cas::Done(node) => self.node_view(node, None).await,
            Cas::Stale => Err(ApiError::conflict("not_draining", format!("node {id} is not being drained"))),
            Cas::Gone => Err(ApiError::not_found(format!("there is no node {id}"))),
        }
    }

    /// A node as `viewer` may see it; `None` is an admin.
    ///
    /// # Errors
    /// The database's.
    pub async fn node_view(&self, node: Node, viewer: Option<UserId>) -> Result<NodeView, ApiError> {
        let leases = self.store.leases_on_nodes(&[node.id]).await?;
        let drain = self.drains_of(std::slice::from_ref(&node), &leases, viewer).await?.remove(&node.id);
        let lease = leases.get(&node.id);
        Ok(NodeView::new(node, lease, viewer).with_drain(drain))
    }

    /// How far the drains of those of `nodes` are that are drained. `leases` are those that have the nodes.
    ///
    /// # Errors
    /// The database's.
    pub async fn drains_of(
        &self,
        nodes: &[Node],
        leases: &HashMap<NodeId, Lease>,
        viewer: Option<UserId>,
    ) -> Result<HashMap<NodeId, DrainView>, ApiError> {
        let ids: Vec<NodeId> = nodes.iter().filter(|node| node.drain.is_some()).map(|node| node.id).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let now = self.now();
        let mut leaving = self.store.leases_leaving(&ids).await?;
        // Leases of one list often want the same tags.
        let mut free: HashMap<&[Tag], bool> = HashMap::new();
        let mut views = HashMap::with_capacity(ids.len());
        for node in nodes {
            let Some(drain) = &node.drain else { continue };
            let lease = leases.get(&node.id).filter(|lease| node.is_kept_by(lease, now));
            let mut left = leaving.remove(&node.id).unwrap_or_default();
            let may_move = lease.filter(|lease| left.is_empty() && lease.on_node_loss == OnNodeLoss::Migrate);
            let is_free = match may_move {
                None => false,
                Some(lease) => match free.get(lease.tags.as_slice()) {
                    Some(is_free) => *is_free,
                    None => {
                        let is_free = self.store.has_free_node(&lease.tags, now).await?;
                        free.insert(&lease.tags, is_free);
                        is_free
                    }
                },
            };
            let Some(state) = node.drain_state(lease, !left.is_empty(), is_free, now) else { continue };
            left.extend(lease.map(|lease| lease.id));
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
