//! What an operator asks of the whole database: the audit, a restored backup, retention, counts.

pub(crate) mod audit;
mod audit_containers;
pub(crate) mod counts;
pub(crate) mod restore;
pub(crate) mod retention;
pub(crate) mod schema;

pub use audit::{NodeAudit, Scope};
pub use counts::NodeTally;
pub use restore::{AfterRestore, RestoreSettled};
pub use retention::{Kept, Prunable, Pruned};

use crate::Store;

/// Work on the whole database.
#[derive(Clone, Copy, Debug)]
pub struct Admin<'a> {
    store: &'a Store,
}

impl Store {
    /// Gives the work on the whole database.
    pub const fn admin(&self) -> Admin<'_> {
        Admin { store: self }
    }
}
