//! The pool: one session per node, one dial at a time per node, a bound on dials and on commands.
//!
//! The map is behind a plain mutex that is never held across an `await`. A dial runs in a task of
//! its own, whose result all callers that wait for it share: a caller that gives up does
//! not stop it, and a dead node costs one dial, not one per caller.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, debug};
use zeroize::Zeroizing;

use crate::config::PoolConfig;
use crate::control_ca::ControlCa;
use crate::dial::dial;
use crate::endpoint::Endpoint;
use crate::error::{Kind, SshError, Stage};
use crate::exec::{ExecOutput, ExecRequest, follow};
use crate::host_key::{HostKey, Identity, Target};
use crate::session::Session;
use crate::stream::NodeStream;

const HANG_UP_LIMIT: Duration = Duration::from_millis(250);

/// Pooled sessions to nodes. Clones share the pool; when the last is dropped, all sessions end.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    config: PoolConfig,
    ca: Arc<ControlCa>,
    dials: Semaphore,
    doubtful_dials: Semaphore,
    /// Nodes that let something time out and have not answered since.
    doubtful: Mutex<HashSet<i64>>,
    nodes: Mutex<HashMap<i64, Node>>,
    serial: AtomicU64,
}

struct Node {
    channels: Arc<Semaphore>,
    own_streams: Arc<Semaphore>,
    own_dials: Arc<Semaphore>,
    state: State,
}

enum State {
    Empty,
    Dialling { identity: Identity, serial: u64, cancel: CancellationToken, landing: Landing },
    Open { identity: Identity, session: Arc<Session> },
}

type Landing = watch::Receiver<Option<Result<Arc<Session>, SshError>>>;

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("sessions", &self.session_count()).finish_non_exhaustive()
    }
}

