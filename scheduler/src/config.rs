//! Timing of the scheduler, and how much it does at once.

use orion_domain::{
    brake::BrakePolicy, clock::CLOCK_SKEW_MAX, container::DiskPolicy, health::HealthPolicy,
    node::watch::WatchPolicy,
};
use orion_service::{
    sealed::MasterKey,
    settings::{SettingsError, Sources},
};
use orion_store::Kept;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Shortest time that anything is kept, in days: longer than events wait for webhooks, and replies under their keys.
const KEPT_DAYS_MIN: u32 = 7;
/// Shortest pause between two probes of a healthy node.
const PROBE_PERIOD_MIN: Duration = Duration::from_millis(500);
/// Longest pause: beyond it nodes that died would be found too late.
const PROBE_PERIOD_MAX: Duration = Duration::from_secs(60);

/// Shortest time after which a node is given up whose sshd lets nobody in.
const SICK_FOR_MIN: Duration = Duration::from_secs(60);
/// Longest such time.
const SICK_FOR_MAX: Duration = DAY;

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
    /// Time after a start in which nothing is migrated.
    pub hold_after_start: Duration,
    /// The rules of health.
    pub health: HealthPolicy,
    /// The rules of the brake.
    pub brake: BrakePolicy,
    /// Pause between two runs of a background task when nobody nudges, unless the task has a period of its own.
    pub period: Duration,
    /// A background task hangs when a run goes on for longer than this, and than three of its periods.
    pub task_hang_min: Duration,
    /// Nodes that are reconciled, and leases that are moved, side by side.
    pub side_by_side_max: usize,
    /// Verdicts on nodes that are written to the database side by side; less than its connections.
    pub verdicts_max: usize,
    /// A clock further off the database's than this takes no claims.
    pub clock_skew_max: Duration,
    /// Pause between this scheduler's own heartbeats in the database, where others may share it.
    pub heartbeat_period: Duration,
    /// Time after which another scheduler whose beat has not changed is gone: its nodes are taken over. With
    /// `heartbeat_period` on either side this stays well under three of `keepalive_every`.
    pub gone_after: Duration,
    /// A scheduler whose own beat is older than this gives no verdicts; less than `gone_after`.
    pub own_late_after: Duration,
    /// Work on another scheduler's node that is deferred for longer than this is done all the same.
    pub takeover_delay: Duration,
    /// Pause between two queries for peer probes that other schedulers ask for; only while there are others.
    pub peer_probe_period: Duration,
    /// Longest wait for another scheduler's peer probe; then the next one is asked.
    pub peer_probe_timeout: Duration,
    /// Longest try to send an event to a webhook, from the dial to the reply's head.
    pub webhook_timeout: Duration,
    /// Opens the webhooks' signing secrets; without it no event is sent to a webhook.
    pub master_key: Option<MasterKey>,
    /// Retention times of what is over in the database.
    pub kept: Kept,
    /// What must be free on the disk of a node's container engine.
    pub disk: DiskPolicy,
    /// Time for which an image stays on a node whose disk is too full, after its last use.
    pub images_kept: Duration,
    /// Longest time that work may take after a stop was asked for.
    pub soft_stop: Duration,
}

impl SchedulerConfig {
    /// Pause between full fresh handshakes with each of `nodes` healthy nodes.
    pub fn handshake_every_of(&self, nodes: usize) -> Duration {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        let at_most = Duration::from_secs(1) / self.handshakes_per_s_max.max(1);
        self.handshake_every.max(at_most.saturating_mul(nodes))
    }

    /// The limits of each node's watch.
    pub fn watch_policy(&self) -> WatchPolicy {
        WatchPolicy {
            keepalive_every: self.keepalive_every,
            dead_probe_every: self.dead_probe_every,
            hold_after_start: self.hold_after_start,
            health: self.health.clone(),
        }
    }

    /// The defaults, with what an operator has set.
    ///
    /// # Errors
    /// The first setting that makes no sense, by the name of its variable.
    pub fn from_sources(sources: &Sources) -> Result<Self, SettingsError> {
        let mut config = Self::default();
        if let Some(every) = sources.seconds_within("probe_every_s", (PROBE_PERIOD_MIN, PROBE_PERIOD_MAX))? {
            config.keepalive_every = every;
        }
        if let Some(sick_for) = sources.seconds_within("sick_for_s", (SICK_FOR_MIN, SICK_FOR_MAX))? {
            config.health.sick_for = sick_for;
        }
        for (key, kept) in [
            ("events_kept_days", &mut config.kept.events),
            ("leases_kept_days", &mut config.kept.leases),
            ("forgotten_kept_days", &mut config.kept.forgotten),
        ] {
            if let Some(days) = sources.number::<u32>(key, KEPT_DAYS_MIN)? {
                *kept = DAY * days;
            }
        }
        if let Some(days) = sources.number::<u32>("images_kept_days", 0)? {
            config.images_kept = DAY * days;
        }
        if let Some(mb) = sources.number("disk_free_mb_min", 0)? {
            config.disk.free_mb_min = mb;
        }
        if let Some(percent) = sources.number::<u64>("disk_free_percent_min", 0)? {
            if percent > 75 {
                return Err(SettingsError::about("disk_free_percent_min", "must be at most 75"));
            }
            config.disk.free_percent_min = percent;
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
            period: Duration::from_secs(1),
            task_hang_min: Duration::from_secs(30),
            side_by_side_max: 64,
            verdicts_max: 8,
            clock_skew_max: CLOCK_SKEW_MAX,
            heartbeat_period: Duration::from_secs(1),
            gone_after: Duration::from_secs(4),
            own_late_after: Duration::from_secs(3),
            takeover_delay: Duration::from_secs(3),
            peer_probe_period: Duration::from_millis(250),
            peer_probe_timeout: Duration::from_secs(5),
            kept: Kept::default(),
            webhook_timeout: Duration::from_secs(10),
            master_key: None,
            disk: DiskPolicy::default(),
            images_kept: DAY * 7,
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
