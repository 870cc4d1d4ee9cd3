//! WebSockets whose peer may be slow or gone.
//!
//! Lives here: bytes in both directions with the pace of the slower side, pings, and when a peer counts as gone. Does not
//! live here: what is at the other end.

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use serde_json::Value;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

/// Interval of the pings to a peer.
pub const PING_EVERY: Duration = Duration::from_secs(15);
/// Silence after which a peer is gone.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// Time without a byte in either direction after which a stream is ended.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// Longest that the last word to a peer may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

/// Reason of the end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer closed it, or does not answer any more.
    PeerGone,
    /// Nothing went over it for an hour.
    Idle,
    /// The right, the lease or the container has ended.
    Lost,
    /// This process stops.
    Stopping,
}

impl End {
    /// Returns a sentence for the peer.
    pub const fn text(self) -> &'static str {
        match self {
            Self::PeerGone => "the client is gone",
            Self::Idle => "nothing went over it for an hour",
            Self::Lost => "the login, the lease or the container has ended",
            Self::Stopping => "this server stops; try again in a moment",
        }
    }
}

/// Moments that both directions of a stream know.
#[derive(Debug)]
pub struct Pulse(Mutex<Moments>);

#[derive(Debug)]
struct Moments {
    /// The last message of the peer; none while its messages are not read, because the far end does not take them.
    heard: Option<Instant>,
    /// The last byte in either direction.
    moved: Instant,
}

impl Pulse {
    /// Begins now.
    pub fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Moments { heard: Some(now), moved: now }))
    }

    fn locked(&self) -> MutexGuard<'_, Moments> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes.
    pub fn moved(&self) {
        self.locked().moved = Instant::now();
    }

    /// Waits for the far end, while the peer is not listened to.
    pub async fn not_listening<T>(&self, work: impl Future<Output = T>) -> T {
        self.locked().heard = None;
        let done = work.await;
        let now = Instant::now();
        *self.locked() = Moments { heard: Some(now), moved: now };
        done
    }

    fn end(&self, now: Instant) -> Option<End> {
        let moments = self.locked();
        if moments.heard.is_some_and(|heard| now.duration_since(heard) >= GONE_AFTER) {
            return Some(End::PeerGone);
        }
        (now.duration_since(moments.moved) >= IDLE_MAX).then_some(End::Idle)
    }
}

/// Sending half of a socket.
pub struct ToPeer<'a> {
    sink: SplitSink<WebSocket, Message>,
    pulse: &'a Pulse,
    pings: Interval,
}

/// Receiving half of a socket.
pub struct FromPeer<'a> {
    stream: SplitStream<WebSocket>,
    pulse: &'a Pulse,
}

/// Message of a peer.
#[derive(Debug)]
pub enum Said {
    /// Bytes for the far end.
    Bytes(axum::body::Bytes),
    /// A word of control.
    Text(axum::extract::ws::Utf8Bytes),
}

/// Splits a socket.
pub fn split(socket: WebSocket, pulse: &Pulse) -> (ToPeer<'_>, FromPeer<'_>) {
    let (sink, stream) = socket.split();
    let mut pings = interval(PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    (ToPeer { sink, pulse, pings }, FromPeer { stream, pulse })
}

impl FromPeer<'_> {
    /// Returns the next message; none when the peer has closed.
    pub async fn next(&mut self) -> Option<Said> {
        loop {
            let message = self.stream.next().await?.ok()?;
            self.pulse.locked().heard = Some(Instant::now());
            match message {
                Message::Binary(bytes) => {
                    self.pulse.moved();
                    return Some(Said::Bytes(bytes));
                }
                Message::Text(text) => return Some(Said::Text(text)),
                Message::Close(_) => return None,
                Message::Ping(_) | Message::Pong(_) => {}
            }
        }
    }
}

impl ToPeer<'_> {
    /// Sends bytes; waits for a peer that is slow.
    ///
    /// # Errors
    /// [`End::PeerGone`] when it closed, or did not read for too long.
    pub async fn bytes(&mut self, bytes: axum::body::Bytes) -> Result<(), End> {
        self.pulse.moved();
        self.sink.send(Message::Binary(bytes)).await.map_err(|_| End::PeerGone)
    }

    /// Sends a word of control.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub async fn word(&mut self, word: &Value) -> Result<(), End> {
        self.sink.send(Message::Text(word.to_string().into())).await.map_err(|_| End::PeerGone)
    }

    /// Waits for the next moment at which the peer is to be pinged, and does so.
    ///
    /// # Errors
    /// When the peer is gone, or nothing was said for too long.
    pub async fn ping(&mut self) -> Result<(), End> {
        self.pings.tick().await;
        if let Some(end) = self.pulse.end(Instant::now()) {
            return Err(end);
        }
        self.sink.send(Message::Ping(axum::body::Bytes::new())).await.map_err(|_| End::PeerGone)
    }

    /// Says the last word, and closes. What the peer still sends is read: a connection that is closed over unread bytes
    /// is reset, and the peer would not read the last word.
    pub async fn farewell(mut self, mut from_peer: FromPeer<'_>, word: Option<&Value>) {
        let saying = async {
            if let Some(word) = word {
                self.word(word).await?;
            }
            let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
            self.sink.send(Message::Close(Some(frame))).await.map_err(|_| End::PeerGone)?;
            while from_peer.next().await.is_some() {}
            Ok::<(), End>(())
        };
        // A peer that does not take it learns it from the end of the connection.
        let _ = timeout(FAREWELL_LIMIT, saying).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_peer_is_gone_and_one_that_is_not_listened_to_is_not() {
        let pulse = Pulse::new();
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(pulse.end(after(59)), None);
        assert_eq!(pulse.end(after(60)), Some(End::PeerGone));
        let end = pulse.not_listening(async { pulse.end(after(3599)) }).await;
        assert_eq!(end, None);
        assert_eq!(pulse.not_listening(async { pulse.end(after(3600)) }).await, Some(End::Idle));
        assert_eq!(pulse.end(after(0)), None);
    }
}
