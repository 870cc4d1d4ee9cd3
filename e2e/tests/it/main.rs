//! All of Orion, end to end: the built programs (`orion`, `orion-agent`, `orion-control-plane`, `orion-scheduler`),
//! workers with a real sshd in namespaces of their own, SQLite or a real MariaDB, and logins by OpenSSH's client.
//! The programs are those that were built last: `cargo build && cargo test -p orion-e2e NAME`.
//!
//! Lives here: what a client, a tenant and an admin see while machines and processes fail. Does not live here:
//! what one crate promises by itself; each has its own tests.

mod admission;
mod apps;
mod brake;
mod caddy;
mod clocks;
mod clones;
mod command_line;
mod compose;
mod container_crashes;
mod container_crowd;
mod container_ends;
mod container_holders;
mod container_life;
mod container_moves;
mod container_networks;
mod container_slices;
mod container_streams;
mod container_streams_hostile;
mod containers;
mod contention;
mod crashes;
mod database_away;
mod deadlines;
mod doctor;
mod drain;
mod engine_lost;
mod eviction;
mod foreign;
mod identity;
mod images;
mod kinds;
mod misfits;
mod observability;
mod plain_ssh;
mod refusals;
mod replicas;
mod restore;
mod secrets;
mod services;
mod silence;
mod site;
mod site_settings;
mod slices;
mod sshd_down;
mod story;
mod system;
mod truthful;
mod user;
mod waiting;

use std::time::Duration;

/// Longest wait for a state that must come: long, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a moment that the clock brings, not for a state.
async fn wait_until_time(begun: std::time::Instant, after: Duration) {
    tokio::time::sleep(after.saturating_sub(begun.elapsed())).await;
}
