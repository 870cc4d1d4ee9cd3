//! Containers on leased nodes: run, stop, restart, remove, and look.

pub mod exec;
pub mod forward;
pub mod request;
mod socket;
pub mod stats;
pub mod streams;
pub mod views;
pub mod visit;

use crate::{App, app::idempotency::Idempotent, auth::Caller, error::ApiError};
use orion_containers::{Engine, EngineError, LogOptions, LogStream};
use orion_domain::{
    ContainerId, Timestamp,
    container::{ContainerPhase, ContainerSpec},
    node::Node,
};
use orion_fleet::target_of;
use orion_service::assemble::seal_spec;
use orion_store::{
    Cas, ContainerMade, ContainerRow, FirstContainer, LeaseRow, NewContainer, Wanted, new_container_uid,
};
use std::time::Duration;
use streams::{OpenStream, StreamKind};

/// Containers that a lease may have at once: its network has room for thirteen.
const AT_ONCE_MAX: u32 = 12;
/// Longest wait of a request for its container; then the reply is 202.
pub(in crate::app) const WAIT_MAX: Duration = Duration::from_secs(60);
/// Interval of the looks at a container that is waited for, where no nudge comes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What clients do with containers.
#[derive(Clone, Copy)]
pub struct Containers<'a> {
    app: &'a App,
}

impl App {
    /// Gives the containers.
    pub const fn containers(&self) -> Containers<'_> {
        Containers { app: self }
    }
}

