//! Small TCP servers: one that says a line and stops, a proxy that can be turned into a black hole, and an SSH
//! server that hangs up in the middle of a login.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use orion_ssh::HostKey;
use russh::keys::{Algorithm, Certificate, PrivateKey};
use russh::server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub struct Fake {
    pub port: u16,
    _task: AbortOnDropHandle<()>,
}

/// Accepts, writes `greeting`, and then keeps the connection open without a word, or closes it.
pub async fn greeter(greeting: &'static [u8], keep_open: bool) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.write_all(greeting).await.unwrap();
            if keep_open {
                kept.push(socket);
            }
        }
    });
    Fake { port, _task: AbortOnDropHandle::new(task) }
}

/// Forwards to `port` on 127.0.0.1 until it is told to swallow everything; nothing is closed then.
pub struct Proxy {
    pub port: u16,
    swallow: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    pub async fn to(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (swallow, swallowing) = watch::channel(false);
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let swallowing = swallowing.clone();
                tokio::spawn(async move {
                    let far = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], upstream))).await.unwrap();
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    let there = forward(near_read, far_write, swallowing.clone());
                    let back = forward(far_read, near_write, swallowing);
                    tokio::select! { () = there => {}, () = back => {} }
                });
            }
        });
        Self { port, swallow, _task: AbortOnDropHandle::new(task) }
    }

    /// Stops the traffic in both directions (`true`), or lets it and the data held back pass again (`false`).
    pub fn swallow(&self, on: bool) {
        self.swallow.send(on).unwrap();
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut swallowing: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if swallowing.wait_for(|on| !on).await.is_err() {
            return;
        }
        let Ok(read) = from.read(&mut buffer).await else { return };
        if swallowing.wait_for(|on| !on).await.is_err() {
            return;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// An SSH server (russh) that hangs up when the client shows its certificate.
pub async fn server_that_hangs_up_at_login() -> (Fake, HostKey) {
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
    let host_key = key.public_key().to_openssh().unwrap().parse().unwrap();
    let config = Arc::new(server::Config {
        keys: vec![key],
        auth_rejection_time: Duration::from_millis(1),
        ..server::Config::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let config = Arc::clone(&config);
            tokio::spawn(async move {
                if let Ok(session) = server::run_stream(config, socket, HangsUp).await {
                    // Ends with the error that the handler returns.
                    let _ = session.await;
                }
            });
        }
    });
    (Fake { port, _task: AbortOnDropHandle::new(task) }, host_key)
}

struct HangsUp;

impl server::Handler for HangsUp {
    type Error = russh::Error;

    async fn auth_openssh_certificate(
        &mut self,
        _user: &str,
        _certificate: &Certificate,
    ) -> Result<server::Auth, Self::Error> {
        Err(russh::Error::Disconnect)
    }
}

/// Descriptors of this process that are TCP sockets connected *to* this port of 127.0.0.1.
pub fn client_sockets_to(port: u16) -> usize {
    let suffix = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let inodes: HashSet<String> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[2].ends_with(&suffix))
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect();
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|link| inodes.contains(&*link.to_string_lossy()))
        .count()
}
