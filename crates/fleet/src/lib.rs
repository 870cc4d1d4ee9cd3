//! Work on nodes: the store's wishes carried out over SSH.
//!
//! Lives here: playbooks, and the one reconcile that provision, migration, expiry, release and cleaning
//! share ([`Fleet::apply`]). Does not live here: SQL (orion-store), SSH itself (orion-ssh), and the decisions
//! of when (orion-scheduler) and for whom (orion-control-plane).
//!
//! The SSH happens in `apply.rs`.

mod apply;
mod containers;
mod disk;
mod doctor;
mod end;
mod engine_words;
mod engines;
mod fleet;
mod images;
mod memory;
pub mod metrics;
mod networks;
mod nudge;
pub mod playbook;
mod provision;
mod pulls;
mod retry;
mod turns;
mod way_in;

pub use apply::{Applied, Change, STOP_GRACE};
pub use doctor::NodesExamined;
pub use fleet::{
    ENGINE_LOST_AFTER, Fleet, FleetConfig, OpenSpec, Parts, REPLICA_BEAT_EVERY, REPLICA_STALE_AFTER,
    target_of,
};
pub use images::login_context;
pub use memory::{MEMORY_COMMAND, read_memory};
pub use metrics::Metrics;
pub use networks::{Apps, ContainerNetworks, Firewalls};
pub use nudge::{Nudge, Nudged};
pub use provision::{NotProvisioned, Provisioned};
pub use pulls::{PULLS_OF_USER_MAX, PullPlace, Pulls};
pub use turns::Turns;
pub use way_in::Probed;
