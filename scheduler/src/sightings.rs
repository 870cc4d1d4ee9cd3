//! Sightings of nodes that are to be written together ([`crate::tasks::sightings`] writes them).

use orion_domain::NodeId;
use orion_store::Sighting;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Sightings that are to be written.
#[derive(Default)]
pub struct Sightings(Mutex<HashMap<NodeId, Sighting>>);

impl Sightings {
    fn locked(&self) -> MutexGuard<'_, HashMap<NodeId, Sighting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, which takes the place of an older one of the node.
    pub(crate) fn add(&self, node: NodeId, sighting: Sighting) {
        let mut sightings = self.locked();
        let open_at = sighting.open_at.or_else(|| sightings.get(&node).and_then(|older| older.open_at));
        sightings.insert(node, Sighting { open_at, ..sighting });
    }

    /// Returns all, which somebody is going to write.
    pub(crate) fn take(&self) -> Vec<(NodeId, Sighting)> {
        self.locked().drain().collect()
    }

    /// Adds those that could not be written, unless there are newer ones.
    pub(crate) fn give_back(&self, seen: Vec<(NodeId, Sighting)>) {
        let mut sightings = self.locked();
        for (node, sighting) in seen {
            let newer = sightings.entry(node).or_insert(sighting);
            newer.open_at = newer.open_at.or(sighting.open_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_domain::Timestamp;

    const fn seen(last_seen: i64, open_at: Option<i64>) -> Sighting {
        let open_at = match open_at {
            Some(at) => Some(Timestamp::from_micros(at)),
            None => None,
        };
        Sighting { last_seen: Timestamp::from_micros(last_seen), open_at }
    }

    #[test]
    fn a_sighting_that_could_not_be_written_is_kept_and_overwrites_no_newer_one() {
        let (sightings, node) = (Sightings::default(), NodeId(7));
        sightings.add(node, seen(1, Some(1)));
        let taken = sightings.take();
        assert!(sightings.take().is_empty());
        sightings.add(node, seen(2, None));
        sightings.give_back(taken);
        assert_eq!(sightings.take(), [(node, seen(2, Some(1)))]);
        sightings.give_back(vec![(node, seen(2, Some(1)))]);
        sightings.add(node, seen(3, None));
        assert_eq!(sightings.take(), [(node, seen(3, Some(1)))]);
    }
}
