//! The one place that asks the system what time it is.

use crate::Timestamp;
use std::time::Duration;

/// How far a machine's clock may be off the database's: a process that is further off takes no claims, and the
/// doctor says so.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(2);

/// Source of the time. Everything takes `now` as an argument; only services hold a clock.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// The current time, UTC.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the place that the others are sent to")]
    fn now(&self) -> Timestamp {
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }
}
