//! The background tasks, one file each: its definition and its work. When they run is [`crate::driver`]'s.

pub mod apps;
pub mod brake;
pub mod containers;
pub mod doctor;
pub mod drain;
pub mod engines;
pub mod expire;
pub mod heartbeat;
pub mod images;
pub mod inventory;
pub mod machines;
pub mod migrate;
pub mod peer_probe;
pub mod reconcile;
pub mod retention;
pub mod sightings;
pub mod sweep;
pub mod watch;
pub mod way_in;
pub mod webhooks;
