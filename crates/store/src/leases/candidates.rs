//! Free nodes for placements: read together, given out one by one, to no two placements of this process at once.
//!
//! Lives here: which node a placement tries. Does not live here: whether it gets it; the compare-and-swap of the
//! placement's own transaction decides, and repeats every condition.
//!
//! One read serves many placements, and those of one process do not run into each other. What was read is given out
//! for a tenth of a second; that there are too few is said only after a fresh look, when no other placement of this
//! process is about to take or to give back some.

use crate::{
    engine::{Db, Result, StoreError, Tx, Val, vals},
    leases::hold::SliceSize,
    nodes::conditions::{CLAIMABLE, OFFERABLE, SLICEABLE},
    nodes::row::{NodeRecord, node_record_sql},
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    lease::{Holding, Lease},
    names::Tag,
};
use rand::seq::SliceRandom;
use sqlx::AssertSqlSafe;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Nodes that are read at least, to choose from at random: other processes choose, too.
pub(crate) const READ_MIN: usize = 64;
/// Time for which nodes that were read are given out.
pub(crate) const FRESH: Duration = Duration::from_millis(100);
/// Longest wait for other placements before too few nodes are reported.
const OTHERS_MAX: Duration = Duration::from_secs(2);

/// The free nodes that this process knows of.
#[derive(Default)]
pub(crate) struct CandidateCache {
    shelf: tokio::sync::Mutex<CachedCandidates>,
    taken: Arc<Taken>,
}

/// Nodes that placements of this process try now.
#[derive(Default)]
struct Taken {
    nodes: Mutex<HashSet<i64>>,
    given_back: Notify,
}

