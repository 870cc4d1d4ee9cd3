//! What one scheduler knows beyond single nodes: the count of all nodes, the brake, live schedulers and replicas.
//!
//! Lives here: sharing it among the tasks. Does not live here: what follows from it ([`orion_domain::brake`],
//! [`orion_domain::node::watch`]).

use crate::{
    members::{Heartbeat, Limits, Members},
    tick::Tick,
};
use orion_domain::{
    NodeId, Timestamp,
    brake::{Brake, BrakeChange, BrakePolicy, Census},
    health::LinkPath,
    node::{LinkState, Node, watch::Standing},
    share::{Share, ShareKey},
};
use orion_fleet::REPLICA_STALE_AFTER;
use orion_store::{NodeHealthSummary, Replica};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use orion_domain::brake::Observation;

/// Time for which an API replica is remembered after its last beat when its row is gone.
const REPLICA_REMEMBERED: Duration = Duration::from_secs(600);

struct Inner {
    members: Members,
    /// Goes up when what was seen before says nothing any more.
    suspension_count: u64,
    /// The last tick; none before the first.
    tick: Option<Tick>,
    /// Time at which this scheduler began to probe, or went on after its last suspension.
    probing_since: Timestamp,
    census: Census,
    brake: Brake,
    brake_read: bool,
    /// API replicas: the last beat of each, and when that was seen to change.
    replicas: HashMap<String, (Timestamp, Instant)>,
    replicas_read: bool,
}

impl Inner {
    /// Disregards what was observed before a suspension: counts as a start.
    fn resume(&mut self, now: Timestamp) {
        self.suspension_count += 1;
        self.census.resume(now);
        self.probing_since = now;
    }

    /// Records the heartbeats of API replicas, which hold the links. A replica lives as long as its beat
    /// changes, on this machine's own steady clock: how far two machines' clocks are apart does not matter.
    fn apply_heartbeats(&mut self, replicas: Vec<Replica>, (began, wall): (Instant, Timestamp)) {
        let first = !self.replicas_read;
        let mut known = std::mem::take(&mut self.replicas);
        for replica in replicas.into_iter().filter(|replica| replica.kind == Replica::API) {
            let changed = match known.remove(&replica.name) {
                Some((beat, changed)) if beat == replica.beat_at => changed,
                Some(_) => began,
                // A row that was there before this scheduler may be that of a process that died long ago.
                None if first => began.checked_sub(wall.since(replica.beat_at)).unwrap_or(began),
                None => began,
            };
            self.replicas.insert(replica.name, (replica.beat_at, changed));
        }
        // A replica that shut down cleanly is still treated as alive until its heartbeat goes stale: its agents need time to
        // reconnect elsewhere.
        known.retain(|_, (_, changed)| changed.elapsed() < REPLICA_REMEMBERED);
        self.replicas.extend(known);
        self.replicas_read = true;
    }
}

/// Shared by all tasks of a scheduler; held for moments only, never across a wait.
pub struct Fleetwide {
    name: String,
    started: Timestamp,
    /// A tick that comes so late tells of a suspension.
    suspended_after: Duration,
    inner: Mutex<Inner>,
}

