//! Draining: a node is emptied for maintenance, by a deadline or as long as it takes.
//!
//! Lives here: what a drain is and what is said of its progress. Does not live here: moving a lease
//! ([`crate::lease::LeaseState::leave_node`]) and when that is done (the scheduler).

use crate::{
    Timestamp,
    lease::{Lease, LeaseState, OnNodeLoss},
    node::{Admission, Health, Node},
};
use serde::{Deserialize, Serialize};

/// A node is being emptied, or is empty: it takes no new leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Why, for people.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When the leases that are left lose the node by their own policy; none: never.
    pub deadline: Option<Timestamp>,
    /// When it was empty and clean; none: not yet.
    pub drained_at: Option<Timestamp>,
}

impl Drain {
    /// Whether its deadline has come: what is left has lost the node, and gets it back only after the drain.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Why a lease leaves the node, for people.
    pub fn why(&self) -> String {
        format!("the node is being drained: {}", self.reason)
    }
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrainState {
    /// A lease is on its way off the node, or about to be.
    #[serde(rename = "moving")]
    Moving,
    /// Its lease moves as soon as a node with its tags comes free.
    #[serde(rename = "waiting for a free node")]
    WaitingForNode,
    /// Its lease stays until the deadline, as its policy says.
    #[serde(rename = "waiting for its deadline")]
    WaitingForDeadline,
    /// Its lease stays until it ends: its policy is not to move, and the drain has no deadline.
    #[serde(rename = "waiting for its lease to end")]
    WaitingForEnd,
    /// No lease is left, and the node is being cleaned.
    #[serde(rename = "cleaning")]
    Cleaning,
    /// No lease is left, and the node is clean, or dead.
    #[serde(rename = "drained")]
    Drained,
}

impl DrainState {
    /// The words in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Moving => "moving",
            Self::WaitingForNode => "waiting for a free node",
            Self::WaitingForDeadline => "waiting for its deadline",
            Self::WaitingForEnd => "waiting for its lease to end",
            Self::Cleaning => "cleaning",
            Self::Drained => "drained",
        }
    }
}

impl Node {
    /// Whether its silence means anything: not that of a machine that is only just being set up, nor that of one
    /// that was drained, because that is switched off.
    pub fn should_answer(&self) -> bool {
        let drained = self.drain.as_ref().is_some_and(|drain| drain.drained_at.is_some());
        self.admission == Admission::Admitted && !drained
    }

    /// Whether it takes `lease` back, which lost it and waits for it or for another: not while it is drained and
    /// its deadline is over, for then it is to be switched off.
    pub fn gives_back(&self, now: Timestamp) -> bool {
        self.drain.as_ref().is_none_or(|drain| !drain.is_due(now))
    }

    /// Whether the drain still has to wait for `lease`, which has the node: not for one that has lost it at the
    /// deadline and waits.
    pub fn is_kept_by(&self, lease: &Lease, now: Timestamp) -> bool {
        let lost = matches!(&lease.state, LeaseState::Migrating { from, to: None, .. } if *from == self.id);
        lease.state.occupies() == Some(self.id) && (!lost || self.gives_back(now))
    }

