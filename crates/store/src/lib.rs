//! Every SQL statement of Orion, on MariaDB/MySQL and on SQLite.
//!
//! Lives here: the schema and its migrations, one function a query, and the transactions that change a
//! lease, its node and the event log together. Does not live here: what a transition means (that is
//! [`orion_domain::lease::LeaseState`]), when one is due (the scheduler), and what is done on a node (fleet).
//!
//! Rules of the house:
//! - A write is one explicit transaction. It is run again as a whole after a deadlock, a certification
//!   failure or a lost host; after a COMMIT without an answer the store looks whether it happened. (One exception:
//!   the reservation of uids for a placement, which may happen twice.)
//! - A write compares and swaps: on `version`, on a claim token, or on the schema's UNIQUE; see [`Cas`].
//! - Every transition of a lease or a node appends its event in the same transaction.
//! - No clock: `now` is the caller's. Only [`Store::now`] asks the database for its own.
//! - Rows become domain types in one place (`rows`); a row that cannot is [`StoreError::Corrupt`].
//!
//! Where to look: `place` gives a lease its node, `moves` another one, `reconcile` confirms it, `health`
//! loses it (unless the `brake` is on), `drain` empties its node, `ending` ends it; `transitions` writes each of
//! these steps.

mod accounts;
mod admin;
mod agents;
mod cluster;
mod containers;
mod engine;
mod events;
mod idempotency;
mod images;
mod leases;
mod nodes;
mod webhooks;

pub use accounts::{
    AccountChange, AccountChanged, AccountRow, Accounts, CreateUser, JoinToken, NewInvite, NewUser, Quotas,
    Role, Standing, User,
};
pub use admin::{Admin, AfterRestore, Kept, NodeAudit, NodeTally, Prunable, Pruned, RestoreSettled, Scope};
pub use agents::{Agents, BootTold, DeclaredDead, Prober, Sighting};
pub use cluster::{Cluster, PeerProbe, PeerProbeAnswer, Replica, TaskState, TaskStatus};
pub use containers::{
    AppTicket, ContainerMade, ContainerNews, ContainerRow, ContainerStanding, Containers, EngineSaid,
    NewContainer, NodePort, PublishedApp, PublishedPort, Pulled, SilentEngine, Wanted, WantedPorts,
    new_container_uid,
};
pub use engine::{Cas, RetryTally, StoreConfig, StoreError, VISIBLE_WITHIN};
pub use events::{Event, EventTail, Events, NewEvent};
pub use idempotency::{IdemNew, IdemRow, IdemState, Idempotency, REPLY_KEPT};
pub use images::{Images, LoginKept, NewRegistryLogin, RegistryLogin};
pub use leases::{
    FirstContainer, Largest, LeaseNodeEntry, LeaseRow, Leases, MoveOutcome, MoveReason, MoveRequest,
    NO_NODE_IS_FREE, NewAccount, PlaceOutcome, PlaceRequest, Placement, RequestEnd, Room, Start, Step,
};
pub use nodes::{
    ChangesCursor, ClaimRenewed, Compared, DrainRequest, FinishReconcile, Finished, ForgetOutcome,
    ForgetRequest, Forgotten, GpuRow, HealthChanged, HighWaterCompared, HighWaterMarks, KeysTold,
    LeaseGlance, ListedNode, NodeClaim, NodeHealthSummary, NodeSummary, Nodes, RegisterNode, RegisterOutcome,
    SshdSummary, UidRange, Unfinished, two_machines,
};
pub use webhooks::{
    Delivery, DeliveryClaim, DeliveryState, NewWebhook, Tried, Webhook, WebhookTally, Webhooks,
};

use engine::Db;
use leases::{CandidateCache, RoomCache, UidAllocator};
use orion_domain::{Timestamp, node::Reserved};
use std::sync::Arc;

/// The store. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Store {
    db: Db,
    candidates: Arc<CandidateCache>,
    rooms: Arc<RoomCache>,
    uids: Arc<UidAllocator>,
    reserved: Reserved,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.db.is_maria() { "Store(MariaDB)" } else { "Store(SQLite)" })
    }
}

impl Store {
    /// Keeps this part of each node for the node itself.
    #[must_use]
    pub const fn reserving(mut self, reserved: Reserved) -> Self {
        self.reserved = reserved;
        self
    }

    fn on(db: Db) -> Self {
        Self {
            db,
            candidates: Arc::default(),
            rooms: Arc::default(),
            uids: Arc::default(),
            reserved: Reserved::default(),
        }
    }

    /// Connects and brings the schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Config`] for URLs that cannot be used, [`StoreError::Unavailable`] when no host
    /// answers, [`StoreError::Migration`] when the schema is newer than this program or cannot be made.
    pub async fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let db = Db::open(config, true).await?;
        engine::migrate(&db).await?;
        nodes::keep_proved_ones(&db).await?;
        Ok(Self::on(db))
    }

    /// Connects to a database that this version has made or brought up to date, and leaves it as it is.
    ///
    /// # Errors
    /// Those of [`Store::open`]; [`StoreError::Migration`] also when the schema is older than this program, or when
    /// there is none. [`StoreError::Config`] for a SQLite file that is not there.
    pub async fn open_existing(config: &StoreConfig) -> Result<Self, StoreError> {
        let db = Db::open(config, false).await?;
        engine::must_be_current(&db).await?;
        Ok(Self::on(db))
    }

    /// The database's clock, to compare one's own with.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        let row = self.db.one::<(i64,)>(self.clock_sql(), vec![]).await?;
        let micros = row.map(|(micros,)| micros);
        micros
            .map(Timestamp::from_micros)
            .ok_or_else(|| StoreError::Unavailable("the database has no clock".into()))
    }

    /// The database's clock, in microseconds.
    const fn clock_sql(&self) -> &'static str {
        self.db.sql(
            "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
            "SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000",
        )
    }

    /// Whether only one process can share this database (SQLite).
    pub fn is_for_one_process(&self) -> bool {
        !self.db.is_maria()
    }

    /// Whether the database works: a table is read (a Galera node that is not primary answers `SELECT 1`, but not
    /// this).
    /// No transaction is opened: anybody may ask, and SQLite has one writer.
    pub async fn is_healthy(&self) -> bool {
        let sql = "SELECT value FROM settings WHERE name = 'next_uid'";
        matches!(self.db.one::<(String,)>(sql, vec![]).await, Ok(Some(_)))
    }
}
