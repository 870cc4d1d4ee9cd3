//! When a node is probed next.

use super::NodeWatch;
use crate::{
    Timestamp,
    health::{HealthPolicy, SshPath, reprobe_after},
    node::{Admission, Health},
};
use std::time::Duration;

/// Longest pause between dials of a dead node.
const DEAD_PROBE_EVERY_MAX: Duration = Duration::from_secs(30);
/// Longest pause between dials of a node at whose address no accepted key has answered yet.
const REPORTED_PROBE_EVERY_MAX: Duration = Duration::from_secs(600);
/// Pause between looks at a node that waits for an admin.
const PENDING_EVERY: Duration = Duration::from_secs(5);
/// A node that shows another host key is quarantined when it has for longer than a round of probes, and this.
pub(super) const WRONG_KEY_SLACK: Duration = Duration::from_secs(2);
/// Pause between groups of healthy nodes that are looked at together.
const GROUPS_EVERY: Duration = Duration::from_millis(20);

/// The limits of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchPolicy {
    /// Pause between probes of a healthy node.
    pub keepalive_every: Duration,
    /// Pause between dials of a dead node.
    pub dead_probe_every: Duration,
    /// Time after a start in which no node is given up, and after the take-over of a node in which that one
    /// is not.
    pub hold_after_start: Duration,
    /// The rules of health.
    pub health: HealthPolicy,
}

/// An instant, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// The time of day, which may jump.
    pub wall: Timestamp,
    /// The time that this scheduler has been running, on the machine's steady clock.
    pub steady: Duration,
    /// A random number from 0 to 1, by which nodes are spread over time.
    pub chance: f64,
}

impl NodeWatch {
    /// Returns when the node is probed next. Healthy ones are probed in small groups: waking up for each of
    /// thousands costs more
    /// than probing it.
    pub(super) fn probe_after(&self, now: Moment) -> Duration {
        let at = now.steady + self.pause(now);
        if matches!(self.path, SshPath::Failing { .. }) {
            return at;
        }
        let early = u64::try_from(at.as_nanos() % GROUPS_EVERY.as_nanos()).unwrap_or(0);
        at - Duration::from_nanos(early)
    }

    fn pause(&self, now: Moment) -> Duration {
        let node = &self.node;
        match &self.path {
            SshPath::Failing { since, failures, .. } if node.admission == Admission::Reported => {
                jittered(pause_of_reported(now.wall.since(*since), *failures), now.chance)
            }
            SshPath::Failing { .. } if node.health == Health::Dead => {
                // What has been dead for long is asked less often: many such must not keep others waiting.
                let dead_for = now.wall.since(node.health_since);
                let pause = (dead_for / 10).clamp(self.policy.dead_probe_every, DEAD_PROBE_EVERY_MAX);
                jittered(pause, now.chance)
            }
            SshPath::Failing { failures, .. } => reprobe_after(*failures),
            SshPath::Untried | SshPath::Up if node.admission == Admission::Pending => PENDING_EVERY,
            SshPath::Untried | SshPath::Up => jittered(self.policy.keepalive_every, now.chance),
        }
    }
}

/// Returns the pause before a node is dialled again at whose address no accepted key has answered yet: whoever
/// registered it may
/// have named any address.
fn pause_of_reported(failing_for: Duration, failures: u32) -> Duration {
    (failing_for / 10).clamp(reprobe_after(failures), REPORTED_PROBE_EVERY_MAX)
}

/// Shortens a pause by up to a tenth, so that nodes that registered together are not probed together for ever.
fn jittered(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(0.9 + 0.1 * chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_at_which_no_accepted_key_answers_is_dialled_ever_less_often() {
        let (mut at, mut dials) = (Duration::ZERO, 0);
        while at < Duration::from_secs(24 * 3600) {
            at += pause_of_reported(at, dials);
            dials += 1;
        }
        assert!((150..300).contains(&dials), "{dials} in a day");
        assert!(pause_of_reported(Duration::from_secs(60), 20) <= Duration::from_secs(6), "soon at first");
    }
}
