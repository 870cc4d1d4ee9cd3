//! What one scheduler knows of all its nodes together: the brake, the hold after a start, live replicas.

use orion_domain::{
    NodeId, Timestamp,
    brake::{Brake, BrakeChange, BrakePolicy, FleetView},
    health::LinkPath,
    node::{Health, LinkState, Node},
};
use orion_fleet::REPLICA_STALE_AFTER;
use orion_store::Replica;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// One node, as its watcher sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// Whether it has been looked at since this scheduler started.
    pub looked: bool,
    /// Since when its SSH fails, if it does; none for a node that was dead before this scheduler started.
    pub silent_since: Option<Timestamp>,
    /// Its health as the database has it.
    pub health: Health,
    /// Whether both of its paths answer (or the only one it has).
    pub both_paths: bool,
}

impl Sight {
    /// A node that no watcher has looked at yet.
    pub const fn unseen(health: Health) -> Self {
        Self { looked: false, silent_since: None, health, both_paths: false }
    }
}

#[derive(Default)]
struct Inner {
    sights: HashMap<NodeId, Sight>,
    brake: Brake,
    replicas: HashMap<String, Timestamp>,
    replicas_read: bool,
    nodes_read: bool,
}

/// Shared by all tasks of a scheduler; held for moments only, never across a wait.
pub struct Fleetwide {
    started: Timestamp,
    inner: Mutex<Inner>,
}

