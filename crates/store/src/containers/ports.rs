//! The ports of nodes that lead to ports of containers. A port is one container's from before its start until nobody can be
//! led by it to another one: what is freed stays taken until the proxies have forgotten it ([`Containers::sweep_ports`]).

use super::{
    Containers,
    row::{ContainerRow, NodePort, text_of},
};
use crate::engine::{Fault, Result, StoreError, Tx, transaction, vals};
use orion_domain::{ContainerId, LeaseId, NodeId, Timestamp, names::Port};
use std::{collections::HashSet, ops::RangeInclusive};

/// What a container wants of its node's ports.
#[derive(Clone, Debug)]
pub struct WantedPorts<'a> {
    /// Ports of the container.
    pub ports: &'a [Port],
    /// Whether everybody may reach them.
    pub public: bool,
    /// Ports of nodes that containers get.
    pub range: RangeInclusive<u16>,
}

/// A port of a node that leads to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// Port of the node.
    pub port: u16,
    /// Whether everybody may reach it.
    pub is_public: bool,
}

impl Containers<'_> {
    /// Returns the ports of the node that lead to a container's, in the order wanted; the first free ones where it has none
    /// yet. None: all are in use, or its lease holds nothing of the node any more.
    pub async fn take_ports(
        self,
        row: &ContainerRow,
        node: NodeId,
        wanted: &WantedPorts<'_>,
    ) -> Result<Option<Vec<NodePort>>, StoreError> {
        if wanted.ports.iter().map(|port| port.get()).eq(row.node_ports.iter().map(|port| port.port)) {
            return Ok(Some(row.node_ports.clone()));
        }
        Ok(transaction!(&self.store.db, |tx| {
            match take(tx, row, node, wanted).await {
                // Another container of the node took it just now.
                Err(Fault::Unique(text)) => Err(Fault::Retry(text)),
                other => other,
            }
        })?)
    }

    /// Gives up the ports of a container that something else on the node uses: nobody gets them until `until`.
    pub async fn avoid_ports(
        self,
        row: &ContainerRow,
        node: NodeId,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "UPDATE ports SET freed_at = ? WHERE node_id = ? AND container_id = ?";
            tx.exec(sql, vals![until, node, row.id.0]).await?;
            let sql = "UPDATE containers SET node_ports = NULL, version = version + 1 WHERE id = ? AND incarnation = ?";
            let incarnation = i64::try_from(row.incarnation).unwrap_or(i64::MAX);
            tx.exec(sql, vals![row.id.0, incarnation]).await.map(|_| ())
        })?)
    }

    /// Returns the ports of a node that lead to containers.
    pub async fn published(self, node: NodeId) -> Result<Vec<PublishedPort>, StoreError> {
        let sql = "SELECT port, public FROM ports WHERE node_id = ? AND freed_at IS NULL ORDER BY port";
        let rows = self.store.db.all::<(i64, i64)>(sql, vals![node]).await?;
        let port = |(port, public): (i64, i64)| {
            let port = u16::try_from(port).ok()?;
            Some(PublishedPort { port, is_public: public != 0 })
        };
        Ok(rows.into_iter().filter_map(port).collect())
    }

    /// Frees the ports of a node that belong to none of these containers: the others are gone from it.
    pub async fn free_ports_but(self, node: NodeId, kept: &[ContainerId]) -> Result<(), StoreError> {
        let sql = "SELECT port, container_id FROM ports WHERE node_id = ? AND freed_at IS NULL";
        let rows = self.store.db.all::<(i64, i64)>(sql, vals![node]).await?;
        let freed: Vec<i64> = rows
            .into_iter()
            .filter_map(|(port, container)| (!kept.contains(&ContainerId(container))).then_some(port))
            .collect();
        if freed.is_empty() {
            return Ok(());
        }
        Ok(transaction!(&self.store.db, |tx| {
            for port in &freed {
                let sql = "UPDATE ports SET freed_at = 0 WHERE node_id = ? AND port = ? AND freed_at IS NULL";
                tx.exec(sql, vals![node, *port]).await?;
            }
            Ok(())
        })?)
    }

    /// Makes the ports available that were freed before `before`, and writes when those were freed that are news.
    pub async fn sweep_ports(self, before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        let sql = "SELECT node_id, port FROM ports WHERE freed_at <= ? LIMIT 1";
        if self.store.db.one::<(i64, i64)>(sql, vals![before]).await?.is_none() {
            return Ok(());
        }
        Ok(transaction!(&self.store.db, |tx| {
            tx.exec("DELETE FROM ports WHERE freed_at > 0 AND freed_at <= ?", vals![before]).await?;
            tx.exec("UPDATE ports SET freed_at = ? WHERE freed_at = 0", vals![now]).await.map(|_| ())
        })?)
    }
}

impl Tx {
    /// Frees the ports that a lease has on a node.
    pub(crate) async fn give_ports_back(&mut self, lease: LeaseId, node: NodeId) -> Result<()> {
        let sql = "UPDATE ports SET freed_at = 0 WHERE node_id = ? AND lease_id = ? AND freed_at IS NULL";
        self.exec(sql, vals![node, lease]).await.map(|_| ())
    }
}

async fn take(
    tx: &mut Tx,
    row: &ContainerRow,
    node: NodeId,
    wanted: &WantedPorts<'_>,
) -> Result<Option<Vec<NodePort>>> {
    // The hold is what gives the ports back: without one they would stay for ever.
    if !tx.holds(row.lease, node).await? {
        tx.abandon();
        return Ok(None);
    }
    let sql = "SELECT port FROM ports WHERE node_id = ?";
    let taken: HashSet<i64> =
        tx.all::<(i64,)>(sql, vals![node]).await?.into_iter().map(|(port,)| port).collect();
    let free = wanted.range.clone().filter(|port| !taken.contains(&i64::from(*port)));
    let ports: Vec<NodePort> = wanted
        .ports
        .iter()
        .zip(free)
        .map(|(port, node_port)| NodePort { port: port.get(), node_port })
        .collect();
    let incarnation = i64::try_from(row.incarnation).unwrap_or(i64::MAX);
    let sql = "UPDATE containers SET node_ports = ?, version = version + 1 WHERE id = ? AND incarnation = ? \
               AND wanted <> 'removed'";
    let is_complete = ports.len() == wanted.ports.len();
    if !is_complete || tx.exec(sql, vals![text_of(&ports), row.id.0, incarnation]).await? == 0 {
        tx.abandon();
        return Ok(None);
    }
    for port in &ports {
        let sql = "INSERT INTO ports (node_id, port, lease_id, container_id, public) VALUES (?, ?, ?, ?, ?)";
        let values = vals![node, i64::from(port.node_port), row.lease, row.id.0, wanted.public];
        tx.exec(sql, values).await?;
    }
    Ok(Some(ports))
}
