//! All nodes together, as one scheduler knows them: its own as their watches observe them, the other schedulers' as the
//! database has them.

use super::{Brake, BrakePolicy, FleetView};
use crate::{
    NodeId, Timestamp,
    node::{Health, LinkState, Node},
};
use std::collections::HashMap;

/// An observation of one node, by its watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Whether it has been probed since this scheduler looks after it.
    pub probed: bool,
    /// Time since which the node's SSH fails, if it does; none for a node that was dead before this scheduler
    /// looked after it.
    pub silent_since: Option<Timestamp>,
    /// Health of the node as the database has it.
    pub health: Health,
    /// Whether both of its paths answer (or the only one it has).
    pub both_paths: bool,
    /// Whether its sshd answers and does not let this scheduler in.
    pub sick: bool,
}

impl Observation {
    /// A node that no watch has probed yet.
    pub const fn none_yet(health: Health) -> Self {
        Self { probed: false, silent_since: None, health, both_paths: false, sick: false }
    }
}

/// A node that this scheduler looks after.
struct Own {
    /// Time at which the node was taken over from another scheduler, if it was.
    taken_over: Option<Timestamp>,
    /// Observation by the watch; none for a node that is only just being set up: its silence says nothing
    /// about the others.
    observation: Option<Observation>,
}

/// A node that another scheduler looks after, as the database has it.
struct Other {
    health: Health,
    /// Time since which the node does not answer, if it does not: when it first was `Suspect`, or `Dead`
    /// where it was not seen to be `Suspect` before.
    silent_since: Option<Timestamp>,
    /// See [`Observation::both_paths`].
    both_paths: bool,
}

impl Other {
    /// A node that is so `since`, of which `before` was known.
    fn new(health: Health, since: Timestamp, both_paths: bool, before: Option<Timestamp>) -> Self {
        let silent_since = match health {
            Health::Suspect | Health::Dead => before.or(Some(since)),
            // Its silence may have led to this; or its sshd answers and does not let us in.
            Health::Unreachable => before,
            Health::Alive | Health::Unknown => None,
        };
        Self { health, silent_since, both_paths }
    }
}

/// The nodes of one scheduler and of the others.
#[derive(Default)]
pub struct Census {
    own: HashMap<NodeId, Own>,
    others: HashMap<NodeId, Other>,
    all_read: bool,
}

impl Census {
    /// Records that this scheduler looks after the node from now on.
    pub fn watch(&mut self, node: &Node, now: Timestamp) {
        let taken_over = self.others.remove(&node.id).map(|_| now);
        let observation = node.should_answer().then(|| Observation::none_yet(node.health));
        self.own.insert(node.id, Own { taken_over, observation });
    }

    /// Takes what a watch observes of its node: none where the node says nothing about the others (it is drained, or
    /// set
    /// up anew). What is observed of another scheduler's node is dropped.
    pub fn observe(&mut self, node: NodeId, observation: Option<Observation>) {
        if let Some(own) = self.own.get_mut(&node) {
            own.observation = observation;
        }
    }

    /// Takes what the database says of a node that another scheduler looks after.
    pub fn apply_db_state(&mut self, node: &Node) {
        let own = self.own.remove(&node.id).and_then(|own| own.observation);
        let other = self.others.remove(&node.id);
        if node.should_answer() {
            let before = other.and_then(|other| other.silent_since).or(own.and_then(|own| own.silent_since));
            let both_paths = node.health == Health::Alive && node.link != LinkState::Lost;
            self.others.insert(node.id, Other::new(node.health, node.health_since, both_paths, before));
        }
    }

    /// Takes what the database says of another scheduler's node that went silent just now.
    pub fn apply_db_silence(&mut self, node: NodeId, health: Health, since: Timestamp) {
        if let Some(other) = self.others.get_mut(&node) {
            *other = Other::new(health, since, false, other.silent_since);
        }
    }

    /// Forgets what was observed before this scheduler was suspended; its nodes count as taken over now.
    pub fn resume(&mut self, now: Timestamp) {
        for own in self.own.values_mut() {
            own.taken_over = Some(now);
            own.observation = own.observation.map(|observation| Observation::none_yet(observation.health));
        }
    }

    /// Keeps the nodes that are still there.
    pub fn keep(&mut self, there: impl Fn(NodeId) -> bool) {
        self.own.retain(|id, _| there(*id));
        self.others.retain(|id, _| there(*id));
    }

    /// Records that all nodes have been read once, and each of this scheduler's has a watch.
    pub const fn set_all_read(&mut self) {
        self.all_read = true;
    }

    /// Returns how many nodes this scheduler looks after.
    pub fn own_nodes(&self) -> usize {
        self.own.len()
    }

    /// Returns when the node was taken over from another scheduler, if it was.
    pub fn taken_over(&self, node: NodeId) -> Option<Timestamp> {
        self.own.get(&node).and_then(|own| own.taken_over)
    }

    fn observations(&self) -> impl Iterator<Item = Observation> + Clone {
        self.own.values().filter_map(|own| own.observation)
    }

    /// Counts the nodes for the brake. `may_lift`: [`FleetView::may_lift`].
    pub fn view(&self, brake: &Brake, may_lift: bool, policy: &BrakePolicy, now: Timestamp) -> FleetView {
        let mut view = FleetView { complete: self.all_read, may_lift, ..FleetView::default() };
        let (mut answer, mut answer_both) = (0, 0);
        for observation in self.observations() {
            view.complete &= observation.probed;
            let recently = observation.silent_since.is_some_and(|since| brake.counts(since, policy, now));
            if observation.health == Health::Dead && !recently {
                continue;
            }
            view.fleet += 1;
            view.own += 1;
            view.went_silent += usize::from(recently);
            view.own_went_silent += usize::from(recently);
            if observation.silent_since.is_none() {
                answer += 1;
                answer_both += usize::from(observation.both_paths);
            } else if observation.health != Health::Dead {
                view.silent_now += 1;
            }
        }
        for other in self.others.values() {
            let recently = other.silent_since.is_some_and(|since| brake.counts(since, policy, now));
            if other.health == Health::Dead && !recently {
                continue;
            }
            view.fleet += 1;
            view.went_silent += usize::from(recently);
            if other.health == Health::Alive {
                answer += 1;
                answer_both += usize::from(other.both_paths);
            } else if other.silent_since.is_some() && other.health != Health::Dead {
                view.silent_now += 1;
            }
        }
        // Most of them, not all: one agent that died long ago must not hold the brake for ever.
        view.rest_answers = answer_both * 2 > answer;
        view
    }

    /// Returns why no node may be given up now for an sshd that answers and lets nobody in, if so: many nodes do
    /// that at
    /// once.
    pub fn many_are_sick(&self, policy: &BrakePolicy) -> Option<String> {
        let others = self.others.values();
        let sick = self.observations().filter(|observation| observation.sick).count()
            + others.clone().filter(|other| other.health == Health::Unreachable).count();
        let fleet = self.observations().count() + others.count();
        policy.is_shared(sick, fleet).then(|| {
            format!(
                "{sick} of {fleet} nodes answer and do not let the control plane in: the fault is more likely its own"
            )
        })
    }

    /// Returns whether this scheduler has probed nodes of its own, and none of them answers.
    pub fn reaches_none(&self) -> bool {
        let mut probed = self.observations().filter(|observation| observation.probed).peekable();
        probed.peek().is_some()
            && probed
                .all(|observation| observation.silent_since.is_some() || observation.health == Health::Dead)
    }
}