impl Taken {
    fn locked(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct CachedCandidates {
    nodes: Vec<NodeRecord>,
    read_at: Option<Instant>,
}

/// Outcome of the search for free nodes.
pub(crate) enum Selection {
    /// Nodes in the requested number.
    Nodes(Picked),
    /// Number of free nodes, smaller than requested.
    TooFew(usize),
}

/// Nodes that no other placement of this process tries while this lives.
pub(crate) struct Picked {
    pub nodes: Vec<NodeRecord>,
    taken: Arc<Taken>,
}

impl Drop for Picked {
    fn drop(&mut self) {
        let mut taken = self.taken.locked();
        for node in &self.nodes {
            taken.remove(&node.id);
        }
        drop(taken);
        self.taken.given_back.notify_waiters();
    }
}

impl CandidateCache {
    /// `count` free nodes that have all `tags`, chosen at random.
    pub(crate) async fn pick(
        &self,
        db: &Db,
        tags: &[Tag],
        count: usize,
        now: Timestamp,
    ) -> Result<Selection> {
        let began = Instant::now();
        loop {
            let given_back = self.taken.given_back.notified();
            tokio::pin!(given_back);
            given_back.as_mut().enable();
            let (pick, others) = self.look(db, tags, count, now).await?;
            let left = OTHERS_MAX.saturating_sub(began.elapsed());
            if matches!(pick, Selection::Nodes(_)) || !others || left.is_zero() {
                return Ok(pick);
            }
            // When it takes too long, the next look is the last.
            let _ = tokio::time::timeout(left, given_back).await;
        }
    }

    /// One look, and whether other placements were trying nodes meanwhile.
    async fn look(&self, db: &Db, tags: &[Tag], count: usize, now: Timestamp) -> Result<(Selection, bool)> {
        // Held while it is read, so that those who come meanwhile are served by the same read.
        let mut shelf = self.shelf.lock().await;
        let fresh = shelf.read_at.is_some_and(|at| at.elapsed() < FRESH);
        if tags.is_empty() && fresh && shelf.nodes.len() >= count {
            let rest = shelf.nodes.len() - count;
            return Ok((Selection::Nodes(self.take(shelf.nodes.split_off(rest))), false));
        }
        let in_use = self.taken.locked().clone();
        let read_at = Instant::now();
        let (rest, values) = free_nodes(tags, count.max(READ_MIN) + in_use.len());
        let mut nodes = db.all::<NodeRecord>(node_record_sql(&rest), values).await?;
        nodes.retain(|node| !in_use.contains(&node.id));
        nodes.shuffle(&mut rand::rng());
        // The last ones are taken first.
        nodes.sort_by_key(|node| !node.is_claimed(now));
        let Some(rest) = nodes.len().checked_sub(count) else {
            return Ok((Selection::TooFew(nodes.len()), !in_use.is_empty()));
        };
        let picked = nodes.split_off(rest);
        if tags.is_empty() {
            *shelf = CachedCandidates { nodes, read_at: Some(read_at) };
        } else {
            // They may lie on the shelf, too.
            shelf.nodes.retain(|held| picked.iter().all(|node| node.id != held.id));
        }
        Ok((Selection::Nodes(self.take(picked)), false))
    }

    /// Forgets what was read: it turned out to be old.
    pub(crate) async fn clear(&self) {
        *self.shelf.lock().await = CachedCandidates::default();
    }

    fn take(&self, nodes: Vec<NodeRecord>) -> Picked {
        self.taken.locked().extend(nodes.iter().map(|node| node.id));
        Picked { nodes, taken: self.taken.clone() }
    }
}

/// The rest of a query for free nodes with all these tags, and its values.
pub(crate) fn free_nodes(tags: &[Tag], limit: usize) -> (String, Vec<Val>) {
    let (room, mut values) = has_room(tags, Holding::WholeNode);
    values.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
    (format!("WHERE {room} LIMIT ?"), values)
}

/// A node that may be offered.
pub(crate) struct Candidate {
    pub id: NodeId,
    pub subordinate: Vec<(u32, u32)>,
}

/// The first uid from `uid` on that none of these subordinate ranges of a node holds.
pub(crate) fn next_free_uid(subordinate: &[(u32, u32)], mut uid: u32) -> u32 {
    while let Some((start, count)) = subordinate.iter().find(|range| holds(**range, uid)) {
        uid = start.saturating_add(*count);
    }
    uid
}

impl Candidate {
    /// A node by its columns `id` and `subordinate_uids`.
    pub(crate) fn read(id: i64, ranges: &str) -> Result<Self> {
        let subordinate = serde_json::from_str(ranges).map_err(|error| StoreError::Corrupt {
            table: "nodes",
            id,
            detail: format!("subordinate_uids: {error}"),
        })?;
        Ok(Self { id: NodeId(id), subordinate })
    }

    pub(crate) fn may_have_uid(&self, uid: u32) -> bool {
        !self.subordinate.iter().any(|range| holds(*range, uid))
    }
}

const fn holds((start, count): (u32, u32), uid: u32) -> bool {
    start <= uid && uid < start.saturating_add(count)
}

/// The condition of a node that has all these tags and room for what a lease holds, and its values.
pub(crate) fn has_room(tags: &[Tag], holding: Holding) -> (String, Vec<Val>) {
    let (mut sql, mut values) = match SliceSize::of(holding) {
        None => (OFFERABLE.to_owned(), Vec::new()),
        Some(size) => {
            let (fits, values) = size.fits();
            (format!("{SLICEABLE} AND {fits}"), values)
        }
    };
    for tag in tags {
        sql.push_str(" AND id IN (SELECT node_id FROM node_tags WHERE tag = ?)");
        values.push(tag.as_str().into());
    }
    (sql, values)
}

impl Tx {
    /// Free nodes that have all `tags`, in random order, claimed ones last, and those without a container engine, or with a full
    /// disk, behind the others for a lease with containers (those without an engine not at all where it has nothing else);
    /// without those that are unfit for the lease `mover`, and the node that it leaves.
    pub(crate) async fn candidates(
        &mut self,
        lease: &Lease,
        mover: Option<(LeaseId, NodeId)>,
        at_least: usize,
        now: Timestamp,
    ) -> Result<Vec<Candidate>> {
        let (room, room_values) = has_room(&lease.tags, lease.holding);
        let mut sql = format!(
            "SELECT id, subordinate_uids, CASE WHEN (engine IS NULL OR engine_down_since IS NOT NULL OR disk_full IS NOT NULL) \
             AND ? = 1 THEN 2 ELSE 0 END + \
             CASE WHEN {CLAIMABLE} THEN 0 ELSE 1 END FROM nodes WHERE {room}"
        );
        let mut values = vals![lease.containers > 0, now];
        values.extend(room_values);
        if lease.containers > 0 && lease.account.is_none() {
            sql.push_str(" AND engine IS NOT NULL");
        }
        if let Some((lease, away_from)) = mover {
            sql.push_str(" AND id NOT IN (SELECT node_id FROM lease_unfit WHERE lease_id = ?) AND id <> ?");
            values.extend(vals![lease, away_from]);
        }
        sql.push_str(" LIMIT ?");
        values.push(i64::try_from(at_least.max(READ_MIN)).unwrap_or(i64::MAX).into());
        let mut rows = self.all::<(i64, String, i64)>(AssertSqlSafe(sql), values).await?;
        rows.shuffle(&mut rand::rng());
        rows.sort_by_key(|(_, _, rank)| *rank);
        let mut candidates = Vec::with_capacity(rows.len());
        for (id, ranges, _) in rows {
            candidates.push(Candidate::read(id, &ranges)?);
        }
        Ok(candidates)
    }
}
