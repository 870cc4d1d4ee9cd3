//! Which addresses a registration may name: whoever has a join token must not have the control plane dial just anything.

use super::Agents;
use crate::error::ApiError;
use orion_domain::names::HostAddr;
use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};
use tokio::{net::lookup_host, time::timeout};

/// Longest wait for a name to be resolved.
const RESOLVE_MAX: Duration = Duration::from_secs(3);

impl Agents<'_> {
    /// Whether a registration that came from `from` may name `addr`; a name is resolved for that.
    ///
    /// # Errors
    /// 400, with what is in the way.
    pub(super) async fn check_address(self, addr: &HostAddr, from: IpAddr) -> Result<(), ApiError> {
        for address in resolved(addr).await? {
            let listed = self.app.config.worker_networks.iter().any(|network| network.contains(&address));
            if let Some(why) = (!listed).then(|| objection(address, from, is_own(address))).flatten() {
                return Err(ApiError::field("ip", format!("'{addr}' {why}")).hint(
                    "let the operator name its network in ORION_WORKER_NETWORKS, if the worker is really there",
                ));
            }
        }
        Ok(())
    }
}

async fn resolved(addr: &HostAddr) -> Result<Vec<IpAddr>, ApiError> {
    if let Ok(address) = addr.as_str().parse::<IpAddr>() {
        return Ok(vec![address.to_canonical()]);
    }
    match timeout(RESOLVE_MAX, lookup_host((addr.as_str(), 22))).await {
        Ok(Ok(found)) => Ok(found.map(|found| found.ip().to_canonical()).collect()),
        Ok(Err(_)) | Err(_) => {
            Err(ApiError::field("ip", format!("'{addr}' is a name that the control plane cannot resolve")))
        }
    }
}

/// Returns the objection, if any, to `address`, canonical, in a network that no operator named.
fn objection(address: IpAddr, from: IpAddr, is_own: bool) -> Option<&'static str> {
    if is_never_a_machine(address) {
        return Some("is no address of another machine");
    }
    if is_own {
        return Some("is an address of the control plane's own machine");
    }
    let may_be_named = address == from.to_canonical() || is_private(address);
    (!may_be_named)
        .then_some("is neither in a private network nor the address that the registration came from")
}

fn is_never_a_machine(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    is_link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

/// RFC 1918, RFC 6598 (shared by a provider's customers) and RFC 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.segments()[0] & 0xfe00 == 0xfc00,
    }
}

/// Whether this machine has that address: then a socket can be bound to it. Not known, and no, where the kernel lets
/// sockets be bound to any address (`net.ipv4.ip_nonlocal_bind`, behind a virtual address).
fn is_own(address: IpAddr) -> bool {
    let can_bind = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
    let nobodys = match address {
        IpAddr::V4(_) => IpAddr::from([192, 0, 2, 1]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    };
    can_bind(address) && !can_bind(nobodys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn a_registration_names_private_addresses_and_its_own() {
        let from: IpAddr = "203.0.113.7".parse().unwrap();
        let is_taken = |text: &str| objection(text.parse().unwrap(), from, false).is_none();
        for text in ["10.1.2.3", "172.16.0.1", "192.168.7.9", "100.64.0.1", "fd00::7", "203.0.113.7"] {
            assert!(is_taken(text), "{text}");
        }
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "0.0.0.7",
            "169.254.169.254",
            "169.254.1.1",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "203.0.113.8",
            "8.8.8.8",
            "2001:db8::1",
            "172.32.0.1",
            "100.128.0.1",
        ] {
            assert!(!is_taken(text), "{text}");
        }
        let own: IpAddr = "10.0.0.1".parse().unwrap();
        assert!(objection(own, from, true).is_some());
        assert!(objection(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into(), false).is_some());
        assert!(is_own(Ipv6Addr::LOCALHOST.into()) || is_own(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_own(from));
    }
}
