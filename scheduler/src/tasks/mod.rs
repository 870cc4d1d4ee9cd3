//! The loops, one file each.

pub mod beat;
pub mod expire;
pub mod inventory;
pub mod migrate;
pub mod reconcile;
pub mod sweep;
pub mod watch;

use crate::Scheduler;
use orion_fleet::Nudged;
use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Semaphore;

/// Nudges that come within this time are one.
const TOGETHER: Duration = Duration::from_millis(10);

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
