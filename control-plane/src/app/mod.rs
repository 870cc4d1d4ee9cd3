//! The use cases behind the routes, and what they share.

pub mod accounts;
pub mod drain;
pub mod events;
pub mod forget;
pub mod health;
pub mod idempotency;
pub mod leasing;
pub mod links;
pub mod registration;
pub mod rent;
pub mod reset;
pub mod streams;
pub mod views;

use crate::{Config, crypto::jwt::Tokens, limit::LoginLimiter};
use orion_domain::Timestamp;
use orion_fleet::{CLOCK_SKEW_MAX, Fleet};
use orion_service::keys::Keys;
use orion_store::Store;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// What every handler holds. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// The parts of an [`App`].
pub struct Parts {
    /// Settings.
    pub config: Config,
    /// The database.
    pub store: Store,
    /// Work on nodes.
    pub fleet: Fleet,
    /// Access tokens.
    pub tokens: Tokens,
    /// Failed logins.
    pub limiter: LoginLimiter,
    /// The agents' links that this replica holds.
    pub links: links::Links,
    /// `TrustedUserCAKeys` for the nodes.
    pub ssh_ca: String,
    /// Work that goes on when its request is gone.
    pub tasks: TaskTracker,
    /// Set when the process is to end.
    pub shutdown: CancellationToken,
    /// What was last seen of the database and the schedulers.
    pub health: health::SharedLook<health::Seen>,
    /// The open event streams.
    pub streams: streams::Streams,
    /// Password hashes that may be computed at once: each takes 19 MiB and a core.
    pub hashing: Arc<Semaphore>,
    /// Placements that may be in the database at once: there each waits for the one before it, and each
    /// holds a connection that others need.
    pub placing: Arc<Semaphore>,
}

impl App {
    /// Puts the control plane together.
    pub fn new(config: Config, fleet: Fleet, keys: &Keys, shutdown: CancellationToken) -> Self {
        fleet.metrics.serve_api();
        let tokens = Tokens::new(&keys.jwt, config.token_lifetime);
        let streams = streams::Streams::new(config.streams_max, config.streams_of_user_max);
        Self(Arc::new(Parts {
            store: fleet.store.clone(),
            tokens,
            limiter: LoginLimiter::default(),
            links: links::Links::new(config.streams_max),
            ssh_ca: keys.control_ca.public_line(),
            tasks: TaskTracker::new(),
            hashing: Arc::new(Semaphore::new(2)),
            placing: Arc::new(Semaphore::new(4)),
            streams,
            health: health::SharedLook::default(),
            shutdown,
            fleet,
            config,
        }))
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.fleet.now()
    }

    /// Sees whether this machine's clock agrees with the database's; while the database is away it is as it was.
    pub async fn compare_clocks(&self) {
        match self.fleet.check_clock(CLOCK_SKEW_MAX).await {
            Ok(None) => {}
            Ok(Some(skew)) => {
                tracing::error!(
                    ?skew,
                    "this machine's clock is off the database's: no lease is taken or extended"
                );
            }
            Err(error) => tracing::debug!(%error, "the clocks could not be compared"),
        }
    }

    /// Refuses work on nodes while this machine's clock is off: deadlines would be wrong.
    ///
    /// # Errors
    /// 503
    pub fn check_clock(&self) -> Result<(), crate::error::ApiError> {
        if self.fleet.may_claim() {
            return Ok(());
        }
        Err(crate::error::ApiError::unavailable(
            "this server's clock differs from the database's; an operator has to set it",
        ))
    }

    /// Runs `work` to its end even if the client that asked for it goes away.
    ///
    /// # Errors
    /// 500 if the work panicked.
    pub async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, crate::error::ApiError>> + Send + 'static,
    ) -> Result<T, crate::error::ApiError> {
        match self.tasks.spawn(work.in_current_span()).await {
            Ok(result) => result,
            Err(error) => Err(crate::error::ApiError::internal(error)),
        }
    }
}

impl std::ops::Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}
