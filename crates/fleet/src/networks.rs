//! Networks of containers: the operator's settings, and what the firewall of a node is told.

mod firewall;

use ipnet::Ipv4Net;
use orion_domain::{NodeId, Timestamp, container::AppsDomain};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::task::JoinSet;

/// Network of containers where the operator names none.
const CONTAINER_NET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 201, 0, 0), 16);
/// Link-local addresses: clouds answer for the machine there.
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);
/// Longest list that a playbook takes, in bytes.
const LIST_BYTES_MAX: usize = 4096;
/// Ports of a node that a playbook takes at most: each has up to five digits and a comma.
const PORTS_MAX: usize = LIST_BYTES_MAX / 6;
/// Widest network that several nodes' addresses are merged to.
const MERGED_PREFIX_MIN: u8 = 8;
/// Lifetime of the list of the nodes' addresses.
const ADDRESSES_KEPT: Duration = Duration::from_secs(5);
/// Shortest time between two tellings of a node: many nodes may join one after the other.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Longest wait for the address of a node that is known by a name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Lifetime of such an address. One that is not found again afterwards stays.
const RESOLVED_KEPT: Duration = Duration::from_secs(60);
/// Names that are looked up at once.
const RESOLVED_AT_ONCE: usize = 64;

/// What the operator says of the networks of containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerNetworks {
    /// Networks out of which each lease with containers gets a subnet on its node.
    pub nets: Vec<Ipv4Net>,
    /// Networks that containers do not reach, besides those that are always denied.
    pub egress_deny: Vec<Ipv4Net>,
    /// Addresses of the proxies, which alone reach published ports.
    pub proxies: Vec<Ipv4Net>,
    /// Ports of nodes that are given to containers.
    pub ports: RangeInclusive<u16>,
    /// How browsers reach their ports, if they do.
    pub apps: Option<Apps>,
}

/// How browsers reach the ports of containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apps {
    /// Domain below which each port has a name.
    pub domain: AppsDomain,
    /// Sockets of the admin APIs of the Caddies that get the routes.
    pub caddy: Vec<PathBuf>,
    /// The replicas of the API as these Caddies reach them: host:port.
    pub auth: Vec<String>,
}

impl Default for ContainerNetworks {
    fn default() -> Self {
        Self {
            nets: vec![CONTAINER_NET],
            egress_deny: Vec::new(),
            proxies: Vec::new(),
            ports: 20_000..=29_999,
            apps: None,
        }
    }
}

/// What a node's firewall is told, as the playbooks take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Firewall {
    denied: Arc<str>,
    proxies: String,
    ports: String,
    public_ports: String,
}

impl Firewall {
    /// Returns the values for a playbook.
    pub(crate) fn values(&self) -> [(&str, &str); 4] {
        [
            ("denied", &self.denied),
            ("proxies", &self.proxies),
            ("ports", &self.ports),
            ("public_ports", &self.public_ports),
        ]
    }
}

/// What the firewalls of nodes were told by this process.
#[derive(Debug, Default)]
pub struct Firewalls {
    /// Networks that no container reaches, and when they were read.
    denied: tokio::sync::Mutex<Option<(Timestamp, Arc<str>)>>,
    /// The addresses of nodes that are known by a name, and when they were looked up. Empty: they were never found.
    resolved: tokio::sync::Mutex<HashMap<String, (Timestamp, Vec<Ipv4Addr>)>>,
    /// The networks that a node was told last, and when.
    told: Mutex<HashMap<NodeId, (Timestamp, Arc<str>)>>,
}

