//! What a drain means for a node and for its lease: what keeps the node from being empty, and how far it is.

use super::{Admission, Health, Node};
use crate::{
    Timestamp,
    drain::DrainState,
    lease::{Lease, LeaseState, OnNodeLoss},
};

impl Node {
    /// Whether its silence means anything: not that of a machine that is only just being set up, nor that of one
    /// that was drained, because that is switched off.
    pub fn should_answer(&self) -> bool {
        let drained = self.drain.as_ref().is_some_and(|drain| drain.drained_at.is_some());
        self.admission == Admission::Admitted && !drained
    }

    /// Whether it takes `lease` back, which lost it and waits for it or for another: not while it is drained and
    /// its deadline is over, for then it is to be switched off.
    pub fn accepts_return_of(&self, now: Timestamp) -> bool {
        self.drain.as_ref().is_none_or(|drain| !drain.is_due(now))
    }

    /// Whether the drain still has to wait for `lease`, which has the node: not for one that has lost it at the
    /// deadline and waits.
    pub fn blocks_drain_of(&self, lease: &Lease, now: Timestamp) -> bool {
        let lost = matches!(&lease.state, LeaseState::Migrating { from, to: None, .. } if *from == self.id);
        lease.state.occupies() == Some(self.id) && (!lost || self.accepts_return_of(now))
    }

    /// Returns the progress of the node's drain; none if there is no drain. `lease` has the node, `leaving`
    /// says whether one is on its way from it to another, and `free` whether a node that could take `lease`
    /// is free.
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
        let Some(lease) = lease.filter(|lease| self.blocks_drain_of(lease, now)) else {
            let to_clean =
                self.is_dirty() && self.health != Health::Dead && self.admission == Admission::Admitted;
            return Some(match drain.drained_at {
                Some(_) if !to_clean => DrainState::Drained,
                Some(_) | None => DrainState::Cleaning,
            });
        };
        Some(match (&lease.state, lease.on_node_loss) {
            (
                LeaseState::Requested
                | LeaseState::Scheduled { .. }
                | LeaseState::Queued { .. }
                | LeaseState::Yielding { .. }
                | LeaseState::Releasing { .. }
                | LeaseState::Ended { .. },
                _,
            ) => DrainState::Cleaning,
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
        drain::Drain,
        lease::{Account, EndReason},
    };

    const HERE: NodeId = NodeId(1);
    const ELSEWHERE: NodeId = NodeId(2);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn node(deadline: Option<Timestamp>) -> Node {
        Node {
            id: HERE,
            drain: Some(Drain { reason: "disk swap".into(), since: at(0), deadline, drained_at: None }),
            ..crate::node::tests::free_node()
        }
    }

    fn lease(on_node_loss: OnNodeLoss, state: LeaseState) -> Lease {
        Lease {
            id: LeaseId(7),
            ulid: "01K0000000000000000000000A".into(),
            user: UserId(1),
            name: None,
            account: Some(Account {
                user: "alice".parse().unwrap(),
                uid: 200_000,
                password_hash: Secret::new("$6$x"),
                public_key: None,
            }),
            from: at(0),
            until: at(3600),
            on_node_loss,
            tags: Vec::new(),
            request_key: "r".into(),
            finish_after_crash: false,
            state,
            since: at(0),
            deadline_applied: None,
            containers: 0,
            holding: crate::lease::Holding::WholeNode,
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
    fn a_drain_says_why() {
        let drain = Drain { reason: "disk swap".into(), since: at(0), deadline: None, drained_at: None };
        assert_eq!(drain.why(), "the node is being drained: disk swap");
    }

    #[test]
    fn a_node_without_a_drain_says_nothing_of_one() {
        let mut node = node(None);
        node.drain = None;
        assert_eq!(node.drain_state(Some(&active(OnNodeLoss::Migrate)), true, true, at(1)), None);
        assert!(node.accepts_return_of(at(i64::MAX / 2_000_000)));
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
            assert!(node.blocks_drain_of(&lease, at(99)) && node.accepts_return_of(at(99)));
            assert!(!node.blocks_drain_of(&lease, at(100)) && !node.accepts_return_of(at(100)));
            assert!(node.blocks_drain_of(&active(policy), at(100)), "it has not lost it yet");
            assert_eq!(node.drain_state(Some(&lease), false, false, at(100)), Some(DrainState::Cleaning));
        }
        assert!(
            !node.blocks_drain_of(&lease(OnNodeLoss::Wait, LeaseState::Active { node: ELSEWHERE }), at(1))
        );
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
