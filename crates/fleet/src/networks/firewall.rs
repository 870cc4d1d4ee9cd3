//! What the firewall of a node is told now, and which nodes were told something else.

use super::{ADDRESSES_KEPT, Firewall, LINK_LOCAL, PORTS_MAX, denied_list, joined};
use crate::{Change, Fleet};
use orion_domain::NodeId;
use orion_store::{PublishedPort, StoreError};
use std::{net::IpAddr, sync::Arc};

impl Fleet {
    /// Returns the networks that no container reaches: link-local ones, all nodes, and those that the operator names.
    async fn denied_networks(&self) -> Result<Arc<str>, StoreError> {
        let mut known = self.firewalls.denied.lock().await;
        let now = self.now();
        if let Some((at, list)) = &*known
            && now.since(*at) < ADDRESSES_KEPT
        {
            return Ok(Arc::clone(list));
        }
        let (mut nodes, mut names) = (Vec::new(), Vec::new());
        for address in self.store.nodes().addresses().await? {
            match address.parse::<IpAddr>() {
                Ok(IpAddr::V4(address)) => nodes.push(address),
                Ok(IpAddr::V6(_)) => {}
                Err(_) => names.push(address),
            }
        }
        nodes.extend(self.firewalls.resolved(names, now).await);
        let mut fixed = self.config.networks.egress_deny.clone();
        fixed.push(LINK_LOCAL);
        let list: Arc<str> = denied_list(&fixed, &nodes).into();
        *known = Some((now, Arc::clone(&list)));
        Ok(list)
    }

    /// Returns what the firewall of a node is told.
    pub(crate) async fn firewall(&self, node: NodeId) -> Result<Firewall, StoreError> {
        let published = self.store.containers().published(node).await?;
        let public = published.iter().filter(|port| port.is_public);
        Ok(Firewall {
            denied: self.denied_networks().await?,
            proxies: joined(&self.config.networks.proxies),
            ports: port_list(published.iter()),
            public_ports: port_list(public),
        })
    }

    /// Returns those of the nodes whose containers reach what they must not by now: other nodes have joined.
    ///
    /// # Errors
    /// The database's.
    pub async fn with_old_firewalls(&self, nodes: &[NodeId]) -> Result<Vec<NodeId>, StoreError> {
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        let (denied, now) = (self.denied_networks().await?, self.now());
        Ok(nodes.iter().copied().filter(|node| self.firewalls.is_old(*node, &denied, now)).collect())
    }

    /// Brings a node in order whose firewall is old.
    ///
    /// # Errors
    /// The database's.
    pub async fn renew_firewall(&self, node: NodeId) -> Result<(), StoreError> {
        // Of a node that others work on it is asked again.
        let Some(claim) = self.claim_node(node).await? else { return Ok(()) };
        // Also where it fails: the reconcile tries on.
        self.firewalls.tell(node, &self.firewall(node).await?, self.now());
        self.apply_or_leave(&claim, Change::Unknown).await.map(drop)
    }
}

/// The ports with commas between them, as many as a playbook takes. Those beyond would be refused by the container's start.
fn port_list<'a>(ports: impl Iterator<Item = &'a PublishedPort>) -> String {
    ports.take(PORTS_MAX).map(|port| port.port.to_string()).collect::<Vec<_>>().join(",")
}
