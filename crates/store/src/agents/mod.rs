//! The agent's link of a node, as the replica that holds it reports its changes. Connection epochs only grow,
//! so that a late word about an older connection is known as such.

pub(crate) mod report;
pub(crate) mod way_in;

pub use crate::nodes::seen::Sighting;
pub use report::{BootTold, DeclaredDead};
pub use way_in::Prober;

use crate::{
    Store,
    engine::{Cas, Fault, StoreError, Val, transaction, vals},
    nodes::NodeChange,
};
use orion_domain::{NodeId, Timestamp, event::LinkChange, event::NodeEvent, node::LinkState, node::Node};

/// Operations on the reports of the nodes' agents: links, the way in, boot ids.
#[derive(Clone, Copy, Debug)]
pub struct Agents<'a> {
    store: &'a Store,
}

impl Store {
    /// Gives the agents.
    pub const fn agents(&self) -> Agents<'_> {
        Agents { store: self }
    }
}

impl Agents<'_> {
    /// An agent dialled `replica`: its link is up, under a new connection epoch (the second value) that is
    /// higher than every earlier one of this node.
    pub async fn open_link(
        self,
        id: NodeId,
        replica: &str,
        now: Timestamp,
    ) -> Result<Cas<(Node, i64)>, StoreError> {
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            let (epoch, version) = (record.link_epoch + 1, record.version);
            let of_admin = Node::try_from(record)?.lock_order_of_admin();
            let change = NodeChange {
                sets: "lock_ordered_at = ?, lock_observed_at = NULL, second_machine_at = NULL, \
                       agent_sees_sshd = NULL, way_in_by_agent = 0, link = 'up', link_since = ?, link_replica = ?, \
                       link_epoch = ?",
                values: vals![of_admin.map(|order| order.at), now, replica, epoch],
                guard: "AND version = ?",
                guard_values: vals![version],
                event: Some(NodeEvent::LinkUp(LinkChange { replica: replica.to_owned(), link_epoch: epoch })),
                ..NodeChange::default()
            };
            match tx.change_node(id, change, now).await? {
                Cas::Done(node) => Ok(Cas::Done((node, epoch))),
                Cas::Stale => Err(Fault::Retry(format!("node {id} changed meanwhile"))),
                Cas::Gone => Ok(Cas::Gone),
            }
        });
        Ok(outcome?)
    }

    /// The agent's link changed. `Stale` when `link_epoch` is older than the last one that was written: a
    /// late word about an older connection.
    pub async fn link_changed(
        self,
        id: NodeId,
        link_epoch: i64,
        replica: &str,
        link: LinkState,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        self.store
            .nodes()
            .write(id, now, || NodeChange {
                sets: "agent_sees_sshd = NULL, link_since = CASE WHEN link = ? THEN link_since ELSE ? END, \
                   link = ?, link_replica = ?, link_epoch = ?",
                values: vals![link.as_str(), now, link.as_str(), replica, link_epoch],
                guard: "AND link_epoch <= ?",
                guard_values: vals![link_epoch],
                event: Some(NodeEvent::of_link(link, LinkChange { replica: replica.to_owned(), link_epoch })),
                ..NodeChange::default()
            })
            .await
    }

    /// Records the state of the node's sshd that its agent reports. `Stale` when the agent reported the same
    /// before, or over another link than the last one.
    pub async fn set_agent_sshd(
        self,
        id: NodeId,
        link_epoch: i64,
        sees: Option<bool>,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let guard = if sees.is_some() {
            "AND link_epoch = ? AND (agent_sees_sshd IS NULL OR agent_sees_sshd <> ?)"
        } else {
            "AND link_epoch = ? AND agent_sees_sshd IS NOT NULL"
        };
        self.store.nodes().write(id, now, || NodeChange {
            // An order that rests on the sshd being down is void when it answers.
            sets: if sees == Some(true) {
                "lock_ordered_at = CASE WHEN lock_observed_at IS NULL THEN lock_ordered_at ELSE NULL END, \
                 lock_observed_at = NULL, agent_sees_sshd = ?"
            } else {
                "agent_sees_sshd = ?"
            },
            values: vals![sees],
            guard,
            guard_values: [Val::from(link_epoch)].into_iter().chain(sees.map(Val::from)).collect(),
            event: Some(NodeEvent::AgentSshd { answers: sees }),
..NodeChange::default()
})
        .await
    }
}
