//! What is promised of each order, computed anew from the plain record of what one watch was told.
//!
//! Naive on purpose: it shares no code with the watch, and its numbers are those of docs/ARCHITECTURE.md.

use crate::{
    health::{Failure, LinkPath},
    node::{
        Health, Node,
        watch::{PeerVerdict, ProbeResult, Standing},
    },
};

/// Time for which an sshd may let nobody in: less than the 10 minutes of real life, so that it happens
/// here.
pub const SICK_FOR_MS: u64 = 15_000;

/// Inputs of one watch about its node, with times in milliseconds.
#[derive(Default)]
pub struct Record {
    probes: Vec<(u64, ProbeResult)>,
    /// Probes that began a round: what a peer said before the last one is old.
    round: u64,
    word: Option<(u64, PeerVerdict)>,
    standing: Option<(u64, Standing)>,
}

/// The failures of a node since it answered last.
struct Failures {
    first: u64,
    last: u64,
    count: usize,
    kind: Failure,
    last_answer: Option<u64>,
}

fn ensure(holds: bool, promise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(promise.to_owned()) }
}

impl Record {
    pub fn probed(&mut self, now: u64, result: ProbeResult, begins_round: bool) {
        self.probes.push((now, result));
        if begins_round {
            self.round = now;
        }
    }

    pub fn heard(&mut self, now: u64, word: PeerVerdict) {
        self.word = Some((now, word));
    }

    pub fn stands(&mut self, now: u64, standing: Standing) {
        self.standing = Some((now, standing));
    }

    /// Discards what was seen before.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    fn failures(&self) -> Option<Failures> {
        let mut failures: Option<Failures> = None;
        let mut last_answer = None;
        for (at, result) in &self.probes {
            match result {
                ProbeResult::Answered => (failures, last_answer) = (None, Some(*at)),
                ProbeResult::Failed { failure, .. } => {
                    let (first, count) = failures.map_or((*at, 0), |seen| (seen.first, seen.count));
                    failures =
                        Some(Failures { first, last: *at, count: count + 1, kind: *failure, last_answer });
                }
                ProbeResult::Inconclusive => {}
            }
        }
        failures
    }

    /// Checks that nothing speaks against any order: the brake, the time after a start or a take-over,
    /// another scheduler.
    fn nothing_forbids(&self, now: u64, keepalive: u64, failures: &Failures) -> Result<(), String> {
        let Some((at, standing)) = &self.standing else { return Err("the brake was not asked".into()) };
        ensure(*at >= self.round, "the brake was asked before the node was probed last")?;
        ensure(now - at < keepalive, "the brake was asked too long ago")?;
        ensure(!standing.clock_off, "this machine's clock is off")?;
        let brake = standing.brake.as_ref().ok_or("the brake was not read yet")?;
        ensure(brake.engaged.is_none(), "the brake is on")?;
        let ago = |then: crate::Timestamp| now.saturating_sub(super::clock::millis(then));
        ensure(ago(standing.probing_since) >= 5_000, "the scheduler has just started or resumed")?;
        ensure(standing.taken_over.is_none_or(|then| ago(then) >= 5_000), "it was just taken over")?;
        let sick = failures.kind == Failure::Sick;
        ensure(!sick || standing.many_are_sick.is_none(), "many nodes let nobody in")?;
        let word = self.word.as_ref().filter(|(at, _)| *at >= self.round);
        ensure(standing.alone || word.is_some(), "no other scheduler was asked since the last round")?;
        if let Some((said, PeerVerdict::Reachable { .. })) = &self.word {
            let old = *said + keepalive <= now && word.is_none();
            ensure(old, "another scheduler reached it just now")?;
        }
        ensure(word.is_none_or(|(said, _)| at >= said), "the brake was not asked again after the peers")
    }

    /// Whether the node may be written `Dead` now.
    pub fn may_be_dead(&self, node: &Node, link: LinkPath, now: u64, keepalive: u64) -> Result<(), String> {
        let seen = self.failures().ok_or("it answered last, or was not probed")?;
        ensure(node.health != Health::Dead, "it is dead already")?;
        let lasted = now - seen.first;
        let unknown_for = |least: u64| match link {
            LinkPath::Unknown { since } => now.saturating_sub(super::clock::millis(since)) >= least,
            LinkPath::None | LinkPath::Up { .. } | LinkPath::Lost => false,
        };
        match seen.kind {
            Failure::Refused => ensure(seen.count >= 3 && lasted >= 600, "3 refusals in 0.6 s")?,
            Failure::Silent => {
                let silent = now - seen.last_answer.unwrap_or(seen.first);
                ensure(seen.count >= 2 && silent >= 5_000, "5 s of silence and 2 failures")?;
            }
            Failure::Sick => ensure(lasted >= SICK_FOR_MS, "long without a login")?,
            Failure::WrongKey => ensure(lasted >= 30_000, "30 s with another key")?,
        }
        let only_ssh = matches!(seen.kind, Failure::Refused | Failure::Silent);
        ensure(
            match link {
                LinkPath::Lost => true,
                LinkPath::None => !only_ssh || lasted >= 3_000,
                LinkPath::Unknown { .. } => seen.kind != Failure::WrongKey && unknown_for(15_000),
                LinkPath::Up { sshd } => only_ssh && sshd == Some(false) && lasted >= 30_000,
            },
            "its link speaks for it",
        )?;
        // Peers that do not answer cost 5 s each, the brake and the turn to write a moment.
        ensure(now - seen.last <= 25_000, "what was seen is old")?;
        self.nothing_forbids(now, keepalive, &seen)
    }

    /// Whether the node may be doubted: what a dead one lost is not undone by that.
    pub fn may_be_doubted(&self, node: &Node) -> Result<(), String> {
        ensure(node.health != Health::Dead, "it is not dead")?;
        let is_seen = self.probes.iter().any(|(_, result)| *result != ProbeResult::Inconclusive);
        ensure(self.failures().is_some() || !is_seen, "it does not answer")
    }

    /// Whether the node may be written `Alive` now.
    pub fn may_be_alive(&self) -> Result<(), String> {
        let last = self.probes.iter().rev().find(|(_, result)| *result != ProbeResult::Inconclusive);
        ensure(last.is_some_and(|(_, result)| *result == ProbeResult::Answered), "it answered last")
    }

    /// Whether the node's accounts may be locked now.
    pub fn may_be_locked(&self, node: &Node, link: LinkPath, now: u64, keepalive: u64) -> Result<(), String> {
        let seen = self.failures().ok_or("it answered last, or was not probed")?;
        ensure(node.health == Health::Unreachable && node.lock_order.is_none(), "it is unreachable")?;
        ensure(link == LinkPath::Up { sshd: Some(false) }, "its agent says that its sshd is down")?;
        ensure(matches!(seen.kind, Failure::Refused | Failure::Silent), "its sshd does not answer")?;
        ensure(now - seen.first >= 20_000, "20 s of it")?;
        self.nothing_forbids(now, keepalive, &seen)
    }

    /// Whether the node may be quarantined for its host key now.
    pub fn may_be_quarantined(&self, keepalive: u64) -> Result<(), String> {
        let seen = self.failures().ok_or("it answered last, or was not probed")?;
        ensure(seen.kind == Failure::WrongKey, "another key answers")?;
        ensure(seen.count >= 2 && seen.last - seen.first >= keepalive + 2_000, "for a round and 2 s")
    }
}
