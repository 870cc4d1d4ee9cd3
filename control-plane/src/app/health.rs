//! How the database and the schedulers are: who asks at the same time shares one look. Anybody may ask, without a
//! login: that must not load the database.

use crate::App;
use orion_domain::{Timestamp, brake::Brake};
use std::time::Instant;
use tokio::sync::Mutex;

/// The last look, and when it began.
#[derive(Debug)]
pub struct SharedLook<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for SharedLook<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> SharedLook<T> {
    /// What a look sees that began after this call. Who comes while another one looks waits for the next look.
    async fn get(&self, look: impl Future<Output = T>) -> T {
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

/// What one look saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whether the database takes transactions.
    pub database: bool,
    /// When a scheduler passed last.
    pub last_pass: Option<Timestamp>,
    /// None while the database does not say.
    pub brake: Option<Brake>,
}

impl App {
    /// How things are now.
    pub async fn look_at_health(&self) -> Seen {
        self.health.get(self.look()).await
    }

    async fn look(&self) -> Seen {
        if !self.store.is_healthy().await {
            return Seen { database: false, last_pass: None, brake: None };
        }
        let replicas = self.store.replicas().await.unwrap_or_default();
        let passes = replicas.iter().filter(|replica| replica.kind == "scheduler");
        Seen {
            database: true,
            last_pass: passes.map(|replica| replica.beat_at).max(),
            brake: self.store.brake().await.ok(),
        }
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
        let (shared, looks) = (SharedLook::default(), AtomicUsize::new(0));
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
        let shared = SharedLook::default();
        let left = shared.get(std::future::pending());
        tokio::time::timeout(Duration::from_millis(10), left).await.unwrap_err();
        assert_eq!(shared.get(async { 7 }).await, 7);
    }
}
