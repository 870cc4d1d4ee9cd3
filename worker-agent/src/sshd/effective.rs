//! What sshd makes of its configuration, as `sshd -T` prints it.

use orion_domain::ssh_algorithms::{self, disagreement};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

/// Effective configuration of sshd (`sshd -T` for root).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effective {
    pub(super) trusted_ca: String,
    pub(super) permit_root_login: String,
    pub(super) pubkey_authentication: String,
    pub(super) principals_file: String,
    pub(super) ciphers: String,
    pub(super) kex: String,
    pub(super) macs: String,
    pub(super) host_key_algorithms: String,
    pub(super) ca_algorithms: String,
    pub(super) pubkey_algorithms: String,
    /// Files of its host keys.
    pub(super) host_keys: Vec<PathBuf>,
    /// Addresses under which it is reached from this machine.
    pub listens: Vec<SocketAddr>,
}

impl Effective {
    /// Lists the kinds of algorithm of which sshd and the control plane have none in common, with both sides.
    pub fn disagreements(&self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(disagreement("KexAlgorithms", &self.kex, &ssh_algorithms::KEX));
        found.extend(disagreement("Ciphers", &self.ciphers, &ssh_algorithms::CIPHERS));
        // The authenticated ciphers need no code of their own.
        let needs_mac =
            !self.ciphers.split(',').any(|name| name.contains("gcm") || name.contains("poly1305"));
        if needs_mac {
            found.extend(disagreement("MACs", &self.macs, &ssh_algorithms::MACS));
        }
        found.extend(disagreement(
            "HostKeyAlgorithms",
            &self.host_key_algorithms,
            &ssh_algorithms::HOST_KEYS,
        ));
        found.extend(disagreement("CASignatureAlgorithms", &self.ca_algorithms, &[ssh_algorithms::CA]));
        let certificate = [ssh_algorithms::CERTIFICATE];
        found.extend(disagreement("PubkeyAcceptedAlgorithms", &self.pubkey_algorithms, &certificate));
        found
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut effective = Self::default();
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "trustedusercakeys" => effective.trusted_ca = value.into(),
                "permitrootlogin" => effective.permit_root_login = value.into(),
                "pubkeyauthentication" => effective.pubkey_authentication = value.into(),
                "authorizedprincipalsfile" => effective.principals_file = value.into(),
                "ciphers" => effective.ciphers = value.into(),
                "kexalgorithms" => effective.kex = value.into(),
                "macs" => effective.macs = value.into(),
                "hostkeyalgorithms" => effective.host_key_algorithms = value.into(),
                "casignaturealgorithms" => effective.ca_algorithms = value.into(),
                "pubkeyacceptedalgorithms" | "pubkeyacceptedkeytypes" => {
                    effective.pubkey_algorithms = value.into();
                }
                "hostkey" => effective.host_keys.push(value.into()),
                "listenaddress" => {
                    if let Ok(address) = value.split(' ').next().unwrap_or_default().parse() {
                        effective.listens.push(from_here(address));
                    }
                }
                _ => {}
            }
        }
        effective
    }
}

/// Returns the address at which a socket that listens at `address` is reached from this machine.
fn from_here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}
