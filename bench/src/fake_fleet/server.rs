//! The nodes of the simulated fleet, and their faults.

use super::{
    engine,
    gaps::{Gaps, Summary},
    host_key, index_of,
    machine::{Answer, Machine, Order, Orders},
};
use futures_util::task::AtomicWaker;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use orion_fleet::MEMORY_COMMAND;
use russh::{
    Channel, ChannelId, Preferred, SshId, cipher, kex,
    keys::{Certificate, HashAlg, PublicKey, ssh_key::Fingerprint},
    server::{self, Auth, ChannelOpenHandle, Msg, Session},
};
use std::{
    borrow::Cow,
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 16_384;
/// Shortest gap between two looks at a node, in milliseconds; what comes closer together is one look.
const ONE_LOOK_MS: u64 = 500;
/// Key exchanges of Debian 12's sshd: none is a post-quantum exchange that Orion's client would choose.
const KEX: &[kex::Name] = &[kex::CURVE25519, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER];
const CIPHERS: &[cipher::Name] = &[cipher::AES_256_GCM];

/// Behaviour of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Normal operation.
    Answers,
    /// Connections are accepted and nothing is ever said on them; open sessions say nothing any more.
    Hangs,
    /// Processes of the node are gone: open sessions end, new connections are reset.
    Dead,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Answers, Self::Hangs, Self::Dead];

    const fn number(self) -> u8 {
        match self {
            Self::Answers => 0,
            Self::Hangs => 1,
            Self::Dead => 2,
        }
    }
}

struct Node {
    mode: AtomicU8,
    mode_changed: Notify,
    /// Wakes each connection, so that it sees a new mode.
    connections: Mutex<Vec<Arc<AtomicWaker>>>,
    /// Connections that are logged in.
    sessions: AtomicUsize,
    /// Milliseconds since the start, plus one; 0: not heard of since its mode changed.
    heard: AtomicU64,
    machine: Mutex<Machine>,
    config: OnceLock<Arc<server::Config>>,
}

impl Node {
    fn new() -> Self {
        Self {
            mode: AtomicU8::new(Mode::Answers.number()),
            mode_changed: Notify::new(),
            connections: Mutex::default(),
            sessions: AtomicUsize::new(0),
            heard: AtomicU64::new(0),
            machine: Mutex::default(),
            config: OnceLock::new(),
        }
    }

    fn mode(&self) -> Mode {
        let number = self.mode.load(Relaxed);
        Mode::ALL.into_iter().find(|mode| mode.number() == number).unwrap_or(Mode::Answers)
    }

