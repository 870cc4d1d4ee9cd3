//! What can go wrong: for callers ([`StoreError`], [`Cas`]) and inside (`Fault`, which knows whether the
//! transaction is to be run again).

use orion_domain::Refused;
use sqlx::{mysql::MySqlDatabaseError, sqlite::SqliteError};
use std::convert::Infallible;

/// Reason why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, too slow, or the outcome of a commit could not be found out. Try again later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A row says something impossible.
    #[error("row {id} of table {table} is corrupt: {detail}")]
    Corrupt {
        /// Name of the table.
        table: &'static str,
        /// The row's number.
        id: i64,
        /// Description of the corruption.
        detail: String,
    },
    /// The schema could not be brought up to date, or is newer than this program.
    #[error("the database's schema cannot be used: {0}")]
    Migration(String),
    /// The configuration names no usable database.
    #[error("the database's configuration is wrong: {0}")]
    Config(String),
    /// The database refused a statement: a bug, or a database that was changed by hand.
    #[error("the database refused a statement")]
    Sql(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Outcome of a compare-and-swap. `R` is [`Refused`] where it is told that the row's state does not allow the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cas<T = (), R = Infallible> {
    /// Written.
    Done(T),
    /// Row that was changed meanwhile, or that has nothing to change: nothing was written. Read again.
    Stale,
    /// Row whose state does not allow the change: nothing was written.
    Refused(R),
    /// Row that does not exist.
    Gone,
}

impl<T, R> Cas<T, R> {
    /// The value, if it was written.
    pub fn done(self) -> Option<T> {
        match self {
            Self::Done(value) => Some(value),
            Self::Stale | Self::Refused(_) | Self::Gone => None,
        }
    }
}

impl<T> Cas<T> {
    /// The same where a state may refuse.
    pub(crate) fn refusable(self) -> Cas<T, Refused> {
        match self {
            Self::Done(value) => Cas::Done(value),
            Self::Stale => Cas::Stale,
            Self::Gone => Cas::Gone,
        }
    }
}

/// An error inside the store.
#[derive(Debug)]
pub(crate) enum Fault {
    /// A UNIQUE was violated; the text holds the index's name (MariaDB) or its columns (SQLite).
    Unique(String),
    /// The transaction is to be run again from its beginning.
    Retry(String),
    /// The host cannot be used: another host, or later.
    Gone(String),
    /// COMMIT got no answer: it may have happened.
    CommitUnknown(String),
    /// Any other error.
    Store(StoreError),
}

pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<sqlx::Error> for Fault {
    /// The classes were measured: 1213 and 1205 are deadlock (or certification failure) and lock wait; 1020
    /// a changed snapshot; 1047, 1053, 1927, 1040, 1290 a node that is not primary, stops, is full, is
    /// read-only; 1969 and 1317 a statement that ran too long; SQLite 5 and 6 are BUSY and LOCKED, 8, 10, 13
    /// and 14 a file that cannot be written, read, grown or opened.
    #[expect(clippy::wildcard_enum_match_arm, reason = "sqlx::Error is non-exhaustive")]
    fn from(error: sqlx::Error) -> Self {
        let error = match error {
            // A row that was read into its domain type at once names itself.
            sqlx::Error::Decode(source) => match source.downcast() {
                Ok(corrupt) => return Self::Store(*corrupt),
                Err(source) => sqlx::Error::Decode(source),
            },
            other => other,
        };
        match &error {
            sqlx::Error::Database(refusal) => {
                let text = refusal.message().to_string();
                if refusal.is_unique_violation() {
                    return Self::Unique(text);
                }
                if let Some(mysql) = refusal.try_downcast_ref::<MySqlDatabaseError>() {
                    return match mysql.number() {
                        1213 | 1205 | 1020 => Self::Retry(text),
                        1047 | 1053 | 1927 | 1040 | 1290 | 1969 | 1317 => Self::Gone(text),
                        _ => Self::Store(StoreError::Sql(error)),
                    };
                }
                let code = refusal.try_downcast_ref::<SqliteError>().and_then(|_| refusal.code());
                match code.and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff) {
                    Some(5 | 6) => Self::Retry(text),
                    Some(8 | 10 | 13 | 14) => Self::Gone(text),
                    _ => Self::Store(StoreError::Sql(error)),
                }
            }
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Protocol(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::WorkerCrashed => Self::Gone(error.to_string()),
            _ => Self::Store(StoreError::Sql(error)),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unique(text) => Self::Sql(sqlx::Error::Protocol(format!("unexpected: {text}"))),
            Fault::Retry(text) | Fault::Gone(text) => Self::Unavailable(text),
            Fault::CommitUnknown(text) => {
                Self::Unavailable(format!("whether the last change was made is not known: {text}"))
            }
            Fault::Store(error) => error,
        }
    }
}
