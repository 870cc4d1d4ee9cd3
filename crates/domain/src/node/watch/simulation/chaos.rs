//! What goes wrong in the simulated world.

use super::{
    clock::wall,
    world::{Machine, World},
};
use crate::{
    brake::Brake,
    node::{Transport, tests::sshd},
};

impl World {
    /// Causes a random disturbance.
    pub fn disturb(&mut self) {
        let node = self.random.index(self.rows.len());
        let slot = self.random.index(self.schedulers.len());
        match self.random.between(0, 99) {
            0..=29 => self.change_machine(node),
            30..=39 => self.set_machine(node, Machine::Up),
            40..=51 => self.toggle_cut(slot, node),
            52..=56 => self.truth[node].agent_cut = !self.truth[node].agent_cut,
            57..=61 => self.cut_all(slot),
            62..=68 => self.cut.clear(),
            69..=73 => self.suspend(slot),
            74..=77 => self.restart(slot),
            78..=81 => self.lose_database(slot),
            82..=84 => self.lose_api(),
            85..=86 => self.release_brake(),
            87..=88 => self.move_node(node),
            89..=91 => self.fail_together(),
            92..=95 => self.rows[node].version += 1,
            _ => self.recover(),
        }
    }

    pub fn set_machine(&mut self, node: usize, machine: Machine) {
        self.note(|| format!("machine {node}: {machine:?}"));
        let was_up = self.truth[node].machine == Machine::Up;
        self.truth[node].machine = machine;
        if was_up && matches!(machine, Machine::Killed | Machine::SshdDown) {
            for slot in 0..self.schedulers.len() {
                self.session_ends(slot, node);
            }
        }
    }

    fn change_machine(&mut self, node: usize) {
        let machine = match self.random.between(0, 99) {
            0..=24 => Machine::Killed,
            25..=49 => Machine::Silent,
            50..=74 => Machine::SshdDown,
            75..=87 => Machine::Sick,
            _ => Machine::OtherKey,
        };
        self.set_machine(node, machine);
    }

    fn toggle_cut(&mut self, slot: usize, node: usize) {
        self.note(|| format!("scheduler {slot} and node {node} are cut off, or no more"));
        if !self.cut.remove(&(slot, node)) {
            self.cut.insert((slot, node));
        }
    }

    pub fn cut_all(&mut self, slot: usize) {
        self.note(|| format!("scheduler {slot} is cut off from all nodes"));
        for node in 0..self.rows.len() {
            self.cut.insert((slot, node));
        }
    }

    fn suspend(&mut self, slot: usize) {
        let until = self.now + self.random.between(500, 15_000);
        self.note(|| format!("scheduler {slot} is suspended until {until}"));
        self.schedulers[slot].suspended_until = until;
    }

    fn restart(&mut self, slot: usize) {
        if self.random.percent(50) {
            // A polite stop.
            let name = self.schedulers[slot].name.clone();
            self.beats.remove(&name);
        }
        self.start_scheduler(slot);
    }

    fn lose_database(&mut self, slot: usize) {
        let until = self.now + self.random.between(100, 12_000);
        let all = self.random.percent(40);
        self.note(|| format!("no database for scheduler {slot} (all: {all}) until {until}"));
        for (other, scheduler) in self.schedulers.iter_mut().enumerate() {
            if all || other == slot {
                scheduler.database_down_until = until;
            }
        }
    }

    fn lose_api(&mut self) {
        self.note(|| "the API goes, or comes back".into());
        self.api_down_since = match self.api_down_since {
            Some(_) => None,
            None => Some(self.now),
        };
    }

    fn release_brake(&mut self) {
        if self.brake.engaged.is_some() {
            self.note(|| "an admin releases the brake".into());
            self.brake = Brake { engaged: None, lifted_at: Some(wall(self.now)) };
        }
    }

    fn move_node(&mut self, node: usize) {
        self.note(|| format!("node {node} has another address"));
        let last = self.random.between(1, 254);
        let row = &mut self.rows[node];
        row.transport = Transport::Ssh(sshd(&format!("10.1.{node}.{last}"), Vec::new()));
        row.version += 1;
    }

    fn fail_together(&mut self) {
        let machine =
            [Machine::Killed, Machine::Silent, Machine::Sick, Machine::OtherKey][self.random.index(4)];
        let agents_too = self.random.percent(50);
        for node in 0..self.rows.len() {
            if self.random.percent(60) {
                self.set_machine(node, machine);
                self.truth[node].agent_cut |= agents_too;
            }
        }
    }

    /// Ends all current disturbances.
    pub fn recover(&mut self) {
        self.note(|| "all is well".into());
        self.cut.clear();
        self.api_down_since = None;
        for scheduler in &mut self.schedulers {
            scheduler.suspended_until = scheduler.suspended_until.min(self.now);
            scheduler.database_down_until = scheduler.database_down_until.min(self.now);
        }
        for node in 0..self.rows.len() {
            self.truth[node].agent_cut = false;
            self.set_machine(node, Machine::Up);
        }
    }
}
