//! What a byte stream to a node leads to.

use std::net::IpAddr;

/// Far end of a byte stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// The Unix socket at this path; needs sshd's permission to forward.
    Socket(String),
    /// A TCP port that the node reaches; needs sshd's permission to forward.
    Tcp(IpAddr, u16),
    /// A command for the login shell of root. Visible to every user of the node: no secrets.
    Command(String),
}
