//! The one step after a database was restored from a backup: nothing that it says of its nodes is believed before
//! they were looked at, and no number that was given out since the backup is given out again.
//!
//! Lives here: that step. Does not live here: the net that works without it (`memory`), and making or restoring a
//! backup, which the database's own tools do.

use super::Admin;
use crate::{
    cluster::{RESTORED_AT, Replica},
    engine::{Db, Result, StoreError, Tx, transaction, vals},
    events::NewEvent,
    leases::insert::next_uid,
    nodes::high_water::UidRange,
};
use orion_domain::{Timestamp, event::Change, event::DatabaseEvent};

use sqlx::AssertSqlSafe;
use std::time::Duration;

/// A process that has beaten within this time is taken to run.
const BEATS_WITHIN: Duration = Duration::from_secs(10);

/// Tables whose numbers clients know, and how many numbers are left out: more than were given out since the backup.
/// Events are many, and their readers ask for what comes after the last one that they have seen.
const NUMBERED: [(&str, i64); 8] = [
    ("users", 100_000),
    ("join_tokens", 100_000),
    ("invites", 100_000),
    ("nodes", 100_000),
    ("leases", 100_000),
    ("webhooks", 100_000),
    ("webhook_deliveries", 1_000_000_000),
    ("events", 1_000_000_000),
];

/// Parameters of the work after a restore.
#[derive(Clone, Copy, Debug)]
pub struct AfterRestore<'a> {
    /// Uids that are left out: more than leases were made since the backup.
    pub uids_left_out: u32,
    /// Orion's uid range.
    pub uids: UidRange,
    /// The sealed value with which access tokens are signed: it is removed, so that all of them are void, also
    /// those of accounts whose numbers are other people's now. The next start makes a new one.
    pub token_key: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// Outcome of [`AfterRestore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreSettled {
    /// Done.
    Settled {
        /// Nodes that will be looked at before they are offered.
        nodes: u64,
        /// Leases that live again.
        leases: u64,
        /// The next uid before.
        uid_before: u32,
        /// The next uid now.
        next_uid: u32,
    },
    /// Processes that use the database and must be stopped first. Nothing was written.
    InUse(Vec<Replica>),
    /// Shortage of uids: fewer are left than are to be left out. Nothing was written.
    TooFewUids {
        /// Number of uids that are left.
        left: u32,
    },
}

impl Admin<'_> {
    /// Makes a restored database fit to be used again, in one transaction: every node is dirty, claimed by nobody,
    /// and at an epoch that none can have reached; the next uid is beyond what was given out since the backup;
    /// all access tokens are void. Before it, in steps of their own that do no harm alone, numbers are left out.
    /// May be repeated.
    pub async fn after_restore(self, order: &AfterRestore<'_>) -> Result<RestoreSettled, StoreError> {
        let running = self.running(order.now).await?;
        if !running.is_empty() {
            return Ok(RestoreSettled::InUse(running));
        }
        for (table, numbers) in NUMBERED {
            self.leave_numbers_out(table, numbers).await?;
        }
        Ok(transaction!(&self.store.db, |tx| {
            let settled = settle(&self.store.db, tx, order).await?;
            if !matches!(settled, RestoreSettled::Settled { .. }) {
                tx.abandon();
            }
            Ok(settled)
        })?)
    }

    async fn running(self, now: Timestamp) -> Result<Vec<Replica>, StoreError> {
        let since = now.minus(BEATS_WITHIN);
        let replicas = self.store.cluster().replicas().await?;
        Ok(replicas.into_iter().filter(|replica| replica.beat_at >= since).collect())
    }

    /// The numbers of new rows go on that much later. (On MariaDB a statement that cannot be part of a
    /// transaction.)
    async fn leave_numbers_out(self, table: &'static str, numbers: i64) -> Result<(), StoreError> {
        let is_maria = self.store.db.is_maria();
        Ok(transaction!(&self.store.db, |tx| {
            let sql = format!("SELECT MAX(id) FROM {table}");
            let last = tx.one::<(Option<i64>,)>(AssertSqlSafe(sql), vec![]).await?;
            let next = last.and_then(|(last,)| last).unwrap_or(0) + numbers;
            if is_maria {
                let sql = format!("ALTER TABLE {table} AUTO_INCREMENT = {next}");
                return tx.exec(AssertSqlSafe(sql), vec![]).await.map(drop);
            }
            let sql = "UPDATE sqlite_sequence SET seq = MAX(seq, ?) WHERE name = ?";
            if tx.exec(sql, vals![next - 1, table]).await? == 0 {
                tx.exec("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", vals![table, next - 1])
                    .await?;
            }
            Ok(())
        })?)
    }
}

async fn settle(db: &Db, tx: &mut Tx, order: &AfterRestore<'_>) -> Result<RestoreSettled> {
    let now = order.now;
    let stored = next_uid(db, tx).await?;
    let uid_before = stored.max(order.uids.first);
    let left = order.uids.last.saturating_sub(uid_before);
    if left < order.uids_left_out {
        return Ok(RestoreSettled::TooFewUids { left });
    }
    let next_uid = uid_before + order.uids_left_out;
    if next_uid != stored {
        tx.set_next_uid(stored, next_uid).await?;
    }
    // The same floor that newly registered nodes get: the milliseconds of the clock grow faster than any epoch.
    let floor = now.as_micros() / 1000;
    let sql = "UPDATE nodes SET epoch = CASE WHEN epoch < ? THEN ? ELSE epoch + 1 END, \
               link_epoch = CASE WHEN link_epoch < ? THEN ? ELSE link_epoch + 1 END, \
               unclean = 1, desired_version = desired_version + 1, claimed_by = NULL, claim_token = NULL, \
               claimed_until = NULL, reconcile_failures = 0, retry_at = 0, first_turn_until = 0, \
               version = version + 1, changed_at = ?";
    let nodes = tx.exec(sql, vals![floor, floor, floor, floor, now]).await?;
    tx.exec("DELETE FROM sealed_values WHERE name = ?", vals![order.token_key]).await?;
    tx.exec("DELETE FROM replicas", vec![]).await?;
    tx.exec("DELETE FROM second_looks", vec![]).await?;
    tx.exec("DELETE FROM settings WHERE name = ?", vals![RESTORED_AT]).await?;
    let sql = "INSERT INTO settings (name, value) VALUES (?, ?)";
    tx.exec(sql, vals![RESTORED_AT, now.as_micros().to_string()]).await?;
    let leases = tx.one::<(i64,)>("SELECT COUNT(*) FROM leases WHERE state <> 'ended'", vec![]).await?;
    let leases = leases.map_or(0, |(count,)| u64::try_from(count).unwrap_or(0));
    let event =
        DatabaseEvent::Restored { nodes, leases, next_uid: Change { from: uid_before, to: next_uid } };
    tx.append_events(&[NewEvent::new(event)], now).await?;
    Ok(RestoreSettled::Settled { nodes, leases, uid_before, next_uid })
}
