//! Transactions that are run again as a whole: after a deadlock, after a lost host, and after a COMMIT whose
//! outcome is unknown, where first is looked whether it happened.
//!
//! Lives here: when to run again and when to give up. Does not live here: SQL of Orion but for that look.

use crate::{
    engine::db::{ACQUIRE_MAX_OF_ONE, Db, OPERATION_MAX, Open, Record},
    engine::error::{Fault, Result},
    engine::value::{Val, vals},
};
use orion_domain::clock::CLOCK_SKEW_MAX;
use sqlx::SqlSafeStr;
use std::time::{Duration, Instant};

/// A transaction that has lived this long is not committed any more: readers of the event log rely on it.
const TRANSACTION_MAX: Duration = Duration::from_secs(8);
/// A write is visible within this of its time, unless it had to be run again: a wait for a connection, the
/// transaction's life
/// and its COMMIT, on a machine whose clock is off. Readers of what changed look so far back.
pub const VISIBLE_WITHIN: Duration = Duration::from_secs(20);
const _: () = assert!(
    ACQUIRE_MAX_OF_ONE.as_secs()
        + TRANSACTION_MAX.as_secs()
        + OPERATION_MAX.as_secs()
        + 2 * CLOCK_SKEW_MAX.as_secs()
        < VISIBLE_WITHIN.as_secs()
);
/// Times that a transaction is run again after deadlocks.
const ATTEMPTS_MAX: u32 = 20;

/// Data that only this transaction can have written, so that a later look shows whether it was committed.
#[derive(Clone, Debug)]
pub(crate) enum CommitMarker {
    /// An event's ULID.
    Event(String),
    /// A claim's token on a node.
    Claim(i64, String),
}

impl CommitMarker {
    fn query(&self) -> (&'static str, Vec<Val>) {
        match self {
            Self::Event(uid) => ("SELECT COUNT(*) FROM events WHERE uid = ?", vals![uid]),
            Self::Claim(node, token) => {
                ("SELECT COUNT(*) FROM nodes WHERE id = ? AND claim_token = ?", vals![*node, token])
            }
        }
    }
}

/// A transaction.
pub(crate) struct Tx {
    open: Open,
    host: usize,
    started: Instant,
    witness: Option<CommitMarker>,
    abandoned: bool,
}

impl Tx {
    /// Runs a statement and says how many rows it matched: `== 1` is a compare-and-swap on both databases.
    pub(crate) async fn exec(&mut self, sql: impl SqlSafeStr, values: Vec<Val>) -> Result<u64> {
        Ok(self.open.execute(sql.into_sql_str(), values).await?.0)
    }

    /// Inserts a row and gives its number.
    pub(crate) async fn insert(&mut self, sql: impl SqlSafeStr, values: Vec<Val>) -> Result<i64> {
        Ok(self.open.execute(sql.into_sql_str(), values).await?.1)
    }

    pub(crate) async fn all<T: Record>(&mut self, sql: impl SqlSafeStr, values: Vec<Val>) -> Result<Vec<T>> {
        self.open.fetch(sql.into_sql_str(), values).await
    }

    pub(crate) async fn one<T: Record>(
        &mut self,
        sql: impl SqlSafeStr,
        values: Vec<Val>,
    ) -> Result<Option<T>> {
        Ok(self.all(sql, values).await?.into_iter().next())
    }

    /// The transaction's body ends well, but nothing of it is to stay.
    pub(crate) const fn abandon(&mut self) {
        self.abandoned = true;
    }

    /// Remembers what tells later that this transaction happened; the first one counts.
    pub(crate) fn set_commit_marker(&mut self, witness: CommitMarker) {
        self.witness.get_or_insert(witness);
    }

    /// The ULID of the first event that this transaction told; empty if none was.
    pub(crate) fn marked_event(&self) -> String {
        match &self.witness {
            Some(CommitMarker::Event(uid)) => uid.clone(),
            Some(CommitMarker::Claim(..)) | None => String::new(),
        }
    }

    async fn sees(&mut self, witness: &CommitMarker) -> Result<bool> {
        let (sql, values) = witness.query();
        Ok(self.one::<(i64,)>(sql, values).await?.is_some_and(|(count,)| count > 0))
    }
}

/// The attempts at one transaction whose body gives a `T`.
pub(crate) struct Attempts<'a, T> {
    db: &'a Db,
    started: Instant,
    tried: u32,
    host: usize,
    /// Commits without an answer, with what they would have given.
    unknown: Vec<(CommitMarker, T)>,
}

impl<'a, T> Attempts<'a, T> {
    pub(crate) fn new(db: &'a Db) -> Self {
        Self { db, started: Instant::now(), tried: 0, host: db.host(), unknown: Vec::new() }
    }

