//! The agent's link of a node, as the replica that holds it reports its changes. Connection epochs only grow,
//! so that a late word about an older connection is known as such.

use crate::{
    Store,
    attempts::transaction,
    db::{Val, vals},
    error::{Cas, Fault, StoreError},
    nodes::NodeChange,
};
use orion_domain::{NodeId, Timestamp, node::LinkState, node::Node};
use serde_json::json;

impl Store {
    /// An agent dialled `replica`: its link is up, under a new connection epoch (the second value) that is
    /// higher than every earlier one of this node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_link(
        &self,
        id: NodeId,
        replica: &str,
        now: Timestamp,
    ) -> Result<Cas<(Node, i64)>, StoreError> {
        let outcome = transaction!(&self.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            let epoch = record.link_epoch + 1;
            let change = NodeChange {
                sets: "agent_sees_sshd = NULL, link = 'up', link_since = ?, link_replica = ?, link_epoch = ?",
                values: vals![now, replica, epoch],
                guard: "AND version = ?",
                guard_values: vals![record.version],
                event: Some(("node.link_up", json!({ "replica": replica, "link_epoch": epoch }))),
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
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn link_changed(
        &self,
        id: NodeId,
        link_epoch: i64,
        replica: &str,
        link: LinkState,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let kind = match link {
            LinkState::None => "node.link_none",
            LinkState::Up => "node.link_up",
            LinkState::Lost => "node.link_lost",
        };
        self.node_write(id, now, || NodeChange {
            sets: "agent_sees_sshd = NULL, link_since = CASE WHEN link = ? THEN link_since ELSE ? END, \
                   link = ?, link_replica = ?, link_epoch = ?",
            values: vals![link.as_str(), now, link.as_str(), replica, link_epoch],
            guard: "AND link_epoch <= ?",
            guard_values: vals![link_epoch],
            event: Some((kind, json!({ "replica": replica, "link_epoch": link_epoch }))),
        })
        .await
    }

    /// What the agent says of its own sshd. `Stale` when it said so before, or over another link than the last one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_agent_sshd(
        &self,
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
        self.node_write(id, now, || NodeChange {
            sets: "agent_sees_sshd = ?",
            values: vals![sees],
            guard,
            guard_values: [Val::from(link_epoch)].into_iter().chain(sees.map(Val::from)).collect(),
            event: Some(("node.agent_sshd", json!({ "answers": sees }))),
        })
        .await
    }
}
