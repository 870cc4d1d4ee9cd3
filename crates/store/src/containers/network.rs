//! The networks of leases on nodes: one subnet for each lease that has containers, chosen here, because an engine's own
//! pools end at about thirty.

use super::Containers;
use crate::engine::{Fault, Result, StoreError, Tx, transaction, vals};
use ipnet::Ipv4Net;
use orion_domain::{LeaseId, NodeId};
use std::collections::HashSet;

/// Prefix length of a lease's network: room for 13 containers, the gateway, and the network's two own addresses.
const SUBNET_PREFIX: u8 = 28;

impl Containers<'_> {
    /// Returns the subnet of a lease on its node, which is the first free one of `nets` if the lease had none there. None:
    /// the lease holds nothing of the node, or all subnets are in use.
    pub async fn subnet(
        self,
        lease: LeaseId,
        node: NodeId,
        nets: &[Ipv4Net],
    ) -> Result<Option<Ipv4Net>, StoreError> {
        let known = "SELECT subnet FROM networks WHERE node_id = ? AND lease_id = ?";
        if let Some((subnet,)) = self.store.db.one::<(String,)>(known, vals![node, lease]).await? {
            return Ok(subnet.parse().ok());
        }
        Ok(transaction!(&self.store.db, |tx| {
            match take_subnet(tx, lease, node, nets).await {
                // Another lease of the node took it just now.
                Err(Fault::Unique(text)) => Err(Fault::Retry(text)),
                other => other,
            }
        })?)
    }
}

impl Tx {
    /// Returns whether a lease holds something of a node, and locks that until the end of the transaction.
    pub(super) async fn holds(&mut self, lease: LeaseId, node: NodeId) -> Result<bool> {
        let sql = "UPDATE holds SET desired = desired WHERE lease_id = ? AND node_id = ?";
        let held = "SELECT COUNT(*) FROM holds WHERE lease_id = ? AND node_id = ?";
        self.exec(sql, vals![lease, node]).await?;
        Ok(self.one::<(i64,)>(held, vals![lease, node]).await? == Some((1,)))
    }

    /// Frees the subnet that a lease has on a node.
    pub(crate) async fn give_subnet_back(&mut self, lease: LeaseId, node: NodeId) -> Result<()> {
        let sql = "DELETE FROM networks WHERE node_id = ? AND lease_id = ?";
        self.exec(sql, vals![node, lease]).await.map(|_| ())
    }
}

async fn take_subnet(tx: &mut Tx, lease: LeaseId, node: NodeId, nets: &[Ipv4Net]) -> Result<Option<Ipv4Net>> {
    // The hold is what gives the subnet back: without one it would stay for ever.
    if !tx.holds(lease, node).await? {
        tx.abandon();
        return Ok(None);
    }
    let sql = "SELECT subnet, lease_id FROM networks WHERE node_id = ?";
    let taken = tx.all::<(String, i64)>(sql, vals![node]).await?;
    if let Some((subnet, _)) = taken.iter().find(|(_, of)| *of == lease.0) {
        return Ok(subnet.parse().ok());
    }
    let taken: HashSet<&str> = taken.iter().map(|(subnet, _)| subnet.as_str()).collect();
    let subnets = nets.iter().filter_map(|net| net.subnets(SUBNET_PREFIX).ok()).flatten();
    let Some(free) = subnets.into_iter().find(|subnet| !taken.contains(subnet.to_string().as_str())) else {
        tx.abandon();
        return Ok(None);
    };
    let sql = "INSERT INTO networks (node_id, subnet, lease_id) VALUES (?, ?, ?)";
    tx.exec(sql, vals![node, free.to_string(), lease]).await?;
    Ok(Some(free))
}
