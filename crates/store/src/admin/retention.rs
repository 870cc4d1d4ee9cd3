//! What is deleted when it is old: events, leases that are over with their histories, idempotency keys, what is known of
//! forgotten nodes, invitations.
//!
//! Each step deletes a batch by number, found through an index: no statement grows with what has gathered. Does not
//! live here: deliveries to webhooks ([`crate::deliveries`]), and when to delete.

use super::Admin;
use crate::engine::{Result, StoreError, Val, transaction, vals};
use orion_domain::Timestamp;
use sqlx::AssertSqlSafe;
use std::{collections::HashSet, time::Duration};

/// Rows that one step deletes.
const AT_ONCE: u32 = 500;
/// Time for which an invitation is kept after its end.
const INVITES_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Events that say which health a node has.
const HEALTH_EVENTS: [&str; 5] =
    ["node.unknown", "node.alive", "node.suspect", "node.unreachable", "node.dead"];

/// Retention times of what is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Events; not those of leases that are not over, nor what tells of a node's present health.
    pub events: Duration,
    /// Leases after their end.
    pub leases: Duration,
    /// Tokens and keys of nodes that were forgotten: with these their agents register again.
    pub forgotten: Duration,
}

impl Default for Kept {
    fn default() -> Self {
        let year = Duration::from_secs(365 * 24 * 3600);
        Self { events: year, leases: year, forgotten: year }
    }
}

/// Data that can be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prunable {
    /// Entries of the event log.
    Events,
    /// Leases that are over, with the nodes that they were on.
    Leases,
    /// Idempotency keys whose time is up.
    Keys,
    /// Forgotten nodes.
    Forgotten,
    /// Invitations.
    Invites,
}

impl Prunable {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Events, Self::Leases, Self::Keys, Self::Forgotten, Self::Invites];

    /// The table, for metrics.
    pub const fn table(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Leases => "leases",
            Self::Keys => "idempotency",
            Self::Forgotten => "forgotten_nodes",
            Self::Invites => "invites",
        }
    }
}

/// Result of one pruning step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Rows that were deleted.
    pub deleted: u64,
    /// Time at which the next step continues; none if there is nothing more for now.
    pub next: Option<Timestamp>,
}

fn places(count: usize) -> String {
    vec!["?"; count].join(", ")
}

