//! The pause before a node is tried again whose reconcile failed.

use std::time::Duration;

/// Longest pause between two tries to reconcile a node that cannot be.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// 0.5 s, 1 s, 2 s … at most a minute.
pub(crate) fn retry_after(failures: u32) -> Duration {
    Duration::from_millis(500u64 << failures.min(7)).min(RETRY_MAX)
}
