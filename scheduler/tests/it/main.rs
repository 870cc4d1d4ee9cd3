//! Several real `orion-scheduler` processes on one real MariaDB, over workers with a real sshd. They are killed,
//! stopped in place, and cut off from single nodes by the kernel; and they send events to real receivers.
//!
//! Lives here: who looks after which node, and what several schedulers decide together. Does not live here: the
//! story of a lease end to end (`e2e/`), and the rules by themselves (orion-domain).

mod brake;
mod cluster;
mod nodes;
mod peer_probe;
mod process;
mod webhooks;
mod world;

use std::time::Duration;

/// Longest wait of a test for a state that must come: long, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(40);
