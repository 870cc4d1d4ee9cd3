//! One node's watch: the state machine between the probes of a node, its agent's link, the other schedulers' probes of it
//! and the brake.
//!
//! Lives here: when the node is probed, what follows from what was seen, what is asked before the node is given up, and
//! what is written of it. Does not live here: I/O and timers. The scheduler performs what [`NodeWatch::poll`] says, tells
//! the watch how it went (`on_…`), and polls again; an [`Action`] is repeated until that is told. The rules by which
//! both paths are weighed are [`crate::health`], those of the brake [`crate::brake`].

mod action;
mod doubt;
mod pace;
mod path;
mod standing;

pub use action::{Action, PeerVerdict, ProbeResult, Surroundings};
pub use pace::{Moment, WatchPolicy};
pub use standing::Standing;

use crate::{
    Timestamp,
    health::{LinkPath, SshPath, Verdict, judge},
    node::{Admission, Health, Node},
};
use doubt::Doubt;
use std::{sync::Arc, time::Duration};

#[derive(Clone, Debug)]
enum Step {
    /// A round begins: the node is probed if that is due.
    Begin,
    Probing,
    Weigh,
    /// The brake is evaluated, for the first time or after the peers were asked.
    Braking {
        doubt: Doubt,
        again: bool,
    },
    /// The brake was evaluated.
    Braked {
        doubt: Doubt,
        again: bool,
        held: Option<Verdict>,
        alone: bool,
    },
    Confirming {
        doubt: Doubt,
        probed: bool,
        word: Option<PeerVerdict>,
    },
    Ordering(Verdict),
    /// The verdict stands; it may be no news.
    Settle(Verdict),
    Queued {
        verdict: Verdict,
        since: Duration,
    },
    Writing {
        verdict: Verdict,
        waited: Duration,
    },
    End,
    Wait,
}

/// The watch of one node.
#[derive(Debug)]
pub struct NodeWatch {
    policy: Arc<WatchPolicy>,
    node: Arc<Node>,
    path: SshPath,
    last_answer: Option<Timestamp>,
    /// The node moved and was not probed since: what is known of its health is about another address.
    moved: bool,
    /// Time until which another scheduler's probe that the node answered counts, and the reason that is given
    /// for it.
    vouched: Option<(Timestamp, String)>,
    /// Reason for which the node is to be quarantined, if it is.
    quarantine: Option<String>,
    next_probe: Duration,
    step: Step,
}

impl NodeWatch {
    /// A watch that has not probed its node yet; it does so at once.
    pub const fn new(policy: Arc<WatchPolicy>, node: Arc<Node>, now: Moment) -> Self {
        Self {
            policy,
            node,
            path: SshPath::Untried,
            last_answer: None,
            moved: false,
            vouched: None,
            quarantine: None,
            next_probe: now.steady,
            step: Step::Begin,
        }
    }

    /// The node as it was handed over last.
    pub const fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The version of the node on which whatever is written rests.
    pub fn version(&self) -> i64 {
        self.node.version
    }

    /// The SSH path as it was probed last.
    pub const fn path(&self) -> &SshPath {
        &self.path
    }

