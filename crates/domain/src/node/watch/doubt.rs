//! What is asked before a node is given up, or its accounts are locked because it soon will be.

use super::{Moment, NodeWatch, PeerVerdict, Standing, Step, Surroundings};
use crate::{
    Timestamp,
    health::{Failure, LinkPath, SshPath, Verdict, is_to_be_locked},
    node::Health,
};

/// A verdict that a node is dead, while it is double-checked: before the node is given up, or its accounts are locked.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    /// The verdict that it is dead.
    pub(super) verdict: Verdict,
    /// The health by both paths when the doubt began: not `Dead` where it is to be locked first.
    pub(super) seen: Health,
    /// The verdict on the node itself, where its accounts are to be locked.
    pub(super) lock: Option<Verdict>,
}

impl NodeWatch {
    /// Weighs both paths.
    pub(super) fn decide(&mut self, around: Surroundings, now: Moment) {
        let verdict = self.weigh(around.link, now.wall);
        // A node that could not be looked at yet is what it was.
        let unseen = self.path == SshPath::Untried && !self.moved;
        self.step = if unseen || !around.may_judge {
            Step::End
        } else if verdict.health == Health::Dead && self.node.health != Health::Dead {
            let doubt = Doubt { seen: verdict.health, verdict, lock: None };
            Step::Braking { doubt, again: false }
        } else {
            self.lock_or_settle(verdict, around.link, now.wall)
        };
    }

    /// Has the accounts of a node locked that will soon be given up, if nothing speaks against giving it up now: the
    /// same doubts as before that hold.
    pub(super) fn lock_or_settle(&self, verdict: Verdict, link: LinkPath, now: Timestamp) -> Step {
        let lock = verdict.health == Health::Unreachable
            && self.node.lock_order.is_none()
            && self.is_to_be_locked(link, now);
        if !lock {
            return Step::Settle(verdict);
        }
        let dead = Verdict { health: Health::Dead, reason: verdict.reason.clone() };
        let seen = self.weigh(link, now).health;
        Step::Braking { doubt: Doubt { verdict: dead, seen, lock: Some(verdict) }, again: false }
    }

    pub(super) fn is_to_be_locked(&self, link: LinkPath, now: Timestamp) -> bool {
        self.node.health == Health::Unreachable && is_to_be_locked(&self.path, link, &self.policy.health, now)
    }

    /// Compares what both paths say now with what they said, and with what another scheduler says.
    pub(super) fn compare(&mut self, mut doubt: Doubt, word: PeerVerdict, around: Surroundings, now: Moment) {
        let second = self.weigh(around.link, now.wall);
        if second.health != doubt.seen && second.health != Health::Dead {
            return self.conclude(doubt, second, around, now);
        }
        match word {
            PeerVerdict::Reachable { peer } => {
                let reason = format!(
                    "it answers the scheduler {peer} and not this one: the fault is more likely here ({})",
                    second.reason
                );
                self.vouched = Some((now.wall.plus(self.policy.keepalive_every), reason.clone()));
                let verdict = Verdict { health: Health::Unreachable, reason };
                return self.conclude(doubt, verdict, around, now);
            }
            PeerVerdict::Unreachable { peer } => {
                doubt.verdict.reason =
                    format!("{}; the scheduler {peer} does not reach it either", second.reason);
            }
            PeerVerdict::NoPeer => doubt.verdict.reason = second.reason,
        }
        self.step = Step::Braking { doubt, again: true };
    }

    /// The doubt is over, and `verdict` is left of it. That took a while.
    pub(super) fn conclude(&mut self, doubt: Doubt, verdict: Verdict, around: Surroundings, now: Moment) {
        self.step = match doubt.lock {
            None if around.may_judge => self.lock_or_settle(verdict, around.link, now.wall),
            None => Step::End,
            Some(of_node) => {
                let lock = verdict.health == Health::Dead
                    && around.may_judge
                    && self.is_to_be_locked(around.link, now.wall);
                if lock { Step::Ordering(of_node) } else { Step::Settle(of_node) }
            }
        };
    }

    /// The verdict that is left if nothing may be given up now.
    pub(super) fn held_back(
        &self,
        verdict: &Verdict,
        standing: &Standing,
        now: Timestamp,
    ) -> Option<Verdict> {
        let fails_as =
            |kinds: &[Failure]| matches!(&self.path, SshPath::Failing { kind, .. } if kinds.contains(kind));
        let many = standing.many_are_sick.as_ref().filter(|_| fails_as(&[Failure::Sick]));
        let why = many.cloned().or_else(|| standing.holds_back(self.policy.hold_after_start, now))?;
        let reason = format!("{}; not given up: {why}", verdict.reason);
        // It may still answer: doubted as it was before.
        let answers = fails_as(&[Failure::Sick, Failure::WrongKey]);
        Some(Verdict { health: if answers { Health::Unreachable } else { Health::Suspect }, reason })
    }

    pub(super) fn vouched_for(&self, now: Timestamp) -> Option<String> {
        self.vouched.as_ref().filter(|(until, _)| now < *until).map(|(_, reason)| reason.clone())
    }
}
