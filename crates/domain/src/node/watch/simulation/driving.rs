//! What simulated schedulers do: they perform what their watches say, as `scheduler/src/tasks/watch.rs` does, and keep their
//! part of the nodes. Everything takes a random while; while one is suspended it hears nothing, and what it asked for
//! happens.

use super::{
    clock::wall,
    event::{Effect, Event, Told},
    reference::Record,
    scheduler::{OWN_LATE_AFTER, Scheduler, Watched},
    world::{Machine, World},
};
use crate::{
    NodeId,
    brake::BrakePolicy,
    node::{
        Admission, Health, Node,
        watch::{Action, Moment, NodeWatch, PeerVerdict, ProbeResult, Standing, Step, Surroundings},
    },
    share::Share,
};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// A scheduler whose beat has not changed for so long is gone.
const GONE_AFTER: u64 = 4_000;
/// Longest wait for one peer.
const PEER_TIMEOUT: u64 = 5_000;
/// A watch that does more than this within a second runs in circles.
const ACTIONS_MAX: u32 = 200;

impl World {
    pub fn start_scheduler(&mut self, slot: usize) {
        self.number += 1;
        let (life, now) = (self.number, self.now);
        let name = format!("scheduler-{slot}-{life}");
        self.schedulers[slot] =
            Scheduler { name, life, started: now, probing_since: now, ..Scheduler::down() };
        self.note(|| format!("scheduler {slot} starts"));
        self.at(now, Event::Tick { slot, life });
    }

    fn moment(&mut self, slot: usize) -> Moment {
        let steady = Duration::from_millis(self.now - self.schedulers[slot].started);
        Moment { wall: wall(self.now), steady, chance: self.random.fraction() }
    }

    fn database_answers(&self, slot: usize) -> bool {
        self.now >= self.schedulers[slot].database_down_until
    }

    pub fn tick(&mut self, slot: usize, life: u64) {
        if self.schedulers[slot].life != life {
            return;
        }
        let resumes = self.schedulers[slot].suspended_until;
        if resumes > self.now {
            return self.at(resumes, Event::Tick { slot, life });
        }
        self.check_turns(slot);
        let pause = self.random.between(900, 1_100);
        self.after(pause, Event::Tick { slot, life });
        let (now, answers) = (self.now, self.database_answers(slot));
        let scheduler = &mut self.schedulers[slot];
        let ticked = scheduler.ticked.replace(now);
        if ticked.is_some_and(|ticked| now - ticked >= OWN_LATE_AFTER) {
            scheduler.resume(now);
        }
        if !answers {
            return;
        }
        let late = scheduler.beat.is_some() && !scheduler.is_current(now);
        scheduler.beat = Some(now);
        self.beats.insert(scheduler.name.clone(), now);
        let live = self.beats.iter().filter(|(_, beat)| now - **beat < GONE_AFTER);
        let share = Share::new(&scheduler.name, live.map(|(name, _)| name.clone()));
        if late && !share.is_alone() {
            scheduler.resume(now);
        }
        scheduler.share = Some(share.clone());
        // Tasks of their own: the nodes may be known before the brake is.
        if self.schedulers[slot].brake.is_some() || self.random.percent(20) {
            self.follow_brake(slot);
        }
        for node in 0..self.rows.len() {
            self.take_row(slot, &share, node);
        }
        self.schedulers[slot].census.set_all_read();
    }

    fn take_row(&mut self, slot: usize, share: &Share, node: usize) {
        let row = self.rows[node].clone();
        if !share.is_mine(row.id) {
            self.end_turn(slot, node);
            let scheduler = &mut self.schedulers[slot];
            scheduler.watches.remove(&node);
            return scheduler.census.apply_db_state(&row);
        }
        if let Some(watched) = self.schedulers[slot].watches.get_mut(&node) {
            let known = watched.row.as_ref().unwrap_or_else(|| watched.watch.node());
            if known.version < row.version {
                watched.row = Some(Arc::new(row));
                if let Some(wait) = watched.wait {
                    let watch = watched.number;
                    self.at(self.now, Event::Wake { slot, node, watch, wait });
                }
            }
            return;
        }
        self.number += 1;
        let (number, now, policy) = (self.number, self.moment(slot), self.policy.clone());
        let scheduler = &mut self.schedulers[slot];
        scheduler.census.watch(&row, now.wall);
        let watched = Watched {
            watch: NodeWatch::new(policy, Arc::new(row), now),
            number,
            has_turn: false,
            suspension_count: scheduler.suspension_count,
            record: Record::default(),
            row: None,
            wait: None,
            session: false,
            second: 0,
            actions: 0,
        };
        scheduler.watches.insert(node, watched);
        self.drive(slot, node);
    }

