//! When the scheduler looks, and how much it does at once.

use orion_domain::{brake::BrakePolicy, health::HealthPolicy};
use std::time::Duration;

/// Timing and limits; [`Default`] gives those of docs/ARCHITECTURE.md.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Pause between keep-alives on a healthy node's session.
    pub keepalive_every: Duration,
    /// Longest wait for a keep-alive's answer.
    pub keepalive_timeout: Duration,
    /// Pause between trivial commands on a healthy node.
    pub command_every: Duration,
    /// Longest wait for a trivial command.
    pub command_timeout: Duration,
    /// Pause between full fresh handshakes with a healthy node.
    pub handshake_every: Duration,
    /// Pause between dials of a dead node.
    pub dead_probe_every: Duration,
    /// Nothing is migrated for so long after a start.
    pub hold_after_start: Duration,
    /// The rules of health.
    pub health: HealthPolicy,
    /// The rules of the brake.
    pub brake: BrakePolicy,
    /// Pause between two looks of a loop when nobody nudges.
    pub look_every: Duration,
    /// Nodes that are reconciled, and leases that are moved, side by side.
    pub side_by_side_max: usize,
    /// A clock further off the database's than this takes no claims.
    pub clock_skew_max: Duration,
    /// How long work may take after a stop was asked for.
    pub soft_stop: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            keepalive_every: Duration::from_secs(3),
            keepalive_timeout: Duration::from_millis(1_500),
            command_every: Duration::from_secs(15),
            command_timeout: Duration::from_secs(5),
            handshake_every: Duration::from_secs(60),
            dead_probe_every: Duration::from_secs(2),
            hold_after_start: Duration::from_secs(5),
            health: HealthPolicy::default(),
            brake: BrakePolicy::default(),
            look_every: Duration::from_secs(1),
            side_by_side_max: 64,
            clock_skew_max: Duration::from_secs(2),
            soft_stop: Duration::from_secs(10),
        }
    }
}
