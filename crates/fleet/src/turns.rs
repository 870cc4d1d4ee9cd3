//! Turns at claiming a node: of all that wait for one node in this process, one at a time asks the database.

use orion_domain::NodeId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::OwnedMutexGuard;

/// What a node is claimed for. Who just placed a lease there has the first turn in the database, and waits for no other here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClaimFor {
    /// The first work for a lease that was placed there.
    Placed(NodeId),
    /// Any other work.
    Work(NodeId),
}

/// Turns of one process. They have an entry for each node that was ever claimed.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<ClaimFor, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the turn, which ends with the value; first come, first served. None: it did not come in time.
    pub(crate) async fn next(&self, claim: ClaimFor, at_most: Duration) -> Option<OwnedMutexGuard<()>> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.entry(claim).or_default().clone()
        };
        tokio::time::timeout(at_most, turn.lock_owned()).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_has_the_turn_at_a_node() {
        let (turns, wait) = (Turns::default(), Duration::from_millis(50));
        let first = turns.next(ClaimFor::Work(NodeId(1)), wait).await.expect("nobody waits");
        assert!(turns.next(ClaimFor::Work(NodeId(1)), wait).await.is_none());
        assert!(turns.next(ClaimFor::Placed(NodeId(1)), wait).await.is_some());
        assert!(turns.next(ClaimFor::Work(NodeId(2)), wait).await.is_some());
        drop(first);
        assert!(turns.next(ClaimFor::Work(NodeId(1)), wait).await.is_some());
    }
}
