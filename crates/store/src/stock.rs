//! Free nodes for placements: read together, given out one by one, to no two placements of this process at once.
//!
//! Lives here: which node a placement tries. Does not live here: whether it gets it; the compare-and-swap of the
//! placement's own transaction decides, and repeats every condition.
//!
//! One read serves many placements, and those of one process do not run into each other. What was read is given out
//! for a tenth of a second; that there are too few is said only after a fresh look, when no other placement of this
//! process is about to take or to give back some.

use crate::{
    claims::CLAIMABLE,
    db::{Db, Val, vals},
    error::Result,
    place::OFFERABLE,
    rows::{NodeRecord, node_record_sql},
};
use orion_domain::{Timestamp, names::Tag};
use rand::seq::SliceRandom;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Nodes that are read at least, to choose from at random: other processes choose, too.
const READ_MIN: usize = 64;
/// How long what was read is given out.
const FRESH: Duration = Duration::from_millis(100);
/// How long other placements are waited for before there are too few.
const OTHERS_MAX: Duration = Duration::from_secs(2);

/// The free nodes that this process knows of.
#[derive(Default)]
pub(crate) struct Stock {
    shelf: tokio::sync::Mutex<Shelf>,
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
struct Shelf {
    nodes: Vec<NodeRecord>,
    read_at: Option<Instant>,
}

/// What came of looking for free nodes.
pub(crate) enum Pick {
    /// So many as were asked for.
    Nodes(Picked),
    /// There are only so many.
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

impl Stock {
    /// `count` free nodes that have all `tags`, chosen at random.
    pub(crate) async fn pick(&self, db: &Db, tags: &[Tag], count: usize, now: Timestamp) -> Result<Pick> {
        let began = Instant::now();
        loop {
            let given_back = self.taken.given_back.notified();
            tokio::pin!(given_back);
            given_back.as_mut().enable();
            let (pick, others) = self.look(db, tags, count, now).await?;
            let left = OTHERS_MAX.saturating_sub(began.elapsed());
            if matches!(pick, Pick::Nodes(_)) || !others || left.is_zero() {
                return Ok(pick);
            }
            // When it takes too long, the next look is the last.
            let _ = tokio::time::timeout(left, given_back).await;
        }
    }

    /// One look, and whether other placements were trying nodes meanwhile.
    async fn look(&self, db: &Db, tags: &[Tag], count: usize, now: Timestamp) -> Result<(Pick, bool)> {
        // Held while it is read, so that those who come meanwhile are served by the same read.
        let mut shelf = self.shelf.lock().await;
        let fresh = shelf.read_at.is_some_and(|at| at.elapsed() < FRESH);
        if tags.is_empty() && fresh && shelf.nodes.len() >= count {
            let rest = shelf.nodes.len() - count;
            return Ok((Pick::Nodes(self.take(shelf.nodes.split_off(rest))), false));
        }
        let in_use = self.taken.locked().clone();
        let read_at = Instant::now();
        let (rest, values) = free_nodes(tags, count.max(READ_MIN) + in_use.len(), now);
        let mut nodes = db.all::<NodeRecord>(node_record_sql(&rest), values).await?;
        nodes.retain(|node| !in_use.contains(&node.id));
        nodes.shuffle(&mut rand::rng());
        let Some(rest) = nodes.len().checked_sub(count) else {
            return Ok((Pick::TooFew(nodes.len()), !in_use.is_empty()));
        };
        let picked = nodes.split_off(rest);
        if tags.is_empty() {
            *shelf = Shelf { nodes, read_at: Some(read_at) };
        } else {
            // They may lie on the shelf, too.
            shelf.nodes.retain(|held| picked.iter().all(|node| node.id != held.id));
        }
        Ok((Pick::Nodes(self.take(picked)), false))
    }

    /// Forgets what was read: it turned out to be old.
    pub(crate) async fn clear(&self) {
        *self.shelf.lock().await = Shelf::default();
    }

    fn take(&self, nodes: Vec<NodeRecord>) -> Picked {
        self.taken.locked().extend(nodes.iter().map(|node| node.id));
        Picked { nodes, taken: self.taken.clone() }
    }
}

/// The rest of a query for nodes that may be offered, and its values.
pub(crate) fn free_nodes(tags: &[Tag], limit: usize, now: Timestamp) -> (String, Vec<Val>) {
    let mut rest = format!("WHERE {OFFERABLE} AND {CLAIMABLE}");
    let mut values = vals![now];
    for tag in tags {
        rest.push_str(" AND n.id IN (SELECT node_id FROM node_tags WHERE tag = ?)");
        values.push(tag.as_str().into());
    }
    rest.push_str(" LIMIT ?");
    values.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
    (rest, values)
}
