//! The turns to write: a scheduler lets only so many of its watches write at once, and the others wait in a row.

use super::{
    event::{Effect, Event},
    scheduler::Waiting,
    world::World,
};

/// Wait for a turn, in milliseconds, that counts as one without end: those before it may be slow, and the scheduler
/// suspended meanwhile.
const WAIT_MAX: u64 = 60_000;

impl World {
    /// Gives a watch a turn after `delay` milliseconds; where none is free, when one is given back.
    pub fn take_turn(&mut self, slot: usize, node: usize, watch: u64, delay: u64) {
        let (since, turns) = (self.now, &mut self.schedulers[slot].turns);
        if turns.free == 0 {
            turns.waiting.push_back(Waiting { node, watch, since });
        } else {
            turns.free -= 1;
            self.give_turn(slot, node, watch, delay);
        }
    }

    fn give_turn(&mut self, slot: usize, node: usize, watch: u64, delay: u64) {
        let watched = self.watched(slot, node, watch).unwrap();
        // A turn that it kept until it got this one goes back.
        if std::mem::replace(&mut watched.has_turn, true) {
            self.hand_turn_on(slot);
        }
        self.after(delay, Event::Effect { slot, node, watch, effect: Effect::Turn });
    }

    /// Takes its turn from the watch of a node, if it has one.
    pub fn end_turn(&mut self, slot: usize, node: usize) {
        let watched = self.schedulers[slot].watches.get_mut(&node);
        if watched.is_some_and(|watched| std::mem::take(&mut watched.has_turn)) {
            self.hand_turn_on(slot);
        }
    }

    fn hand_turn_on(&mut self, slot: usize) {
        while let Some(Waiting { node, watch, .. }) = self.schedulers[slot].turns.waiting.pop_front() {
            if self.watched(slot, node, watch).is_some() {
                return self.give_turn(slot, node, watch, 1);
            }
        }
        self.schedulers[slot].turns.free += 1;
    }

    /// Ends the test where a watch waits for its turn without end.
    pub fn check_turns(&self, slot: usize) {
        let scheduler = &self.schedulers[slot];
        let waits = |waiting: &&Waiting| {
            scheduler.watches.get(&waiting.node).is_some_and(|watched| watched.number == waiting.watch)
        };
        if let Some(first) = scheduler.turns.waiting.iter().find(waits)
            && self.now - first.since > WAIT_MAX
        {
            let (node, since) = (first.node, first.since);
            self.broken(&format!(
                "scheduler {slot}, node {node} has waited for its turn to write since {since} ms"
            ));
        }
    }
}