impl Fleetwide {
    /// Nothing known yet.
    pub fn new(started: Timestamp) -> Self {
        Self { started, inner: Mutex::default() }
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watcher tells what it sees.
    pub fn see(&self, node: NodeId, sight: Sight) {
        self.locked().sights.insert(node, sight);
    }

    /// All nodes have been read once, and each has a watcher.
    pub fn all_read(&self) {
        self.locked().nodes_read = true;
    }

    /// A node is no longer watched.
    pub fn forget(&self, node: NodeId) {
        self.locked().sights.remove(&node);
    }

    /// Takes over a brake that an earlier process left on.
    pub fn restore_brake(&self, engaged: Option<(Timestamp, String)>) {
        self.locked().brake = Brake::restore(engaged);
    }

    /// Looks at all nodes and says whether the brake changed.
    pub fn look(&self, policy: &BrakePolicy, now: Timestamp) -> Option<BrakeChange> {
        let mut inner = self.locked();
        let mut view = FleetView { complete: inner.nodes_read, ..FleetView::default() };
        let (mut answer, mut answer_both) = (0, 0);
        for sight in inner.sights.values() {
            view.complete &= sight.looked;
            let recently = sight.silent_since.is_some_and(|since| now.since(since) <= policy.window);
            if sight.health == Health::Dead && !recently {
                continue;
            }
            view.fleet += 1;
            view.went_silent += usize::from(recently);
            if sight.silent_since.is_none() {
                answer += 1;
                answer_both += usize::from(sight.both_paths);
            } else if sight.health != Health::Dead {
                view.silent_now += 1;
            }
        }
        // Most of them, not all: one agent that died long ago must not hold the brake for ever.
        view.rest_answers = answer_both * 2 > answer;
        inner.brake.look(&view, policy, now)
    }

    /// Why nothing may be given up for dead now, if so.
    pub fn holds_back(&self, hold_after_start: std::time::Duration, now: Timestamp) -> Option<String> {
        let inner = self.locked();
        if let Some((_, reason)) = &inner.brake.engaged {
            return Some(format!("the brake is on: {reason}"));
        }
        (now.since(self.started) < hold_after_start).then(|| {
            format!("the scheduler has just started; it looks for {} s first", hold_after_start.as_secs())
        })
    }

    /// Whether the brake is on here.
    pub fn brake_engaged(&self) -> bool {
        self.locked().brake.engaged.is_some()
    }

    /// Which processes live; those that serve the API hold links.
    pub fn set_replicas(&self, replicas: Vec<Replica>) {
        let mut inner = self.locked();
        let of_api = replicas.into_iter().filter(|replica| replica.kind == "api");
        inner.replicas = of_api.map(|replica| (replica.name, replica.beat_at)).collect();
        inner.replicas_read = true;
    }

    /// The link of a node: what a replica wrote counts only while that replica lives.
    pub fn link_of(&self, node: &Node, now: Timestamp) -> LinkPath {
        match node.link {
            LinkState::None => LinkPath::None,
            LinkState::Lost => LinkPath::Lost,
            LinkState::Up => {
                let inner = self.locked();
                let beat = node.link_replica.as_ref().and_then(|name| inner.replicas.get(name)).copied();
                match beat {
                    Some(beat) if now.since(beat) < REPLICA_STALE_AFTER => {
                        LinkPath::Up { sshd: node.agent_sees_sshd }
                    }
                    Some(beat) => LinkPath::Unknown { since: beat.plus(REPLICA_STALE_AFTER) },
                    None if !inner.replicas_read => LinkPath::Up { sshd: node.agent_sees_sshd },
                    None => LinkPath::Unknown { since: self.started.max(node.link_since) },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    fn answers() -> Sight {
        Sight { looked: true, silent_since: None, health: Health::Alive, both_paths: true }
    }

    fn silent(since: i64, health: Health) -> Sight {
        Sight { looked: true, silent_since: Some(at(since)), health, both_paths: false }
    }

    /// Nine nodes of which the first three are as `first` says.
    fn nine(fleetwide: &Fleetwide, first: Sight) {
        for number in 0..9 {
            fleetwide.see(NodeId(number), if number < 3 { first } else { answers() });
        }
        fleetwide.all_read();
    }

    #[test]
    fn nodes_that_stay_silent_keep_the_brake_for_five_minutes_and_not_for_ever() {
        let (fleetwide, policy) = (Fleetwide::new(at(0)), BrakePolicy::default());
        nine(&fleetwide, silent(10, Health::Suspect));
        assert!(matches!(fleetwide.look(&policy, at(11)), Some(BrakeChange::Engaged { .. })));
        for second in [20, 39, 41, 45, 300] {
            assert_eq!(fleetwide.look(&policy, at(second)), None, "{second} s");
            assert!(fleetwide.holds_back(Duration::from_secs(5), at(second)).is_some());
        }
        assert!(matches!(fleetwide.look(&policy, at(312)), Some(BrakeChange::Lifted { .. })));
        assert_eq!(fleetwide.holds_back(Duration::from_secs(5), at(312)), None);
    }

    #[test]
    fn the_brake_lets_go_when_the_silent_nodes_answer_again_however_late() {
        let (fleetwide, policy) = (Fleetwide::new(at(0)), BrakePolicy::default());
        nine(&fleetwide, silent(10, Health::Suspect));
        assert!(fleetwide.look(&policy, at(11)).is_some());
        nine(&fleetwide, answers());
        assert!(matches!(fleetwide.look(&policy, at(60)), Some(BrakeChange::Lifted { .. })));
    }

    #[test]
    fn a_brake_that_was_on_before_a_restart_stays_until_every_node_was_looked_at() {
        let (fleetwide, policy) = (Fleetwide::new(at(400)), BrakePolicy::default());
        fleetwide.restore_brake(Some((at(0), "many went silent".into())));
        assert_eq!(fleetwide.look(&policy, at(400)), None, "no node has been read yet");
        nine(&fleetwide, Sight::unseen(Health::Suspect));
        assert_eq!(fleetwide.look(&policy, at(401)), None, "three have not been looked at yet");
        nine(&fleetwide, answers());
        assert!(matches!(fleetwide.look(&policy, at(402)), Some(BrakeChange::Lifted { .. })));
    }

    #[test]
    fn nodes_that_were_dead_before_do_not_pull_the_brake() {
        let (fleetwide, policy) = (Fleetwide::new(at(0)), BrakePolicy::default());
        let dead = Sight { looked: true, silent_since: None, health: Health::Dead, both_paths: false };
        nine(&fleetwide, dead);
        assert_eq!(fleetwide.look(&policy, at(1)), None);
        assert_eq!(fleetwide.holds_back(Duration::from_secs(5), at(6)), None);
    }

    #[test]
    fn nothing_is_given_up_in_the_first_seconds_after_a_start() {
        let fleetwide = Fleetwide::new(at(0));
        assert!(fleetwide.holds_back(Duration::from_secs(5), at(4)).is_some());
        assert_eq!(fleetwide.holds_back(Duration::from_secs(5), at(5)), None);
    }
}