    fn config(&self, index: usize) -> Arc<server::Config> {
        let make = || {
            Arc::new(server::Config {
                server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-SimulatedNode")),
                keys: vec![host_key(index)],
                auth_rejection_time: Duration::from_millis(1),
                inactivity_timeout: None,
                nodelay: true,
                preferred: Preferred {
                    kex: Cow::Borrowed(KEX),
                    cipher: Cow::Borrowed(CIPHERS),
                    ..Preferred::DEFAULT
                },
                ..server::Config::default()
            })
        };
        self.config.get_or_init(make).clone()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since some moment, at least 1.
pub(super) type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

/// All nodes.
pub struct Fleet {
    nodes: Vec<Node>,
    authority: Fingerprint,
    orders: Orders,
    now_ms: Clock,
    gaps: Gaps,
    /// Nodes that have at least one session.
    open: AtomicUsize,
    logins: AtomicU64,
    /// Whether the nodes have container engines.
    has_engines: bool,
    /// Clients that follow the events of an engine.
    followers: Arc<AtomicUsize>,
    /// Times that a node was told until when it keeps the containers of a lease that it had already.
    told: AtomicU64,
}

impl Fleet {
    /// `count` nodes that take certificates of this authority.
    ///
    /// # Errors
    /// What is wrong with the authority's public key, or with a playbook.
    pub fn new(count: usize, authority: &str) -> Result<Self, String> {
        let started = Instant::now();
        let now_ms = move || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        Self::with_clock(count, authority, Box::new(now_ms))
    }

    /// The same by this clock.
    pub(super) fn with_clock(count: usize, authority: &str, now_ms: Clock) -> Result<Self, String> {
        let authority = PublicKey::from_openssh(authority).map_err(|error| error.to_string())?;
        Ok(Self {
            nodes: (0..count).map(|_| Node::new()).collect(),
            authority: authority.fingerprint(HashAlg::Sha256),
            orders: Orders::builtin().map_err(|error| error.to_string())?,
            now_ms,
            gaps: Gaps::default(),
            open: AtomicUsize::new(0),
            logins: AtomicU64::new(0),
            has_engines: false,
            followers: Arc::default(),
            told: AtomicU64::new(0),
        })
    }

    /// The same with a container engine on each node, or without.
    #[must_use]
    pub fn with_engines(self, has_engines: bool) -> Self {
        Self { has_engines, ..self }
    }

    /// Returns the number of clients that follow the events of an engine.
    pub fn followers(&self) -> usize {
        self.followers.load(Relaxed)
    }

    /// Returns how often a node was told until when it keeps the containers of a lease that it had already.
    pub fn told(&self) -> u64 {
        self.told.load(Relaxed)
    }

    /// Returns the number of containers that run.
    pub fn running(&self) -> usize {
        self.nodes.iter().map(|node| locked(&node.machine).engine.running()).sum()
    }

    /// Ends one container on each of these nodes; returns on how many none ran.
    pub fn end_containers(&self, nodes: &[usize]) -> usize {
        let machines = nodes.iter().filter_map(|index| self.nodes.get(*index));
        machines.filter(|node| !locked(&node.machine).engine.end_one()).count()
    }

    /// Nodes that have a session now.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Logins since the start.
    pub fn logins(&self) -> u64 {
        self.logins.load(Relaxed)
    }

    /// Accounts of leases on all nodes that are not dead.
    pub fn accounts(&self) -> usize {
        let lives = |node: &&Node| node.mode() != Mode::Dead;
        self.nodes.iter().filter(lives).map(|node| locked(&node.machine).accounts()).sum()
    }

    /// Changes how nodes behave; those that do not exist are left out.
    pub fn set_mode(&self, indices: &[usize], mode: Mode) {
        for node in indices.iter().filter_map(|index| self.nodes.get(*index)) {
            node.mode.store(mode.number(), Relaxed);
            // What happens while it does not answer is no gap.
            node.heard.store(0, Relaxed);
            node.mode_changed.notify_waiters();
            for connection in locked(&node.connections).iter() {
                connection.wake();
            }
        }
    }

    /// Gaps count from here on; one that began before counts whole.
    pub fn clear_gaps(&self) {
        self.gaps.clear();
    }

    /// Returns a summary of the gaps between looks at nodes that answer.
    pub fn gaps(&self) -> Summary {
        let now = (self.now_ms)();
        let pending = self.nodes.iter().filter(|node| node.mode() == Mode::Answers).filter_map(|node| {
            let heard = node.heard.load(Relaxed);
            (heard != 0).then(|| now.saturating_sub(heard))
        });
        self.gaps.summary(pending)
    }

    fn heard(&self, index: usize) {
        let now = (self.now_ms)();
        let before = self.nodes[index].heard.swap(now, Relaxed);
        let gap = now.saturating_sub(before);
        if before != 0 && gap >= ONE_LOOK_MS {
            self.gaps.record(gap);
        }
    }
}

/// A listener that answers on every address of 127/8; port 0 takes any that is free.
///
/// # Errors
/// When the port is taken.
pub fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    socket.listen(BACKLOG)
}

/// Plays the nodes for ever.
pub async fn serve(fleet: Arc<Fleet>, listener: TcpListener) {
    loop {
        // A client that was gone before it was accepted, or no descriptor: the next one.
        let Ok((tcp, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let index = tcp.local_addr().ok().and_then(|to| index_of(to.ip()));
        if let Some(index) = index.filter(|index| *index < fleet.nodes.len()) {
            tokio::spawn(connection(fleet.clone(), index, tcp));
        }
    }
}

async fn connection(fleet: Arc<Fleet>, index: usize, tcp: TcpStream) {
    let node = &fleet.nodes[index];
    if !answers_at_last(node, &tcp).await {
        // A reset, not an orderly end; without it the end would only be slower.
        let _ = tcp.set_zero_linger();
        return;
    }
    let _ = tcp.set_nodelay(true);
    let config = node.config(index);
    let wire = Wire::new(fleet.clone(), index, tcp);
    let player = Player { fleet: fleet.clone(), index, logged_in: false, running: HashMap::new() };
    if let Ok(session) = server::run_stream(config, wire, player).await {
        // How a client leaves is its own business.
        let _ = session.await;
    }
}

/// Waits while the node hangs. False when the client went away, or the node is dead.
async fn answers_at_last(node: &Node, tcp: &TcpStream) -> bool {
    loop {
        let changed = node.mode_changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        match node.mode() {
            Mode::Answers => return true,
            Mode::Dead => return false,
            Mode::Hangs => {}
        }
        let mut byte = [0];
        tokio::select! {
            () = &mut changed => {}
            peeked = tcp.peek(&mut byte) => match peeked {
                Ok(0) | Err(_) => return false,
                Ok(_) => changed.await,
            }
        }
    }
}

/// The byte stream under a session, with the node's faults.
struct Wire {
    fleet: Arc<Fleet>,
    index: usize,
    tcp: TcpStream,
    waker: Arc<AtomicWaker>,
}

impl Wire {
    fn new(fleet: Arc<Fleet>, index: usize, tcp: TcpStream) -> Self {
        let waker = Arc::new(AtomicWaker::new());
        locked(&fleet.nodes[index].connections).push(waker.clone());
        Self { fleet, index, tcp, waker }
    }

    fn died(&self) -> io::Error {
        // As above: only the way of ending.
        let _ = self.tcp.set_zero_linger();
        io::ErrorKind::ConnectionReset.into()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        locked(&self.fleet.nodes[self.index].connections).retain(|held| !Arc::ptr_eq(held, &self.waker));
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.waker.register(cx.waker());
        match this.fleet.nodes[this.index].mode() {
            Mode::Dead => return Poll::Ready(Err(this.died())),
            Mode::Hangs => return Poll::Pending,
            Mode::Answers => {}
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.tcp).poll_read(cx, buf);
        if matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() > before {
            this.fleet.heard(this.index);
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.fleet.nodes[this.index].mode() {
            Mode::Dead => Poll::Ready(Err(this.died())),
            Mode::Answers | Mode::Hangs => Pin::new(&mut this.tcp).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

/// One connection's side of the protocol.
struct Player {
    fleet: Arc<Fleet>,
    index: usize,
    logged_in: bool,
    /// Playbooks whose input is still coming.
    running: HashMap<ChannelId, (Order, Vec<u8>)>,
}

impl Drop for Player {
    fn drop(&mut self) {
        if self.logged_in && self.fleet.nodes[self.index].sessions.fetch_sub(1, Relaxed) == 1 {
            self.fleet.open.fetch_sub(1, Relaxed);
        }
    }
}

impl Player {
    fn end(channel: ChannelId, answer: Answer, session: &mut Session) -> Result<(), russh::Error> {
        if !answer.stdout.is_empty() {
            session.data(channel, answer.stdout.into_bytes())?;
        }
        session.exit_status_request(channel, answer.status)?;
        session.eof(channel)?;
        session.close(channel)
    }
}

impl server::Handler for Player {
    type Error = russh::Error;

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        shown: &Certificate,
    ) -> Result<Auth, Self::Error> {
        let is_for = shown.valid_principals().iter().any(|principal| principal == user);
        if user == "root" && is_for && shown.validate([&self.fleet.authority]).is_ok() {
            return Ok(Auth::Accept);
        }
        Ok(Auth::reject())
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        self.logged_in = true;
        self.fleet.logins.fetch_add(1, Relaxed);
        if self.fleet.nodes[self.index].sessions.fetch_add(1, Relaxed) == 0 {
            self.fleet.open.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if !self.fleet.has_engines || socket_path != engine::SOCKET {
            // It is refused.
            return Ok(());
        }
        reply.accept().await;
        let (fleet, index) = (self.fleet.clone(), self.index);
        let service = service_fn(move |request| {
            let fleet = fleet.clone();
            let followers = fleet.followers.clone();
            engine::respond(request, followers, move |method, path, query, body| {
                locked(&fleet.nodes[index].machine).engine.answer(method, path, query, body)
            })
        });
        let io = TokioIo::new(channel.into_stream());
        // How a client leaves is its own business.
        tokio::spawn(async move { drop(http1::Builder::new().serve_connection(io, service).await) });
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let command = String::from_utf8_lossy(command);
        session.channel_success(channel)?;
        if let Some(order) = self.fleet.orders.of(&command) {
            self.running.insert(channel, (order, Vec::new()));
            return Ok(());
        }
        let answer = match &*command {
            MEMORY_COMMAND => locked(&self.fleet.nodes[self.index].machine).memory(),
            "true" => Answer { status: 0, stdout: String::new() },
            _ => Answer { status: 127, stdout: String::new() },
        };
        Self::end(channel, answer, session)
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some((_, input)) = self.running.get_mut(&channel) {
            input.extend_from_slice(data);
        }
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        let Some((order, input)) = self.running.remove(&channel) else { return Ok(()) };
        let answer = locked(&self.fleet.nodes[self.index].machine).run(order, &input);
        if order == Order::KeepContainers {
            self.fleet.told.fetch_add(1, Relaxed);
        }
        Self::end(channel, answer, session)
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.running.remove(&channel);
        Ok(())
    }
}
