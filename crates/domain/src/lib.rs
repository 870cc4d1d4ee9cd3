//! The rules of Orion, without I/O: what a lease is and how it changes, when a node is dead, where a
//! lease may be placed, and the newtypes that user input has to become first.
//!
//! Lives here: state machines, decisions (`plan(snapshot, now) -> actions`), validated types, the words
//! of the agent's protocol. Does not live here: SQL, HTTP, SSH, tasks, clocks (but for the one place
//! that asks the system, [`clock`]) and randomness.

pub mod account;
pub mod agent;
pub mod brake;
pub mod clock;
pub mod container;
pub mod credentials;
pub mod doctor;
pub mod drain;
pub mod event;
pub mod health;
pub mod ids;
pub mod lease;
pub mod names;
pub mod node;
#[cfg(test)]
mod random;
pub mod reconcile;
mod refused;
pub mod secret;
pub mod share;
pub mod ssh_algorithms;
pub mod states;
pub mod time;
pub mod way_in;
pub mod webhook;

pub use clock::{Clock, SystemClock};
pub use ids::{ContainerId, DeliveryId, EventId, LeaseId, NodeId, TokenId, UserId, WebhookId};
pub use refused::Refused;
pub use secret::Secret;
pub use time::Timestamp;
