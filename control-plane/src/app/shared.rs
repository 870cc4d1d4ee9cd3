//! Looks at the database that those share who ask for the same at the same time.
//!
//! Whoever asks is shown what a look sees that begins afterwards: nothing is older than the question.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};
use tokio::sync::Mutex as AsyncMutex;

/// So many looks are remembered before those that nobody waits for any more are forgotten.
const LEFT_OVER_MAX: usize = 64;

/// The last look, and when it began.
#[derive(Debug)]
pub struct SingleFlight<T>(AsyncMutex<Option<(Instant, T)>>);

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self(AsyncMutex::new(None))
    }
}

impl<T: Clone> SingleFlight<T> {
    /// Returns the result of a look that began after this call. Calls during another look wait for the next
    /// one.
    pub async fn get(&self, look: impl Future<Output = T>) -> T {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((began, seen)) = &*last
            && *began >= asked
        {
            return seen.clone();
        }
        let began = Instant::now();
        let seen = look.await;
        *last = Some((began, seen.clone()));
        seen
    }
}

/// A shared look for each thing that is asked for. Nothing that was seen is kept when nobody waits for it any more.
#[derive(Debug)]
pub struct SharedLooks<K, T>(Mutex<Looks<K, T>>);

#[derive(Debug)]
struct Looks<K, T> {
    by_key: HashMap<K, Weak<SingleFlight<T>>>,
    /// When there are more, those that are left over go: twice as many as were waited for the last time.
    most: usize,
}

impl<K, T> Default for SharedLooks<K, T> {
    fn default() -> Self {
        Self(Mutex::new(Looks { by_key: HashMap::new(), most: LEFT_OVER_MAX }))
    }
}

impl<K: Eq + Hash, T: Clone> SharedLooks<K, T> {
    /// What a look at `key` sees that began after this call.
    pub async fn get(&self, key: K, look: impl Future<Output = T>) -> T {
        let shared = self.of(key);
        shared.get(look).await
    }

    fn of(&self, key: K) -> Arc<SingleFlight<T>> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Looks { by_key, most } = &mut *looks;
        if let Some(shared) = by_key.get(&key).and_then(Weak::upgrade) {
            return shared;
        }
        if by_key.len() >= *most {
            by_key.retain(|_, shared| shared.strong_count() > 0);
            *most = LEFT_OVER_MAX.max(by_key.len() * 2);
        }
        let shared = Arc::default();
        by_key.insert(key, Arc::downgrade(&shared));
        shared
    }

    #[cfg(test)]
    fn kept(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_key.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::{
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        time::Duration,
    };

    #[tokio::test]
    async fn a_hundred_who_ask_at_once_share_a_look_that_begins_after_they_asked() {
        let (shared, looks) = (SingleFlight::default(), AtomicUsize::new(0));
        let look = || async {
            let number = looks.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            number
        };
        let first = shared.get(look());
        let others = join_all((0..100).map(|_| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            shared.get(look()).await
        }));
        let (first, others) = tokio::join!(first, others);
        assert_eq!((first, others), (0, vec![1; 100]));
        assert_eq!(shared.get(look()).await, 2, "who asks later gets a look of its own");
    }

    #[tokio::test]
    async fn one_who_leaves_while_looking_holds_up_nobody() {
        let shared = SingleFlight::default();
        let left = shared.get(std::future::pending());
        tokio::time::timeout(Duration::from_millis(10), left).await.unwrap_err();
        assert_eq!(shared.get(async { 7 }).await, 7);
    }

    #[tokio::test]
    async fn only_those_who_ask_for_the_same_share_and_nothing_is_kept_for_later() {
        let (shared, looks) = (SharedLooks::default(), AtomicUsize::new(0));
        let many = SharedLooks::<u32, ()>::default();
        let look = |what: &'static str| {
            let looks = &looks;
            async move {
                looks.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
                what
            }
        };
        for round in 1..=2 {
            let asked = (0..100).map(|n| {
                let what = if n % 2 == 0 { "even" } else { "odd" };
                let shared = &shared;
                async move { (what, shared.get(what, look(what)).await) }
            });
            let seen = join_all(asked).await;
            assert!(seen.iter().all(|(asked, seen)| asked == seen), "{seen:?}");
            // Of each: the first one's look, and the one that all others share.
            assert_eq!(looks.load(Relaxed), round * 4);
        }
        assert_eq!(shared.get("odd", look("odd")).await, "odd");
        assert_eq!(looks.load(Relaxed), 9);
        for number in 0..1_000 {
            many.get(number, async {}).await;
        }
        assert!(many.kept() <= LEFT_OVER_MAX, "{}", many.kept());
    }
}