impl Firewalls {
    /// Writes that a node's firewall has these rules, or is about to get them.
    pub(crate) fn tell(&self, node: NodeId, firewall: &Firewall, now: Timestamp) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(node, (now, Arc::clone(&firewall.denied)));
    }

    /// Returns the addresses of these names: those that were found last where a name is not found now, so that a name server
    /// that is away opens nothing.
    async fn resolved(&self, names: Vec<String>, now: Timestamp) -> Vec<Ipv4Addr> {
        let mut known = self.resolved.lock().await;
        known.retain(|name, _| names.contains(name));
        let is_new = |name: &&String| known.get(*name).is_none_or(|(at, _)| now.since(*at) >= RESOLVED_KEPT);
        let mut due: Vec<String> = names.iter().filter(is_new).cloned().collect();
        while !due.is_empty() {
            let some = due.split_off(due.len().saturating_sub(RESOLVED_AT_ONCE));
            for (name, mut found) in some.into_iter().map(resolve).collect::<JoinSet<_>>().join_all().await {
                found.sort_unstable();
                match known.get_mut(&name) {
                    Some((at, _)) if found.is_empty() => *at = now,
                    Some(known) => *known = (now, found),
                    None => {
                        if found.is_empty() {
                            tracing::warn!(
                                name,
                                "the address of a node is not known; containers may reach it"
                            );
                        }
                        known.insert(name, (now, found));
                    }
                }
            }
        }
        known.values().flat_map(|(_, found)| found).copied().collect()
    }

    fn is_old(&self, node: NodeId, denied: &str, now: Timestamp) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.get(&node).is_none_or(|(at, list)| **list != *denied && now.since(*at) >= TOLD_EVERY)
    }
}

/// Looks up a name; empty where it is not found.
async fn resolve(name: String) -> (String, Vec<Ipv4Addr>) {
    let found = match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((&*name, 22))).await {
        Ok(Ok(found)) => found
            .filter_map(|address| match address.ip() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    (name, found)
}

fn joined(networks: &[Ipv4Net]) -> String {
    let texts = networks.iter().map(|network| match network.prefix_len() {
        32 => network.addr().to_string(),
        _ => network.trunc().to_string(),
    });
    texts.collect::<Vec<_>>().join(",")
}

/// The list for the firewall. Addresses of many nodes are merged to the narrowest networks with which it is short enough.
fn denied_list(fixed: &[Ipv4Net], nodes: &[Ipv4Addr]) -> String {
    let with_prefix = |prefix: u8| {
        let widened = nodes.iter().filter_map(|address| Ipv4Net::new(*address, prefix).ok());
        let all: Vec<Ipv4Net> = fixed.iter().copied().chain(widened.map(|network| network.trunc())).collect();
        joined(&Ipv4Net::aggregate(&all))
    };
    let mut prefix = 32;
    loop {
        let list = with_prefix(prefix);
        if list.len() <= LIST_BYTES_MAX || prefix == MERGED_PREFIX_MIN {
            return list;
        }
        prefix -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_addresses_are_denied_one_by_one_and_many_as_the_networks_that_they_lie_in() {
        let few = [Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(10, 0, 0, 9)];
        assert_eq!(denied_list(&[LINK_LOCAL], &few), "10.0.0.9,169.254.0.0/16,192.0.2.1");
        let many: Vec<Ipv4Addr> =
            (0..10_000_u32).map(|number| Ipv4Addr::from(0x0a05_0000 + number * 3)).collect();
        let list = denied_list(&[LINK_LOCAL], &many);
        assert!(list.len() <= LIST_BYTES_MAX, "{}", list.len());
        let networks: Vec<Ipv4Net> = list
            .split(',')
            .map(|text| text.parse().or_else(|_| format!("{text}/32").parse()).unwrap())
            .collect();
        assert!(many.iter().all(|address| networks.iter().any(|network| network.contains(address))));
        assert!(!networks.iter().any(|network| network.contains(&Ipv4Addr::new(10, 6, 0, 1))));
    }

    #[tokio::test]
    async fn an_address_that_was_found_once_stays_known_while_its_name_is_not_found() {
        let firewalls = Firewalls::default();
        let (at, local) = (|second: i64| Timestamp::from_micros(second * 1_000_000), Ipv4Addr::LOCALHOST);
        let names = || vec!["localhost".to_owned(), "no-such-node.invalid".to_owned()];
        assert_eq!(firewalls.resolved(names(), at(0)).await, [local]);
        let gone = Ipv4Addr::new(10, 0, 0, 9);
        firewalls.resolved.lock().await.insert("no-such-node.invalid".into(), (at(0), vec![gone]));
        for second in [1, 61] {
            let mut found = firewalls.resolved(names(), at(second)).await;
            found.sort_unstable();
            assert_eq!(found, [gone, local], "at {second}");
        }
        assert_eq!(firewalls.resolved(vec!["localhost".into()], at(62)).await, [local], "it was forgotten");
    }
}
