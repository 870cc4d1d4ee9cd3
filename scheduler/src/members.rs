//! The schedulers that live, and whether this one still counts among them.
//!
//! Lives here: what follows from the beats in the database. Does not live here: reading and writing them
//! ([`crate::tasks::heartbeat`]), and what a share is ([`orion_domain::share`]).
//!
//! Another scheduler lives as long as its beat *changes*, measured on this machine's own steady clock: how far
//! two machines' clocks are apart does not matter. This scheduler counts itself out earlier than the others do:
//! between the two, nobody looks after its nodes, and never two.

use orion_domain::{Timestamp, share::Share};
use orion_store::Replica;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Value of `replicas.kind` for this service.
pub const KIND: &str = Replica::SCHEDULER;

/// Limits that decide when a scheduler is taken for gone.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A scheduler whose beat has not changed for so long is gone.
    pub gone_after: Duration,
    /// A scheduler that has not written its own beat for so long does not count itself in.
    pub own_late_after: Duration,
    /// Two machines' clocks are at most so far apart.
    pub clock_skew_max: Duration,
}

/// Row of another scheduler.
struct Seen {
    beat: Timestamp,
    /// Time at which the beat was seen to change; none for a row that was old when it was first seen.
    changed: Option<Instant>,
    /// Whether it lived when the heartbeats were read last.
    lives: bool,
}

/// The schedulers of this database, as one of them sees them.
pub struct Members {
    me: String,
    limits: Limits,
    others: HashMap<String, Seen>,
    read_at: Option<Instant>,
    own_beat: Option<(Instant, Timestamp)>,
    share: Option<Share>,
}

/// Outcome of writing a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// Heartbeat in time: nothing was missed.
    InTime,
    /// Heartbeat after a suspension (of the process, or of the database) so long that the other schedulers may have taken
    /// this one's nodes: what it knows of them is old.
    Resumed,
}

impl Members {
    /// Starts with nothing read.
    pub fn new(me: &str, limits: Limits) -> Self {
        Self { me: me.to_owned(), limits, others: HashMap::new(), read_at: None, own_beat: None, share: None }
    }

    /// Records that this scheduler's beat was written, and takes in all processes that beat. `began` is when
    /// the writing of the beat began, on the steady clock and on the wall clock: nobody can have seen it
    /// earlier.
    pub fn heartbeat(
        &mut self,
        replicas: &[Replica],
        began: (Instant, Timestamp),
        now: Instant,
    ) -> Heartbeat {
        let late = self.own_beat.is_some() && !self.is_current(began.0, began.1);
        self.own_beat = Some(began);
        self.read(replicas, began.1, now);
        if late && self.share.as_ref().is_some_and(|share| !share.is_alone()) {
            return Heartbeat::Resumed;
        }
        Heartbeat::InTime
    }

    fn read(&mut self, replicas: &[Replica], wall: Timestamp, now: Instant) {
        // A scheduler that did not read for a while cannot tell which others beat meanwhile.
        let read_late = self.read_at.is_some_and(|at| now.duration_since(at) >= self.limits.own_late_after);
        self.read_at = Some(now);
        let schedulers: HashMap<&str, Timestamp> = replicas
            .iter()
            .filter(|replica| replica.kind == KIND && replica.name != self.me)
            .map(|replica| (replica.name.as_str(), replica.beat_at))
            .collect();
        // A scheduler that stops takes its row away, and is gone at once.
        self.others.retain(|name, _| schedulers.contains_key(name.as_str()));
        for (name, beat) in schedulers {
            match self.others.get_mut(name) {
                Some(seen) => {
                    if seen.beat != beat || (read_late && seen.lives) {
                        seen.changed = Some(now);
                    }
                    seen.beat = beat;
                }
                None => {
                    let fresh = wall.since(beat) < self.limits.gone_after + self.limits.clock_skew_max;
                    let changed = fresh.then_some(now);
                    self.others.insert(name.to_owned(), Seen { beat, changed, lives: fresh });
                }
            }
        }
        for seen in self.others.values_mut() {
            seen.lives =
                seen.changed.is_some_and(|at| now.saturating_duration_since(at) < self.limits.gone_after);
        }
        let live = self.others.iter().filter(|(_, seen)| seen.lives);
        self.share = Some(Share::new(&self.me, live.map(|(name, _)| name.clone())));
    }

    /// Returns the share of each scheduler; none until the heartbeats were read for the first time.
    pub fn share(&self) -> Option<&Share> {
        self.share.as_ref()
    }