    fn follow_brake(&mut self, slot: usize) {
        self.schedulers[slot].brake = Some(self.brake.clone());
        self.evaluate_brake(slot);
    }

    fn evaluate_brake(&mut self, slot: usize) {
        let (scheduler, policy, now) = (&self.schedulers[slot], BrakePolicy::default(), wall(self.now));
        let known = scheduler.brake.clone().unwrap_or_default();
        let engaged_by = known.engaged.as_ref().map(|engaged| engaged.by.as_str());
        let may_lift = engaged_by.is_none_or(|by| by == scheduler.name || !scheduler.lives(by));
        let view = scheduler.census.view(&known, may_lift, &policy, now);
        let Some(change) = known.evaluate(&view, &policy, now) else { return };
        let name = scheduler.name.clone();
        self.change_brake(&name, &known, &change);
        self.schedulers[slot].brake = Some(self.brake.clone());
    }

    pub fn watched(&mut self, slot: usize, node: usize, watch: u64) -> Option<&mut Watched> {
        self.schedulers[slot].watches.get_mut(&node).filter(|watched| watched.number == watch)
    }

    /// A session ends: an instant hint where the node answered a moment ago.
    pub fn session_ends(&mut self, slot: usize, node: usize) {
        if self.schedulers[slot].suspended_until > self.now {
            return;
        }
        let now = self.moment(slot);
        let Some(watched) = self.schedulers[slot].watches.get_mut(&node) else { return };
        if let Some(wait) = watched.wait.filter(|_| watched.session) {
            watched.watch.on_session_closed(now);
            let watch = watched.number;
            self.at(self.now, Event::Wake { slot, node, watch, wait });
        }
    }

    pub fn wake(&mut self, slot: usize, node: usize, watch: u64, wait: u64) {
        let (resumes, now) = (self.schedulers[slot].suspended_until, self.moment(slot));
        let suspension_count = self.schedulers[slot].suspension_count;
        if resumes > self.now {
            return self.at(resumes, Event::Wake { slot, node, watch, wait });
        }
        let Some(watched) = self.watched(slot, node, watch).filter(|watched| watched.wait == Some(wait))
        else {
            return;
        };
        watched.wait = None;
        if let Some(row) = watched.row.take() {
            if watched.watch.node().transport != row.transport {
                watched.record.forget();
            }
            watched.watch.on_node(row, now);
        }
        if watched.suspension_count != suspension_count {
            watched.suspension_count = suspension_count;
            watched.record.forget();
            watched.watch.on_resumed(now);
        }
        self.drive(slot, node);
    }

    pub fn tell(&mut self, slot: usize, node: usize, watch: u64, told: Told) {
        let resumes = self.schedulers[slot].suspended_until;
        if resumes > self.now {
            return self.at(resumes, Event::Told { slot, node, watch, told });
        }
        if self.watched(slot, node, watch).is_none() {
            return;
        }
        let (now, moment) = (self.now, self.moment(slot));
        let standing = matches!(told, Told::Brake).then(|| {
            let since = wall(now.saturating_sub(30_000));
            let silent = |row: &&Node| {
                matches!(row.health, Health::Suspect | Health::Dead) && row.health_since >= since
            };
            let rows: Vec<Node> = self.rows.iter().filter(silent).cloned().collect();
            let census = &mut self.schedulers[slot].census;
            rows.iter().for_each(|row| census.apply_db_silence(row.id, row.health, row.health_since));
            self.evaluate_brake(slot);
            self.standing(slot, self.rows[node].id)
        });
        let watched = self.watched(slot, node, watch).unwrap();
        match told {
            Told::Probe(result) => {
                let begins_round = matches!(watched.watch.step, Step::Probing);
                watched.record.probed(now, result.clone(), begins_round);
                watched.watch.on_probe(result, moment);
            }
            Told::Peer(word) => {
                watched.record.heard(now, word.clone());
                watched.watch.on_peer(word);
            }
            Told::Brake => {
                let standing = standing.unwrap();
                watched.record.stands(now, standing.clone());
                watched.watch.on_standing(&standing, moment);
            }
            Told::Turn => watched.watch.on_turn(moment),
            Told::Written => watched.watch.on_written(),
            Told::Failed => watched.watch.on_failed(),
        }
        // Both probes are waited for.
        let half = |step: &Step| match step {
            Step::Confirming { probed, word, .. } => !probed || word.is_none(),
            Step::Begin
            | Step::Probing
            | Step::Weigh
            | Step::Braking { .. }
            | Step::Braked { .. }
            | Step::Ordering(_)
            | Step::Settle(_)
            | Step::Queued { .. }
            | Step::Writing { .. }
            | Step::End
            | Step::Wait => false,
        };
        if !half(&watched.watch.step) {
            self.drive(slot, node);
        }
    }

