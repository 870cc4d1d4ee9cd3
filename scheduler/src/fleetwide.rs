//! What one scheduler knows of all nodes together: its own by sight, the others' from the database; the brake,
//! the hold after a start and after a take-over, live replicas.

use crate::members::{Beat, Limits, Members};
use orion_domain::{
    NodeId, Timestamp,
    brake::{Brake, BrakeChange, BrakePolicy, FleetView},
    health::LinkPath,
    node::{Health, LinkState, Node},
    share::Share,
};
use orion_fleet::REPLICA_STALE_AFTER;
use orion_store::{NodeGlance, Replica};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// One node, as its watcher sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// Whether it has been looked at since this scheduler looks after it.
    pub looked: bool,
    /// Since when its SSH fails, if it does; none for a node that was dead before this scheduler looked after it.
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

/// A node that this scheduler looks after.
struct Own {
    /// When it was taken over from another scheduler, if it was.
    taken_over: Option<Timestamp>,
    /// None for one that is only just being set up: it says nothing about those that were there.
    sight: Option<Sight>,
}

/// A node that another scheduler looks after, as the database has it.
struct Other {
    health: Health,
    /// Since when it does not answer, if it does not: when it first was `Suspect`, or `Dead` where it was not seen
    /// to be `Suspect` before.
    silent_since: Option<Timestamp>,
    /// As [`Sight::both_paths`].
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

/// How long it is known when one that serves the API was last heard of after its row is gone.
const REPLICA_REMEMBERED: Duration = Duration::from_secs(600);

struct Inner {
    members: Members,
    /// Goes up when what was seen before says nothing any more.
    absences: u64,
    own: HashMap<NodeId, Own>,
    others: HashMap<NodeId, Other>,
    brake: Brake,
    brake_read: bool,
    /// Those that serve the API: their last beat, and when it was seen to change.
    replicas: HashMap<String, (Timestamp, Instant)>,
    replicas_read: bool,
    nodes_read: bool,
}

impl Inner {
    /// Those that serve the API hold links. One lives as long as its beat changes, on this machine's own steady
    /// clock: how far two machines' clocks are apart does not matter.
    fn hear_of_replicas(&mut self, replicas: Vec<Replica>, (began, wall): (Instant, Timestamp)) {
        let first = !self.replicas_read;
        let mut known = std::mem::take(&mut self.replicas);
        for replica in replicas.into_iter().filter(|replica| replica.kind == "api") {
            let changed = match known.remove(&replica.name) {
                Some((beat, changed)) if beat == replica.beat_at => changed,
                Some(_) => began,
                // A row that was there before this scheduler may be that of a process that died long ago.
                None if first => began.checked_sub(wall.since(replica.beat_at)).unwrap_or(began),
                None => began,
            };
            self.replicas.insert(replica.name, (replica.beat_at, changed));
        }
        // One that said goodbye grows old like one that died: the agents whose links it held dial another one first.
        known.retain(|_, (_, changed)| changed.elapsed() < REPLICA_REMEMBERED);
        self.replicas.extend(known);
        self.replicas_read = true;
    }
}

/// Shared by all tasks of a scheduler; held for moments only, never across a wait.
pub struct Fleetwide {
    name: String,
    started: Timestamp,
    inner: Mutex<Inner>,
}

impl Fleetwide {
    /// Nothing known yet; `name` is this scheduler's.
    pub fn new(name: &str, limits: Limits, started: Timestamp) -> Self {
        let inner = Inner {
            members: Members::new(name, limits),
            absences: 0,
            own: HashMap::new(),
            others: HashMap::new(),
            brake: Brake::default(),
            brake_read: false,
            replicas: HashMap::new(),
            replicas_read: false,
            nodes_read: false,
        };
        Self { name: name.to_owned(), started, inner: Mutex::new(inner) }
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This scheduler's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This scheduler's beat was written (its writing began at `began`), and these processes beat, too.
    pub fn beat(&self, replicas: Vec<Replica>, began: (Instant, Timestamp)) -> Beat {
        let mut inner = self.locked();
        let beat = inner.members.beat(&replicas, began, Instant::now());
        if beat == Beat::Back {
            inner.absences += 1;
            for own in inner.own.values_mut() {
                own.taken_over = Some(began.1);
                own.sight = own.sight.map(|sight| Sight::unseen(sight.health));
            }
        }
        inner.hear_of_replicas(replicas, began);
        beat
    }

    /// Who looks after what; none until the beats were read for the first time.
    pub fn share(&self) -> Option<Share> {
        self.locked().members.share().cloned()
    }

    /// Whether this scheduler looks after the node.
    pub fn is_mine(&self, node: NodeId) -> bool {
        self.locked().members.share().is_some_and(|share| share.is_mine(node))
    }

    /// How often this scheduler was away so long that others may have taken its nodes.
    pub fn absences(&self) -> u64 {
        self.locked().absences
    }

    /// Whether a verdict may be written that rests on what was seen since `absences`: not by a scheduler that was
    /// away since, or that the others may take for gone now.
    pub fn may_judge(&self, absences: u64, now: Timestamp) -> bool {
        let inner = self.locked();
        inner.absences == absences && inner.members.is_current(Instant::now(), now)
    }

    /// This scheduler looks after the node from now on.
    pub fn watch(&self, node: &Node, now: Timestamp) {
        let mut inner = self.locked();
        let taken_over = inner.others.remove(&node.id).map(|_| now);
        let sight = node.should_answer().then(|| Sight::unseen(node.health));
        inner.own.insert(node.id, Own { taken_over, sight });
    }

    /// A watcher tells what it sees. What one says that was stopped meanwhile is dropped.
    pub fn see(&self, node: NodeId, sight: Sight) {
        if let Some(own) = self.locked().own.get_mut(&node) {
            own.sight = Some(sight);
        }
    }

    /// What a watcher saw of a node says nothing about the others any more: it is drained, or set up anew.
    pub fn unsee(&self, node: NodeId) {
        if let Some(own) = self.locked().own.get_mut(&node) {
            own.sight = None;
        }
    }

    /// What the database says of a node that another scheduler looks after.
    pub fn hear_of(&self, node: &Node) {
        let mut inner = self.locked();
        let own = inner.own.remove(&node.id).and_then(|own| own.sight);
        let other = inner.others.remove(&node.id);
        if node.should_answer() {
            let before = other.and_then(|other| other.silent_since).or(own.and_then(|own| own.silent_since));
            let both_paths = node.health == Health::Alive && node.link != LinkState::Lost;
            inner.others.insert(node.id, Other::new(node.health, node.health_since, both_paths, before));
        }
    }

    /// The others' nodes that went silent just now.
    pub fn hear_of_silence(&self, glances: &[NodeGlance]) {
        let mut inner = self.locked();
        for glance in glances {
            if let Some(other) = inner.others.get_mut(&glance.id) {
                *other = Other::new(glance.health, glance.health_since, false, other.silent_since);
            }
        }
    }

    /// How many nodes this scheduler looks after.
    pub fn own_nodes(&self) -> usize {
        self.locked().own.len()
    }

    /// Nodes that are no longer there.
    pub fn keep(&self, there: impl Fn(NodeId) -> bool) {
        let mut inner = self.locked();
        inner.own.retain(|id, _| there(*id));
        inner.others.retain(|id, _| there(*id));
    }

    /// All nodes have been read once, and each of this scheduler's has a watcher.
    pub fn all_read(&self) {
        self.locked().nodes_read = true;
    }

    /// The brake as the database has it. Whether that is news.
    pub fn set_brake(&self, brake: Brake) -> bool {
        let mut inner = self.locked();
        let is_news = !inner.brake_read || inner.brake != brake;
        inner.brake = brake;
        inner.brake_read = true;
        is_news
    }

    /// The brake as this scheduler knows it.
    pub fn brake(&self) -> Brake {
        self.locked().brake.clone()
    }

    /// Looks at all nodes and says what is to be done about the brake.
    pub fn look(&self, policy: &BrakePolicy, now: Timestamp) -> Option<BrakeChange> {
        let inner = self.locked();
        let puller = inner.brake.engaged.as_ref().map(|engaged| engaged.by.as_str());
        let lives = |name: &str| {
            inner.members.share().is_none_or(|share| share.others().iter().any(|other| other == name))
        };
        let mut view = FleetView {
            complete: inner.nodes_read,
            may_lift: puller.is_none_or(|by| by == self.name || !lives(by)),
            ..FleetView::default()
        };
        let (mut answer, mut answer_both) = (0, 0);
        for sight in inner.own.values().filter_map(|own| own.sight.as_ref()) {
            view.complete &= sight.looked;
            let recently = sight.silent_since.is_some_and(|since| inner.brake.counts(since, policy, now));
            if sight.health == Health::Dead && !recently {
                continue;
            }
            view.fleet += 1;
            view.own += 1;
            view.went_silent += usize::from(recently);
            view.own_went_silent += usize::from(recently);
            if sight.silent_since.is_none() {
                answer += 1;
                answer_both += usize::from(sight.both_paths);
            } else if sight.health != Health::Dead {
                view.silent_now += 1;
            }
        }
        for other in inner.others.values() {
            let recently = other.silent_since.is_some_and(|since| inner.brake.counts(since, policy, now));
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
        inner.brake.look(&view, policy, now)
    }

    /// Why `node` may not be given up for dead now, if so. `hold` is for how long nothing is after a start, and
    /// no node that was taken over.
    pub fn holds_back(&self, node: NodeId, hold: Duration, now: Timestamp) -> Option<String> {
        let inner = self.locked();
        if let Some(engaged) = &inner.brake.engaged {
            return Some(format!("the brake is on: {}", engaged.reason));
        }
        if !inner.brake_read {
            return Some("the brake has not been read yet".into());
        }
        let seconds = hold.as_secs();
        if now.since(self.started) < hold {
            return Some(format!("the scheduler has just started; it looks for {seconds} s first"));
        }
        let taken_over = inner.own.get(&node).and_then(|own| own.taken_over);
        taken_over.is_some_and(|at| now.since(at) < hold).then(|| {
            format!("another scheduler looked after it until just now; this one looks for {seconds} s first")
        })
    }

    /// Why this scheduler's word about another's node is worth nothing now, if so.
    pub fn cannot_vouch(&self, hold: Duration, now: Timestamp) -> Option<&'static str> {
        let inner = self.locked();
        if now.since(self.started) < hold {
            return Some("this scheduler has just started");
        }
        if !inner.members.is_current(Instant::now(), now) {
            return Some("this scheduler was away");
        }
        let silent = |sight: Sight| sight.silent_since.is_some() || sight.health == Health::Dead;
        let mut looked =
            inner.own.values().filter_map(|own| own.sight).filter(|sight| sight.looked).peekable();
        if looked.peek().is_some() && looked.all(silent) {
            return Some("none of this scheduler's own nodes answers it");
        }
        None
    }

    /// Whether the brake is on, or may be: it was not read yet.
    pub fn brake_engaged(&self) -> bool {
        let inner = self.locked();
        inner.brake.engaged.is_some() || !inner.brake_read
    }

    /// The link of a node: what a replica wrote counts only while that replica lives.
    pub fn link_of(&self, node: &Node, now: Timestamp) -> LinkPath {
        match node.link {
            LinkState::None => LinkPath::None,
            LinkState::Lost => LinkPath::Lost,
            LinkState::Up => {
                let inner = self.locked();
                let changed = node.link_replica.as_ref().and_then(|name| inner.replicas.get(name));
                match changed.map(|(_, changed)| changed.elapsed()) {
                    Some(silence) if silence < REPLICA_STALE_AFTER => {
                        LinkPath::Up { sshd: node.agent_sees_sshd }
                    }
                    Some(silence) => LinkPath::Unknown { since: now.minus(silence - REPLICA_STALE_AFTER) },
                    None if !inner.replicas_read => LinkPath::Up { sshd: node.agent_sees_sshd },
                    None => LinkPath::Unknown { since: self.started.max(node.link_since) },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
