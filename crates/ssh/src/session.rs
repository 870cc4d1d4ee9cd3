//! One logged-in session: opening channels and keep-alives on it, and its end.

use std::sync::Arc;
use std::time::Duration;

use russh::Channel;
use russh::client::{Handle, Msg};
use russh::keys::PublicKey;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::dial::Link;
use crate::endpoint::Endpoint;
use crate::error::{Kind, SshError, Stage};
use crate::handler::{NodeHandler, Seen};
use crate::host_key::{HostKey, Identity};

/// Most announced host keys that a server is asked to prove.
const ANNOUNCED_MAX: usize = 16;

/// A session ends when the last `Arc` of it is dropped, or at once by [`Session::kill`].
pub(crate) struct Session {
    handle: Arc<Handle<NodeHandler>>,
    kill: CancellationToken,
    closed: CancellationToken,
    seen: Arc<Seen>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

impl Session {
    pub(crate) fn new(link: Link) -> Self {
        Self { handle: Arc::new(link.handle), kill: link.kill, closed: link.closed, seen: link.seen }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled() || self.kill.is_cancelled() || self.handle.is_closed()
    }

    /// Cancelled when the session's task has ended and its descriptor is closed.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    pub(crate) fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }

    pub(crate) fn kill(&self) {
        self.kill.cancel();
    }

    fn ended(&self) -> Kind {
        if self.kill.is_cancelled() { Kind::Dropped } else { Kind::Closed }
    }

    /// Opens a channel and sends `command` on it. All errors are of [`Stage::Open`]: the command was not sent.
    ///
    /// Cancelling it leaks a channel on the node until the session ends: retire the session then.
    pub(crate) async fn start(&self, command: &str, limit: Duration) -> Result<Channel<Msg>, SshError> {
        let handle = Arc::clone(&self.handle);
        let opening = Box::pin(async move { handle.channel_open_session().await });
        let channel = self.opened(opening, limit).await?;
        match timeout(limit, channel.exec(true, command)).await {
            Ok(Ok(())) => Ok(channel),
            Ok(Err(_gone)) => Err(SshError::new(Stage::Open, self.ended())),
            Err(_elapsed) => {
                // Not sent, but the open channel can only be closed with its session.
                self.kill();
                Err(SshError::new(Stage::Open, Kind::TimedOut))
            }
        }
    }

    /// Opens a channel to an end on the node. All errors are of [`Stage::Open`]. For Unix sockets sshd gives the same
    /// reason where nobody listens and where forwarding is shut.
    pub(crate) async fn open(&self, endpoint: &Endpoint, limit: Duration) -> Result<Channel<Msg>, SshError> {
        let handle = Arc::clone(&self.handle);
        match endpoint {
            Endpoint::Command(command) => self.start(command, limit).await,
            Endpoint::Socket(path) => {
                let path = path.clone();
                let opening = Box::pin(async move { handle.channel_open_direct_streamlocal(path).await });
                self.opened(opening, limit).await
            }
            Endpoint::Tcp(address, port) => {
                let (address, port) = (address.to_string(), u32::from(*port));
                // The origin is only told to sshd's log.
                let opening =
                    Box::pin(
                        async move { handle.channel_open_direct_tcpip(address, port, "127.0.0.1", 0).await },
                    );
                self.opened(opening, limit).await
            }
        }
    }

    async fn opened(
        &self,
        mut opening: impl Future<Output = Result<Channel<Msg>, russh::Error>> + Send + Unpin + 'static,
        limit: Duration,
    ) -> Result<Channel<Msg>, SshError> {
        match timeout(limit, &mut opening).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error @ russh::Error::ChannelOpenFailure(_))) => {
                Err(SshError::from_russh(Stage::Open, error))
            }
            Ok(Err(_gone)) => Err(SshError::new(Stage::Open, self.ended())),
            Err(_elapsed) => {
                // The answer may still come, after a network cut: then the channel must not stay open.
                let closed = self.closed.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = closed.cancelled() => {}
                        late = opening => if let Ok(channel) = late {
                            // Fails when the session has ended, which closes the channel too.
                            let _ = channel.close().await;
                        }
                    }
                });
                Err(SshError::new(Stage::Open, Kind::TimedOut))
            }
        }
    }

    /// A global request with a reply. "Request denied" is a reply. russh's own ping says Ok on a dead session.
    pub(crate) async fn keepalive(&self, limit: Duration) -> Result<(), SshError> {
        let error = |kind| Err(SshError::new(Stage::Keepalive, kind));
        let asking = self.handle.send_global_request("keepalive@openssh.com", b"", true);
        let answer = tokio::select! {
            biased;
            // First, so that russh does not log an error for a session that just ended.
            () = self.closed.cancelled() => return error(self.ended()),
            answer = timeout(limit, asking) => answer,
        };
        match answer {
            Err(_elapsed) => error(Kind::TimedOut),
            Ok(_) if self.is_closed() => error(self.ended()),
            Ok(Ok(_) | Err(russh::Error::RequestDenied)) => Ok(()),
            Ok(Err(_gone)) => error(self.ended()),
        }
    }

    /// Whether the session is one with `wanted`: at its address, let in by a key that it pins.
    pub(crate) fn is_with(&self, identity: &Identity, wanted: &Identity) -> bool {
        identity.is_at(wanted) && self.seen.shown_key.get().is_some_and(|shown| wanted.pins(shown))
    }

    /// The host keys other than `known` that the server announced and proved to have, of the types that a dial offers.
    /// None from a server that announces none.
    pub(crate) async fn further_keys(
        &self,
        known: &[HostKey],
        limit: Duration,
    ) -> Result<Vec<HostKey>, SshError> {
        if self.seen.announced_keys.get().is_none() {
            // It announces them before it answers anything.
            self.keepalive(limit).await?;
        }
        let mut proved = Vec::new();
        for announced in self.seen.announced_keys.get().into_iter().flatten().take(ANNOUNCED_MAX) {
            let Ok(key) = HostKey::from_public_key(announced) else { continue };
            if key.is_negotiable() && !known.contains(&key) && self.proves(announced, limit).await? {
                proved.push(key);
            }
        }
        Ok(proved)
    }

    async fn proves(&self, key: &PublicKey, limit: Duration) -> Result<bool, SshError> {
        let error = |kind| Err(SshError::new(Stage::Keepalive, kind));
        match timeout(limit, self.handle.hostkeys_prove(vec![key.clone()])).await {
            Err(_elapsed) => error(Kind::TimedOut),
            Ok(Ok(())) => Ok(true),
            Ok(Err(_)) if self.is_closed() => error(self.ended()),
            Ok(Err(_not_proved)) => Ok(false),
        }
    }

    /// A clean goodbye, then the end in any case.
    pub(crate) async fn hang_up(self, limit: Duration) {
        let bye = async {
            // Fails when the session has already ended.
            let _ = self.handle.disconnect(russh::Disconnect::ByApplication, "", "").await;
            self.closed.cancelled().await;
        };
        // On a timeout the drop of `self` ends it.
        let _ = timeout(limit, bye).await;
    }
}
