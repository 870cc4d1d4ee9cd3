//! When the scheduler looks, and how much it does at once.

use orion_domain::{brake::BrakePolicy, health::HealthPolicy};
use orion_fleet::CLOCK_SKEW_MAX;
use orion_service::{
    sealed::MasterKey,
    settings::{SettingsError, Sources},
};
use std::time::Duration;

/// Shortest pause between two looks at a healthy node.
const PROBE_EVERY_MIN: Duration = Duration::from_millis(500);
/// Longest: beyond it nodes that died would be found too late.
const PROBE_EVERY_MAX: Duration = Duration::from_secs(60);

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
    /// Shortest pause between full fresh handshakes with a healthy node.
    pub handshake_every: Duration,
    /// Most fresh handshakes with healthy nodes in a second: of many nodes each has one less often. A handshake
    /// costs as much as fifty keep-alives.
    pub handshakes_per_s_max: u32,
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
    /// Verdicts on nodes that are written to the database side by side; less than its connections.
    pub verdicts_at_once: usize,
    /// A clock further off the database's than this takes no claims.
    pub clock_skew_max: Duration,
    /// Pause between this scheduler's own beats in the database, where others may share it.
    pub beat_every: Duration,
    /// Another scheduler whose beat has not changed for so long is gone: its nodes are taken over. With
    /// `beat_every` on either side this stays well under three of `keepalive_every`.
    pub gone_after: Duration,
    /// A scheduler whose own beat is older than this gives no verdicts; less than `gone_after`.
    pub own_late_after: Duration,
    /// What lies with another scheduler's node for longer than this is worked on all the same.
    pub others_work_after: Duration,
    /// Pause between two looks whether another scheduler asks for a second look; only while there are others.
    pub second_look_every: Duration,
    /// Longest wait for another scheduler's second look; then the next one is asked.
    pub second_look_within: Duration,
    /// Longest try to send an event to a webhook, from the dial to the reply's head.
    pub webhook_timeout: Duration,
    /// Opens the webhooks' signing secrets; without it no event is sent to a webhook.
    pub master_key: Option<MasterKey>,
    /// How long work may take after a stop was asked for.
    pub soft_stop: Duration,
}

impl SchedulerConfig {
    /// Pause between full fresh handshakes with each of `nodes` healthy nodes.
    pub fn handshake_every_of(&self, nodes: usize) -> Duration {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        let at_most = Duration::from_secs(1) / self.handshakes_per_s_max.max(1);
        self.handshake_every.max(at_most.saturating_mul(nodes))
    }

    /// The defaults, with what an operator has set.
    ///
    /// # Errors
    /// The first setting that makes no sense, by the name of its variable.
    pub fn from_sources(sources: &Sources) -> Result<Self, SettingsError> {
        let mut config = Self::default();
        if let Some(every) = sources.seconds("probe_every_s")? {
            if every < PROBE_EVERY_MIN || every > PROBE_EVERY_MAX {
                let limits = format!(
                    "must lie between {} and {} seconds",
                    PROBE_EVERY_MIN.as_secs_f32(),
                    PROBE_EVERY_MAX.as_secs()
                );
                return Err(SettingsError::about("probe_every_s", limits));
            }
            config.keepalive_every = every;
        }
        Ok(config)
    }
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            keepalive_every: Duration::from_secs(3),
            keepalive_timeout: Duration::from_millis(1_500),
            command_every: Duration::from_secs(15),
            command_timeout: Duration::from_secs(5),
            handshake_every: Duration::from_secs(60),
            handshakes_per_s_max: 32,
            dead_probe_every: Duration::from_secs(2),
            hold_after_start: Duration::from_secs(5),
            health: HealthPolicy::default(),
            brake: BrakePolicy::default(),
            look_every: Duration::from_secs(1),
            side_by_side_max: 64,
            verdicts_at_once: 8,
            clock_skew_max: CLOCK_SKEW_MAX,
            beat_every: Duration::from_secs(1),
            gone_after: Duration::from_secs(4),
            own_late_after: Duration::from_secs(3),
            others_work_after: Duration::from_secs(3),
            second_look_every: Duration::from_millis(250),
            second_look_within: Duration::from_secs(5),
            webhook_timeout: Duration::from_secs(10),
            master_key: None,
            soft_stop: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_many_nodes_has_a_fresh_handshake_less_often() {
        let config = SchedulerConfig::default();
        let seconds = |nodes| config.handshake_every_of(nodes).as_secs_f64().round();
        assert_eq!([seconds(0), seconds(3), seconds(1_900), seconds(10_000)], [60.0, 60.0, 60.0, 313.0]);
    }
}
