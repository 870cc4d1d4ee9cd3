//! russh's callbacks for a node: the host key check, no channels from the node, and the word that it is over.

use std::sync::{Arc, OnceLock};

use russh::Channel;
use russh::client::{self, ChannelOpenHandle, DisconnectReason, Msg, Session};
use russh::keys::{PublicKey, PublicKeyOrCertificate};
use tokio_util::sync::DropGuard;

use crate::host_key::HostKey;

/// Host keys that are accepted.
pub(crate) enum Trust {
    /// One of these, compared as whole keys.
    Pinned(Vec<HostKey>),
    /// No host key: the server's key is recorded and the connection closed.
    LookOnly,
}

/// Data that the handler passes to the dial; stays readable after the session's task ended.
#[derive(Default)]
pub(crate) struct Seen {
    /// The host key that was refused, or looked at.
    pub(crate) refused_key: OnceLock<HostKey>,
    /// The host key that let the session in.
    pub(crate) shown_key: OnceLock<HostKey>,
    /// The host keys that the server says it has; it has proved none of them by that.
    pub(crate) announced_keys: OnceLock<Vec<PublicKey>>,
    /// Reason for the end of the session, in russh's words.
    pub(crate) end: OnceLock<String>,
}

pub(crate) struct NodeHandler {
    trust: Trust,
    seen: Arc<Seen>,
    /// Dropped with the handler, which russh drops when the session's task ends, however it ends.
    _closed: DropGuard,
}

impl NodeHandler {
    pub(crate) fn new(trust: Trust, seen: Arc<Seen>, closed: DropGuard) -> Self {
        Self { trust, seen, _closed: closed }
    }
}

impl client::Handler for NodeHandler {
    type Error = russh::Error;

    /// Called after the signature over the key exchange was verified.
    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return Ok(false);
        };
        let Ok(key) = HostKey::from_public_key(key) else {
            return Ok(false);
        };
        if let Trust::Pinned(pins) = &self.trust
            && pins.contains(&key)
        {
            // Key exchanges of a session show the same one again.
            let _ = self.seen.shown_key.set(key);
            return Ok(true);
        }
        let _ = self.seen.refused_key.set(key);
        Ok(false)
    }

    async fn openssh_ext_host_keys_announced(
        &mut self,
        keys: Vec<PublicKey>,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let _ = self.seen.announced_keys.set(keys);
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        let (text, result) = match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                (format!("{:?}: {}", info.reason_code, info.message), Ok(()))
            }
            DisconnectReason::Error(error) => (error.to_string(), Err(error)),
        };
        let _ = self.seen.end.set(text);
        result
    }

    // A node opens nothing here. Dropping `reply` refuses; russh's defaults would accept.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _connected_address: &str,
        _connected_port: u32,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket_path: &str,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _channel: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host_to_connect: &str,
        _port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket_path: &str,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }
}
