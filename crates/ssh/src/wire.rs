//! The byte stream under a session: what was read ahead, quick acknowledgements, and the kill switch.
//!
//! russh cannot abort a session: the task lives until its stream ends. So the stream ends when the token is
//! cancelled, whatever the peer does. `poll_shutdown` never fails: russh would report that in
//! place of the real reason.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub(crate) struct Wire {
    tcp: TcpStream,
    ahead: Vec<u8>,
    ahead_used: usize,
    kill_read: Pin<Box<WaitForCancellationFutureOwned>>,
    kill_write: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    /// `ahead` is what was already read from `tcp`; it is read again first.
    pub(crate) fn new(tcp: TcpStream, ahead: Vec<u8>, kill: &CancellationToken) -> Self {
        Self {
            tcp,
            ahead,
            ahead_used: 0,
            kill_read: Box::pin(kill.clone().cancelled_owned()),
            kill_write: Box::pin(kill.clone().cancelled_owned()),
        }
    }

    fn killed() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, "the session was dropped")
    }
}

/// sshd holds its answers until the last packet is acknowledged (Nagle); a delayed acknowledgement costs 40 ms
/// each. The kernel forgets the option, so it is set after each read.
fn acknowledge_at_once(tcp: &TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // Only a speed-up: a kernel that refuses it still works.
        let _ = tcp.set_quickack(true);
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = tcp;
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.kill_read.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Self::killed()));
        }
        let ahead = this.ahead.get(this.ahead_used..).unwrap_or_default();
        if !ahead.is_empty() {
            let taken = ahead.len().min(buf.remaining());
            buf.put_slice(ahead.get(..taken).unwrap_or_default());
            this.ahead_used += taken;
            if this.ahead_used == this.ahead.len() {
                this.ahead = Vec::new();
                this.ahead_used = 0;
            }
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut this.tcp).poll_read(cx, buf);
        if read.is_ready() {
            acknowledge_at_once(&this.tcp);
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.kill_write.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Self::killed()));
        }
        Pin::new(&mut this.tcp).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx).map(|_| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (near, far)
    }

    #[tokio::test]
    async fn what_was_read_ahead_comes_first() {
        let (near, mut far) = pair().await;
        let mut wire = Wire::new(near, b"SSH-".to_vec(), &CancellationToken::new());
        far.write_all(b"2.0-x").await.unwrap();
        let mut all = [0; 9];
        wire.read_exact(&mut all[..3]).await.unwrap();
        wire.read_exact(&mut all[3..]).await.unwrap();
        assert_eq!(&all, b"SSH-2.0-x");
    }

    #[tokio::test]
    async fn the_switch_ends_a_read_and_a_write_that_wait_for_a_dead_peer() {
        let (near, _far) = pair().await;
        let kill = CancellationToken::new();
        let (mut read, mut write) = tokio::io::split(Wire::new(near, Vec::new(), &kill));
        let reader = tokio::spawn(async move { read.read(&mut [0; 8]).await });
        let writer = tokio::spawn(async move {
            loop {
                if let Err(error) = write.write_all(&[0; 65536]).await {
                    return error;
                }
            }
        });
        kill.cancel();
        let limit = Duration::from_secs(1);
        let read = tokio::time::timeout(limit, reader).await.expect("the read hangs").unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        let write = tokio::time::timeout(limit, writer).await.expect("the write hangs").unwrap();
        assert_eq!(write.kind(), io::ErrorKind::ConnectionAborted);
    }
}
