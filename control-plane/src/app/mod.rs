//! The use cases behind the routes, and what they share.

pub mod accounts;
pub mod agents;
pub mod containers;
pub mod discretion;
pub mod events;
pub mod idempotency;
pub mod images;
pub mod leases;
pub mod nodes;
pub mod operations;
pub mod shared;
pub mod webhooks;

use crate::{
    Config,
    crypto::jwt::Tokens,
    limit::{Limit, LoginLimiter, Rate, RequestLimiter},
};
use orion_domain::{Timestamp, clock::CLOCK_SKEW_MAX};
use orion_fleet::Fleet;
use orion_service::keys::Keys;
use orion_store::Store;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// State that every handler holds. Cheap to clone.
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
    /// Keys of what visitors of containers' ports come with.
    pub visitors: containers::visit::VisitorKeys,
    /// Failed logins.
    pub limiter: LoginLimiter,
    /// Requests, counted by who sends them.
    pub requests: RequestLimiter,
    /// Sign-ups, by site.
    pub sign_ups: Limit,
    /// The agents' links that this replica holds.
    pub links: agents::links::Links,
    /// `TrustedUserCAKeys` for the nodes.
    pub ssh_ca: String,
    /// Work that goes on when its request is gone.
    pub tasks: TaskTracker,
    /// Set when the process is to end.
    pub shutdown: CancellationToken,
    /// Result of the last look at the database and the schedulers.
    pub health: shared::SingleFlight<operations::health::Seen>,
    /// The rights of streams and of requests that wait.
    pub rights: accounts::rights::Rights,
    /// The lists of leases that are asked for.
    pub lists: leases::Lists,
    /// The accounts that requests ask for.
    pub lookups: accounts::lookup::Lookups,
    /// Registries of images.
    pub registries: images::registry::Registries,
    /// The open event streams.
    pub streams: events::streams::Streams,
    /// The open streams to containers.
    pub container_streams: containers::streams::ContainerStreams,
    /// Password hashes that may be computed at once, and by whom.
    pub hashing: accounts::Hashing,
    /// Placements that may be in the database at once: there each waits for the one before it, and each
    /// holds a connection that others need.
    pub placing: Arc<Semaphore>,
}

impl App {
    /// Puts the control plane together.
    pub fn new(config: Config, fleet: Fleet, keys: &Keys, shutdown: CancellationToken) -> Self {
        fleet.metrics.serve_api();
        let tokens = Tokens::new(&keys.jwt, config.token_lifetime);
        let streams = events::streams::Streams::new(config.streams_max);
        Self(Arc::new(Parts {
            store: fleet.store.clone().reserving(config.node_reserved),
            tokens,
            visitors: containers::visit::VisitorKeys::new(&config.master_key),
            limiter: LoginLimiter::default(),
            requests: RequestLimiter::new(
                config.requests_of_user,
                config.requests_of_worker,
                config.requests_of_address,
            ),
            sign_ups: Limit::new(Rate::an_hour(config.signups_per_hour)),
            links: agents::links::Links::new(config.streams_max),
            ssh_ca: keys.control_ca.public_line(),
            tasks: TaskTracker::new(),
            hashing: accounts::Hashing::default(),
            placing: Arc::new(Semaphore::new(4)),
            registries: images::registry::Registries::default(),
            streams,
            container_streams: containers::streams::ContainerStreams::default(),
            rights: accounts::rights::Rights::default(),
            lists: leases::Lists::default(),
            lookups: accounts::lookup::Lookups::default(),
            health: shared::SingleFlight::default(),
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
    pub async fn run_detached<T: Send + 'static>(
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