    /// Takes the node as the database has it now; between rounds only. A node with another address, or without a key
    /// that
    /// it had, has to be probed anew.
    pub fn on_node(&mut self, node: Arc<Node>, now: Moment) {
        let before = std::mem::replace(&mut self.node, node);
        let node = &self.node;
        self.step = Step::Begin;
        let is_known = match (before.sshd(), node.sshd()) {
            (Some(was), Some(is)) => {
                let keeps_its_keys =
                    !was.host_keys.is_empty() && was.host_keys.iter().all(|key| is.host_keys.contains(key));
                let same_place = was.addr == is.addr && was.port == is.port;
                same_place && (was.host_keys == is.host_keys || keeps_its_keys)
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if is_known {
            return;
        }
        self.moved = true;
        self.forget();
        self.next_probe = now.steady;
    }

    /// Forgets what was seen before this scheduler was suspended; between rounds only.
    pub fn on_resumed(&mut self, now: Moment) {
        self.forget();
        self.step = Step::Begin;
        // Not all nodes in the same moment.
        self.next_probe = now.steady + self.policy.keepalive_every.mul_f64(now.chance / 2.0);
    }

    /// Takes the end of the node's session as a hint that it is gone; between rounds only.
    pub fn on_session_closed(&mut self, now: Moment) {
        self.next_probe = now.steady;
        self.step = Step::Begin;
    }

    /// Takes what a probe showed.
    pub fn on_probe(&mut self, result: ProbeResult, now: Moment) {
        match &mut self.step {
            Step::Probing => {}
            Step::Confirming { probed, .. } => *probed = true,
            Step::Begin
            | Step::Weigh
            | Step::Braking { .. }
            | Step::Braked { .. }
            | Step::Ordering(_)
            | Step::Settle(_)
            | Step::Queued { .. }
            | Step::Writing { .. }
            | Step::End
            | Step::Wait => return,
        }
        match result {
            ProbeResult::Answered => {
                self.moved = false;
                self.last_answer = Some(now.wall);
                self.path = SshPath::Up;
            }
            ProbeResult::Failed { failure, detail } => self.failed(failure, detail, now.wall),
            ProbeResult::Inconclusive => {}
        }
        if matches!(self.step, Step::Probing) {
            self.next_probe = self.probe_after(now);
            self.step = Step::Weigh;
        }
    }

    /// Takes what this scheduler knows of itself and of the brake, after that was evaluated.
    pub fn on_standing(&mut self, standing: &Standing, now: Moment) {
        let Step::Braking { doubt, again } = &self.step else { return };
        let held = self.held_back(&doubt.verdict, standing, now.wall);
        self.step = Step::Braked { doubt: doubt.clone(), again: *again, held, alone: standing.alone };
    }

    /// Takes what the other schedulers say.
    pub fn on_peer(&mut self, verdict: PeerVerdict) {
        if let Step::Confirming { word, .. } = &mut self.step {
            *word = Some(verdict);
        }
    }

    /// Takes the place among those that write.
    pub fn on_turn(&mut self, now: Moment) {
        if let Step::Queued { verdict, since } = &self.step {
            self.step = Step::Writing { verdict: verdict.clone(), waited: now.steady.saturating_sub(*since) };
        }
    }

    /// Records that the order was written, or could not be because the node changed meanwhile.
    pub fn on_written(&mut self) {
        match std::mem::replace(&mut self.step, Step::End) {
            Step::Ordering(verdict) => self.step = Step::Settle(verdict),
            Step::Writing { .. } => {}
            step @ (Step::Begin
            | Step::Probing
            | Step::Weigh
            | Step::Braking { .. }
            | Step::Braked { .. }
            | Step::Confirming { .. }
            | Step::Settle(_)
            | Step::Queued { .. }
            | Step::End
            | Step::Wait) => self.step = step,
        }
    }

    /// Ends the round without a verdict: what was to be done failed. The next probe begins another one.
    pub fn on_failed(&mut self) {
        self.step = Step::End;
    }

    /// Returns what is to be done now.
    pub fn poll(&mut self, around: Surroundings, now: Moment) -> Action {
        loop {
            if let Some(reason) = self.quarantine.take() {
                return Action::Quarantine { reason };
            }
            if let Some(action) = self.advance(around, now) {
                return action;
            }
        }
    }

    const fn wait(&self) -> Action {
        Action::Wait { until: self.next_probe, session: matches!(self.path, SshPath::Up) }
    }

    /// Takes one step; returns what has to be done before the next one.
    fn advance(&mut self, around: Surroundings, now: Moment) -> Option<Action> {
        match self.step.clone() {
            Step::Begin => {
                self.step = if now.steady >= self.next_probe { Step::Probing } else { Step::Weigh };
            }
            Step::Probing => return Some(Action::Probe),
            Step::Weigh => self.decide(around, now),
            Step::Braking { .. } => return Some(Action::EvaluateBrake),
            Step::Braked { doubt, again, held, alone } => {
                let confirmed = again || alone;
                if let Some(held) = held {
                    self.conclude(doubt, held, around, now);
                } else if confirmed {
                    let verdict = doubt.verdict.clone();
                    self.conclude(doubt, verdict, around, now);
                } else if let Some(reason) = self.vouched_for(now.wall) {
                    let verdict = Verdict { health: Health::Unreachable, reason };
                    self.conclude(doubt, verdict, around, now);
                } else {
                    self.step = Step::Confirming { doubt, probed: false, word: None };
                }
            }
            Step::Confirming { doubt, probed: true, word: Some(word) } => {
                self.compare(doubt, word, around, now);
            }
            Step::Confirming { .. } => return Some(Action::Confirm),
            Step::Ordering(verdict) => return Some(Action::OrderLock { reason: verdict.reason }),
            Step::Settle(verdict) => {
                let step = if self.is_news(&verdict) {
                    Step::Queued { verdict, since: now.steady }
                } else {
                    Step::End
                };
                self.step = step;
            }
            Step::Queued { .. } => return Some(Action::TakeTurn),
            Step::Writing { verdict, waited } => {
                // It is not given up for what was seen long ago, but probed again first; nor when its link is back.
                let is_old = verdict.health == Health::Dead
                    && (waited >= self.policy.keepalive_every
                        || self.weigh(around.link, now.wall).health != Health::Dead);
                if !is_old && around.may_judge {
                    return Some(if self.is_admitted(&verdict) {
                        Action::Admit
                    } else {
                        Action::WriteHealth(verdict)
                    });
                }
                self.step = Step::End;
            }
            Step::End => {
                // A node that changes often must be probed all the same: a change never puts the next probe off.
                self.next_probe = self.next_probe.min(self.probe_after(now));
                self.step = Step::Wait;
                // Also when the next probe is due already: a round begins with the row as it is now.
                return Some(self.wait());
            }
            Step::Wait if now.steady >= self.next_probe => self.step = Step::Begin,
            Step::Wait => return Some(self.wait()),
        }
        None
    }

    fn weigh(&self, link: LinkPath, now: Timestamp) -> Verdict {
        judge(&self.path, link, &self.policy.health, now)
    }

    fn is_admitted(&self, verdict: &Verdict) -> bool {
        self.node.admission == Admission::Reported && verdict.health == Health::Alive
    }

    fn is_news(&self, verdict: &Verdict) -> bool {
        let node = &self.node;
        // A dead node stays dead until something of it answers.
        let still_dead =
            node.health == Health::Dead && matches!(verdict.health, Health::Suspect | Health::Unknown);
        // What is said of a living node tells of its link, too.
        let says_more = node.health == Health::Alive && verdict.reason != node.health_reason;
        self.is_admitted(verdict) || ((verdict.health != node.health || says_more) && !still_dead)
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
