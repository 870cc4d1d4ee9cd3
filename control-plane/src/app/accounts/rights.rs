//! Rights that last longer than a moment: streams and requests that wait end when the right of their caller ends, by a
//! logout, the token's end, a demotion, a new password, or because the account is disabled.
//!
//! Lives here: the rights that are held, and looking whether they still stand. Does not live here: reading a token
//! ([`crate::auth`]).

use super::Accounts;
use crate::App;
use orion_domain::{Timestamp, UserId};
use orion_store::{Role, Standing, StoreError};
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Interval at which held rights are checked: three checks fit into the 15 s within which the end of a
/// right takes effect.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Identity and role that a token gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// Account of the token.
    pub user: UserId,
    /// The account's token generation.
    pub generation: i64,
    /// Role that the account had.
    pub role: Role,
    /// End of the token.
    pub until: Timestamp,
}

impl Right {
    fn stands(&self, standing: Option<&Standing>, now: Timestamp) -> bool {
        let is_same = |standing: &Standing| {
            standing.enabled && standing.token_generation == self.generation && standing.role == self.role
        };
        now < self.until && standing.is_some_and(is_same)
    }
}

/// The rights that are held.
#[derive(Debug, Default)]
pub struct Rights(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    last_number: u64,
    rights: HashMap<u64, (Right, CancellationToken)>,
}

impl Rights {
    fn locked(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A right that is held until this is dropped.
pub struct HeldRight {
    app: App,
    number: u64,
    /// The right itself.
    pub right: Right,
    /// Set when the right has ended.
    pub lost: CancellationToken,
}

impl Drop for HeldRight {
    fn drop(&mut self) {
        self.app.rights.locked().rights.remove(&self.number);
    }
}

impl Accounts<'_> {
    /// Holds a right: `lost` is set when it ends.
    pub fn hold_right(self, right: Right, lost: CancellationToken) -> HeldRight {
        let mut held = self.app.rights.locked();
        held.last_number += 1;
        let number = held.last_number;
        held.rights.insert(number, (right, lost.clone()));
        HeldRight { app: self.app.clone(), number, right, lost }
    }

    /// Whether a right still stands.
    ///
    /// # Errors
    /// The database's.
    pub async fn right_stands(self, right: &Right) -> Result<bool, StoreError> {
        if self.app.now() >= right.until {
            return Ok(false);
        }
        let standings = self.app.store.accounts().standings(&[right.user]).await?;
        Ok(right.stands(standings.get(&right.user), self.app.now()))
    }

    /// Looks at all rights that are held, until shutdown. While the database does not answer, a right ends by the time of its
    /// token alone, and nothing is told to anybody.
    pub async fn tend_rights(self) {
        loop {
            tokio::select! {
                () = self.app.shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if let Err(error) = self.look_at_rights().await {
                tracing::debug!(%error, "whether rights still stand could not be read");
            }
        }
    }

    async fn look_at_rights(self) -> Result<(), StoreError> {
        let held: Vec<(Right, CancellationToken)> =
            self.app.rights.locked().rights.values().cloned().collect();
        // A token's own end needs no database.
        let now = self.app.now();
        held.iter().filter(|(right, _)| now >= right.until).for_each(|(_, lost)| lost.cancel());
        let users: HashSet<UserId> = held.iter().map(|(right, _)| right.user).collect();
        let users: Vec<UserId> = users.into_iter().collect();
        let standings = self.app.store.accounts().standings(&users).await?;
        let now = self.app.now();
        for (right, lost) in held {
            if !right.stands(standings.get(&right.user), now) {
                lost.cancel();
            }
        }
        Ok(())
    }
}
