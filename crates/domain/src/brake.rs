//! The brake: when many nodes go silent at once, it is more likely that the scheduler was cut off than
//! that they all died. Then nothing is migrated until it is clear who is gone.

use crate::Timestamp;
use std::time::Duration;

/// When the brake is pulled and when it lets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrakePolicy {
    /// How far back a node's silence counts.
    pub window: Duration,
    /// At least so many nodes…
    pub nodes_min: usize,
    /// …and more than this share of the fleet, in percent.
    pub share_percent: usize,
    /// After so long it lets go by itself, if the remaining nodes answer.
    pub lifts_after: Duration,
}

impl Default for BrakePolicy {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            nodes_min: 3,
            share_percent: 30,
            lifts_after: Duration::from_secs(300),
        }
    }
}

/// What the brake looks at: one entry a node that is not long dead already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetView {
    /// Nodes that answer, or went silent within the window. Those dead for longer do not count.
    pub fleet: usize,
    /// Nodes that stopped answering within the window.
    pub went_silent: usize,
    /// Nodes that do not answer now, for however long, and are not dead yet.
    pub silent_now: usize,
    /// Whether there are nodes that answer, and most of them do so on both of their paths.
    pub rest_answers: bool,
    /// Whether every node has been looked at since this scheduler started. Until then nothing is let go.
    pub complete: bool,
}

/// Pulled or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brake {
    /// Since when, and why, if it is pulled.
    pub engaged: Option<(Timestamp, String)>,
    lifted_at: Option<Timestamp>,
}

/// What a look changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrakeChange {
    /// Nothing is migrated from now on.
    Engaged {
        /// For people.
        reason: String,
    },
    /// Migration goes on.
    Lifted {
        /// For people.
        reason: String,
    },
}

impl Brake {
    /// A brake that an earlier process left pulled.
    pub fn restore(engaged: Option<(Timestamp, String)>) -> Self {
        Self { engaged, lifted_at: None }
    }

    /// Looks at the fleet and says what changed.
    pub fn look(&mut self, view: &FleetView, policy: &BrakePolicy, now: Timestamp) -> Option<BrakeChange> {
        let many = view.went_silent >= policy.nodes_min
            && view.went_silent * 100 > view.fleet * policy.share_percent;
        match &self.engaged {
            None => {
                // After it let go although nodes are silent, the same silence must not pull it again.
                let resting = self.lifted_at.is_some_and(|at| now.since(at) < policy.window);
                if !many || resting {
                    return None;
                }
                let reason = format!(
                    "{} of {} nodes went silent within {} s: more likely this scheduler is cut off",
                    view.went_silent,
                    view.fleet,
                    policy.window.as_secs()
                );
                self.engaged = Some((now, reason.clone()));
                Some(BrakeChange::Engaged { reason })
            }
            Some(_) if !view.complete => None,
            Some((since, _)) => {
                let waited = now.since(*since);
                let reason = if view.silent_now == 0 {
                    "the silent nodes answer again".to_string()
                } else if waited >= policy.lifts_after && view.rest_answers {
                    self.lifted_at = Some(now);
                    format!("{} s have passed and the remaining nodes answer", waited.as_secs())
                } else {
                    return None;
                };
                self.engaged = None;
                Some(BrakeChange::Lifted { reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    fn view(fleet: usize, went_silent: usize, rest_answers: bool) -> FleetView {
        FleetView { fleet, went_silent, silent_now: went_silent, rest_answers, complete: true }
    }

    #[test]
    fn two_dead_nodes_of_three_do_not_pull_the_brake() {
        let mut brake = Brake::default();
        assert_eq!(brake.look(&view(3, 2, true), &BrakePolicy::default(), at(0)), None);
    }

    #[test]
    fn three_of_nine_pull_it_and_three_of_ten_do_not() {
        let mut brake = Brake::default();
        assert_eq!(brake.look(&view(10, 3, true), &BrakePolicy::default(), at(0)), None);
        let change = brake.look(&view(9, 3, true), &BrakePolicy::default(), at(0));
        assert!(matches!(change, Some(BrakeChange::Engaged { .. })), "{change:?}");
    }

    #[test]
    fn it_lets_go_after_five_minutes_only_if_the_rest_answers() {
        let mut brake = Brake::restore(Some((at(0), "many".into())));
        let policy = BrakePolicy::default();
        let silent = |rest_answers| FleetView { silent_now: 3, ..view(9, 0, rest_answers) };
        assert_eq!(brake.look(&silent(true), &policy, at(299)), None, "too early");
        assert_eq!(brake.look(&silent(false), &policy, at(301)), None, "the rest does not answer");
        assert!(matches!(brake.look(&silent(true), &policy, at(302)), Some(BrakeChange::Lifted { .. })));
        assert_eq!(brake.engaged, None);
    }

    #[test]
    fn silence_that_only_grows_old_does_not_let_it_go() {
        let mut brake = Brake::restore(Some((at(0), "many".into())));
        let old = FleetView { silent_now: 3, ..view(9, 0, true) };
        assert_eq!(brake.look(&old, &BrakePolicy::default(), at(29)), None);
        assert_eq!(brake.look(&old, &BrakePolicy::default(), at(31)), None);
    }

    #[test]
    fn a_scheduler_that_has_not_seen_all_nodes_yet_lets_nothing_go() {
        let mut brake = Brake::restore(Some((at(0), "many".into())));
        let unseen = FleetView { complete: false, ..view(0, 0, true) };
        assert_eq!(brake.look(&unseen, &BrakePolicy::default(), at(400)), None);
    }

    #[test]
    fn it_lets_go_at_once_when_all_come_back() {
        let mut brake = Brake::default();
        let policy = BrakePolicy::default();
        assert!(brake.look(&view(3, 3, true), &policy, at(0)).is_some());
        assert!(matches!(brake.look(&view(3, 0, true), &policy, at(5)), Some(BrakeChange::Lifted { .. })));
    }
}
