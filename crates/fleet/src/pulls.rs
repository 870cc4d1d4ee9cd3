//! How many pulls each user has in this process at once.

use orion_domain::UserId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Pulls of one user that go on at once in a process: a registry that hardly answers holds up nobody else.
pub const PULLS_OF_USER_MAX: usize = 4;

/// Work of users that goes on in this process, at most [`PULLS_OF_USER_MAX`] of each: pulls, and questions to registries.
#[derive(Clone, Debug, Default)]
pub struct Pulls(Arc<Mutex<HashMap<UserId, usize>>>);

/// A place among a user's pulls; given back when dropped.
#[derive(Debug)]
pub struct PullPlace {
    pulls: Pulls,
    user: UserId,
}

impl Pulls {
    /// Takes a place; none where the user has as many pulls as go on at once.
    pub fn take(&self, user: UserId) -> Option<PullPlace> {
        let mut of_users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = of_users.entry(user).or_default();
        if *of_user >= PULLS_OF_USER_MAX {
            return None;
        }
        *of_user += 1;
        Some(PullPlace { pulls: self.clone(), user })
    }

    /// Returns how many pulls go on.
    pub fn under_way(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Drop for PullPlace {
    fn drop(&mut self) {
        let mut of_users = self.pulls.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = of_users.get(&self.user).map_or(0, |pulls| pulls.saturating_sub(1));
        if left == 0 {
            of_users.remove(&self.user);
        } else {
            of_users.insert(self.user, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_four_pulls_at_once_and_others_have_their_own() {
        let pulls = Pulls::default();
        let (alice, bob) = (UserId(1), UserId(2));
        let mut places: Vec<_> = (0..4).map_while(|_| pulls.take(alice)).collect();
        assert_eq!((places.len(), pulls.take(alice).is_none()), (4, true));
        let of_bob = pulls.take(bob);
        assert!(of_bob.is_some() && pulls.under_way() == 5);
        places.pop();
        places.extend(pulls.take(alice));
        assert_eq!((places.len(), pulls.take(alice).is_none()), (4, true));
        drop((places, of_bob));
        assert_eq!((pulls.under_way(), pulls.0.lock().unwrap().len()), (0, 0));
    }
}
