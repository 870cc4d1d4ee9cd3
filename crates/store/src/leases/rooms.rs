//! Nodes with room for a slice: read together, and given to the placements of this process so that few of them wait for each
//! other's node.
//!
//! Lives here: which node a placement of a slice tries first. Does not live here: whether it gets it; the compare-and-swap of
//! the placement's own transaction decides, and repeats every condition.
//!
//! Slices go on the fullest node that has room. Placements at the same time would all wait for that one node's row, each
//! until the one before is committed: they are spread over the few fullest.

use crate::{
    engine::{Db, Result, Val},
    leases::candidates::{Candidate, FRESH, READ_MIN, has_room},
    leases::hold::SliceSize,
    leases::placement::PlaceRequest,
};
use sqlx::AssertSqlSafe;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Nodes over which the placements of one process are spread.
const SIDE_BY_SIDE: usize = 8;

/// The nodes with room that this process knows of.
#[derive(Default)]
pub(crate) struct RoomCache {
    shelf: tokio::sync::Mutex<Shelf>,
    filled: Arc<Filled>,
}

/// Number of placements of this process that try a node now.
#[derive(Default)]
struct Filled(Mutex<HashMap<i64, usize>>);

impl Filled {
    fn locked(&self) -> MutexGuard<'_, HashMap<i64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Shelf {
    /// Size of the slices for which it was read, and whether they have containers.
    of: (SliceSize, bool),
    /// Fullest first.
    rooms: Vec<Room>,
    read_at: Option<Instant>,
}

/// What is free of a node, as far as this process knows.
struct Room {
    id: i64,
    subordinate_uids: String,
    cpu_milli: i64,
    memory_mb: i64,
}

/// A node that a placement tries.
pub(crate) struct PickedRoom {
    id: i64,
    subordinate_uids: String,
    filled: Arc<Filled>,
}

impl PickedRoom {
    pub(crate) fn candidate(&self) -> Result<Candidate> {
        Candidate::read(self.id, &self.subordinate_uids)
    }
}

impl Drop for PickedRoom {
    fn drop(&mut self) {
        let mut filled = self.filled.locked();
        if let Some(count) = filled.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                filled.remove(&self.id);
            }
        }
    }
}

impl RoomCache {
    /// A node for one slice of this size; none where the placement's own transaction has to look: for several slices, for
    /// those with GPUs or tags, and where no node is known to have room.
    pub(crate) async fn pick(
        &self,
        db: &Db,
        request: &PlaceRequest,
        size: SliceSize,
    ) -> Result<Option<PickedRoom>> {
        if request.count != 1 || size.gpus > 0 || !request.tags.is_empty() {
            return Ok(None);
        }
        // Held while it is read, so that those who come meanwhile are served by the same read.
        let mut shelf = self.shelf.lock().await;
        let of = (size, !request.containers.is_empty());
        let is_fresh = shelf.of == of && shelf.read_at.is_some_and(|at| at.elapsed() < FRESH);
        if is_fresh && let Some(picked) = self.take(&mut shelf, size) {
            return Ok(Some(picked));
        }
        let read_at = Instant::now();
        let (rest, values) = fullest(request);
        let sql = format!(
            "SELECT id, subordinate_uids, cpu_milli - cpu_held, memory_capacity_mb - memory_held_mb FROM nodes {rest}"
        );
        let rows = db.all::<(i64, String, i64, i64)>(AssertSqlSafe(sql), values).await?;
        let room = |(id, subordinate_uids, cpu_milli, memory_mb)| Room {
            id,
            subordinate_uids,
            cpu_milli,
            memory_mb,
        };
        *shelf = Shelf { of, rooms: rows.into_iter().map(room).collect(), read_at: Some(read_at) };
        Ok(self.take(&mut shelf, size))
    }

    /// Of the fullest nodes the one that the fewest placements try.
    fn take(&self, shelf: &mut Shelf, size: SliceSize) -> Option<PickedRoom> {
        shelf.rooms.retain(|room| size.cpu_milli <= room.cpu_milli && size.memory_mb <= room.memory_mb);
        let mut filled = self.filled.locked();
        let fullest = shelf.rooms.iter_mut().take(SIDE_BY_SIDE);
        let room = fullest.min_by_key(|room| filled.get(&room.id).copied().unwrap_or_default())?;
        room.cpu_milli -= size.cpu_milli;
        room.memory_mb -= size.memory_mb;
        *filled.entry(room.id).or_default() += 1;
        let (id, subordinate_uids) = (room.id, room.subordinate_uids.clone());
        drop(filled);
        shelf.rooms.sort_by_key(|room| (room.cpu_milli, room.id));
        Some(PickedRoom { id, subordinate_uids, filled: self.filled.clone() })
    }

    /// Forgets what was read: it turned out to be old.
    pub(crate) async fn clear(&self) {
        *self.shelf.lock().await = Shelf::default();
    }
}

/// The rest of a query for the nodes that have room for a slice, fullest first, and its values.
pub(super) fn fullest(request: &PlaceRequest) -> (String, Vec<Val>) {
    let (room, mut values) = has_room(&request.tags, request.holding);
    let (engine, engine_values) = request.takes_containers();
    values.extend(engine_values);
    values.push(i64::try_from(READ_MIN).unwrap_or(i64::MAX).into());
    (format!("WHERE {room}{engine} ORDER BY cpu_milli - cpu_held, id LIMIT ?"), values)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SliceSize = SliceSize { cpu_milli: 1_000, memory_mb: 100, gpus: 0 };

    /// Nodes with room for so many slices each, the first the fullest.
    fn shelf(nodes: i64, slices: i64) -> Shelf {
        let cpu_milli = |id| slices * SIZE.cpu_milli + id;
        let room =
            |id| Room { id, subordinate_uids: "[]".into(), cpu_milli: cpu_milli(id), memory_mb: 1_000 };
        Shelf { rooms: (1..=nodes).map(room).collect(), ..Shelf::default() }
    }

    #[test]
    fn one_after_the_other_go_on_the_fullest_node_until_it_is_full() {
        let (cache, mut shelf) = (RoomCache::default(), shelf(2, 2));
        let ids = std::iter::from_fn(|| Some(cache.take(&mut shelf, SIZE)?.id));
        assert_eq!(ids.collect::<Vec<_>>(), [1, 1, 2, 2]);
    }

    #[test]
    fn those_at_once_are_spread_over_few_nodes() {
        let (cache, mut shelf) = (RoomCache::default(), shelf(100, 4));
        let picked: Vec<PickedRoom> =
            std::iter::from_fn(|| cache.take(&mut shelf, SIZE)).take(2 * SIDE_BY_SIDE).collect();
        let nodes: std::collections::HashSet<i64> = picked.iter().map(|picked| picked.id).collect();
        assert_eq!(nodes.len(), SIDE_BY_SIDE, "{nodes:?}");
        drop(picked);
        assert!(cache.filled.locked().is_empty());
    }
}
