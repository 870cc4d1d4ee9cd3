//! Host keys as they are pinned, and the address of a node with its pins.

use std::fmt;
use std::str::FromStr;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey};

/// One public host key in OpenSSH form. Equality is that of the whole key; a comment is not kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostKey {
    /// `type base64`, the canonical encoding.
    line: String,
    fingerprint: String,
    algorithm: Algorithm,
}

/// Reason why a text is not a host key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostKeyError {
    /// Text that is not `type base64 [comment]` on one line.
    #[error("not an OpenSSH public key")]
    Malformed,
    /// A certificate or a type that this crate does not know.
    #[error("unsupported host key type {0}")]
    Unsupported(String),
}

impl HostKey {
    pub(crate) fn from_public_key(key: &PublicKey) -> Result<Self, HostKeyError> {
        let algorithm = key.algorithm();
        if let Algorithm::Other(name) = &algorithm {
            return Err(HostKeyError::Unsupported(name.as_str().to_owned()));
        }
        let bare = PublicKey::new(key.key_data().clone(), "");
        let line = bare.to_openssh().map_err(|_| HostKeyError::Malformed)?;
        let fingerprint = bare.fingerprint(HashAlg::Sha256).to_string();
        Ok(Self { line: line.trim_end().to_owned(), fingerprint, algorithm })
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// True for the types that a dial offers to the server: ed25519 and ECDSA (RSA is not). A node that has no host
    /// key of these types cannot be reached.
    pub fn is_negotiable(&self) -> bool {
        negotiable_algorithms().contains(&self.algorithm)
    }

    pub(crate) fn algorithm(&self) -> &Algorithm {
        &self.algorithm
    }
}

/// The host key types that a dial offers, the preferred one first.
pub(crate) fn negotiable_algorithms() -> [Algorithm; 4] {
    [
        Algorithm::Ed25519,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    ]
}

impl FromStr for HostKey {
    type Err = HostKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.contains(['\n', '\r']) {
            return Err(HostKeyError::Malformed);
        }
        let key = PublicKey::from_openssh(text).map_err(|_| HostKeyError::Malformed)?;
        Self::from_public_key(&key)
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({})", self.line)
    }
}

/// A node to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The node's id: the pool keeps one session for it.
    pub node_id: i64,
    /// An IPv4 or IPv6 address, or a DNS name.
    pub host: String,
    /// sshd's port.
    pub port: u16,
    /// The pinned keys; the node must show one of them. Empty refuses every dial.
    pub host_keys: Vec<HostKey>,
}

/// Address and pinned host keys that a pooled session was made for, the keys in a fixed order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    host: String,
    port: u16,
    host_keys: Vec<HostKey>,
}

impl Identity {
    pub(crate) fn of(target: &Target) -> Self {
        let mut host_keys = target.host_keys.clone();
        host_keys.sort();
        host_keys.dedup();
        Self { host: target.host.clone(), port: target.port, host_keys }
    }

    pub(crate) fn is_at(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }

    pub(crate) fn pins(&self, key: &HostKey) -> bool {
        self.host_keys.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti user@example.com";
    const CERTIFICATE_TYPE: &str =
        "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29t";

    #[test]
    fn a_comment_is_dropped_and_the_key_round_trips() {
        let key: HostKey = ED25519.parse().unwrap();
        let line = key.to_string();
        assert_eq!(line, ED25519.rsplit_once(' ').unwrap().0);
        assert_eq!(line.parse::<HostKey>().unwrap(), key);
        assert!(key.fingerprint().starts_with("SHA256:"), "{}", key.fingerprint());
        assert!(key.is_negotiable());
    }

    #[test]
    fn what_is_not_one_plain_key_is_refused() {
        for text in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "hello world", CERTIFICATE_TYPE] {
            assert!(text.parse::<HostKey>().is_err(), "{text:?} was taken");
        }
        let two = format!("{ED25519}\n{ED25519}");
        assert_eq!(two.parse::<HostKey>(), Err(HostKeyError::Malformed));
    }

    #[test]
    fn the_order_of_the_pins_does_not_make_another_identity() {
        let first: HostKey = ED25519.parse().unwrap();
        let mut rng = rand::rng();
        let other = russh::keys::PrivateKey::random(&mut rng, Algorithm::Ed25519).unwrap();
        let second = HostKey::from_public_key(other.public_key()).unwrap();
        let target = |host_keys| Target { node_id: 1, host: "n".into(), port: 22, host_keys };
        assert_eq!(
            Identity::of(&target(vec![first.clone(), second.clone()])),
            Identity::of(&target(vec![second, first.clone()]))
        );
        assert_ne!(Identity::of(&target(vec![first])), Identity::of(&target(vec![])));
    }
}
