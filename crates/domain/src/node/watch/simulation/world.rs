//! The simulated world: machines, their agents' links, the database, and schedulers that share the nodes. Time is a
//! number of milliseconds, and what happens is a queue of events.

use super::{clock::wall, event::Event, reference::SICK_FOR_MS, scheduler::Scheduler};
use crate::random::Random;
use crate::{
    NodeId,
    brake::{Brake, BrakeChange, Engaged},
    health::{Failure, HealthPolicy, LinkPath},
    node::{
        Admission, Health, LinkState, LockOrder, Node,
        tests::free_node,
        watch::{ProbeResult, WatchPolicy},
    },
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Lines of the record that a failure prints.
const TRACE: usize = 80;
/// A link is lost when nothing was heard for so long.
const LINK_LOST_AFTER: u64 = 12_000;
/// A replica of the API is gone when it did not beat for so long.
const REPLICA_STALE_AFTER: u64 = 8_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    Up,
    SshdDown,
    Killed,
    Silent,
    Sick,
    OtherKey,
}

pub struct Truth {
    pub machine: Machine,
    pub has_agent: bool,
    pub agent_cut: bool,
    heard: u64,
}

impl Truth {
    fn agent_beats(&self) -> bool {
        let runs = matches!(self.machine, Machine::Up | Machine::SshdDown | Machine::Sick);
        self.has_agent && !self.agent_cut && runs
    }
}

