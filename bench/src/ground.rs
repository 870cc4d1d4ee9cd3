//! What the figures of the services stand on: a MariaDB of its own, its schema and keys, and nodes in it.
//!
//! Nodes come in through the store, as their agents' registrations would bring them. Only what a scheduler would
//! have found out about them is written by SQL here.

use crate::{
    broken::{Broken, Context as _},
    fake_fleet::{address, public_host_key},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use orion_domain::{
    Clock as _, Secret, SystemClock, Timestamp, UserId,
    lease::{Holding, OnNodeLoss},
    names::Port,
    node::Facts,
};
use orion_service::{keys::Keys, sealed::MasterKey};
use orion_store::{
    CreateUser, NewAccount, NewUser, PlaceOutcome, PlaceRequest, Placement, RegisterNode, RegisterOutcome,
    Store, StoreConfig,
};
use orion_testkit::MariaDb;
use sqlx::{MySqlPool, mysql::MySqlPoolOptions};
use std::{path::Path, time::Duration};
use tempfile::TempDir;

/// Connections of each pool.
pub const CONNECTIONS: u32 = 32;
/// Registrations at once.
const SIDE_BY_SIDE: usize = 16;
/// Public key of a tenant.
pub const PUBLIC_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
/// A sixteenth of each node.
const SLICE: Holding = Holding::Slice { cpu_milli: 1_000, memory_mb: 4_096, gpus: 0 };
/// SHA-256 of no real join token.
const JOIN_TOKEN: &str = "0000000000000000000000000000000000000000000000000000000000000007";

/// A database with Orion's schema.
pub struct Ground {
    /// `mysql://…`
    pub url: String,
    /// The store on it.
    pub store: Store,
    /// The same database without the store.
    pub sql: MySqlPool,
    /// Opens the keys in it.
    pub master_key: MasterKey,
    /// Public key of the control CA in it.
    pub authority: String,
    directory: TempDir,
    _server: MariaDb,
}

impl Ground {
    /// A new server with an empty database.
    ///
    /// # Errors
    /// When the store cannot be opened on it.
    pub async fn start() -> Result<Self, Broken> {
        let server = MariaDb::start();
        let url = server.create_database().url;
        let store = open_store(&url).await?;
        let master_key = MasterKey::generate();
        let keys = Keys::open(&store, &master_key).await.context("the keys")?;
        Ok(Self {
            sql: open_sql(&url).await?,
            store,
            authority: keys.control_ca.public_line(),
            master_key,
            directory: tempfile::tempdir().context("a temporary directory")?,
            url,
            _server: server,
        })
    }

    /// A directory of this run, for logs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    /// Registers the nodes of a simulated fleet that answers on `port`; they are new and dirty.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn register(&self, count: usize, port: u16) -> Result<(), Broken> {
        register_in(&self.store, count, port, self.now()).await
    }

    /// All nodes are as if a scheduler had found them alive and clean.
    ///
    /// # Errors
    /// The database's.
    pub async fn make_offerable(&self) -> Result<(), Broken> {
        let sql = "UPDATE nodes SET admission = 'admitted', health = 'alive', health_reason = \
                   'SSH answers; no agent', way_in = 'open', applied_version = desired_version, unclean = 0";
        sqlx::query(sql).execute(&self.sql).await.context("making the nodes offerable")?;
        Ok(())
    }

    /// A user.
    ///
    /// # Errors
    /// When the name is taken.
    pub async fn user(&self, name: &str) -> Result<UserId, Broken> {
        let username = name.parse().map_err(Broken::new)?;
        let made = self.store.accounts().create(&NewUser::new(&username, "$argon2id$none"), self.now()).await;
        let made = made.context("a user")?;
        let CreateUser::Created(id) = made else { return Err(Broken::new(format!("no user: {made:?}"))) };
        Ok(id)
    }

    /// Places `count` leases in one request. Nothing is done on a node.
    ///
    /// # Errors
    /// When too few nodes are free.
    pub async fn place(&self, user: UserId, count: usize) -> Result<Vec<Placement>, Broken> {
        place(&self.store, user, count).await
    }
}

