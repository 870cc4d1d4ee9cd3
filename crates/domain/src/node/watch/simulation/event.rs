//! What happens in the simulated world: the entries of its queue.

use crate::node::{
    Health,
    watch::{PeerVerdict, ProbeResult},
};
use std::collections::VecDeque;

/// Effect that a scheduler requested of the world; takes place whether or not that scheduler still runs.
#[derive(Debug)]
pub enum Effect {
    Probe,
    Peer { peers: VecDeque<String> },
    Brake,
    Turn,
    Lock { version: i64 },
    Admit { version: i64 },
    Health { version: i64, health: Health, reason: String },
    Quarantine { reason: String },
}

/// Result that is reported to a scheduler.
#[derive(Debug)]
pub enum Told {
    Probe(ProbeResult),
    Peer(PeerVerdict),
    Brake,
    Turn,
    Written,
    Failed,
}

#[derive(Debug)]
pub enum Event {
    /// A scheduler's heartbeat, brake task and inventory.
    Tick {
        slot: usize,
        life: u64,
    },
    Wake {
        slot: usize,
        node: usize,
        watch: u64,
        wait: u64,
    },
    Told {
        slot: usize,
        node: usize,
        watch: u64,
        told: Told,
    },
    Effect {
        slot: usize,
        node: usize,
        watch: u64,
        effect: Effect,
    },
    Links,
    Chaos,
}
