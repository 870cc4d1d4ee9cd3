//! One logged-in session: opening channels and keep-alives on it, and its end.

use std::sync::Arc;
use std::time::Duration;

use russh::Channel;
use russh::client::{Handle, Msg};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::dial::Link;
use crate::error::{Kind, SshError, Stage};
use crate::handler::{NodeHandler, Seen};

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
        let mut opening = Box::pin(async move { handle.channel_open_session().await });
        let channel = match timeout(limit, &mut opening).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error @ russh::Error::ChannelOpenFailure(_))) => {
                return Err(SshError::from_russh(Stage::Open, error));
            }
            Ok(Err(_gone)) => return Err(SshError::new(Stage::Open, self.ended())),
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
                return Err(SshError::new(Stage::Open, Kind::TimedOut));
            }
        };
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
