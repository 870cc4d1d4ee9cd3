//! Work on many things side by side, and work that another scheduler is to do first.

use crate::context::Scheduler;
use orion_domain::share::ShareKey;
use orion_store::StoreError;
use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use tracing::Instrument;

/// Pieces of work that go on side by side, each at most once at a time, none waiting for another.
#[derive(Clone)]
pub struct Lanes<K> {
    task: &'static str,
    under_way: Arc<Mutex<HashSet<K>>>,
    room: Arc<Semaphore>,
}

impl<K: Copy + Debug + Eq + Hash + Send + 'static> Lanes<K> {
    /// Makes room for `side_by_side` pieces of the work of `task`.
    pub fn new(task: &'static str, side_by_side: usize) -> Self {
        Self { task, under_way: Arc::default(), room: Arc::new(Semaphore::new(side_by_side)) }
    }

    /// Returns how many pieces could be started now.
    pub fn room(&self) -> usize {
        self.room.available_permits()
    }

    /// Starts `work` on `key` unless that is under way or there is no room; the next run finds it again then. Returns
    /// whether it was started. A failure is logged.
    pub fn start(
        &self,
        scheduler: &Scheduler,
        key: K,
        work: impl Future<Output = Result<(), StoreError>> + Send + 'static,
    ) -> bool {
        let Ok(permit) = self.room.clone().try_acquire_owned() else { return false };
        if !self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(key) {
            return false;
        }
        let guard = LaneGuard { under_way: self.under_way.clone(), key };
        let task = self.task;
        let work = async move {
            if let Err(error) = work.await {
                tracing::warn!(task, key = ?guard.key, %error, "work failed; it is tried again");
            }
            drop((guard, permit));
        };
        scheduler.spawn(work.instrument(tracing::info_span!("work", task, key = ?key)));
        true
    }

    /// Starts `work` on each of `items`, whose keys `key` returns; returns how many were started.
    pub fn start_all<T, F: Future<Output = Result<(), StoreError>> + Send + 'static>(
        &self,
        scheduler: &Scheduler,
        items: Vec<T>,
        key: impl Fn(&T) -> K,
        work: impl Fn(Scheduler, T) -> F,
    ) -> usize {
        let start = |item: T| self.start(scheduler, key(&item), work(scheduler.clone(), item));
        items.into_iter().map(start).filter(|started| *started).count()
    }
}

/// Leaves the lane also when the work panics.
struct LaneGuard<K: Copy + Eq + Hash> {
    under_way: Arc<Mutex<HashSet<K>>>,
    key: K,
}

impl<K: Copy + Eq + Hash> Drop for LaneGuard<K> {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Work on other schedulers' nodes, which is deferred to them for `takeover_delay`. Claims make sure that nothing is
/// done twice; this only keeps two schedulers from competing for the same work all the time.
#[derive(Clone)]
pub struct ForeignWork<K> {
    /// Time at which each piece of work was first seen.
    deferred: HashMap<K, Instant>,
}

impl<K> Default for ForeignWork<K> {
    fn default() -> Self {
        Self { deferred: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash> ForeignWork<K> {
    /// Returns those of `items` that are to be started now: this scheduler's, nobody's, or deferred for long enough.
    /// `place` returns an item's key, and by what the schedulers share it.
    pub fn ready_items<T, O: Into<ShareKey>>(
        &mut self,
        scheduler: &Scheduler,
        items: Vec<T>,
        place: impl Fn(&T) -> (K, Option<O>),
    ) -> Vec<T> {
        let share = scheduler.fleetwide.share();
        let is_mine = |owned: O| share.as_ref().is_some_and(|share| share.is_mine(owned));
        self.ready_at(Instant::now(), scheduler.config.takeover_delay, items, place, is_mine)
    }

    /// Returns those of `items` that are to be started at `now`, deferring others for `takeover_delay`.
    pub fn ready_at<T, O>(
        &mut self,
        now: Instant,
        takeover_delay: Duration,
        items: Vec<T>,
        place: impl Fn(&T) -> (K, Option<O>),
        is_mine: impl Fn(O) -> bool,
    ) -> Vec<T> {
        let mut deferred = HashMap::new();
        let mut ready = Vec::with_capacity(items.len());
        for item in items {
            let (key, owned) = place(&item);
            if owned.is_none_or(&is_mine) {
                ready.push(item);
                continue;
            }
            let since = self.deferred.get(&key).copied().unwrap_or(now);
            deferred.insert(key, since);
            if now.saturating_duration_since(since) >= takeover_delay {
                ready.push(item);
            }
        }
        self.deferred = deferred;
        ready
    }

    /// Adds what `other` knows of deferred work.
    pub fn merge(&mut self, other: Self) {
        self.deferred.extend(other.deferred);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_domain::NodeId;

    #[test]
    fn own_work_is_ready_at_once_and_foreign_work_only_after_the_delay() {
        let mut foreign: ForeignWork<i64> = ForeignWork::default();
        let (start, delay) = (Instant::now(), Duration::from_secs(3));
        let mut ready = |secs: u64, found: &[i64]| {
            let now = start + Duration::from_secs(secs);
            let own = |node: NodeId| node.0 < 10;
            foreign.ready_at(now, delay, found.to_vec(), |node| (*node, Some(NodeId(*node))), own)
        };
        assert_eq!(ready(0, &[1, 10, 2, 11]), [1, 2]);
        assert_eq!(ready(2, &[10, 11, 3]), [3]);
        assert_eq!(ready(3, &[10]), [10], "it was deferred for three seconds");
        assert_eq!(ready(4, &[10, 11]), [10], "11 was done meanwhile, and is new");
        assert_eq!(ready(7, &[11]), [11]);
    }

    #[test]
    fn work_on_no_node_is_ready_at_once() {
        let mut foreign: ForeignWork<i64> = ForeignWork::default();
        let nowhere = |key: &i64| (*key, None::<NodeId>);
        let ready = foreign.ready_at(Instant::now(), Duration::from_secs(3), vec![1], nowhere, |_| false);
        assert_eq!(ready, [1]);
    }
}
