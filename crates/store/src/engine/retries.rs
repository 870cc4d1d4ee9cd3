//! How often the database made us try again: counted here, shown by whoever asks.

use crate::{Store, engine::error::Fault};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since the process started, shared by all clones of a store.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    conflict: AtomicU64,
    host_lost: AtomicU64,
    commit_unknown: AtomicU64,
}

impl Retries {
    /// Counts a retry because of `fault`.
    pub(crate) fn count(&self, fault: &Fault) {
        let counter = match fault {
            Fault::Retry(_) => &self.conflict,
            Fault::Gone(_) => &self.host_lost,
            Fault::CommitUnknown(_) => &self.commit_unknown,
            Fault::Unique(_) | Fault::Store(_) => return,
        };
        counter.fetch_add(1, Relaxed);
    }
}

/// Transactions and reads that were run again since the process started, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryTally {
    /// A deadlock, a lock that was waited for too long, or a failed certification.
    pub conflict: u64,
    /// The database host was away.
    pub host_lost: u64,
    /// A COMMIT got no answer, and had not happened.
    pub commit_unknown: u64,
}

impl Store {
    /// Returns the numbers of retries since the process started.
    pub fn retries(&self) -> RetryTally {
        let retries = self.db.retries();
        RetryTally {
            conflict: retries.conflict.load(Relaxed),
            host_lost: retries.host_lost.load(Relaxed),
            commit_unknown: retries.commit_unknown.load(Relaxed),
        }
    }
}
