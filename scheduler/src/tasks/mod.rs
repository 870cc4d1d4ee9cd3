//! The loops, one file each.

pub mod beat;
pub mod brake;
pub mod doctor;
pub mod drain;
pub mod expire;
pub mod inventory;
pub mod migrate;
pub mod reconcile;
pub mod second_look;
pub mod sweep;
pub mod watch;
pub mod webhooks;

use crate::Scheduler;
use orion_domain::NodeId;
use orion_fleet::Nudged;
use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Nudges that come within this time are one.
const TOGETHER: Duration = Duration::from_millis(10);
/// Longest pause after a look that read much.
const REST_MAX: Duration = Duration::from_millis(500);

/// Waits for the next look: a nudge, the timer, or shutdown. Whether to go on.
async fn next_look(scheduler: &Scheduler, nudged: &mut Nudged, at_most: Duration) -> bool {
    tokio::select! {
        () = scheduler.shutdown.cancelled() => false,
        () = nudged.within(at_most) => {
            tokio::time::sleep(TOGETHER).await;
            !scheduler.shutdown.is_cancelled()
        }
    }
}

/// After a look that read much, a pause as long as it took (at most half a second): while everything changes at
/// once, looking must not take all of the time.
async fn rest(began: Instant) {
    tokio::time::sleep(began.elapsed().min(REST_MAX)).await;
}

/// Work on many things side by side, each at most once at a time, none waiting for another.
#[derive(Clone)]
struct Lanes<K> {
    under_way: Arc<Mutex<HashSet<K>>>,
    room: Arc<Semaphore>,
}

impl<K: Copy + Eq + Hash + Send + 'static> Lanes<K> {
    fn new(side_by_side: usize) -> Self {
        Self { under_way: Arc::default(), room: Arc::new(Semaphore::new(side_by_side)) }
    }

    /// Starts `work` on `key` unless it is under way or there is no room; then it is found again at the next
    /// look.
    fn start(&self, scheduler: &Scheduler, key: K, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(permit) = self.room.clone().try_acquire_owned() else { return };
        if !self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(key) {
            return;
        }
        let guard = LaneGuard { under_way: self.under_way.clone(), key };
        scheduler.spawn(async move {
            work.await;
            drop((guard, permit));
        });
    }
}

/// Leaves work that lies with another scheduler's node to that one for a while. Claims make sure that nothing is
/// done twice; this only keeps two schedulers from grasping at the same all the time.
struct Lying<K>(HashMap<K, Instant>);

impl<K: Copy + Eq + Hash> Lying<K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// Of all the work that was `found`, what is to be started now: what lies with this scheduler's own nodes,
    /// or has lain for too long. `place` gives a piece's key and its node.
    fn due<T>(
        &mut self,
        scheduler: &Scheduler,
        found: Vec<T>,
        place: impl Fn(&T) -> (K, Option<NodeId>),
    ) -> Vec<T> {
        let share = scheduler.fleetwide.share();
        let is_mine = |node: NodeId| share.as_ref().is_some_and(|share| share.is_mine(node));
        self.sift(found, place, is_mine, scheduler.config.others_work_after, Instant::now())
    }

    fn sift<T>(
        &mut self,
        found: Vec<T>,
        place: impl Fn(&T) -> (K, Option<NodeId>),
        is_mine: impl Fn(NodeId) -> bool,
        others_after: Duration,
        now: Instant,
    ) -> Vec<T> {
        let mut lying = HashMap::new();
        let mut due = Vec::with_capacity(found.len());
        for piece in found {
            let (key, node) = place(&piece);
            if node.is_none_or(&is_mine) {
                due.push(piece);
                continue;
            }
            let since = self.0.get(&key).copied().unwrap_or(now);
            lying.insert(key, since);
            if now.saturating_duration_since(since) >= others_after {
                due.push(piece);
            }
        }
        self.0 = lying;
        due
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_is_due_at_once_and_the_others_only_when_it_has_lain() {
        let mut lying: Lying<i64> = Lying::new();
        let (start, after) = (Instant::now(), Duration::from_secs(3));
        let mut due = |secs: u64, found: &[i64]| {
            let now = start + Duration::from_secs(secs);
            let own = |node: NodeId| node.0 < 10;
            lying.sift(found.to_vec(), |node| (*node, Some(NodeId(*node))), own, after, now)
        };
        assert_eq!(due(0, &[1, 10, 2, 11]), [1, 2]);
        assert_eq!(due(2, &[10, 11, 3]), [3]);
        assert_eq!(due(3, &[10]), [10], "it has lain for three seconds");
        assert_eq!(due(4, &[10, 11]), [10], "11 was done meanwhile, and is new");
        assert_eq!(due(7, &[11]), [11]);
    }

    #[test]
    fn work_that_lies_with_no_node_is_anybody_s() {
        let mut lying: Lying<i64> = Lying::new();
        let due = lying.sift(vec![1], |key| (*key, None), |_| false, Duration::from_secs(3), Instant::now());
        assert_eq!(due, [1]);
    }
}