    /// Returns whether this scheduler's own heartbeat is so young that no other can have taken it for gone.
    pub fn is_current(&self, now: Instant, wall: Timestamp) -> bool {
        // Both clocks: the steady one stands still while a virtual machine is suspended.
        self.own_beat.is_some_and(|(began, began_wall)| {
            now.saturating_duration_since(began) < self.limits.own_late_after
                && wall.since(began_wall) < self.limits.own_late_after
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        gone_after: Duration::from_secs(4),
        own_late_after: Duration::from_secs(3),
        clock_skew_max: Duration::from_secs(2),
    };

    /// A scheduler `a` whose clocks are at 1000 s when the test begins.
    struct World {
        members: Members,
        start: Instant,
    }

    impl World {
        fn new() -> Self {
            Self { members: Members::new("a", LIMITS), start: Instant::now() }
        }

        /// `a` beats at `millis` and reads these others: name and beat, in milliseconds of their own clocks.
        fn beat(&mut self, millis: u64, others: &[(&str, i64)]) -> Heartbeat {
            let replica = |(name, beat): &(&str, i64)| Replica {
                name: (*name).to_owned(),
                kind: KIND.to_owned(),
                beat_at: wall(*beat),
            };
            let replicas: Vec<Replica> = others.iter().map(replica).collect();
            let now = self.start + Duration::from_millis(millis);
            self.members.heartbeat(&replicas, (now, wall(i64::try_from(millis).unwrap())), now)
        }

        fn live(&self) -> Vec<&str> {
            self.members.share().unwrap().others().iter().map(String::as_str).collect()
        }

        fn is_current(&self, millis: u64) -> bool {
            let now = self.start + Duration::from_millis(millis);
            self.members.is_current(now, wall(i64::try_from(millis).unwrap()))
        }
    }

    fn wall(millis: i64) -> Timestamp {
        Timestamp::from_micros(1_000_000_000 + millis * 1000)
    }

    #[test]
    fn a_scheduler_whose_beat_stops_is_gone_after_four_seconds() {
        let mut world = World::new();
        world.beat(0, &[("b", 0)]);
        world.beat(1_000, &[("b", 900)]);
        for at in [2_000, 3_000, 4_000, 4_999] {
            world.beat(at, &[("b", 900)]);
            assert_eq!(world.live(), ["b"], "{at} ms");
        }
        world.beat(5_000, &[("b", 900)]);
        assert!(world.live().is_empty());
        world.beat(6_000, &[("b", 5_900)]);
        assert_eq!(world.live(), ["b"], "it was only slow");
    }

    #[test]
    fn a_scheduler_that_takes_its_row_away_is_gone_at_once() {
        let mut world = World::new();
        world.beat(0, &[("b", 0), ("c", 0)]);
        world.beat(1_000, &[("c", 1_000)]);
        assert_eq!(world.live(), ["c"]);
    }

    #[test]
    fn clocks_that_differ_do_not_matter_while_the_beat_goes_on() {
        let mut world = World::new();
        for at in [0, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000] {
            let beat = i64::try_from(at).unwrap();
            world.beat(at, &[("behind", beat - 2_000), ("ahead", beat + 2_000)]);
            assert_eq!(world.live(), ["ahead", "behind"], "{at} ms");
        }
        for at in [8_000, 9_000, 10_000, 11_000] {
            world.beat(at, &[("behind", 5_000), ("ahead", 9_000)]);
        }
        assert!(world.live().is_empty(), "and both are gone as soon as any other");
    }

    #[test]
    fn an_old_row_is_nobody_until_its_beat_changes() {
        let mut world = World::new();
        world.beat(0, &[("dead", -60_000)]);
        assert!(world.live().is_empty());
        world.beat(1_000, &[("dead", 500)]);
        assert_eq!(world.live(), ["dead"]);
    }

    #[test]
    fn a_scheduler_counts_itself_out_before_the_others_do() {
        let mut world = World::new();
        assert!(!world.is_current(0), "before its first beat");
        world.beat(0, &[("b", 0)]);
        assert!(world.is_current(2_999));
        assert!(!world.is_current(3_000));
    }

    #[test]
    fn a_scheduler_that_was_suspended_is_told_when_it_resumes_beside_others() {
        let mut world = World::new();
        assert_eq!(world.beat(0, &[("b", 0)]), Heartbeat::InTime);
        assert_eq!(world.beat(1_000, &[("b", 1_000)]), Heartbeat::InTime);
        assert_eq!(world.beat(9_000, &[("b", 9_000)]), Heartbeat::Resumed);
        assert_eq!(world.beat(10_000, &[("b", 10_000)]), Heartbeat::InTime);
        let mut alone = World::new();
        alone.beat(0, &[]);
        assert_eq!(alone.beat(9_000, &[]), Heartbeat::InTime, "nobody took anything from it");
    }

    #[test]
    fn a_clock_that_jumps_forward_counts_as_a_suspension() {
        let mut world = World::new();
        world.beat(0, &[("b", 0)]);
        // Suspended: the steady clock stood still.
        assert!(!world.members.is_current(world.start + Duration::from_millis(100), wall(60_000)));
    }

    #[test]
    fn after_the_database_was_away_the_others_get_time_to_beat_again() {
        let mut world = World::new();
        world.beat(0, &[("b", 0)]);
        world.beat(10_000, &[("b", 0)]);
        assert_eq!(world.live(), ["b"]);
        world.beat(11_000, &[("b", 10_500)]);
        world.beat(14_000, &[("b", 13_500)]);
        assert_eq!(world.live(), ["b"]);
    }
}
