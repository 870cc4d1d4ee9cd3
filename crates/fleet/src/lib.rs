//! Work on nodes: the store's wishes carried out over SSH.
//!
//! Lives here: playbooks, and the one reconcile that provision, migration, expiry, release and cleaning
//! share ([`Fleet::apply`]). Does not live here: SQL (orion-store), SSH itself (orion-ssh), and the decisions
//! of when (orion-scheduler) and for whom (orion-control-plane).
//!
//! The SSH happens in `apply.rs`.

mod apply;
mod doctor;
mod end;
mod fleet;
mod memory;
pub mod metrics;
mod nudge;
pub mod playbook;
mod provision;

pub use apply::{Applied, Change};
pub use doctor::NodesExamined;
pub use fleet::{
    CHANGES_OVERLAP, CLOCK_SKEW_MAX, Fleet, FleetConfig, Parts, REPLICA_BEAT_EVERY, REPLICA_STALE_AFTER,
    target_of,
};
pub use memory::{MEMORY_COMMAND, read_memory};
pub use metrics::Metrics;
pub use nudge::{Nudge, Nudged};
pub use provision::{NotProvisioned, Provisioned};