impl Containers<'_> {
    /// Runs a container on the lease that `which` names. The row that comes back is settled, or a minute has passed.
    ///
    /// # Errors
    /// 404 for an unknown lease, 409 where the name is taken or the lease is over, 400 for more than the lease has.
    pub async fn run(
        self,
        who: &Caller,
        which: &str,
        spec: ContainerSpec,
        key: Option<Idempotent>,
    ) -> Result<ContainerRow, ApiError> {
        let lease = self.app.leases().find(who, which).await?;
        check_size(&lease, &spec)?;
        let now = self.app.now();
        // The same key makes the same container, whoever answers.
        let uid = match &key {
            Some(key) => {
                key.begin(&self.app.store, now).await?;
                let salt = key.salt();
                let bytes = self.app.config.master_key.derive_bytes("container-uid", salt.as_bytes());
                let number =
                    bytes.iter().take(16).fold(0, |number: u128, byte| number << 8 | u128::from(*byte));
                ulid::Ulid::from(number).to_string()
            }
            None => new_container_uid(now),
        };
        let known = self.app.store.containers().by_uid(&uid).await?;
        let (row, version) = match known {
            Some(row) => (row, None),
            None => match self.create(who, &lease, &spec, uid.clone(), now).await {
                Ok(made) => made,
                // The same request at the same time was first.
                Err(error) => match self.app.store.containers().by_uid(&uid).await? {
                    Some(row) => (row, None),
                    None => return Err(error),
                },
            },
        };
        let (app, id, give_up) = (self.app.clone(), row.id, now.plus(WAIT_MAX));
        self.app.run_detached(async move { app.containers().provide((id, version), give_up).await }).await
    }

    /// Returns the containers of a lease to be, one for each of `count`, in the form in which they are stored.
    ///
    /// # Errors
    /// 500 for a specification that cannot be written.
    pub(in crate::app) fn first_of(
        self,
        spec: Option<&ContainerSpec>,
        count: u32,
        now: Timestamp,
    ) -> Result<Vec<FirstContainer>, ApiError> {
        let Some(spec) = spec else { return Ok(Vec::new()) };
        let stored = spec.to_stored().map_err(ApiError::internal)?;
        let first = |_| {
            let uid = new_container_uid(now);
            FirstContainer {
                name: spec.name.as_ref().map(ToString::to_string),
                spec: stored.open.clone(),
                spec_sealed: seal_spec(&self.app.config.master_key, &uid, &stored.sealed),
                uid,
                cpu_milli: spec.cpu_milli,
                memory_mb: spec.memory_mb,
                gpus: spec.gpus,
            }
        };
        Ok((0..count).map(first).collect())
    }

    async fn create(
        self,
        who: &Caller,
        lease: &LeaseRow,
        spec: &ContainerSpec,
        uid: String,
        now: Timestamp,
    ) -> Result<(ContainerRow, Option<i64>), ApiError> {
        let stored = spec.to_stored().map_err(ApiError::internal)?;
        let new = NewContainer {
            lease: lease.lease.id,
            name: spec.name.as_ref().map(ToString::to_string),
            spec: stored.open,
            spec_sealed: seal_spec(&self.app.config.master_key, &uid, &stored.sealed),
            uid,
            at_once_max: AT_ONCE_MAX,
            actor: Some(who.user),
        };
        match self.app.store.containers().create(&new, now).await? {
            // No nudge: who asked makes it, and nobody else need begin before that.
            ContainerMade::Made { row, version } => Ok((*row, version)),
            ContainerMade::NameTaken(name) => Err(ApiError::conflict(
                "name_taken",
                format!(
                    "the lease has a container '{name}' already; choose another name, or remove that one"
                ),
            )),
            ContainerMade::TooMany => Err(ApiError::conflict(
                "too_many_containers",
                format!("a lease has at most {AT_ONCE_MAX} containers at once; remove one first"),
            )),
            ContainerMade::LeaseOver => {
                Err(ApiError::conflict("lease_over", "the lease is over, or has no node; nothing runs there"))
            }
        }
    }

    /// Makes the container, and waits until it is settled, at most until `give_up`; with the first version of what its node is
    /// to hold with it, where that is known.
    pub(in crate::app) async fn provide(
        self,
        (id, version): (ContainerId, Option<i64>),
        give_up: Timestamp,
    ) -> Result<ContainerRow, ApiError> {
        let app = self.app.clone();
        self.app.tasks.spawn(async move {
            if let Err(error) = app.fleet.provide_container(id, version).await {
                tracing::warn!(container = %id, %error, "a container was not made yet; the scheduler goes on");
            }
        });
        let mut nudged = self.app.fleet.nudge.listen();
        loop {
            let row = self.app.store.containers().get(id).await?;
            let row = row.ok_or_else(|| ApiError::internal(format!("container {id} vanished")))?;
            let is_late = self.app.shutdown.is_cancelled() || self.app.now() >= give_up;
            if is_late || views::ContainerView::is_settled(&row) {
                return Ok(row);
            }
            nudged.within(LOOK_EVERY).await;
        }
    }

    /// Shows a container, and where browsers reach it.
    pub fn view(self, row: &ContainerRow, node: Option<&Node>) -> views::ContainerView {
        let apps = self.app.fleet.config.networks.apps.as_ref();
        views::ContainerView::new(row, node).named(apps.map(|apps| &apps.domain))
    }

    /// Returns the containers of a lease that were not removed, and the node that they are on.
    ///
    /// # Errors
    /// 404 for an unknown lease or somebody else's.
    pub async fn list(
        self,
        who: &Caller,
        which: &str,
    ) -> Result<(Vec<ContainerRow>, Option<Node>), ApiError> {
        let lease = self.app.leases().find(who, which).await?;
        Ok((self.app.store.containers().of_lease(lease.lease.id).await?, lease.node))
    }

    /// Returns a container of a lease, by its name, and the node that it is on.
    ///
    /// # Errors
    /// 404 for an unknown lease, or container.
    pub async fn show(
        self,
        who: &Caller,
        which: &str,
        name: &str,
    ) -> Result<(ContainerRow, Option<Node>), ApiError> {
        let (rows, node) = self.list(who, which).await?;
        let row = rows.into_iter().find(|row| row.name == name).ok_or_else(|| {
            ApiError::not_found(format!(
                "the lease has no container '{name}'; GET /api/rentals/{which}/containers lists them"
            ))
        })?;
        Ok((row, node))
    }

    /// Changes what is wanted of a container, and waits until that is so.
    ///
    /// # Errors
    /// 404 for an unknown container, 409 where the lease is over.
    pub async fn want(
        self,
        who: &Caller,
        which: &str,
        name: &str,
        wanted: Wanted,
    ) -> Result<ContainerRow, ApiError> {
        let (row, _) = self.show(who, which, name).await?;
        let (app, actor) = (self.app.clone(), Some(who.user));
        self.app.run_detached(async move { app.containers().want_of(row, wanted, actor).await }).await
    }

    async fn want_of(
        self,
        row: ContainerRow,
        wanted: Wanted,
        actor: Option<orion_domain::UserId>,
    ) -> Result<ContainerRow, ApiError> {
        match self.app.store.containers().want(row.id, wanted, actor, self.app.now()).await? {
            Cas::Done(_) => self.app.fleet.nudge.all(),
            Cas::Stale | Cas::Gone => {
                return Err(ApiError::conflict("lease_over", "the container, or its lease, is over"));
            }
        }
        self.app.fleet.provide_container(row.id, None).await?;
        let row = self.app.store.containers().get(row.id).await?;
        row.ok_or_else(|| ApiError::internal("the container vanished"))
    }

    /// Reads the log of a container on its node.
    ///
    /// # Errors
    /// 404 for an unknown container, 409 for one that was never made, 429 for more logs than may be read at once, 503 where
    /// the node's engine does not answer.
    pub async fn logs(
        self,
        who: &Caller,
        which: &str,
        name: &str,
        options: &LogOptions,
    ) -> Result<(LogStream, OpenStream), ApiError> {
        let (row, _) = self.show(who, which, name).await?;
        let (Some(engine), Some(id)) = (self.engine_of(&row).await?, &row.engine_id) else {
            return Err(ApiError::conflict(
                "no_log",
                "the container was not made on a node yet; it has no log",
            ));
        };
        let open = self.open_stream(who, &row, StreamKind::Log)?;
        let log = engine.logs(id, options).await.map_err(|error| engine_error(&error))?;
        Ok((log, open))
    }

    /// Returns a container that runs, its engine, and the engine's id of it.
    ///
    /// # Errors
    /// 404 for an unknown container, 409 for one that does not run.
    async fn running(
        self,
        who: &Caller,
        which: &str,
        name: &str,
    ) -> Result<(ContainerRow, Engine, String), ApiError> {
        let (row, _) = self.show(who, which, name).await?;
        let engine = self.engine_of(&row).await?.filter(|_| row.phase == ContainerPhase::Running);
        match (engine, row.engine_id.clone()) {
            (Some(engine), Some(id)) => Ok((row, engine, id)),
            (Some(_) | None, Some(_) | None) => Err(not_running(row.phase)),
        }
    }

    /// Returns the engine that a container is on; none while it is on none.
    async fn engine_of(self, row: &ContainerRow) -> Result<Option<Engine>, ApiError> {
        let Some(node) = row.node else { return Ok(None) };
        let Some(node) = self.app.store.nodes().get(node).await? else { return Ok(None) };
        let target = target_of(&node).map_err(ApiError::internal)?;
        Ok(Some(self.app.fleet.engines.of(&target)))
    }
}

fn not_running(phase: ContainerPhase) -> ApiError {
    ApiError::conflict("container_state", format!("the container does not run; it is {}", phase.as_str()))
}

/// What an engine that fails means for a client.
fn engine_error(error: &EngineError) -> ApiError {
    use orion_containers::EngineMeaning as Meaning;
    match error.meaning() {
        Meaning::NotFound => ApiError::not_found(error.to_string()),
        Meaning::Conflict => ApiError::conflict("container_state", error.to_string()),
        Meaning::Invalid | Meaning::Denied => ApiError::bad_request(error.to_string()),
        Meaning::NodeUnreached
        | Meaning::EngineDown
        | Meaning::Unusable
        | Meaning::NoSpace
        | Meaning::Failed
        | Meaning::Nothing => ApiError::unavailable(format!("the node's container engine: {error}")),
    }
}

/// Refuses more than the lease has.
fn check_size(row: &LeaseRow, spec: &ContainerSpec) -> Result<(), ApiError> {
    let Some(node) = &row.node else { return Ok(()) };
    let share = row.lease.holding.share_of(node.capacity);
    share.check(spec).map_err(|error| ApiError::field(error.field, error.problem))
}
