//! A simulated fleet: one process and one listener that answer as thousands of nodes.
//!
//! A socket on 0.0.0.0 answers on all of 127/8, so each address is a node, told apart by where the client
//! dialled to. Every node has its own host key and its own accounts, takes only certificates of the control CA, and
//! answers the playbooks as a real node does ([`machine`]).
//!
//! Lives here: the nodes ([`server`]), what one holds ([`machine`]), its container engine ([`engine`]), how long each was left alone ([`gaps`]), the
//! process and its orders ([`process`]). Does not live here: anything of Orion but the playbooks' texts. It is a load,
//! not a test double: what Orion does to a node is tested on real ones.

pub mod engine;
pub mod gaps;
pub mod machine;
pub mod process;
pub mod server;

#[cfg(test)]
mod tests;

use russh::keys::{PrivateKey, ssh_key::private::Ed25519Keypair};
use std::net::{IpAddr, Ipv4Addr};

/// Address of node 0; the others follow.
const FIRST_ADDRESS: u32 = 0x7F40_0001;

/// Returns the address on which a node answers.
pub fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(FIRST_ADDRESS.saturating_add(u32::try_from(index).unwrap_or(u32::MAX)))
}

/// Returns the index of the node that answers at `address`.
pub fn index_of(address: IpAddr) -> Option<usize> {
    let IpAddr::V4(address) = address.to_canonical() else { return None };
    usize::try_from(u32::from(address).checked_sub(FIRST_ADDRESS)?).ok()
}

/// A node's host key: from its number alone, so that who registers it and who plays it agree.
pub fn host_key(index: usize) -> PrivateKey {
    let mut seed = *b"orion simulated fleet, node:    ";
    seed[24..].copy_from_slice(&u64::try_from(index).unwrap_or(u64::MAX).to_be_bytes());
    PrivateKey::from(Ed25519Keypair::from_seed(&seed))
}

/// `ssh-ed25519 AAAA…` of a node, as its agent would report it.
pub fn public_host_key(index: usize) -> String {
    host_key(index).public_key().to_openssh().unwrap_or_default()
}
