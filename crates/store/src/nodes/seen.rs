//! When nodes were last seen (`node_seen`): written by probes, by links, and in batches.

use crate::engine::Db;
use orion_domain::Timestamp;
use std::time::Duration;

/// Times at which a node was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Time of the node's last answer.
    pub last_seen: Timestamp,
    /// Time at which the node's way in was last seen open; none if it never was.
    pub open_at: Option<Timestamp>,
}

/// Longest that a sighting waits to be written. One that is further ahead of another was seen by a wrong clock.
const WRITTEN_WITHIN: Duration = Duration::from_secs(600);

/// Writes this many sightings: number, `last_seen`, `open_at` each. Newer ones that are there already stay.
pub(crate) fn seen_sql(db: &Db, rows: usize) -> String {
    let rows = vec!["(?, ?, ?)"; rows].join(", ");
    let ahead_max = WRITTEN_WITHIN.as_micros();
    let newer = |column: &str| {
        let new = if db.is_maria() { format!("VALUES({column})") } else { format!("excluded.{column}") };
        format!(
            "{column} = CASE WHEN {new} IS NULL OR ({column} > {new} AND {column} - {new} <= {ahead_max}) \
             THEN {column} ELSE {new} END"
        )
    };
    let on_conflict = db.sql("ON DUPLICATE KEY UPDATE", "ON CONFLICT (node_id) DO UPDATE SET");
    let (last_seen, open_at) = (newer("last_seen"), newer("open_at"));
    format!(
        "INSERT INTO node_seen (node_id, last_seen, open_at) VALUES {rows} {on_conflict} {last_seen}, {open_at}"
    )
}
