//! Byte streams to a node: to a Unix socket there, or to the standard input and output of a command.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use russh::client::Msg;
use russh::{Channel, ChannelStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::session::Session;

/// Largest number of bytes that the pump takes at once.
const CHUNK_BYTES: usize = 32 * 1024;

/// A byte stream to a node. Dropping it closes the channel.
pub struct NodeStream {
    io: Io,
    /// Ends with the stream, where the session is the stream's own.
    _session: Arc<Session>,
    _place: Option<OwnedSemaphorePermit>,
}

enum Io {
    /// Read at the reader's pace.
    Direct(Box<ChannelStream<Msg>>),
    Pumped(Pumped),
}

/// The reading side of a stream on a shared session: a task takes in what comes.
struct Pumped {
    write: WriteHalf<ChannelStream<Msg>>,
    chunks: mpsc::UnboundedReceiver<io::Result<Bytes>>,
    current: Bytes,
    unread_bytes: Arc<AtomicUsize>,
    _pump: AbortOnDropHandle<()>,
}

impl std::fmt::Debug for NodeStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeStream").finish_non_exhaustive()
    }
}

impl NodeStream {
    /// A stream on a session that it has for itself.
    pub(crate) fn direct(channel: Channel<Msg>, session: Arc<Session>, place: OwnedSemaphorePermit) -> Self {
        Self { io: Io::Direct(Box::new(channel.into_stream())), _session: session, _place: Some(place) }
    }

    /// A stream on a session that others use, too.
    pub(crate) fn pumped(channel: Channel<Msg>, session: Arc<Session>, unread_max_bytes: usize) -> Self {
        let (read, write) = tokio::io::split(channel.into_stream());
        let (sender, chunks) = mpsc::unbounded_channel();
        let unread_bytes = Arc::new(AtomicUsize::new(0));
        let pump = tokio::spawn(pump(read, sender, Arc::clone(&unread_bytes), unread_max_bytes));
        let pump = AbortOnDropHandle::new(pump);
        let io = Io::Pumped(Pumped { write, chunks, current: Bytes::new(), unread_bytes, _pump: pump });
        Self { io, _session: session, _place: None }
    }
}

/// Takes in what comes until the far end closes or the stream is dropped, which aborts this.
async fn pump(
    mut read: ReadHalf<ChannelStream<Msg>>,
    chunks: mpsc::UnboundedSender<io::Result<Bytes>>,
    unread_bytes: Arc<AtomicUsize>,
    unread_max_bytes: usize,
) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        let chunk = match read.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => Ok(buffer.split().freeze()),
            Err(error) => Err(error),
        };
        let (taken, is_over) = (chunk.as_ref().map_or(0, Bytes::len), chunk.is_err());
        if unread_bytes.fetch_add(taken, Ordering::Relaxed) + taken > unread_max_bytes {
            break;
        }
        if chunks.send(chunk).is_err() || is_over {
            return;
        }
    }
    // Fails when nobody reads any more.
    let _ =
        chunks.send(Err(io::Error::new(io::ErrorKind::OutOfMemory, "the stream is not read fast enough")));
    drop(chunks);
    // The channel stays open until the stream is dropped, and what comes meanwhile must not stall the session.
    while let Ok(1..) = read.read_buf(&mut buffer).await {
        buffer.clear();
    }
}

impl Pumped {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.current.is_empty() {
            match ready!(self.chunks.poll_recv(cx)) {
                Some(Ok(chunk)) => self.current = chunk,
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.current.len().min(buf.remaining());
        buf.put_slice(self.current.get(..taken).unwrap_or_default());
        self.current.advance(taken);
        self.unread_bytes.fetch_sub(taken, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for NodeStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Direct(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Pumped(pumped) => pumped.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for NodeStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Direct(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Pumped(pumped) => Pin::new(&mut pumped.write).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Direct(stream) => Pin::new(stream).poll_flush(cx),
            Io::Pumped(pumped) => Pin::new(&mut pumped.write).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Direct(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Pumped(pumped) => Pin::new(&mut pumped.write).poll_shutdown(cx),
        }
    }
}
