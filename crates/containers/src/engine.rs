//! The engines of all nodes, and the calls to one of them.

mod containers;
mod create;
mod dial;
mod events;
mod exec;
mod images;
mod inventory;
mod logs;
mod stats;

pub use containers::{ContainerState, CreatedContainer};
pub use create::{ContainerPlacement, GpuDevice, PublishedPort};
pub use events::{ContainerEvent, EventAction, Events};
pub use exec::{Exec, ExecInput, ExecOutput, ExecRequest, Terminal, TtySize};
pub use images::{ImageInfo, Pull, PullProgress, RegistryCredentials, RemoteImage};
pub use inventory::EngineInfo;
pub use logs::{LogChunk, LogOptions, LogSource, LogStream};
pub use stats::{Stats, StatsStream};

use crate::{
    EngineError,
    connection::{Connection, SendFailure},
    http::{ByteBody, Call, JsonLines, error_of, parsed, read_whole},
    route::{self, Route},
};
use bytes::Bytes;
use hyper::{Method, Response, body::Incoming};
use orion_ssh::{Pool, Target};
use serde::de::DeserializeOwned;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Largest number of connections that are kept for a node.
const IDLE_MAX: usize = 4;
/// Longest that an unused connection is kept: it holds its session open.
const IDLE_FOR: Duration = Duration::from_secs(90);

/// The engines of all nodes. Clones share what is known of them and the kept connections.
#[derive(Clone)]
pub struct Engines {
    pool: Pool,
    nodes: Arc<Mutex<HashMap<i64, Arc<Known>>>>,
}

impl std::fmt::Debug for Engines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engines").field("nodes", &self.lock().len()).finish_non_exhaustive()
    }
}

/// What is known of one node's engine.
struct Known {
    target: Target,
    route: Mutex<Option<Route>>,
    idle: Mutex<Vec<Connection>>,
}