    pub(crate) async fn begin(&mut self) -> Result<Tx> {
        self.host = self.db.host();
        let open = self.db.begin().await?;
        Ok(Tx { open, host: self.host, started: Instant::now(), witness: None, abandoned: false })
    }

    /// Ends a transaction as its body's outcome says.
    pub(crate) async fn close(&mut self, mut tx: Tx, outcome: Result<T>) -> Result<T> {
        self.host = tx.host;
        if let Err(Fault::Gone(text)) = outcome {
            return Err(Fault::Gone(text)); // dropping `tx` closes its connection
        }
        for index in 0..self.unknown.len() {
            // An earlier COMMIT without an answer may have happened only now.
            if tx.sees(&self.unknown[index].0).await? {
                tx.open.close("ROLLBACK").await?;
                return Ok(self.unknown.swap_remove(index).1);
            }
        }
        let value = match outcome {
            Ok(value) => value,
            Err(fault) => {
                // After 1213 the transaction is gone already; nothing more may be run in it.
                if let Err(error) = tx.open.close("ROLLBACK").await {
                    tracing::debug!(?error, "the rollback failed, too");
                }
                return Err(fault);
            }
        };
        if tx.abandoned {
            tx.open.close("ROLLBACK").await?;
            return Ok(value);
        }
        if tx.started.elapsed() > TRANSACTION_MAX {
            tx.open.close("ROLLBACK").await?;
            return Err(Fault::Gone("the transaction took too long".into()));
        }
        match (tx.open.close("COMMIT").await, tx.witness) {
            (Ok(()), _) => Ok(value),
            (Err(Fault::Retry(text)), _) => Err(Fault::Retry(text)),
            (Err(fault), Some(witness)) => {
                self.unknown.push((witness, value));
                Err(Fault::CommitUnknown(format!("{fault:?}")))
            }
            // A write without a witness may be repeated.
            (Err(_), None) => Err(Fault::Gone("COMMIT got no answer".into())),
        }
    }

    /// Whether that is the end of it (`Some`), or the transaction is to be run again (`None`).
    pub(crate) async fn settle(&mut self, result: Result<T>) -> Option<Result<T>> {
        let fault = match result {
            Ok(value) => return Some(Ok(value)),
            Err(fault) => fault,
        };
        self.tried += 1;
        match &fault {
            Fault::Retry(_) if self.tried <= ATTEMPTS_MAX => {}
            Fault::Gone(_) | Fault::CommitUnknown(_) if self.tried <= ATTEMPTS_MAX => {
                self.db.leave(self.host);
                if !self.unknown.is_empty() {
                    match self.committed_earlier().await {
                        Ok(Some(value)) => return Some(Ok(value)),
                        Ok(None) => {}
                        Err(_) => return Some(Err(Fault::CommitUnknown(format!("{fault:?}")))),
                    }
                } else if self.started.elapsed() >= self.db.patience() {
                    return Some(Err(fault));
                }
            }
            Fault::Retry(_)
            | Fault::Gone(_)
            | Fault::CommitUnknown(_)
            | Fault::Unique(_)
            | Fault::Store(_) => {
                if let Ok(Some(value)) = self.committed_earlier().await {
                    return Some(Ok(value));
                }
                return Some(Err(fault));
            }
        }
        self.db.retries().count(&fault);
        let ceiling_us = 400_u64 << self.tried.min(8);
        tokio::time::sleep(Duration::from_micros(rand::random_range(ceiling_us / 4..ceiling_us))).await;
        None
    }

    /// Whether an earlier COMMIT without an answer did happen.
    async fn committed_earlier(&mut self) -> Result<Option<T>> {
        for index in 0..self.unknown.len() {
            let (sql, values) = self.unknown[index].0.query();
            if self.db.one::<(i64,)>(sql, values).await?.is_some_and(|(count,)| count > 0) {
                return Ok(Some(self.unknown.swap_remove(index).1));
            }
        }
        Ok(None)
    }
}

/// Runs the body in a transaction, again if need be, and commits. (A macro, because a future from an
/// `AsyncFn` argument is not `Send` enough for `tokio::spawn`.)
macro_rules! transaction {
    ($db:expr, |$tx:ident| $body:block) => {{
        let mut attempts = $crate::engine::Attempts::new($db);
        loop {
            let result = match attempts.begin().await {
                Err(fault) => Err(fault),
                Ok(mut open) => {
                    let outcome: $crate::engine::Result<_> = {
                        let $tx = &mut open;
                        async { $body }.await
                    };
                    attempts.close(open, outcome).await
                }
            };
            if let Some(settled) = attempts.settle(result).await {
                break settled;
            }
        }
    }};
}
pub(crate) use transaction;