pub struct World {
    pub seed: u64,
    pub now: u64,
    pub random: Random,
    pub policy: Arc<WatchPolicy>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    pub number: u64,
    pub truth: Vec<Truth>,
    pub rows: Vec<Node>,
    pub brake: Brake,
    pub beats: BTreeMap<String, u64>,
    pub schedulers: Vec<Scheduler>,
    /// Pairs of scheduler and node that do not reach each other.
    pub cut: HashSet<(usize, usize)>,
    pub api_down_since: Option<u64>,
    pub chaos: bool,
    /// One failed probe in a hundred of nodes that are well.
    pub flaky: bool,
    pub deaths: usize,
    trace: VecDeque<String>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let nodes = 1 + random.index(9);
        let mut world = Self {
            seed,
            now: 0,
            policy: Arc::new(WatchPolicy {
                keepalive_every: Duration::from_secs(3),
                dead_probe_every: Duration::from_secs(2),
                hold_after_start: Duration::from_secs(5),
                health: HealthPolicy {
                    sick_for: Duration::from_millis(SICK_FOR_MS),
                    ..HealthPolicy::default()
                },
            }),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            number: 0,
            truth: Vec::new(),
            rows: Vec::new(),
            brake: Brake::default(),
            beats: BTreeMap::new(),
            schedulers: Vec::new(),
            cut: HashSet::new(),
            api_down_since: None,
            chaos: true,
            flaky: true,
            deaths: 0,
            trace: VecDeque::new(),
            random,
        };
        for index in 0..nodes {
            let has_agent = world.random.percent(75);
            let (machine, agent_cut) = (Machine::Up, false);
            world.truth.push(Truth { machine, has_agent, agent_cut, heard: 0 });
            let reported = world.random.percent(10);
            world.rows.push(Node {
                id: NodeId(i64::try_from(index).unwrap() + 1),
                admission: if reported { Admission::Reported } else { Admission::Admitted },
                health: Health::Unknown,
                health_since: wall(0),
                link: LinkState::None,
                ..free_node()
            });
        }
        for slot in 0..1 + world.random.index(3) {
            world.schedulers.push(Scheduler::down());
            world.start_scheduler(slot);
        }
        world.at(0, Event::Links);
        world.at(20_000, Event::Chaos);
        world
    }

    pub fn at(&mut self, when: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((when.max(self.now), self.number)));
        self.events.insert(self.number, event);
    }

    pub fn after(&mut self, millis: u64, event: Event) {
        self.at(self.now + millis, event);
    }

    /// Goes on for so many milliseconds.
    pub fn run_for(&mut self, millis: u64) {
        let end = self.now + millis;
        while let Some(Reverse((when, number))) = self.queue.peek().copied() {
            if when > end {
                break;
            }
            self.queue.pop();
            self.now = when;
            let event = self.events.remove(&number).unwrap();
            self.happens(event);
        }
        self.now = end;
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Tick { slot, life } => self.tick(slot, life),
            Event::Wake { slot, node, watch, wait } => self.wake(slot, node, watch, wait),
            Event::Told { slot, node, watch, told } => self.tell(slot, node, watch, told),
            Event::Effect { slot, node, watch, effect } => self.takes_effect(slot, node, watch, effect),
            Event::Links => self.links(),
            Event::Chaos => {
                if self.chaos {
                    self.disturb();
                    let pause = self.random.between(300, 12_000);
                    self.after(pause, Event::Chaos);
                }
            }
        }
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        let line = format!("{:>9} ms  {}", self.now, line());
        self.trace.push_back(line);
    }

    /// Ends the test: a promise was broken.
    pub fn broken(&self, promise: &str) -> ! {
        let trace: Vec<&str> = self.trace.iter().map(String::as_str).collect();
        panic!("seed {}, {} ms: {promise}\n{}", self.seed, self.now, trace.join("\n"));
    }

    /// Returns the result of the scheduler's probe of a machine.
    pub fn sees(&mut self, slot: usize, node: usize) -> ProbeResult {
        let failed = |failure| ProbeResult::Failed { failure, detail: format!("{failure:?}") };
        if self.random.percent(2) {
            return ProbeResult::Inconclusive;
        }
        if self.cut.contains(&(slot, node)) || (self.flaky && self.random.percent(1)) {
            return failed(Failure::Silent);
        }
        match self.truth[node].machine {
            Machine::Up => ProbeResult::Answered,
            Machine::SshdDown | Machine::Killed => failed(Failure::Refused),
            Machine::Silent => failed(Failure::Silent),
            Machine::Sick => failed(Failure::Sick),
            Machine::OtherKey => failed(Failure::WrongKey),
        }
    }

    /// The link as a scheduler knows it from a row.
    pub fn link_of(&self, row: &Node) -> LinkPath {
        let stale = self.api_down_since.map(|since| since + REPLICA_STALE_AFTER);
        match row.link {
            LinkState::None => LinkPath::None,
            LinkState::Lost => LinkPath::Lost,
            LinkState::Up => match stale.filter(|stale| *stale <= self.now) {
                Some(stale) => LinkPath::Unknown { since: wall(stale) },
                None => LinkPath::Up { sshd: row.agent_sees_sshd },
            },
        }
    }

    /// Writes the changes of the agents' links to the nodes' rows, as the API does.
    fn links(&mut self) {
        self.after(1_000, Event::Links);
        if self.api_down_since.is_some() {
            return;
        }
        for node in 0..self.rows.len() {
            let truth = &mut self.truth[node];
            let (beats, sshd) = (truth.agent_beats(), Some(truth.machine == Machine::Up));
            if beats {
                truth.heard = self.now;
            }
            let lost = !beats && self.now >= truth.heard + LINK_LOST_AFTER;
            let (row, now) = (&mut self.rows[node], wall(self.now));
            let (link, sshd) = match row.link {
                LinkState::None | LinkState::Up | LinkState::Lost if beats => (LinkState::Up, sshd),
                LinkState::Up if lost => (LinkState::Lost, row.agent_sees_sshd),
                LinkState::None | LinkState::Up | LinkState::Lost => (row.link, row.agent_sees_sshd),
            };
            if (row.link, row.agent_sees_sshd) != (link, sshd) {
                row.agent_sees_sshd = sshd;
                if row.link != link {
                    (row.link, row.link_since) = (link, now);
                }
                row.version += 1;
            }
        }
    }

    /// Sets a node's health, as `orion_store::Nodes::set_health` does.
    pub fn set_health(&mut self, node: usize, version: i64, health: Health, reason: String) {
        let (now, engaged) = (wall(self.now), self.brake.engaged.is_some());
        let row = &mut self.rows[node];
        let doubt = row.health == Health::Dead && matches!(health, Health::Suspect | Health::Unknown);
        let dies = health == Health::Dead && row.health != Health::Dead;
        let same = row.health == health && row.health_reason == reason;
        if row.version != version || doubt || same || (dies && engaged) {
            return;
        }
        if row.health != health {
            row.health_since = now;
            row.lock_order = row.lock_order.filter(|_| health == Health::Dead);
        }
        (row.health, row.health_reason) = (health, reason);
        row.version += 1;
        self.deaths += usize::from(dies);
        self.note(|| format!("node {node} is {}", health.as_str()));
    }

    pub fn order_lock(&mut self, node: usize, version: i64) {
        let (now, engaged) = (wall(self.now), self.brake.engaged.is_some());
        let row = &mut self.rows[node];
        if row.version == version && !engaged && row.lock_order.is_none() {
            row.lock_order = Some(LockOrder { at: now, observed_at: Some(row.health_since) });
            row.version += 1;
        }
    }

    /// Writes what a scheduler finds to be done about the brake, if it is still as that scheduler knows it.
    pub fn change_brake(&mut self, by: &str, known: &Brake, change: &BrakeChange) {
        if self.brake != *known {
            return;
        }
        self.note(|| format!("{by}: {change:?}"));
        self.brake = match change {
            BrakeChange::Pull { reason } => {
                let engaged = Engaged { since: wall(self.now), reason: reason.clone(), by: by.to_owned() };
                Brake { engaged: Some(engaged), lifted_at: None }
            }
            BrakeChange::Lift { .. } => Brake { engaged: None, lifted_at: Some(wall(self.now)) },
        };
    }
}
