//! Instants on the clocks that go on while a process is suspended.

use orion_domain::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// An instant on the two clocks that go on while the process is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Time since the boot of the machine with its sleep: `CLOCK_BOOTTIME`, which nobody sets.
    pub since_boot: Duration,
    /// The time of day: of a virtual machine that was paused the only clock that tells of it, once it is set.
    pub wall: Timestamp,
}

impl Tick {
    /// Reads the first clock; the caller has read the other one.
    pub fn now(wall: Timestamp) -> Self {
        let read = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(read.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(read.tv_nsec).unwrap_or(0);
        Self { since_boot: Duration::new(seconds, nanos), wall }
    }

    /// Returns whether the time of day was set back by as much as `limit` since `earlier`: instants from before lie ahead then.
    pub fn went_back(self, earlier: Self, limit: Duration) -> bool {
        earlier.wall.since(self.wall) >= limit
    }

    /// Returns the time since `earlier` on the clock that counted more of it.
    pub fn since(self, earlier: Self) -> Duration {
        self.since_boot.saturating_sub(earlier.since_boot).max(self.wall.since(earlier.wall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(boot: u64, wall: i64) -> Tick {
        Tick { since_boot: Duration::from_secs(boot), wall: Timestamp::from_micros(wall * 1_000_000) }
    }

    #[test]
    fn the_clock_that_counted_more_tells_how_long_it_was() {
        let since = |now: Tick| now.since(tick(100, 1_000)).as_secs();
        assert_eq!(since(tick(101, 1_001)), 1);
        assert_eq!(since(tick(160, 1_001)), 60, "asleep, and the time of day was set back");
        assert_eq!(since(tick(101, 1_060)), 60, "a virtual machine was paused");
        assert_eq!(since(tick(101, 900)), 1, "a time of day that goes back is no suspension");
        let limit = Duration::from_secs(3);
        assert!(tick(101, 900).went_back(tick(100, 1_000), limit), "but what was seen lies ahead");
        assert!(!tick(101, 999).went_back(tick(100, 1_000), limit));
    }

    #[test]
    fn the_clock_of_the_boot_goes_on() {
        let wall = Timestamp::from_micros(0);
        let first = Tick::now(wall);
        assert!(first.since_boot > Duration::ZERO && Tick::now(wall).since_boot >= first.since_boot);
    }
}
