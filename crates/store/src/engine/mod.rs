//! The engine: the only part that knows that there are two databases.

mod db;
mod error;
mod migrate;
mod record;
mod retries;
mod row;
mod transaction;
mod value;

pub(crate) use db::Db;

pub use error::{Cas, StoreError};
pub(crate) use error::{Fault, Result};
pub(crate) use migrate::{explain, must_be_current, run as migrate, run_sqlite};
pub(crate) use record::{Columns, record};
pub use retries::RetryTally;
pub(crate) use row::{Checked, at, clip, each, json};
pub use transaction::VISIBLE_WITHIN;
pub(crate) use transaction::{Attempts, CommitMarker, Tx, transaction};
pub(crate) use value::{Val, in_lists, vals};

/// Location of the database.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// `sqlite:PATH`, or one to n `mysql://user:password@host:port/database` URLs of the same cluster, in
    /// the same order on every replica, so that normally one of them gets all writes.
    pub urls: Vec<String>,
    /// Connections to each MariaDB host (SQLite has one writer and four readers, whatever stands here).
    pub connections_max: u32,
}
