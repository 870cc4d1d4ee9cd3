//! The rules of Orion, without I/O: what a lease is and how it changes, when a node is dead, where a
//! lease may be placed, and the newtypes that user input has to become first.
//!
//! Lives here: state machines, decisions (`plan(snapshot, now) -> actions`), validated types, the words
//! of the agent's protocol. Does not live here: SQL, HTTP, SSH, tasks, clocks (but for the one place
//! that asks the system, [`clock`]) and randomness.

pub mod agent;
pub mod brake;
pub mod clock;
pub mod credentials;
pub mod doctor;
pub mod drain;
pub mod health;
pub mod ids;
pub mod lease;
pub mod names;
pub mod node;
pub mod reconcile;
pub mod secret;
pub mod share;
pub mod time;
pub mod webhook;

pub use clock::{Clock, SystemClock};
pub use ids::{DeliveryId, EventId, LeaseId, NodeId, TokenId, UserId, WebhookId};
pub use secret::Secret;
pub use time::Timestamp;
