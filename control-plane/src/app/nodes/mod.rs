//! Nodes: what everybody sees of them, and what admins do to them.

pub mod capacity;
mod drain;
mod forget;
pub mod views;

use self::views::NodeView;
use crate::{
    App,
    error::{ApiError, NODE, OrProblem as _},
};
use orion_domain::{
    NodeId, UserId,
    node::{Health, Node},
};
use orion_store::{Cas, DeclaredDead, LeaseGlance, ListedNode};
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
        let rows = self.app.store.nodes().page(after, limit).await?;
        // Of most nodes the page says all. Read besides: nodes that are drained, and leases that share a node.
        let has_drain = |row: &&ListedNode| row.node.drain.is_some();
        let drained: Vec<NodeId> = rows.iter().filter(has_drain).map(|row| row.node.id).collect();
        let has_more = |row: &&ListedNode| {
            let availability = row.node.availability();
            availability.is_held && (availability.is_drained.is_some() || !availability.has_whole_lease)
        };
        let held: Vec<NodeId> = rows.iter().filter(has_more).map(|row| row.node.id).collect();
        let ends = (rows.first().map(|row| row.node.id), rows.last().map(|row| row.node.id));
        let leases_and_drains = async {
            let leases = self.app.store.leases().on_nodes(&held).await?;
            let drained = self.app.store.nodes().by_ids(&drained).await?;
            let drains = self.drains(&drained, &leases, viewer).await?;
            Ok::<_, ApiError>((leases, drains))
        };
        let gpus = async {
            match ends {
                (Some(first), Some(last)) => Ok(self.app.store.nodes().gpus_between(first, last).await?),
                (Some(_) | None, _) => Ok(HashMap::new()),
            }
        };
        let shared = self.shared_machine_ids(ends.0, ends.1, viewer);
        let ((leases, mut drains), gpus, shared) = tokio::try_join!(leases_and_drains, gpus, shared)?;
        let now = self.app.now();
        let view = |ListedNode { node, open_at, lease }| {
            let (drain, finding) = (drains.remove(&node.id), shared.get(&node.id));
            // A lease that has the whole node came with it.
            let others =
                leases.get(&node.id).filter(|_| lease.is_none()).map(Vec::as_slice).unwrap_or_default();
            let held = lease.into_iter().chain(others.iter().map(LeaseGlance::from));
            let gpus = gpus.get(&node.id).map(Vec::as_slice).unwrap_or_default();
            let view = NodeView::new(node, held, open_at, viewer, now).with_gpus(gpus);
            view.with_drain(drain).with_finding(finding)
        };
        Ok(rows.into_iter().map(view).collect())
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
        let shared = self.shared_machine_ids(Some(node.id), Some(node.id), viewer).await?;
        let finding = shared.get(&node.id);
        let gpus = self.app.store.nodes().gpus(node.id).await?;
        let view = NodeView::new(node.into(), held, open_at, viewer, self.app.now()).with_gpus(&gpus);
        Ok(view.with_drain(drain).with_finding(finding))
    }

    /// Returns a sentence about each node of `first` to `last` whose machine id others have, too; for admins only.
    async fn shared_machine_ids(
        self,
        first: Option<NodeId>,
        last: Option<NodeId>,
        viewer: Option<UserId>,
    ) -> Result<HashMap<NodeId, String>, ApiError> {
        let (None, Some(first), Some(last)) = (viewer, first, last) else {
            return Ok(HashMap::new());
        };
        Ok(self.app.store.nodes().shared_machine_ids(first, last).await?)
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
