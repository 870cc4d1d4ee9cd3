//! What was seen of a node over SSH.

use super::{NodeWatch, pace};
use crate::{
    Timestamp,
    brake::Observation,
    health::{Failure, LinkPath, SshPath},
    node::Health,
};

impl NodeWatch {
    /// Returns what the watch observes of its node; none of a node that says nothing about the others: it is only just being
    /// set up, or was drained.
    pub fn observation(&self, link: LinkPath) -> Option<Observation> {
        let node = &self.node;
        if !node.should_answer() {
            return None;
        }
        let long_dead = node.health == Health::Dead && self.last_answer.is_none();
        let silent_since = match &self.path {
            // An sshd that answers and does not let us in is not silent; one that was dead before this
            // scheduler looked after it did not go silent now.
            SshPath::Failing {
                since, kind: Failure::Refused | Failure::Silent | Failure::WrongKey, ..
            } if !long_dead => {
                let was_silent = matches!(node.health, Health::Suspect | Health::Unreachable);
                let before = self.last_answer.is_none() && was_silent;
                Some(if before { node.health_since.min(*since) } else { *since })
            }
            SshPath::Failing { .. } | SshPath::Untried | SshPath::Up => None,
        };
        Some(Observation {
            probed: self.path != SshPath::Untried,
            silent_since,
            health: node.health,
            both_paths: self.path == SshPath::Up && matches!(link, LinkPath::Up { .. } | LinkPath::None),
            sick: matches!(self.path, SshPath::Failing { kind: Failure::Sick, .. }),
        })
    }

    pub(super) fn forget(&mut self) {
        self.path = SshPath::Untried;
        self.last_answer = None;
        self.vouched = None;
    }

    pub(super) fn failed(&mut self, kind: Failure, detail: String, now: Timestamp) {
        if kind == Failure::WrongKey && self.shows_another_key_for_long(now) {
            self.quarantine = Some(format!("its host key is not the pinned one: {detail}"));
        }
        self.moved = false;
        let (since, failures) = match &self.path {
            SshPath::Failing { since, failures, .. } => (*since, failures.saturating_add(1)),
            SshPath::Untried | SshPath::Up => (now, 1),
        };
        self.path = SshPath::Failing { since, last_answer: self.last_answer, failures, kind, detail };
    }

    /// Returns whether another key has answered for so long that all nodes were probed meanwhile: many that show another
    /// key at once engage the brake, and none of them is quarantined.
    pub(super) fn shows_another_key_for_long(&self, now: Timestamp) -> bool {
        let SshPath::Failing { since, kind: Failure::WrongKey, .. } = &self.path else { return false };
        now.since(*since) >= self.policy.keepalive_every + pace::WRONG_KEY_SLACK
    }
}
