//! The brake: when many nodes go silent at once, it is more likely that a scheduler was cut off than that they
//! all died. Then nothing is migrated until it is clear who is gone.
//!
//! There is one brake for all schedulers. Whoever sees the reason pulls it; all honour it.

mod census;

pub use census::{Census, Observation};

use crate::Timestamp;
use std::time::Duration;

/// Conditions for pulling and lifting the brake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrakePolicy {
    /// Period within which a node's silence counts.
    pub window: Duration,
    /// Minimum number of silent nodes that pulls the brake…
    pub nodes_min: usize,
    /// …and more than this share of the fleet, in percent…
    pub share_percent: usize,
    /// …or more than this part of the nodes that one scheduler looks after, in percent.
    pub own_percent: usize,
    /// Time after which the brake is lifted automatically, if the remaining nodes answer.
    pub lifts_after: Duration,
}

impl Default for BrakePolicy {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            nodes_min: 3,
            share_percent: 30,
            own_percent: 50,
            lifts_after: Duration::from_secs(300),
        }
    }
}

/// View of the fleet on which the brake is evaluated. Nodes that have been dead for longer than the
/// window count nowhere, and silence that began before the brake was lifted last is no silence that went
/// before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetView {
    /// Nodes that answer, or went silent within the window.
    pub fleet: usize,
    /// Nodes that stopped answering within the window.
    pub went_silent: usize,
    /// Nodes of `fleet` that this scheduler looks after itself.
    pub own: usize,
    /// Nodes of `went_silent` that this scheduler looks after itself.
    pub own_went_silent: usize,
    /// Nodes that do not answer now, for however long, and are not dead yet.
    pub silent_now: usize,
    /// Whether there are nodes that answer, and most of them do so on both of their paths.
    pub rest_answers: bool,
    /// Whether this scheduler has looked at every node of its own. Until then it lets nothing go.
    pub complete: bool,
    /// Whether it is this scheduler's to release: it engaged the brake itself, or the one that did is gone.
    pub may_lift: bool,
}

/// A brake that is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engaged {
    /// Time at which the brake was pulled.
    pub since: Timestamp,
    /// Human-readable reason for pulling the brake.
    pub reason: String,
    /// The scheduler that engaged it.
    pub by: String,
}

/// Pulled or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brake {
    /// Details of the pull, if the brake is pulled.
    pub engaged: Option<Engaged>,
    /// Time of the last lift, if the brake is not engaged: silence that began before counts no more.
    pub lifted_at: Option<Timestamp>,
}

/// Change of the brake that an evaluation calls for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrakeChange {
    /// Pull it: nothing is migrated from now on.
    Pull {
        /// Human-readable reason of the change.
        reason: String,
    },
    /// Lifts the brake: migration goes on.
    Lift {
        /// Human-readable reason of the change.
        reason: String,
    },
}

impl BrakePolicy {
    /// Whether so many nodes of the fleet have the same fault that it is more likely this side's: none of them is given
    /// up for it, however long it lasts.
    pub const fn is_shared(&self, with_fault: usize, fleet: usize) -> bool {
        with_fault >= self.nodes_min && with_fault * 100 > fleet * self.share_percent
    }
}

impl Brake {
    /// Whether silence that began then counts.
    pub fn counts(&self, silent_since: Timestamp, policy: &BrakePolicy, now: Timestamp) -> bool {
        now.since(silent_since) <= policy.window && self.lifted_at.is_none_or(|lifted| silent_since > lifted)
    }

