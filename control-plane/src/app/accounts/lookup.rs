//! Looks accounts up for requests: those that ask at the same time share one query.
//!
//! Lives here: putting lookups together. Does not live here: whether a token is good for the account that was found
//! ([`crate::auth`]).

use orion_domain::UserId;
use orion_store::{Store, StoreError, User};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Mutex as AsyncMutex;

/// The accounts that requests ask for: every request sees a query that began after it asked.
#[derive(Debug, Default)]
pub struct Lookups {
    next: Mutex<Batch>,
    /// Held while a query is under way; the next batch gathers meanwhile.
    last: AsyncMutex<Answered>,
}

/// The accounts that the next query reads.
#[derive(Debug, Default)]
struct Batch {
    number: u64,
    users: Vec<UserId>,
}

/// What the last query of a batch gave.
#[derive(Debug, Default)]
struct Answered {
    batch: Option<u64>,
    found: Found,
}

#[derive(Debug)]
enum Found {
    Users(HashMap<UserId, User>),
    /// The database is away, for all of them.
    Unavailable(String),
    /// One of the accounts cannot be read: each is read by itself.
    Unreadable,
}

impl Default for Found {
    fn default() -> Self {
        Self::Users(HashMap::new())
    }
}

impl Lookups {
    fn next(&self) -> MutexGuard<'_, Batch> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the account as it is at this moment or later.
    ///
    /// # Errors
    /// The database's.
    pub async fn get(&self, store: &Store, id: UserId) -> Result<Option<User>, StoreError> {
        let batch = {
            let mut next = self.next();
            next.users.push(id);
            next.number
        };
        let mut last = self.last.lock().await;
        if last.batch != Some(batch) {
            *last = self.read_next(store, id).await;
        }
        match &last.found {
            Found::Users(users) => return Ok(users.get(&id).cloned()),
            Found::Unavailable(text) => return Err(StoreError::Unavailable(text.clone())),
            Found::Unreadable => {}
        }
        drop(last);
        store.accounts().get(id).await
    }

    /// Reads the next batch, and `id` in any case: the one who should have read it may have left meanwhile.
    async fn read_next(&self, store: &Store, id: UserId) -> Answered {
        let (batch, mut users) = {
            let mut next = self.next();
            let taken = (next.number, std::mem::take(&mut next.users));
            next.number += 1;
            taken
        };
        users.push(id);
        users.sort_unstable();
        users.dedup();
        let found = match store.accounts().by_ids(&users).await {
            Ok(users) => Found::Users(users.into_iter().map(|user| (user.id, user)).collect()),
            Err(StoreError::Unavailable(text)) => Found::Unavailable(text),
            Err(_) => Found::Unreadable,
        };
        Answered { batch: Some(batch), found }
    }
}