/// The engine of one node.
#[derive(Clone)]
pub struct Engine {
    pool: Pool,
    known: Arc<Known>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("node_id", &self.known.target.node_id).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves the value whole, so a panic in another thread does not matter.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engines {
    /// Nothing is known of any engine yet.
    pub fn new(pool: Pool) -> Self {
        Self { pool, nodes: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Arc<Known>>> {
        locked(&self.nodes)
    }

    /// Returns the engine of a node; nothing is dialled yet. Another address or other pins forget what was known.
    pub fn of(&self, target: &Target) -> Engine {
        let mut nodes = self.lock();
        let known = match nodes.get(&target.node_id) {
            Some(known) if known.is_of(target) => Arc::clone(known),
            Some(_) | None => {
                let known = Arc::new(Known {
                    target: target.clone(),
                    route: Mutex::default(),
                    idle: Mutex::default(),
                });
                nodes.insert(target.node_id, Arc::clone(&known));
                known
            }
        };
        Engine { pool: self.pool.clone(), known }
    }

    /// Forgets a node, and closes the connections that are kept for it.
    pub fn forget(&self, node_id: i64) {
        self.lock().remove(&node_id);
    }
}

impl Known {
    fn is_of(&self, target: &Target) -> bool {
        let mine = &self.target;
        mine.host == target.host && mine.port == target.port && mine.host_keys == target.host_keys
    }

    fn idle(&self) -> Option<Connection> {
        let mut idle = locked(&self.idle);
        idle.retain(|connection| connection.is_usable() && connection.idle_since.elapsed() < IDLE_FOR);
        idle.pop()
    }

    fn keep(&self, mut connection: Connection) {
        let mut idle = locked(&self.idle);
        if connection.is_usable() && idle.len() < IDLE_MAX {
            connection.idle_since = Instant::now();
            idle.push(connection);
        }
    }

    /// After a failure nothing that was known need hold: the engine may be another one when it is back.
    fn forget(&self) {
        locked(&self.idle).clear();
        *locked(&self.route) = None;
    }
}

/// How a reply is going to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// At once; on the pooled session.
    AtOnce,
    /// As its reader likes; on a session of its own.
    Readers,
}

impl Engine {
    async fn route(&self, until: Instant) -> Result<Route, EngineError> {
        if let Some(route) = locked(&self.known.route).clone() {
            return Ok(route);
        }
        let route = route::find(&self.pool, &self.known.target, until).await?;
        *locked(&self.known.route) = Some(route.clone());
        Ok(route)
    }

    async fn open(&self, route: &Route, pace: Pace, until: Instant) -> Result<Connection, EngineError> {
        let own = pace == Pace::Readers;
        let opened = route::open_stream(&self.pool, &self.known.target, &route.endpoint, own, until).await;
        Connection::open(opened.map_err(route::of_open)?).await
    }

    /// Sends a call, on a kept connection where there is one; returns the reply's head.
    async fn respond(
        &self,
        call: &Call,
        pace: Pace,
        upgrades: bool,
        until: Instant,
    ) -> Result<(Connection, Response<Incoming>), EngineError> {
        let mut may_find_anew = true;
        loop {
            let was_known = locked(&self.known.route).is_some();
            let route = self.route(until).await?;
            let kept = if pace == Pace::AtOnce { self.known.idle() } else { None };
            let is_kept = kept.is_some();
            let opened = match kept {
                Some(connection) => Ok(connection),
                None => self.open(&route, pace, until).await,
            };
            let mut connection = match opened {
                Ok(connection) => connection,
                Err(EngineError::Down(_)) if was_known && std::mem::take(&mut may_find_anew) => {
                    self.known.forget();
                    continue;
                }
                Err(error) => return Err(error),
            };
            let failure =
                match connection.send(call.request(&route.spoken, upgrades)?, until, call.what).await {
                    Ok(response) => return Ok((connection, response)),
                    Err(failure) => failure,
                };
            match failure {
                SendFailure::Unsent if is_kept => {}
                SendFailure::Unsent => return Err(EngineError::Down("it closed the connection".into())),
                // The engine closed a connection that was kept: a question may be asked again.
                SendFailure::Sent(EngineError::Down(_)) if is_kept && call.method == Method::GET => {}
                SendFailure::Sent(error) => return Err(error),
            }
        }
    }

    /// Carries out a call whose reply is read whole; any status.
    async fn raw(&self, call: &Call) -> Result<(u16, Bytes), EngineError> {
        let until = Instant::now() + call.limit;
        let replied = async {
            let (connection, response) = self.respond(call, Pace::AtOnce, false, until).await?;
            let reply = read_whole(response, until, call.what).await?;
            self.known.keep(connection);
            Ok(reply)
        };
        let replied = replied.await;
        if let Err(EngineError::Node(_) | EngineError::Down(_) | EngineError::TimedOut(_)) = &replied {
            self.known.forget();
        }
        replied
    }

    /// Carries out a call; an error where its status is none of success. Status 304 is one: nothing had to be done.
    async fn call(&self, call: Call) -> Result<Bytes, EngineError> {
        match self.raw(&call).await? {
            (200..=299 | 304, body) => Ok(body),
            (status, body) => Err(error_of(status, &body)),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, EngineError> {
        let what = call.what;
        parsed(&self.call(call).await?, what)
    }

    /// Carries out a call whose reply is a stream.
    async fn stream(&self, call: &Call, pace: Pace) -> Result<ByteBody, EngineError> {
        let until = Instant::now() + call.limit;
        let (connection, response) = self.respond(call, pace, false, until).await?;
        if response.status().is_success() {
            return Ok(ByteBody::new(response.into_body(), connection));
        }
        let (status, body) = read_whole(response, until, call.what).await?;
        Err(error_of(status, &body))
    }

    async fn json_lines(&self, call: &Call, pace: Pace) -> Result<JsonLines, EngineError> {
        Ok(JsonLines::new(self.stream(call, pace).await?, call.what))
    }
}
