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

mod attempts;
mod brake;
mod claims;
mod db;
mod deliveries;
mod doctor;
mod drain;
mod ending;
mod error;
mod events;
mod forget;
mod health;
mod idempotency;
mod leases;
mod links;
mod memory;
mod migrate;
mod model;
mod moves;
mod nodes;
mod place;
mod reconcile;
mod record;
mod registration;
mod restore;
mod retries;
mod rows;
mod second_look;
mod settings;
mod stock;
mod tally;
mod transitions;
mod uids;
mod users;
mod values;
mod webhooks;

pub use deliveries::{Delivery, DeliveryClaim, DeliveryState, Tried, WebhookTally};
pub use doctor::{Examined, HowFar};
pub use drain::DrainRequest;
pub use error::{Cas, StoreError};
pub use events::EventTail;
pub use memory::{ClaimRenewed, MemoryCompared, NodeMemory, UidRange};
pub use model::*;
pub use restore::{AfterRestore, RestoreSettled};
pub use retries::RetryTally;
pub use tally::NodeTally;
pub use webhooks::{NewWebhook, Webhook};

use attempts::transaction;
use db::Db;
use orion_domain::Timestamp;
use std::sync::Arc;
use stock::Stock;
use uids::UidDesk;

/// The store. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Store {
    db: Db,
    stock: Arc<Stock>,
    uids: Arc<UidDesk>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.db.is_maria() { "Store(MariaDB)" } else { "Store(SQLite)" })
    }
}

impl Store {
    /// Connects and brings the schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Config`] for URLs that cannot be used, [`StoreError::Unavailable`] when no host
    /// answers, [`StoreError::Migration`] when the schema is newer than this program or cannot be made.
    pub async fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let db = Db::open(config, true).await?;
        migrate::run(&db).await?;
        Ok(Self { db, stock: Arc::default(), uids: Arc::default() })
    }

    /// Connects to a database that this version has made or brought up to date, and leaves it as it is.
    ///
    /// # Errors
    /// Those of [`Store::open`]; [`StoreError::Migration`] also when the schema is older than this program, or when
    /// there is none. [`StoreError::Config`] for a SQLite file that is not there.
    pub async fn open_as_it_is(config: &StoreConfig) -> Result<Self, StoreError> {
        let db = Db::open(config, false).await?;
        migrate::must_be_current(&db).await?;
        Ok(Self { db, stock: Arc::default(), uids: Arc::default() })
    }

    /// The database's clock, to compare one's own with.
    ///
    /// # Errors
    /// [`StoreError`].
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

    /// Whether the database works: a transaction and a table read (a Galera node that is not primary answers
    /// `SELECT 1`, but neither of these).
    pub async fn is_healthy(&self) -> bool {
        let outcome = transaction!(&self.db, |tx| {
            tx.abandon();
            tx.one::<(String,)>("SELECT value FROM settings WHERE name = 'next_uid'", vec![]).await
        });
        matches!(outcome, Ok(Some(_)))
    }
}
