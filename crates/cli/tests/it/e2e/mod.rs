//! All of Orion, end to end: the built `orion up` and `orion-agent`, workers with a real sshd in namespaces of
//! their own, SQLite or a real MariaDB, and logins by OpenSSH's client.
//!
//! Lives here: what a client, a tenant and an admin see while machines and processes fail. Does not live here:
//! what one crate promises by itself; each has its own tests.

mod admission;
mod brake;
mod caddy;
mod command_line;
mod compose;
mod containers;
mod contention;
mod crashes;
mod database_away;
mod deadlines;
mod doctor;
mod drain;
mod misfits;
mod observability;
mod plain_ssh;
mod programs;
mod refusals;
mod replicas;
mod restore;
mod services;
mod silence;
mod sshd_down;
mod story;
mod system;
mod user;
mod waiting;

use std::time::Duration;

/// How long a test waits for a state that must come: long, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);