    fn standing(&self, slot: usize, node: NodeId) -> Standing {
        let scheduler = &self.schedulers[slot];
        Standing {
            alone: scheduler.is_alone(),
            clock_off: false,
            brake: scheduler.brake.clone(),
            probing_since: wall(scheduler.probing_since),
            taken_over: scheduler.census.taken_over(node),
            many_are_sick: scheduler.census.many_are_sick(&BrakePolicy::default()),
        }
    }

    /// Performs what the watch says, and checks each order against what was promised.
    fn drive(&mut self, slot: usize, node: usize) {
        let (now, moment) = (self.now, self.moment(slot));
        let watched = &self.schedulers[slot].watches[&node];
        let link = self.link_of(watched.watch.node());
        let may_judge = self.schedulers[slot].may_judge(watched.suspension_count, now);
        let scheduler = &mut self.schedulers[slot];
        let watched = scheduler.watches.get_mut(&node).unwrap();
        let action = watched.watch.poll(Surroundings { link, may_judge }, moment);
        scheduler.census.observe(watched.watch.node().id, watched.watch.observation(link));
        if watched.second != now / 1_000 {
            (watched.second, watched.actions) = (now / 1_000, 0);
        }
        watched.actions += 1;
        let (watch, row, version) = (watched.number, watched.watch.node().clone(), watched.watch.version());
        let (record, keepalive) = (&watched.record, 3_000);
        let kept = match &action {
            Action::WriteHealth(verdict) => match verdict.health {
                Health::Dead => record.may_be_dead(&row, link, now, keepalive),
                Health::Suspect | Health::Unknown => record.may_be_doubted(&row),
                Health::Alive => record.may_be_alive(),
                Health::Unreachable => Ok(()),
            },
            Action::Admit => record.may_be_alive(),
            Action::OrderLock { .. } => record.may_be_locked(&row, link, now, keepalive),
            Action::Quarantine { .. } => record.may_be_quarantined(keepalive),
            Action::Wait { until, .. } => waits_for_long(*until, moment.steady, &row),
            Action::Probe | Action::EvaluateBrake | Action::Confirm | Action::TakeTurn => Ok(()),
        };
        let writes = matches!(action, Action::WriteHealth(_) | Action::OrderLock { .. } | Action::Admit);
        let in_turn = watched.has_turn || !action.is_written_in_turn();
        let kept = match kept {
            Ok(()) if !in_turn => Err("it writes out of turn".into()),
            Ok(()) if writes && !may_judge => Err("it writes while the others may take it for gone".into()),
            Ok(()) if watched.actions > ACTIONS_MAX => Err("it runs in circles".into()),
            kept => kept,
        };
        self.note(|| format!("{slot} on node {node}: {action:?}"));
        if let Err(promise) = kept {
            self.broken(&format!("scheduler {slot}, node {node}: {action:?} needs: {promise}"));
        }
        self.perform(slot, node, (watch, version), action);
    }

    fn perform(&mut self, slot: usize, node: usize, (watch, version): (u64, i64), action: Action) {
        if !action.is_written_in_turn() {
            self.end_turn(slot, node);
        }
        if let Action::Wait { until, session } = action {
            self.number += 1;
            let (wait, started) = (self.number, self.schedulers[slot].started);
            let watched = self.watched(slot, node, watch).unwrap();
            (watched.wait, watched.session) = (Some(wait), session);
            let until = u64::try_from(until.as_nanos().div_ceil(1_000_000)).unwrap();
            let when = if watched.row.is_some() { self.now } else { started + until };
            return self.at(when, Event::Wake { slot, node, watch, wait });
        }
        let (fast, slow) = (self.random.between(1, 40), self.random.between(1_500, 4_500));
        let silent = self.truth[node].machine == Machine::Silent || self.cut.contains(&(slot, node));
        let dial = if silent { slow } else { fast };
        let effect = match action {
            Action::Probe => (dial, Effect::Probe),
            Action::Confirm => {
                let share = self.schedulers[slot].share.as_ref();
                let peers: VecDeque<String> =
                    share.map(|share| share.peers_for(self.rows[node].id).into()).unwrap_or_default();
                let asks = Effect::Peer { peers };
                let pause = self.random.between(50, 900);
                self.after(pause, Event::Effect { slot, node, watch, effect: asks });
                (dial, Effect::Probe)
            }
            Action::EvaluateBrake => (fast, Effect::Brake),
            Action::TakeTurn => {
                let delay = if self.random.percent(3) { slow } else { fast / 10 };
                return self.take_turn(slot, node, watch, delay);
            }
            Action::OrderLock { .. } => (fast, Effect::Lock { version }),
            Action::Admit => (fast, Effect::Admit { version }),
            Action::WriteHealth(verdict) => {
                (fast, Effect::Health { version, health: verdict.health, reason: verdict.reason })
            }
            Action::Quarantine { reason } => (fast, Effect::Quarantine { reason }),
            Action::Wait { .. } => return,
        };
        self.after(effect.0, Event::Effect { slot, node, watch, effect: effect.1 });
    }