impl Pool {
    /// An empty pool; nothing is dialled yet.
    pub fn new(config: PoolConfig, ca: Arc<ControlCa>) -> Self {
        let shared = Shared {
            dials: Semaphore::new(config.dials_max.max(1)),
            doubtful_dials: Semaphore::new(config.doubtful_dials_max.max(1)),
            doubtful: Mutex::default(),
            nodes: Mutex::default(),
            serial: AtomicU64::new(0),
            config,
            ca,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Makes sure that the node's pooled session is open. Callers at the same time share one dial and its result.
    /// Another address or other pins for the same node id drop the old session first.
    ///
    /// # Errors
    /// What failed, at which stage; [`Kind::Dropped`] when [`Self::drop_session`] came in between.
    pub async fn connect(&self, target: &Target) -> Result<(), SshError> {
        self.shared.session(target).await.map(drop)
    }

    /// Runs a command on the pooled session, dialling first if need be. The command is sent at most once; when the
    /// session turns out to be stale before that, one more dial is made.
    ///
    /// A command that timed out, or whose future was dropped, retires the session: other commands on it finish, new
    /// ones get a new session.
    ///
    /// # Errors
    /// See [`SshError::may_have_run`] for those after which the node must be looked at.
    pub async fn exec(&self, target: &Target, request: ExecRequest) -> Result<ExecOutput, SshError> {
        let shared = Arc::clone(&self.shared);
        let target = target.clone();
        // A task of its own: output is drained also while the caller's future is not polled; an undrained channel
        // would stall the whole session, keep-alives too.
        let run = async move { shared.exec(&target, request).await }.in_current_span();
        match AbortOnDropHandle::new(tokio::spawn(run)).await {
            Ok(result) => result,
            Err(error) => {
                Err(SshError::new(Stage::Exec, Kind::Local("the task failed".into())).with_source(error))
            }
        }
    }

    /// Opens a byte stream to a Unix socket or a command of the node on the pooled session, dialling first if need be. It
    /// has to be read: what arrives is taken in up to [`PoolConfig::unread_max_bytes`], and then the stream ends with an
    /// error, since a channel that is not read stalls the whole session.
    ///
    /// # Errors
    /// What failed, at which stage. [`SshError::is_channel_refused`]: the session is fine, and the endpoint is not.
    pub async fn open_stream(
        &self,
        target: &Target,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<NodeStream, SshError> {
        let (shared, target, endpoint) = (Arc::clone(&self.shared), target.clone(), endpoint.clone());
        detached(async move { shared.open_stream(&target, &endpoint, limit).await }).await
    }

    /// Opens a byte stream on a session of its own, which ends with the stream. It may be read as slowly as its reader
    /// likes: the node is slowed down by that, and no other stream.
    ///
    /// # Errors
    /// What failed, at which stage; [`Kind::Busy`] beyond [`PoolConfig::own_streams_per_node_max`].
    pub async fn open_own_stream(
        &self,
        target: &Target,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<NodeStream, SshError> {
        let (shared, target, endpoint) = (Arc::clone(&self.shared), target.clone(), endpoint.clone());
        detached(async move { shared.open_own_stream(&target, &endpoint, limit).await }).await
    }

    /// One request with a reply on the pooled session. Never dials and never drops the session: a short network cut
    /// heals by itself, and what silence means is the caller's decision.
    ///
    /// # Errors
    /// [`Kind::NoSession`], [`Kind::TimedOut`], [`Kind::Closed`] or [`Kind::Dropped`].
    pub async fn keepalive(&self, target: &Target, timeout: Duration) -> Result<(), SshError> {
        match self.shared.open_session(target) {
            Some(session) => {
                let answer = session.keepalive(timeout).await;
                self.shared.hear(target.node_id, &answer);
                answer
            }
            None => Err(SshError::new(Stage::Keepalive, Kind::NoSession)),
        }
    }

    /// The host keys beside the pinned ones that the server of the node's pooled session proved to have. Never dials.
    /// Empty where it announces none.
    ///
    /// # Errors
    /// Those of [`Self::keepalive`].
    pub async fn further_keys(&self, target: &Target) -> Result<Vec<HostKey>, SshError> {
        match self.shared.open_session(target) {
            Some(session) => session.further_keys(&target.host_keys, self.shared.config.auth_timeout()).await,
            None => Err(SshError::new(Stage::Keepalive, Kind::NoSession)),
        }
    }

    /// A connection of its own from connect to `true` and goodbye: proves that sshd takes new logins. The pooled
    /// session is not touched.
    ///
    /// # Errors
    /// What failed, at which stage.
    pub async fn fresh_handshake(&self, target: &Target) -> Result<(), SshError> {
        let config = &self.shared.config;
        let session = self.shared.dial(target).await?;
        let limit = config.fresh_exec_timeout();
        let channel = session.start("true", limit).await?;
        let output = follow(channel, Zeroizing::default(), 1024, limit, config.output_grace()).await?;
        session.hang_up(HANG_UP_LIMIT).await;
        if output.is_success() {
            return Ok(());
        }
        let kind = Kind::Protocol(format!("`true` ended with status {}", output.status));
        Err(SshError::new(Stage::Exec, kind))
    }

    /// True while the node's pooled session is open, as far as this side knows.
    pub fn is_connected(&self, node_id: i64) -> bool {
        self.shared.current(node_id).is_some()
    }

    /// Returns when the node's pooled session has ended; at once where there is none. A session that was retired
    /// after a timed-out command counts as the node's no longer, but who already waits for it waits for its end.
    pub async fn closed(&self, node_id: i64) {
        let closed = self.shared.current(node_id).map(|session| session.closed());
        if let Some(closed) = closed {
            closed.cancelled().await;
        }
    }

    /// Ends the node's pooled session, or the dial under way, at once; also when the node answers nothing.
    pub fn drop_session(&self, node_id: i64) {
        let mut nodes = self.shared.lock();
        let Some(node) = nodes.get_mut(&node_id) else { return };
        let old = std::mem::replace(&mut node.state, State::Empty);
        tidy(&mut nodes, node_id);
        drop(nodes);
        old.end();
    }

    /// Releases the node's pooled session: commands that run on it finish, and the session ends with the last
    /// of them. A dial under way is given up.
    pub fn let_go(&self, node_id: i64) {
        let mut nodes = self.shared.lock();
        let Some(node) = nodes.get_mut(&node_id) else { return };
        let old = std::mem::replace(&mut node.state, State::Empty);
        tidy(&mut nodes, node_id);
        drop(nodes);
        match old {
            State::Dialling { cancel, .. } => cancel.cancel(),
            State::Open { .. } | State::Empty => {}
        }
    }

    /// Open pooled sessions.
    pub fn session_count(&self) -> usize {
        let open = |node: &&Node| matches!(&node.state, State::Open { session, .. } if !session.is_closed());
        self.shared.lock().values().filter(open).count()
    }
}

/// Runs to its end whether the caller waits or not: a channel that is opened for a caller who left is closed again.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, SshError>> + Send + 'static,
) -> Result<T, SshError> {
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => result,
        Err(error) => {
            Err(SshError::new(Stage::Open, Kind::Local("the task failed".into())).with_source(error))
        }
    }
}

impl State {
    fn end(self) {
        match self {
            Self::Empty => {}
            Self::Dialling { cancel, .. } => cancel.cancel(),
            Self::Open { session, .. } => session.kill(),
        }
    }
}

/// Forgets a node that holds nothing, not even a waiting command.
fn tidy(nodes: &mut HashMap<i64, Node>, node_id: i64) {
    if let Some(node) = nodes.get(&node_id)
        && matches!(node.state, State::Empty)
        && Arc::strong_count(&node.channels) == 1
        && Arc::strong_count(&node.own_streams) == 1
        && Arc::strong_count(&node.own_dials) == 1
    {
        nodes.remove(&node_id);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Node>> {
        // Each critical section leaves the map whole, so a panic in another thread does not matter.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node<'a>(&self, nodes: &'a mut HashMap<i64, Node>, node_id: i64) -> &'a mut Node {
        nodes.entry(node_id).or_insert_with(|| Node {
            channels: Arc::new(Semaphore::new(self.config.channels_per_node_max.max(1))),
            own_streams: Arc::new(Semaphore::new(self.config.own_streams_per_node_max)),
            own_dials: Arc::new(Semaphore::new(self.config.own_dials_per_node_max.max(1))),
            state: State::Empty,
        })
    }

    fn current(&self, node_id: i64) -> Option<Arc<Session>> {
        match &self.lock().get(&node_id)?.state {
            State::Open { session, .. } if !session.is_closed() => Some(Arc::clone(session)),
            State::Open { .. } | State::Dialling { .. } | State::Empty => None,
        }
    }

    fn open_session(&self, target: &Target) -> Option<Arc<Session>> {
        let wanted = Identity::of(target);
        match &self.lock().get(&target.node_id)?.state {
            State::Open { identity, session }
                if session.is_with(identity, &wanted) && !session.is_closed() =>
            {
                Some(Arc::clone(session))
            }
            State::Open { .. } | State::Dialling { .. } | State::Empty => None,
        }
    }

    fn doubtful(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers whether the node answers in time; what failed on our side says nothing.
    fn hear<T>(&self, node_id: i64, outcome: &Result<T, SshError>) {
        match outcome.as_ref().map_err(|error| &error.kind) {
            Err(Kind::TimedOut) => {
                self.doubtful().insert(node_id);
            }
            Err(Kind::Busy | Kind::Dropped | Kind::NoSession | Kind::Local(_) | Kind::OutcomeUnknown) => {}
            Ok(_)
            | Err(
                Kind::Refused
                | Kind::Unreachable
                | Kind::NotResolved
                | Kind::Closed
                | Kind::Throttled
                | Kind::AuthRejected
                | Kind::HostKeyMismatch { .. }
                | Kind::NoPinnedKey
                | Kind::ChannelRefused(_)
                | Kind::Protocol(_),
            ) => {
                self.doubtful().remove(&node_id);
            }
        }
    }

    /// One connection of its own, waiting for a place among the dials.
    async fn dial(&self, target: &Target) -> Result<Session, SshError> {
        let is_doubtful = self.doubtful().contains(&target.node_id);
        let dials = if is_doubtful { &self.doubtful_dials } else { &self.dials };
        let waiting = timeout(self.config.dial_queue_timeout(), dials.acquire());
        let Ok(Ok(_permit)) = waiting.await else {
            return Err(SshError::new(Stage::Connect, Kind::Busy));
        };
        // Large, and made only now: thousands of dials may wait for a place.
        let dialled = Box::pin(dial(target, &self.config, &self.ca)).await;
        self.hear(target.node_id, &dialled);
        dialled.map(Session::new)
    }

    /// The open session for this target, or the result of the dial under way, or that of a new one.
    async fn session(self: &Arc<Self>, target: &Target) -> Result<Arc<Session>, SshError> {
        if target.host_keys.is_empty() {
            return Err(SshError::new(Stage::KeyExchange, Kind::NoPinnedKey));
        }
        let mut landing = match self.session_or_landing(target) {
            Ok(session) => return Ok(session),
            Err(landing) => landing,
        };
        let landed = landing.wait_for(Option::is_some).await;
        match landed.as_deref() {
            Ok(Some(result)) => result.clone(),
            Ok(None) | Err(_) => {
                Err(SshError::new(Stage::Connect, Kind::Local("the dial's task failed".into())))
            }
        }
    }

    fn session_or_landing(self: &Arc<Self>, target: &Target) -> Result<Arc<Session>, Landing> {
        let wanted = Identity::of(target);
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut nodes = self.lock();
        let node = self.node(&mut nodes, target.node_id);
        match &node.state {
            State::Open { identity, session }
                if session.is_with(identity, &wanted) && !session.is_closed() =>
            {
                return Ok(Arc::clone(session));
            }
            // A sender that is gone without a result: its task failed; dial anew.
            State::Dialling { identity, landing, .. }
                if *identity == wanted && (landing.has_changed().is_ok() || landing.borrow().is_some()) =>
            {
                return Err(landing.clone());
            }
            State::Open { .. } | State::Dialling { .. } | State::Empty => {}
        }
        let (result, landing) = watch::channel(None);
        let cancel = CancellationToken::new();
        let state = State::Dialling {
            identity: wanted.clone(),
            serial,
            cancel: cancel.clone(),
            landing: landing.clone(),
        };
        let old = std::mem::replace(&mut node.state, state);
        drop(nodes);
        old.end();
        let (shared, target) = (Arc::clone(self), target.clone());
        let flight = async move {
            let dialled = tokio::select! {
                biased;
                () = cancel.cancelled() => Err(SshError::new(Stage::Connect, Kind::Dropped)),
                dialled = shared.dial(&target) => dialled,
            };
            let landed = shared.land(target.node_id, wanted, serial, dialled);
            // Nobody may be waiting any more.
            let _ = result.send(Some(landed));
        };
        tokio::spawn(flight.in_current_span());
        Err(landing)
    }

    /// Puts the result of a dial into the map, if the map still waits for this dial.
    fn land(
        self: &Arc<Self>,
        node_id: i64,
        identity: Identity,
        serial: u64,
        dialled: Result<Session, SshError>,
    ) -> Result<Arc<Session>, SshError> {
        let dialled = dialled.map(Arc::new);
        let mut nodes = self.lock();
        let node = nodes.get_mut(&node_id).filter(
            |node| matches!(node.state, State::Dialling { serial: waiting, .. } if waiting == serial),
        );
        let Some(node) = node else {
            drop(nodes);
            return Err(SshError::new(Stage::Connect, Kind::Dropped));
        };
        match &dialled {
            Ok(session) => {
                node.state = State::Open { identity, session: Arc::clone(session) };
                drop(nodes);
                debug!(node_id, "ssh session open");
                self.forget_when_closed(node_id, session);
            }
            Err(_) => {
                node.state = State::Empty;
                tidy(&mut nodes, node_id);
            }
        }
        dialled
    }

    fn forget_when_closed(self: &Arc<Self>, node_id: i64, session: &Arc<Session>) {
        let (pool, closed, seen) = (Arc::downgrade(self), session.closed(), session.seen());
        let session = Arc::downgrade(session);
        tokio::spawn(async move {
            closed.cancelled().await;
            debug!(node_id, reason = seen.end.get().map(String::as_str), "ssh session ended");
            if let Some(pool) = pool.upgrade() {
                pool.forget(node_id, &session);
            }
        });
    }

    /// Takes this session out of the map; it ends with its last user.
    fn forget(&self, node_id: i64, gone: &Weak<Session>) {
        let mut nodes = self.lock();
        let Some(node) = nodes.get_mut(&node_id) else { return };
        let old = match &node.state {
            State::Open { session, .. } if std::ptr::eq(Arc::as_ptr(session), gone.as_ptr()) => {
                Some(std::mem::replace(&mut node.state, State::Empty))
            }
            State::Open { .. } | State::Dialling { .. } | State::Empty => None,
        };
        tidy(&mut nodes, node_id);
        drop(nodes);
        drop(old);
    }

    async fn open_stream(
        self: &Arc<Self>,
        target: &Target,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<NodeStream, SshError> {
        match endpoint {
            Endpoint::Socket(_) | Endpoint::Tcp(..) => {}
            // sshd counts the commands of a session (`MaxSessions`), and not its sockets.
            Endpoint::Command(_) => return self.open_own_stream(target, endpoint, limit).await,
        }
        let mut first = true;
        loop {
            let session = self.session(target).await?;
            match session.open(endpoint, limit).await {
                Ok(channel) => {
                    return Ok(NodeStream::pumped(channel, session, self.config.unread_max_bytes));
                }
                Err(error) if std::mem::take(&mut first) && error.kind == Kind::Closed => {
                    debug!(node_id = target.node_id, %error, "stale ssh session, dialling again");
                    self.forget(target.node_id, &Arc::downgrade(&session));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn open_own_stream(
        self: &Arc<Self>,
        target: &Target,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<NodeStream, SshError> {
        let (places, dials) = {
            let mut nodes = self.lock();
            let node = self.node(&mut nodes, target.node_id);
            (Arc::clone(&node.own_streams), Arc::clone(&node.own_dials))
        };
        let busy = || SshError::new(Stage::Open, Kind::Busy);
        let Ok(place) = places.try_acquire_owned() else { return Err(busy()) };
        let Ok(Ok(turn)) = timeout(limit, dials.acquire()).await else { return Err(busy()) };
        let session = self.dial(target).await?;
        drop(turn);
        let channel = session.open(endpoint, limit).await?;
        Ok(NodeStream::direct(channel, Arc::new(session), place))
    }

    async fn place(&self, node_id: i64, limit: Duration) -> Result<OwnedSemaphorePermit, SshError> {
        let channels = {
            let mut nodes = self.lock();
            Arc::clone(&self.node(&mut nodes, node_id).channels)
        };
        match timeout(limit, channels.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(SshError::new(Stage::Open, Kind::Busy)),
        }
    }

    async fn exec(
        self: &Arc<Self>,
        target: &Target,
        mut request: ExecRequest,
    ) -> Result<ExecOutput, SshError> {
        let stdin = Zeroizing::new(std::mem::take(&mut request.stdin));
        let mut left = request.timeout;
        let started = Instant::now();
        let _place = self.place(target.node_id, left).await?;
        left = left.saturating_sub(started.elapsed());
        let mut first = true;
        let (channel, mut guard) = loop {
            let session = self.session(target).await?;
            let mut guard = RetireOnDrop::new(self, target.node_id, session);
            let opening = Instant::now();
            let opened = guard.session.start(&request.command, left).await;
            left = left.saturating_sub(opening.elapsed());
            match opened {
                Ok(channel) => break (channel, guard),
                Err(error) => {
                    // After a timeout the session stays: it is a cut line, perhaps, and a short one.
                    guard.armed = error.kind != Kind::TimedOut;
                    if !std::mem::take(&mut first)
                        || !matches!(error.kind, Kind::Closed | Kind::ChannelRefused(_))
                    {
                        return Err(error);
                    }
                    debug!(node_id = target.node_id, %error, "stale ssh session, dialling again");
                }
            }
        };
        let output = follow(channel, stdin, request.output_max_bytes, left, self.config.output_grace()).await;
        guard.armed = output.as_ref().is_err_and(SshError::may_have_run);
        self.hear(target.node_id, &output);
        output
    }
}

/// Retires a session whose channel may still be open on the node: when a command failed half-way, or the task that
/// ran it was aborted.
struct RetireOnDrop {
    pool: Weak<Shared>,
    node_id: i64,
    session: Arc<Session>,
    armed: bool,
}

impl RetireOnDrop {
    fn new(pool: &Arc<Shared>, node_id: i64, session: Arc<Session>) -> Self {
        Self { pool: Arc::downgrade(pool), node_id, session, armed: true }
    }
}

impl Drop for RetireOnDrop {
    fn drop(&mut self) {
        if self.armed
            && let Some(pool) = self.pool.upgrade()
        {
            pool.forget(self.node_id, &Arc::downgrade(&self.session));
        }
    }
}