    /// How far its drain is; none if there is none. `lease` has the node, `leaving` says whether one is on its way
    /// from it to another, and `free` whether a node that could take `lease` is free.
    pub fn drain_state(
        &self,
        lease: Option<&Lease>,
        leaving: bool,
        free: bool,
        now: Timestamp,
    ) -> Option<DrainState> {
        let drain = self.drain.as_ref()?;
        if leaving {
            return Some(DrainState::Moving);
        }
        let Some(lease) = lease.filter(|lease| self.is_kept_by(lease, now)) else {
            let to_clean =
                self.is_dirty() && self.health != Health::Dead && self.admission == Admission::Admitted;
            return Some(match drain.drained_at {
                Some(_) if !to_clean => DrainState::Drained,
                Some(_) | None => DrainState::Cleaning,
            });
        };
        Some(match (&lease.state, lease.on_node_loss) {
            (LeaseState::Releasing { .. } | LeaseState::Ended { .. }, _) => DrainState::Cleaning,
            // It becomes active here first.
            (LeaseState::Provisioning { .. } | LeaseState::Migrating { to: Some(_), .. }, _) => {
                DrainState::Moving
            }
            (LeaseState::Active { .. } | LeaseState::Migrating { to: None, .. }, policy) => match policy {
                OnNodeLoss::Migrate if free => DrainState::Moving,
                OnNodeLoss::Migrate => DrainState::WaitingForNode,
                OnNodeLoss::Wait | OnNodeLoss::End if drain.deadline.is_some() => {
                    DrainState::WaitingForDeadline
                }
                OnNodeLoss::Wait | OnNodeLoss::End => DrainState::WaitingForEnd,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        LeaseId, NodeId, Secret, UserId,
        lease::{Account, EndReason},
        names::Port,
        node::{Facts, LinkState},
    };

    const HERE: NodeId = NodeId(1);
    const ELSEWHERE: NodeId = NodeId(2);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn node(deadline: Option<Timestamp>) -> Node {
        Node {
            id: HERE,
            hostname: "node-1".parse().unwrap(),
            addr: "10.0.0.1".parse().unwrap(),
            ssh_port: Port::try_from(22).unwrap(),
            host_keys: Vec::new(),
            seen_fingerprint: None,
            admission: Admission::Admitted,
            health: Health::Alive,
            health_reason: String::new(),
            health_since: at(0),
            quarantine: None,
            drain: Some(Drain { reason: "disk swap".into(), since: at(0), deadline, drained_at: None }),
            link: LinkState::Up,
            link_since: at(0),
            link_replica: None,
            agent_sees_sshd: None,
            facts: Facts::default(),
            tags: Vec::new(),
            subordinate_uids: Vec::new(),
            desired_version: 2,
            applied_version: 2,
            lease: None,
            registered_at: at(0),
            last_clean_report: None,
            claimed_until: None,
            reconcile_failures: 0,
            version: 1,
        }
    }

    fn lease(on_node_loss: OnNodeLoss, state: LeaseState) -> Lease {
        Lease {
            id: LeaseId(7),
            ulid: "01K0000000000000000000000A".into(),
            user: UserId(1),
            name: None,
            account: Account {
                user: "alice".parse().unwrap(),
                uid: 200_000,
                password_hash: Secret::new("$6$x"),
                public_key: None,
            },
            from: at(0),
            until: at(3600),
            on_node_loss,
            tags: Vec::new(),
            request_key: "r".into(),
            finish_after_crash: false,
            state,
            since: at(0),
            deadline_applied: None,
            version: 1,
        }
    }

    fn active(policy: OnNodeLoss) -> Lease {
        lease(policy, LeaseState::Active { node: HERE })
    }

    fn waiting(policy: OnNodeLoss) -> Lease {
        lease(policy, LeaseState::Migrating { from: HERE, to: None, reason: "x".into() })
    }

    #[test]
    fn a_node_without_a_drain_says_nothing_of_one() {
        let mut node = node(None);
        node.drain = None;
        assert_eq!(node.drain_state(Some(&active(OnNodeLoss::Migrate)), true, true, at(1)), None);
        assert!(node.gives_back(at(i64::MAX / 2_000_000)));
    }

    #[test]
    fn what_a_drain_waits_for_follows_from_the_policy_of_the_lease() {
        let (open, limited) = (node(None), node(Some(at(100))));
        let state = |node: &Node, policy, free| {
            node.drain_state(Some(&active(policy)), false, free, at(1)).map(DrainState::as_str)
        };
        assert_eq!(state(&open, OnNodeLoss::Migrate, true), Some("moving"));
        assert_eq!(state(&open, OnNodeLoss::Migrate, false), Some("waiting for a free node"));
        for policy in [OnNodeLoss::Wait, OnNodeLoss::End] {
            assert_eq!(state(&open, policy, true), Some("waiting for its lease to end"));
            assert_eq!(state(&limited, policy, true), Some("waiting for its deadline"));
        }
        let leaving = open.drain_state(None, true, false, at(1));
        assert_eq!(leaving, Some(DrainState::Moving), "the old node counts until the new login works");
        let ending =
            lease(OnNodeLoss::Migrate, LeaseState::Releasing { node: HERE, reason: EndReason::Released });
        assert_eq!(open.drain_state(Some(&ending), false, true, at(1)), Some(DrainState::Cleaning));
        let coming = lease(
            OnNodeLoss::Migrate,
            LeaseState::Migrating { from: ELSEWHERE, to: Some(HERE), reason: String::new() },
        );
        assert_eq!(open.drain_state(Some(&coming), false, false, at(1)), Some(DrainState::Moving));
    }

    #[test]
    fn a_lease_that_lost_the_node_at_the_deadline_does_not_hold_the_drain_up() {
        let node = node(Some(at(100)));
        for policy in [OnNodeLoss::Migrate, OnNodeLoss::Wait] {
            let lease = waiting(policy);
            assert!(node.is_kept_by(&lease, at(99)) && node.gives_back(at(99)));
            assert!(!node.is_kept_by(&lease, at(100)) && !node.gives_back(at(100)));
            assert!(node.is_kept_by(&active(policy), at(100)), "it has not lost it yet");
            assert_eq!(node.drain_state(Some(&lease), false, false, at(100)), Some(DrainState::Cleaning));
        }
        assert!(!node.is_kept_by(&lease(OnNodeLoss::Wait, LeaseState::Active { node: ELSEWHERE }), at(1)));
    }

    #[test]
    fn drained_is_what_was_found_clean_and_is_so_still() {
        let mut node = node(None);
        let state = |node: &Node| node.drain_state(None, false, false, at(1));
        assert_eq!(state(&node), Some(DrainState::Cleaning), "nobody has looked yet");
        assert_eq!(node.status(), "draining");
        assert!(node.should_answer());
        if let Some(drain) = &mut node.drain {
            drain.drained_at = Some(at(5));
        }
        assert_eq!((state(&node), node.status()), (Some(DrainState::Drained), "drained"));
        assert!(!node.should_answer(), "it may be switched off at any time");
        node.desired_version += 1;
        assert_eq!(state(&node), Some(DrainState::Cleaning), "it came back from a boot and is looked at");
        node.health = Health::Dead;
        assert_eq!((state(&node), node.status()), (Some(DrainState::Drained), "dead"));
        assert!(!node.is_offerable());
    }

    #[test]
    fn the_words_of_a_state_are_the_same_in_json() {
        for state in [
            DrainState::Moving,
            DrainState::WaitingForNode,
            DrainState::WaitingForDeadline,
            DrainState::WaitingForEnd,
            DrainState::Cleaning,
            DrainState::Drained,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
