//! What one agent has said, and how often that is written: a machine that changes its words without end costs no more than
//! one that does so now and then.

use orion_domain::{node::Facts, way_in::WayInReport};
use std::time::{Duration, Instant};

/// Number of changes that are written at once.
const BURST: u32 = 10;
/// Time in which one more change may be written after the burst.
const ONE_IN: Duration = Duration::from_secs(5);

/// Last reports over one link, as they were written.
#[derive(Default)]
pub struct Heard {
    /// Whether it said `hello`, which counts once a link: a kernel does not change under one.
    pub hello: bool,
    pub sshd: Option<bool>,
    /// An inventory that is not written yet.
    pub facts: Option<Facts>,
    pub way_in: Option<WayInReport>,
    pub way_in_at: Option<Instant>,
    pub clock_off: Option<Option<i64>>,
    pub clock_at: Option<Instant>,
}

/// The changes of one node that may be written.
#[derive(Debug)]
pub struct Pace {
    left: u32,
    filled: Instant,
}

impl Pace {
    /// Creates the pace of a node that has reported nothing yet, at `now`.
    pub const fn new(now: Instant) -> Self {
        Self { left: BURST, filled: now }
    }

    /// Whether one more may be written at `now`; it counts.
    pub fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.filled).as_secs() / ONE_IN.as_secs();
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        self.filled += ONE_IN.saturating_mul(gained);
        self.left = self.left.saturating_add(gained).min(BURST);
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_written_and_then_one_in_five_seconds() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        let mut written =
            |second| (0..100).filter(|_| pace.take(begun + Duration::from_secs(second))).count();
        assert_eq!([written(0), written(4), written(5), written(9), written(20)], [10, 0, 1, 0, 3]);
        assert_eq!(written(3_600), 10, "what was not used is not saved up");
    }
}
