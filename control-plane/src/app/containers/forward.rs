//! Connections to the ports of containers over a WebSocket.

use super::{
    Containers, engine_error,
    socket::{End, FromPeer, Pulse, Said, ToPeer, split},
    streams::{OpenStream, StreamKind},
};
use crate::{App, auth::Caller, error::ApiError};
use axum::extract::ws::WebSocket;
use bytes::BytesMut;
use orion_ssh::NodeStream;
use serde_json::{Value, json};
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;

/// Largest number of bytes of one message.
const CHUNK_BYTES: usize = 32 * 1024;

/// A connection to a container.
pub struct Connection {
    app: App,
    stream: NodeStream,
    open: OpenStream,
}

impl Containers<'_> {
    /// Connects to a port of a container that runs.
    ///
    /// # Errors
    /// 404 for an unknown container, 409 for one that does not run or does not listen there, 429 for more connections than
    /// there may be at once, 503 where its node does not answer or connects nobody.
    pub async fn connect(
        self,
        who: &Caller,
        which: &str,
        name: &str,
        port: u16,
    ) -> Result<Connection, ApiError> {
        let (row, engine, id) = self.running(who, which, name).await?;
        let open = self.open_stream(who, &row, StreamKind::Forward)?;
        let stream = engine.dial(&id, port).await.map_err(|error| engine_error(&error))?;
        Ok(Connection { app: self.app.clone(), stream, open })
    }
}

impl Connection {
    /// Carries bytes between the client and the container until both have ended, or one is gone.
    pub async fn serve(self, socket: WebSocket) {
        let Self { app, stream, open } = self;
        let pulse = Pulse::new();
        let (mut to_peer, mut from_peer) = split(socket, &pulse);
        let (read, write) = tokio::io::split(stream);
        let nothing_more = CancellationToken::new();
        let ended = tokio::select! {
            ended = down(&mut to_peer, read, &nothing_more) => ended,
            end = up(&mut from_peer, write, &pulse, &nothing_more) => Err(end),
            () = open.lost.cancelled() => Err(End::Lost),
            () = app.shutdown.cancelled() => Err(End::Stopping),
        };
        let last = match ended {
            Ok(Ok(())) | Err(End::PeerGone) => None,
            Ok(Err(error)) => {
                let detail = format!("the connection to the container broke: {error}");
                Some(json!({ "type": "error", "detail": detail }))
            }
            Err(end @ (End::Idle | End::Lost | End::Stopping)) => {
                Some(json!({ "type": "error", "detail": end.text() }))
            }
        };
        to_peer.farewell(from_peer, last.as_ref()).await;
    }
}

/// Carries what the container sends to the client, to its end, and returns when the client has no more to send, either, or
/// with the error that broke the connection to the container.
async fn down(
    to_peer: &mut ToPeer<'_>,
    mut read: ReadHalf<NodeStream>,
    nothing_more: &CancellationToken,
) -> Result<io::Result<()>, End> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        tokio::select! {
            pinged = to_peer.ping() => pinged?,
            count = read.read_buf(&mut buffer) => match count {
                Ok(1..) => to_peer.bytes(buffer.split().freeze()).await?,
                Ok(0) => break,
                Err(error) => return Ok(Err(error)),
            },
        }
    }
    to_peer.word(&json!({ "type": "eof" })).await?;
    loop {
        tokio::select! {
            pinged = to_peer.ping() => pinged?,
            () = nothing_more.cancelled() => return Ok(Ok(())),
        }
    }
}

/// Carries what the client sends to the container, until the client is gone.
async fn up(
    from_peer: &mut FromPeer<'_>,
    mut write: WriteHalf<NodeStream>,
    pulse: &Pulse,
    nothing_more: &CancellationToken,
) -> End {
    while let Some(said) = from_peer.next().await {
        // What comes after the end, or when the container takes no more, is dropped.
        if nothing_more.is_cancelled() {
            continue;
        }
        let is_open = match said {
            Said::Bytes(bytes) => pulse.not_listening(write.write_all(&bytes)).await.is_ok(),
            Said::Text(text) => {
                let is_eof = serde_json::from_str(&text).is_ok_and(|word: Value| word["type"] == "eof");
                if is_eof {
                    // A container that has closed needs no end.
                    let _ = write.shutdown().await;
                }
                !is_eof
            }
        };
        if !is_open {
            nothing_more.cancel();
        }
    }
    End::PeerGone
}
