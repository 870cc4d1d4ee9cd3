//! Nodes: what everybody sees of them, and what admins do to them.

pub mod capacity;
mod drain;
mod forget;
pub mod views;

use self::views::{NodeView, Wants};
use crate::{
    App,
    error::{ApiError, NODE, OrProblem as _},
};
use orion_domain::{
    NodeId, UserId,
    node::{Health, Node},
};
use orion_store::{Cas, DeclaredDead, LeaseGlance};
use std::{collections::HashMap, time::Duration};

/// Kind of the refusal of a host key.
const FINGERPRINT_DIFFERS: &str = "fingerprint_differs";
/// Pause before the database is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Number of a node's last events that are shown with the node.
const EVENTS_SHOWN: u32 = 50;

/// Nodes as clients see them, and what admins do to them.
#[derive(Clone, Copy)]
pub struct Nodes<'a> {
    app: &'a App,
}

impl App {
    /// Gives the nodes.
    pub const fn nodes(&self) -> Nodes<'_> {
        Nodes { app: self }
    }
}

impl Nodes<'_> {
    /// Lists the next `limit` nodes after `after` as `viewer` may see them; `None` is an admin.
    ///
    /// # Errors
    /// The database's.
    pub async fn page(
        self,
        after: NodeId,
        limit: u32,
        viewer: Option<UserId>,
    ) -> Result<Vec<NodeView>, ApiError> {
        let nodes = self.app.store.nodes();
        let now = self.app.now();
        let listed = nodes.page_as(after, limit, |listed| NodeView::listed(listed, viewer, now));
        let gpus = async { Ok::<_, ApiError>(nodes.gpus_of_page(after, limit).await?) };
        let shared = self.shared_machine_ids(after, limit, viewer);
        // The page last: once its rows come, it leaves the others no turn.
        let (gpus, shared, mut views) = tokio::try_join!(gpus, shared, async { Ok(listed.await?) })?;

        // Of most nodes that is all. Read besides: nodes that are drained, and leases that share a node.
        let of = |is_wanted: fn(&Wants) -> bool| -> Vec<NodeId> {
            views.iter().filter(|view| is_wanted(&view.wants)).map(|view| view.node_id).collect()
        };
        let held = of(|wants| wants.leases);
        let drained = of(|wants| wants.drain);
        let leases = self.app.store.leases().on_nodes(&held).await?;
        let drained = nodes.by_ids(&drained).await?;
        let mut drains = self.drains(&drained, &leases, viewer).await?;
        for view in &mut views {
            let id = view.node_id;
            if let (Some(leases), false) = (leases.get(&id), view.has_lease()) {
                view.set_leases(leases.iter().map(LeaseGlance::from), viewer);
            }
            if let Some(gpus) = gpus.get(&id) {
                view.set_gpus(gpus);
            }
            view.set_drain(drains.remove(&id));
            view.set_finding(shared.get(&id));
        }
        Ok(views)
    }

    /// Applies `ORION_NODE_RESERVED` to the nodes that have registered already, as soon as the database answers.
    pub async fn keep_reserved(self) {
        while let Err(error) = self.app.store.nodes().apply_reserved().await {
            tracing::warn!(%error, "what is kept of each node for itself was not applied yet");
            tokio::select! {
                () = self.app.shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY_PAUSE) => {}
            }
        }
    }

    /// Gives a node as `viewer` may see it; an admin (`None`) sees its last events, too.
    ///
    /// # Errors
    /// 404 for an unknown node.
    pub async fn show(self, id: NodeId, viewer: Option<UserId>) -> Result<NodeView, ApiError> {
        let node = self.app.store.nodes().get(id).await?;
        let node = node.ok_or_else(|| ApiError::not_found(format!("there is no node '{id}'")))?;
        let view = self.view(node, viewer).await?;
        if viewer.is_some() {
            return Ok(view);
        }
        Ok(view.with_events(self.app.store.events().of_node(id, EVENTS_SHOWN).await?))
    }

    /// A node as `viewer` may see it; `None` is an admin.
    ///
    /// # Errors
    /// The database's.
    async fn view(self, node: Node, viewer: Option<UserId>) -> Result<NodeView, ApiError> {
        let leases = self.app.store.leases().on_nodes(&[node.id]).await?;
        let drain = self.drains(std::slice::from_ref(&node), &leases, viewer).await?.remove(&node.id);
        let held = leases.get(&node.id).map(Vec::as_slice).unwrap_or_default();
        let seen = self.app.store.agents().sightings(&[node.id]).await?;
        let open_at = seen.get(&node.id).and_then(|seen| seen.open_at);
        let held = held.iter().map(LeaseGlance::from);
        let id = node.id;
        let shared = self.shared_machine_ids(NodeId(id.0 - 1), 1, viewer).await?;
        let gpus = self.app.store.nodes().gpus(id).await?;
        let mut view = NodeView::new(node.into(), held, open_at, viewer, self.app.now());
        view.set_gpus(&gpus);
        view.set_drain(drain);
        view.set_finding(shared.get(&id));
        Ok(view)
    }

    /// Returns a sentence about each of the next `limit` nodes after `after` whose machine id others have, too; for
    /// admins only.
    async fn shared_machine_ids(
        self,
        after: NodeId,
        limit: u32,
        viewer: Option<UserId>,
    ) -> Result<HashMap<NodeId, String>, ApiError> {
        match viewer {
            Some(_) => Ok(HashMap::new()),
            None => Ok(self.app.store.nodes().shared_machine_ids(after, limit).await?),
        }
    }

    /// Accepts the host key that was seen at a pending node.
    ///
    /// # Errors
    /// 404 for an unknown node, 409 if another fingerprint (or none yet) was seen there.
    pub async fn accept_key(self, node: NodeId, fingerprint: &str) -> Result<(), ApiError> {
        let accepted = self.app.store.nodes().accept_host_key(node, fingerprint, self.app.now()).await?;
        self.app.fleet.nudge.all();
        if accepted != Cas::Stale {
            return accepted.or_problem(NODE, node, FINGERPRINT_DIFFERS).map(drop);
        }
        let seen = self.app.store.nodes().get(node).await?.and_then(|node| node.seen_fingerprint);
        Err(match seen {
            Some(seen) if seen == fingerprint => ApiError::conflict(
                FINGERPRINT_DIFFERS,
                format!("node {node} showed the key {seen}, which another node has already"),
            ),
            Some(seen) => {
                ApiError::conflict(FINGERPRINT_DIFFERS, format!("the key seen at node {node} is {seen}"))
            }
            None => NODE.changed(node),
        })
    }

    /// Lifts a node's quarantine.
    ///
    /// # Errors
    /// 404 for an unknown node, 409 for one that is not in quarantine.
    pub async fn lift_quarantine(self, id: NodeId) -> Result<(), ApiError> {
        let lifted = self.app.store.nodes().lift_quarantine(id, self.app.now()).await?;
        self.app.fleet.nudge.all();
        lifted.or_problem(NODE, id, "not_quarantined").map(drop)
    }

    /// Declares a node dead that does not answer; what that did to its lease.
    ///
    /// # Errors
    /// 404 for an unknown node; 409 `node_alive` or `node_dead`.
    pub async fn declare_dead(
        self,
        id: NodeId,
        reason: &str,
        actor: UserId,
    ) -> Result<DeclaredDead, ApiError> {
        let declared = self.app.store.agents().declare_dead(id, reason, Some(actor), self.app.now()).await?;
        self.app.fleet.nudge.all();
        match declared {
            Cas::Done(declared) => {
                tracing::warn!(node = %id, reason, ?declared, "an admin declared a node dead");
                Ok(declared)
            }
            Cas::Refused(refused) if refused.from == Health::Dead.as_str() => {
                Err(ApiError::conflict("node_dead", format!("{}: it is dead already", refused.of(id))))
            }
            Cas::Refused(refused) => Err(ApiError::conflict("node_alive", refused.of(id))
                .hint(format!("empty it instead: orion nodes drain {id}"))),
            Cas::Stale => Err(NODE.changed(id)),
            Cas::Gone => Err(NODE.missing(id)),
        }
    }
}
