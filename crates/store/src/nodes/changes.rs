//! Where the reading of changed nodes goes on.

use crate::engine::VISIBLE_WITHIN;
use orion_domain::Timestamp;
use std::time::Duration;

/// Pause between two readings of the versions of all nodes. They find what became visible later than [`VISIBLE_WITHIN`]:
/// a transaction that is run again keeps the time of its first attempt.
const READ_ALL_PERIOD: Duration = Duration::from_secs(30);

/// What a reader of [`crate::Nodes::versions`] has read.
#[derive(Clone, Copy, Debug)]
pub struct ChangesCursor {
    since: Timestamp,
    /// When all were read last.
    all_read_at: Option<Timestamp>,
}

impl ChangesCursor {
    /// A cursor that begins with all nodes.
    pub const fn new() -> Self {
        Self { since: Timestamp::from_micros(0), all_read_at: None }
    }

    /// Returns from when on nodes that were written have to be read at `now`; none: all of them.
    pub fn since(&self, now: Timestamp) -> Option<Timestamp> {
        let all = self.all_read_at.is_none_or(|at| now.since(at) >= READ_ALL_PERIOD);
        (!all).then_some(self.since)
    }

    /// Records that nodes were read from `since` on, by a reading that began at `now`.
    pub fn advance(&mut self, since: Option<Timestamp>, now: Timestamp) {
        self.since = now.minus(VISIBLE_WITHIN);
        if since.is_none() {
            self.all_read_at = Some(now);
        }
    }
}

impl Default for ChangesCursor {
    fn default() -> Self {
        Self::new()
    }
}
