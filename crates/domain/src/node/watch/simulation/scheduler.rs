//! A simulated scheduler: its process, what it knows of the others and of the brake, and a watch for each of its nodes.

use super::{clock::wall, reference::Record};
use crate::{
    brake::{Brake, Census},
    node::{Node, watch::NodeWatch},
    share::Share,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// A scheduler whose own beat is older gives no verdicts.
pub const OWN_LATE_AFTER: u64 = 3_000;

/// Watches of a scheduler that write at once: fewer than in real life, so that turns run out among a few nodes.
const TURNS: usize = 2;

pub struct Watched {
    pub watch: NodeWatch,
    /// Number of the watch: what is told to an earlier one of the node is dropped.
    pub number: u64,
    /// Whether it has a turn to write.
    pub has_turn: bool,
    pub suspension_count: u64,
    pub record: Record,
    /// The row that it was not handed yet.
    pub row: Option<Arc<Node>>,
    /// The wait that it is in.
    pub wait: Option<u64>,
    pub session: bool,
    pub second: u64,
    pub actions: u32,
}

pub struct Scheduler {
    pub name: String,
    /// Number of the process that runs in this slot; 0 if none runs.
    pub life: u64,
    pub started: u64,
    pub suspended_until: u64,
    /// Its last tick: one that comes late tells of a suspension, also where it is alone.
    pub ticked: Option<u64>,
    /// Time at which it began to probe, or went on after its last suspension.
    pub probing_since: u64,
    pub database_down_until: u64,
    pub beat: Option<u64>,
    pub share: Option<Share>,
    pub suspension_count: u64,
    pub brake: Option<Brake>,
    pub census: Census,
    pub watches: BTreeMap<usize, Watched>,
    pub turns: Turns,
}

/// The turns to write of one scheduler.
pub struct Turns {
    pub free: usize,
    pub waiting: VecDeque<Waiting>,
}

/// A watch that waits for its turn.
pub struct Waiting {
    pub node: usize,
    pub watch: u64,
    pub since: u64,
}

impl Scheduler {
    pub fn down() -> Self {
        Self {
            name: String::new(),
            life: 0,
            started: 0,
            suspended_until: 0,
            ticked: None,
            probing_since: 0,
            database_down_until: 0,
            beat: None,
            share: None,
            suspension_count: 0,
            brake: None,
            census: Census::default(),
            watches: BTreeMap::new(),
            turns: Turns { free: TURNS, waiting: VecDeque::new() },
        }
    }

    pub fn is_alone(&self) -> bool {
        self.share.as_ref().is_none_or(Share::is_alone)
    }

    pub fn is_current(&self, now: u64) -> bool {
        self.beat.is_some_and(|beat| now - beat < OWN_LATE_AFTER)
    }

    pub fn may_judge(&self, suspension_count: u64, now: u64) -> bool {
        self.is_current(now) && suspension_count == self.suspension_count
    }

    pub fn resume(&mut self, now: u64) {
        self.suspension_count += 1;
        self.census.resume(wall(now));
        self.probing_since = now;
    }

    pub fn lives(&self, name: &str) -> bool {
        self.share.as_ref().is_none_or(|share| share.others().iter().any(|other| other == name))
    }

    /// Whether "it does not answer me" is worth something.
    pub fn can_vouch(&self, now: u64) -> bool {
        now - self.probing_since >= 5_000 && self.is_current(now) && !self.census.reaches_none()
    }
}
