//! The ports of a node that lead to the containers on it.

use super::{Stop, Work, nothing_seen};
use orion_containers::PublishedPort;
use orion_domain::container::ContainerSpec;
use orion_store::{ContainerNews, ContainerRow, NodePort, WantedPorts};
use std::{net::Ipv4Addr, time::Duration};

/// Time for which a port is not given to containers that something else on its node uses.
const PORT_AVOIDED_FOR: Duration = Duration::from_secs(24 * 3600);
/// What engines say of such a port.
const PORT_IN_USE: [&str; 2] = ["port is already allocated", "address already in use"];

/// Returns whether a container did not start because something else on its node has one of its ports.
pub(super) fn is_in_use(problem: &str) -> bool {
    PORT_IN_USE.iter().any(|words| problem.contains(words))
}

impl Work<'_> {
    /// The ports of the node that lead to the container; none where all are in use.
    pub(super) async fn take_ports(
        &self,
        row: &ContainerRow,
        spec: &ContainerSpec,
    ) -> Result<Option<Vec<PublishedPort>>, Stop> {
        let networks = &self.fleet.config.networks;
        let wanted = WantedPorts { ports: &spec.ports, public: spec.public, range: networks.ports.clone() };
        let taken = self.fleet.store.containers().take_ports(row, self.claim.node.id, &wanted).await?;
        // Without a proxy only the node itself gets there, for a forwarded port.
        let address = match networks.proxies.is_empty() && !spec.public {
            true => Ipv4Addr::LOCALHOST,
            false => Ipv4Addr::UNSPECIFIED,
        };
        let port = |taken: NodePort| PublishedPort {
            container_port: taken.port,
            node_port: taken.node_port,
            address: address.into(),
        };
        Ok(taken.map(|taken| taken.into_iter().map(port).collect()))
    }

    /// Makes room for a container whose ports something else on its node uses: it is made anew with others.
    pub(super) async fn avoid_ports(&self, row: &ContainerRow, id: &str, problem: &str) -> Result<(), Stop> {
        let node = self.claim.node.id;
        let until = self.fleet.now().plus(PORT_AVOIDED_FOR);
        self.engine
            .remove(id)
            .await
            .map_err(|error| self.not_removed(&format!("the container {}", row.name), &error))?;
        self.fleet.store.containers().avoid_ports(row, node, until).await?;
        let reason = Some(format!("it gets another port: {problem}"));
        let news = ContainerNews { reason, ..nothing_seen(row, node) };
        self.fleet.store.containers().observed(&news, self.fleet.now()).await?;
        Ok(())
    }
}