    /// Applies a requested effect and reports its result to the scheduler.
    pub fn takes_effect(&mut self, slot: usize, node: usize, watch: u64, effect: Effect) {
        let answers = self.database_answers(slot);
        let told = match effect {
            Effect::Probe => Told::Probe(self.sees(slot, node)),
            Effect::Turn => Told::Turn,
            Effect::Peer { peers } => match self.ask_peer(slot, node, watch, peers) {
                Some(word) => Told::Peer(word),
                None => return,
            },
            Effect::Brake | Effect::Lock { .. } | Effect::Admit { .. } | Effect::Health { .. }
                if !answers =>
            {
                Told::Failed
            }
            Effect::Brake => Told::Brake,
            Effect::Lock { version } => {
                self.order_lock(node, version);
                Told::Written
            }
            Effect::Admit { version } => {
                let row = &mut self.rows[node];
                if row.version == version {
                    row.admission = Admission::Admitted;
                    row.version += 1;
                }
                Told::Written
            }
            Effect::Health { version, health, reason } => {
                self.set_health(node, version, health, reason);
                if health == Health::Dead && self.schedulers[slot].suspended_until <= self.now {
                    self.follow_brake(slot);
                }
                Told::Written
            }
            Effect::Quarantine { reason } => {
                let engaged = self.brake.engaged.is_some();
                let row = &mut self.rows[node];
                if answers && !engaged && row.quarantine.is_none() {
                    row.quarantine = Some(reason);
                    row.version += 1;
                }
                return self.resume_after_quarantine(slot, node, watch);
            }
        };
        self.at(self.now, Event::Told { slot, node, watch, told });
    }

    /// A quarantine is said once; the watch goes on where it was.
    fn resume_after_quarantine(&mut self, slot: usize, node: usize, watch: u64) {
        if self.watched(slot, node, watch).is_some() {
            self.drive(slot, node);
        }
    }

    /// The word of the first peer that can say; none while the next one is asked.
    fn ask_peer(
        &mut self,
        slot: usize,
        node: usize,
        watch: u64,
        mut peers: VecDeque<String>,
    ) -> Option<PeerVerdict> {
        let Some(peer) = peers.pop_front() else { return Some(PeerVerdict::NoPeer) };
        let runs = |one: &Scheduler| one.name == peer && one.suspended_until <= self.now;
        let there = self.schedulers.iter().position(runs).filter(|other| self.database_answers(*other));
        let seen = there.map(|other| (other, self.sees(other, node)));
        let word = seen.and_then(|(other, result)| match result {
            ProbeResult::Answered => Some(PeerVerdict::Reachable { peer: peer.clone() }),
            ProbeResult::Failed { failure: crate::health::Failure::Sick, .. } => {
                Some(PeerVerdict::Reachable { peer: peer.clone() })
            }
            ProbeResult::Failed { .. } if self.schedulers[other].can_vouch(self.now) => {
                Some(PeerVerdict::Unreachable { peer: peer.clone() })
            }
            ProbeResult::Failed { .. } | ProbeResult::Inconclusive => None,
        });
        if word.is_none() {
            let pause = if there.is_some() { 300 } else { PEER_TIMEOUT };
            self.after(pause, Event::Effect { slot, node, watch, effect: Effect::Peer { peers } });
        }
        word
    }
}

/// A pause is never longer than what its node's state allows.
fn waits_for_long(until: Duration, now: Duration, row: &Node) -> Result<(), String> {
    let longest = match row.health {
        _ if row.admission == Admission::Reported => Duration::from_secs(600),
        Health::Dead => Duration::from_secs(30),
        Health::Unknown | Health::Alive | Health::Suspect | Health::Unreachable => Duration::from_secs(3),
    };
    if until <= now + longest { Ok(()) } else { Err(format!("a wait of at most {longest:?}")) }
}