impl Admin<'_> {
    /// Deletes a batch of what is old; `from` is the beginning, or where the step before ended.
    pub async fn prune(
        self,
        what: Prunable,
        kept: &Kept,
        from: Timestamp,
        now: Timestamp,
    ) -> Result<Pruned, StoreError> {
        let found = match what {
            Prunable::Events => return Ok(self.prune_events(now.minus(kept.events), from).await?),
            Prunable::Leases => return Ok(self.prune_leases(now.minus(kept.leases)).await?),
            Prunable::Keys => return Ok(self.prune_keys(now).await?),
            Prunable::Forgotten => {
                let sql = "SELECT node_token_sha256 FROM forgotten_nodes WHERE forgotten_at < ? LIMIT ?";
                self.store.db.all::<(String,)>(sql, vals![now.minus(kept.forgotten), AT_ONCE]).await?
            }
            Prunable::Invites => {
                let sql = "SELECT token_sha256 FROM invites WHERE expires_at < ? LIMIT ?";
                self.store.db.all::<(String,)>(sql, vals![now.minus(INVITES_KEPT), AT_ONCE]).await?
            }
        };
        let column = if what == Prunable::Invites { "token_sha256" } else { "node_token_sha256" };
        let ids: Vec<Val> = found.iter().map(|(id,)| Val::from(id.as_str())).collect();
        Ok(self.delete(what.table(), column, ids).await?)
    }

    async fn delete(self, table: &str, column: &str, ids: Vec<Val>) -> Result<Pruned> {
        if ids.is_empty() {
            return Ok(Pruned { deleted: 0, next: None });
        }
        let full = ids.len() >= AT_ONCE as usize;
        let sql = format!("DELETE FROM {table} WHERE {column} IN ({})", places(ids.len()));
        let deleted =
            transaction!(&self.store.db, |tx| { tx.exec(AssertSqlSafe(sql.clone()), ids.clone()).await })?;
        Ok(Pruned { deleted, next: full.then_some(Timestamp::from_micros(0)) })
    }

    async fn prune_events(self, before: Timestamp, from: Timestamp) -> Result<Pruned> {
        let sql = "SELECT id, at, kind, lease_id, node_id FROM events WHERE at >= ? AND at < ? ORDER BY at, id LIMIT ?";
        type Row = (i64, i64, String, Option<i64>, Option<i64>);
        let rows = self.store.db.all::<Row>(sql, vals![from, before, AT_ONCE]).await?;
        let Some(last) = rows.last().map(|row| Timestamp::from_micros(row.1)) else {
            return Ok(Pruned { deleted: 0, next: None });
        };
        let live = self.live_leases_among(rows.iter().filter_map(|row| row.3)).await?;
        let healths = self.healths_of(rows.iter().filter_map(|row| row.4)).await?;
        let is_needed = |(_, at, kind, lease, node): &Row| {
            let of_health = HEALTH_EVENTS.contains(&kind.as_str());
            lease.is_some_and(|lease| live.contains(&lease))
                || (of_health
                    && node.is_some_and(|node| healths.iter().any(|(id, since)| *id == node && since <= at)))
        };
        let full = rows.len() >= AT_ONCE as usize;
        let old: Vec<Val> = rows.iter().filter(|row| !is_needed(row)).map(|row| Val::from(row.0)).collect();
        let nothing_old = old.is_empty();
        let deleted = self.delete("events", "id", old).await?.deleted;
        // A whole page of one moment that is needed: what is behind it is looked at all the same.
        let next = if nothing_old && last == from { last.plus(Duration::from_micros(1)) } else { last };
        Ok(Pruned { deleted, next: full.then_some(next) })
    }

    async fn live_leases_among(self, ids: impl Iterator<Item = i64>) -> Result<HashSet<i64>> {
        let ids: HashSet<i64> = ids.collect();
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        let sql = format!("SELECT id FROM leases WHERE id IN ({}) AND state <> 'ended'", places(ids.len()));
        let values = ids.into_iter().map(Val::from).collect();
        Ok(self
            .store
            .db
            .all::<(i64,)>(AssertSqlSafe(sql), values)
            .await?
            .into_iter()
            .map(|(id,)| id)
            .collect())
    }

    async fn healths_of(self, ids: impl Iterator<Item = i64>) -> Result<Vec<(i64, i64)>> {
        let ids: HashSet<i64> = ids.collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!("SELECT id, health_since FROM nodes WHERE id IN ({})", places(ids.len()));
        self.store.db.all::<(i64, i64)>(AssertSqlSafe(sql), ids.into_iter().map(Val::from).collect()).await
    }

    async fn prune_leases(self, before: Timestamp) -> Result<Pruned> {
        let sql = "SELECT id FROM leases WHERE ended_at < ? LIMIT ?";
        let ids: Vec<Val> = self
            .store
            .db
            .all::<(i64,)>(sql, vals![before, AT_ONCE])
            .await?
            .into_iter()
            .map(|(id,)| Val::from(id))
            .collect();
        if ids.is_empty() {
            return Ok(Pruned { deleted: 0, next: None });
        }
        let full = ids.len() >= AT_ONCE as usize;
        let deleted = transaction!(&self.store.db, |tx| {
            for table in ["lease_nodes", "lease_unfit", "containers"] {
                let sql = format!("DELETE FROM {table} WHERE lease_id IN ({})", places(ids.len()));
                tx.exec(AssertSqlSafe(sql), ids.clone()).await?;
            }
            let sql = format!("DELETE FROM leases WHERE id IN ({}) AND state = 'ended'", places(ids.len()));
            tx.exec(AssertSqlSafe(sql), ids.clone()).await
        })?;
        Ok(Pruned { deleted, next: full.then_some(Timestamp::from_micros(0)) })
    }

    async fn prune_keys(self, now: Timestamp) -> Result<Pruned> {
        let sql = "SELECT scope, key_sha256 FROM idempotency WHERE expires_at <= ? LIMIT ?";
        let rows = self.store.db.all::<(String, String)>(sql, vals![now, AT_ONCE]).await?;
        if rows.is_empty() {
            return Ok(Pruned { deleted: 0, next: None });
        }
        let full = rows.len() >= AT_ONCE as usize;
        let deleted = transaction!(&self.store.db, |tx| {
            let mut deleted = 0;
            for (scope, key) in &rows {
                // It may be a new one's by now.
                let sql = "DELETE FROM idempotency WHERE scope = ? AND key_sha256 = ? AND expires_at <= ?";
                deleted += tx.exec(sql, vals![scope, key, now]).await?;
            }
            Ok(deleted)
        })?;
        Ok(Pruned { deleted, next: full.then_some(Timestamp::from_micros(0)) })
    }
}