/// Registers the nodes of a simulated fleet that answers on `port`; they are new and dirty.
///
/// # Errors
/// When one is refused.
pub async fn register_in(store: &Store, count: usize, port: u16, now: Timestamp) -> Result<(), Broken> {
    store
        .accounts()
        .create_join_token(JOIN_TOKEN, "benchmark", None, None, None, now)
        .await
        .context("a join token")?;
    stream::iter(0..count)
        .map(|index| async move {
            let request = registration(index, port, now)?;
            let outcome = store.nodes().register(&request).await.context("a registration")?;
            let RegisterOutcome::Created(_) = outcome else {
                return Err(Broken::new(format!("node {index} was not registered: {outcome:?}")));
            };
            Ok(())
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .try_collect()
        .await
}

/// Opens another store on the same database.
///
/// # Errors
/// When the database cannot be reached.
pub async fn open_store(url: &str) -> Result<Store, Broken> {
    let config = StoreConfig { urls: vec![url.to_owned()], connections_max: CONNECTIONS };
    Store::open(&config).await.context("the store")
}

/// The database without the store, its sessions as the store's are.
///
/// # Errors
/// When it cannot be reached.
pub async fn open_sql(url: &str) -> Result<MySqlPool, Broken> {
    let read_committed = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
    MySqlPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(Duration::from_secs(10))
        .after_connect(move |connection, _| {
            Box::pin(async move { sqlx::raw_sql(read_committed).execute(connection).await.map(drop) })
        })
        .connect(url)
        .await
        .context("the database")
}

/// Places `count` leases in one request. Nothing is done on a node.
///
/// # Errors
/// When too few nodes are free.
pub async fn place(store: &Store, user: UserId, count: usize) -> Result<Vec<Placement>, Broken> {
    place_as_wished(store, &wish(user, count, SystemClock.now())?).await
}

/// Places a slice of a node: a core and 4 GiB, without a login. Nothing is done on a node.
///
/// # Errors
/// When no node has room.
pub async fn place_slice(store: &Store, user: UserId) -> Result<Vec<Placement>, Broken> {
    let wish = PlaceRequest { accounts: Vec::new(), holding: SLICE, ..wish(user, 1, SystemClock.now())? };
    place_as_wished(store, &wish).await
}

async fn place_as_wished(store: &Store, wish: &PlaceRequest) -> Result<Vec<Placement>, Broken> {
    let count = wish.count;
    let outcome = store.leases().place(wish).await.context("a placement")?;
    let PlaceOutcome::Placed(placed) = outcome else {
        return Err(Broken::new(format!("{count} leases were not placed: {outcome:?}")));
    };
    Ok(placed)
}

/// A wish for `count` nodes for an hour.
fn wish(user: UserId, count: usize, now: Timestamp) -> Result<PlaceRequest, Broken> {
    let account = || NewAccount {
        password_hash: Secret::new(format!("$6${}${}", "s".repeat(16), "h".repeat(86))),
        public_key: Some(PUBLIC_KEY.to_owned()),
    };
    Ok(PlaceRequest {
        user,
        username: "benchmark".parse().map_err(Broken::new)?,
        count,
        from: now,
        until: now.plus(Duration::from_secs(3600)),
        name: None,
        accounts: (0..count).map(|_| account()).collect(),
        tags: Vec::new(),
        holding: Holding::WholeNode,
        containers: Vec::new(),
        on_node_loss: OnNodeLoss::Migrate,
        nodes_max: None,
        request_key: format!("{:032x}", rand::random::<u128>()),
        idem: None,
        first_turn: Duration::from_secs(30),
        first_uid: 200_000,
        last_uid: 60_000_000,
        now,
    })
}

fn registration(index: usize, port: u16, now: Timestamp) -> Result<RegisterNode, Broken> {
    Ok(RegisterNode {
        hostname: format!("node-{index}").parse().map_err(Broken::new)?,
        addr: address(index).to_string().parse().map_err(Broken::new)?,
        port: Port::try_from(i64::from(port)).map_err(Broken::new)?,
        host_keys: vec![public_host_key(index).parse().map_err(Broken::new)?],
        facts: Facts { cpu_cores: Some(16), memory_mb: Some(65_536), ..Facts::default() },
        tags: Vec::new(),
        body_sha256: format!("{index:064x}"),
        join_token_sha256: Some(JOIN_TOKEN.to_owned()),
        node_token_sha256_presented: None,
        boot_id: None,
        machine_id_sha256: None,
        new_node_token_sha256: format!("{:064x}", index + 1_000_000),
        now,
    })
}
