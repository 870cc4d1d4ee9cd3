//! The simulation's time: milliseconds since its begin, and the time of day that they stand for.

use crate::Timestamp;

/// The time of day when the simulation begins.
const EPOCH_MS: u64 = 1_800_000_000_000;

pub fn wall(now: u64) -> Timestamp {
    Timestamp::from_micros(i64::try_from((EPOCH_MS + now) * 1_000).unwrap())
}

pub fn millis(at: Timestamp) -> u64 {
    u64::try_from(at.as_micros() / 1_000).unwrap().saturating_sub(EPOCH_MS)
}