    /// Evaluates the fleet; returns what is to be done.
    pub fn evaluate(&self, view: &FleetView, policy: &BrakePolicy, now: Timestamp) -> Option<BrakeChange> {
        let Some(engaged) = &self.engaged else {
            let within = policy.window.as_secs();
            if view.went_silent >= policy.nodes_min
                && view.went_silent * 100 > view.fleet * policy.share_percent
            {
                let (silent, fleet) = (view.went_silent, view.fleet);
                return Some(BrakeChange::Pull {
                    reason: format!(
                        "{silent} of {fleet} nodes went silent within {within} s: more likely this scheduler is \
                         cut off"
                    ),
                });
            }
            if view.own_went_silent >= policy.nodes_min
                && view.own_went_silent * 100 > view.own * policy.own_percent
            {
                let (silent, own) = (view.own_went_silent, view.own);
                return Some(BrakeChange::Pull {
                    reason: format!(
                        "{silent} of the {own} nodes of this scheduler went silent within {within} s: more \
                         likely it is cut off"
                    ),
                });
            }
            return None;
        };
        if !view.complete || !view.may_lift {
            return None;
        }
        let waited = now.since(engaged.since);
        let reason = if view.silent_now == 0 {
            "the silent nodes answer again".to_string()
        } else if waited >= policy.lifts_after && view.rest_answers {
            format!("{} s have passed and the remaining nodes answer", waited.as_secs())
        } else {
            return None;
        };
        Some(BrakeChange::Lift { reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    /// Returns the view of one scheduler that has all nodes.
    fn view(fleet: usize, went_silent: usize, rest_answers: bool) -> FleetView {
        FleetView {
            fleet,
            went_silent,
            own: fleet,
            own_went_silent: went_silent,
            silent_now: went_silent,
            rest_answers,
            complete: true,
            may_lift: true,
        }
    }

    fn engaged() -> Brake {
        let engaged = Engaged { since: at(0), reason: "many".into(), by: "a".into() };
        Brake { engaged: Some(engaged), lifted_at: None }
    }

    fn pulls(view: &FleetView) -> Option<String> {
        match Brake::default().evaluate(view, &BrakePolicy::default(), at(0)) {
            Some(BrakeChange::Pull { reason }) => Some(reason),
            Some(BrakeChange::Lift { .. }) | None => None,
        }
    }

    fn lifts(view: &FleetView, now: i64) -> bool {
        let change = engaged().evaluate(view, &BrakePolicy::default(), at(now));
        matches!(change, Some(BrakeChange::Lift { .. }))
    }

    #[test]
    fn two_dead_nodes_of_three_do_not_pull_the_brake() {
        assert_eq!(pulls(&view(3, 2, true)), None);
    }

    #[test]
    fn three_of_nine_pull_it_and_three_of_ten_do_not() {
        assert_eq!(pulls(&view(10, 3, true)), None);
        assert!(pulls(&view(9, 3, true)).unwrap().starts_with("3 of 9 nodes went silent within 30 s"));
    }

    #[test]
    fn more_than_half_of_one_scheduler_s_own_nodes_pull_it_also_where_the_fleet_is_large() {
        let large =
            |own, own_went_silent| FleetView { own, own_went_silent, ..view(100, own_went_silent, true) };
        assert_eq!(pulls(&large(6, 3)), None, "half is not more than half");
        assert!(pulls(&large(5, 3)).unwrap().starts_with("3 of the 5 nodes of this scheduler went silent"));
        assert_eq!(pulls(&large(2, 2)), None, "two nodes may well die");
    }

    #[test]
    fn a_fault_that_three_nodes_of_nine_have_is_shared_and_one_of_two_or_of_ten_is_not() {
        let shared = |with_fault, fleet| BrakePolicy::default().is_shared(with_fault, fleet);
        assert!(shared(3, 9) && shared(3, 3) && shared(4, 13));
        assert!(!shared(2, 2) && !shared(3, 10) && !shared(0, 0));
    }

    #[test]
    fn nodes_of_all_schedulers_count_together() {
        let two_of_each = FleetView { own: 5, own_went_silent: 2, ..view(10, 4, true) };
        assert!(pulls(&two_of_each).unwrap().starts_with("4 of 10 nodes"));
    }

    #[test]
    fn it_lets_go_after_five_minutes_only_if_the_rest_answers() {
        let silent = |rest_answers| FleetView { silent_now: 3, ..view(9, 0, rest_answers) };
        assert!(!lifts(&silent(true), 299), "too early");
        assert!(!lifts(&silent(false), 301), "the rest does not answer");
        assert!(lifts(&silent(true), 302));
    }

    #[test]
    fn silence_that_only_grows_old_does_not_let_it_go() {
        let old = FleetView { silent_now: 3, ..view(9, 0, true) };
        assert!(!lifts(&old, 29));
        assert!(!lifts(&old, 31));
    }

    #[test]
    fn a_scheduler_that_has_not_seen_all_nodes_yet_lets_nothing_go() {
        assert!(!lifts(&FleetView { complete: false, ..view(0, 0, true) }, 400));
    }

    #[test]
    fn who_did_not_pull_it_lets_it_go_only_when_the_one_that_did_is_gone() {
        assert!(!lifts(&FleetView { may_lift: false, ..view(9, 0, true) }, 400));
        assert!(lifts(&view(9, 0, true), 400));
    }

    #[test]
    fn it_lets_go_at_once_when_all_come_back() {
        assert!(lifts(&view(3, 0, true), 5));
    }

    #[test]
    fn silence_from_before_the_brake_was_lifted_counts_no_more() {
        let (policy, lifted) = (BrakePolicy::default(), Brake { engaged: None, lifted_at: Some(at(100)) });
        assert!(!lifted.counts(at(99), &policy, at(101)));
        assert!(!lifted.counts(at(100), &policy, at(101)));
        assert!(lifted.counts(at(101), &policy, at(102)), "new silence does");
        assert!(!lifted.counts(at(101), &policy, at(132)), "until it is old");
        assert!(Brake::default().counts(at(99), &policy, at(101)), "and without a lift, all does");
    }
}