impl Fleetwide {
    /// Starts with nothing known; `name` is this scheduler's.
    pub fn new(name: &str, limits: Limits, started: Timestamp) -> Self {
        let inner = Inner {
            members: Members::new(name, limits),
            suspension_count: 0,
            tick: None,
            probing_since: started,
            census: Census::default(),
            brake: Brake::default(),
            brake_read: false,
            replicas: HashMap::new(),
            replicas_read: false,
        };
        let suspended_after = limits.own_late_after;
        Self { name: name.to_owned(), started, suspended_after, inner: Mutex::new(inner) }
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns this scheduler's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the heartbeats of all processes, after this scheduler's was written (which began at `began`).
    pub fn heartbeat(&self, replicas: Vec<Replica>, began: (Instant, Timestamp)) -> Heartbeat {
        let mut inner = self.locked();
        let heartbeat = inner.members.heartbeat(&replicas, began, Instant::now());
        if heartbeat == Heartbeat::Resumed {
            inner.resume(began.1);
        }
        inner.apply_heartbeats(replicas, began);
        heartbeat
    }

    /// Returns the share of each scheduler; none until the heartbeats were read for the first time.
    pub fn share(&self) -> Option<Share> {
        self.locked().members.share().cloned()
    }

    /// Returns whether this scheduler owns the node, or whatever else has the key.
    pub fn is_mine(&self, key: impl Into<ShareKey>) -> bool {
        self.locked().members.share().is_some_and(|share| share.is_mine(key))
    }

    /// Takes a tick; returns whether it came so late that this scheduler was suspended, alone or not.
    pub fn tick(&self, tick: Tick) -> bool {
        let mut inner = self.locked();
        let before = inner.tick.replace(tick);
        let limit = self.suspended_after;
        let is_odd = |before| tick.since(before) >= limit || tick.went_back(before, limit);
        let suspended = before.is_some_and(is_odd);
        if suspended {
            inner.resume(tick.wall);
        }
        suspended
    }

    /// Returns how often this scheduler was suspended for so long that what it had observed says nothing any more.
    pub fn suspension_count(&self) -> u64 {
        self.locked().suspension_count
    }

    /// Returns whether this scheduler was not suspended since `suspension_count`, as far as the clocks tell at `now`: the
    /// tick that notices a suspension may still be to come.
    pub fn is_awake(&self, suspension_count: u64, now: Tick) -> bool {
        let inner = self.locked();
        let is_late = inner.tick.is_some_and(|last| now.since(last) >= self.suspended_after);
        inner.suspension_count == suspension_count && !is_late
    }

    /// Returns whether a verdict may be written that rests on what was observed since `suspension_count`: not by a
    /// scheduler that was suspended since, or that the others may take for gone now.
    pub fn may_judge(&self, suspension_count: u64, now: Timestamp) -> bool {
        let inner = self.locked();
        inner.suspension_count == suspension_count && inner.members.is_current(Instant::now(), now)
    }

    /// Records that this scheduler looks after the node from now on.
    pub fn watch(&self, node: &Node, now: Timestamp) {
        self.locked().census.watch(node, now);
    }

    /// Takes what a watcher observes of its node; of one that was stopped meanwhile it is dropped.
    pub fn observe(&self, node: NodeId, observation: Observation) {
        self.locked().census.observe(node, Some(observation));
    }

    /// Forgets what a watcher observed of a node that says nothing about the others any more: it is drained, or set up
    /// anew.
    pub fn clear_observation(&self, node: NodeId) {
        self.locked().census.observe(node, None);
    }

    /// Takes what the database says of a node that another scheduler looks after.
    pub fn apply_db_state(&self, node: &Node) {
        self.locked().census.apply_db_state(node);
    }

    /// Takes what the database says of the others' nodes that went silent just now.
    pub fn apply_db_silence(&self, glances: &[NodeHealthSummary]) {
        let mut inner = self.locked();
        for glance in glances {
            inner.census.apply_db_silence(glance.id, glance.health, glance.health_since);
        }
    }

    /// Returns the number of this scheduler's nodes.
    pub fn own_nodes(&self) -> usize {
        self.locked().census.own_nodes()
    }

    /// Nodes that are no longer there.
    pub fn keep(&self, there: impl Fn(NodeId) -> bool) {
        self.locked().census.keep(there);
    }

    /// All nodes have been read once, and each of this scheduler's has a watcher.
    pub fn all_read(&self) {
        self.locked().census.set_all_read();
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

    /// Evaluates all nodes; returns what is to be done about the brake.
    pub fn evaluate_brake(&self, policy: &BrakePolicy, now: Timestamp) -> Option<BrakeChange> {
        let inner = self.locked();
        let puller = inner.brake.engaged.as_ref().map(|engaged| engaged.by.as_str());
        let lives = |name: &str| {
            inner.members.share().is_none_or(|share| share.others().iter().any(|other| other == name))
        };
        let may_lift = puller.is_none_or(|by| by == self.name || !lives(by));
        let view = inner.census.view(&inner.brake, may_lift, policy, now);
        inner.brake.evaluate(&view, policy, now)
    }

    /// Returns what speaks against giving up the node now, but for this machine's clock, which it takes to be right.
    pub fn standing(&self, node: NodeId, policy: &BrakePolicy) -> Standing {
        let inner = self.locked();
        Standing {
            alone: inner.members.share().is_none_or(Share::is_alone),
            clock_off: false,
            brake: inner.brake_read.then(|| inner.brake.clone()),
            probing_since: inner.probing_since,
            taken_over: inner.census.taken_over(node),
            many_are_sick: inner.census.many_are_sick(policy),
        }
    }

    /// Returns why this scheduler's verdict about another's node is worth nothing now, if so.
    pub fn cannot_vouch(&self, hold: Duration, now: Timestamp) -> Option<&'static str> {
        let inner = self.locked();
        if now.since(inner.probing_since) < hold {
            return Some("this scheduler has just started or resumed");
        }
        if !inner.members.is_current(Instant::now(), now) {
            return Some("this scheduler was suspended");
        }
        if inner.census.reaches_none() {
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
