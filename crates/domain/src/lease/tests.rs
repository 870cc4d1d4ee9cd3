use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

fn every_state() -> Vec<LeaseState> {
    vec![
        LeaseState::Provisioning { node: A },
        LeaseState::Active { node: A },
        LeaseState::Migrating { from: A, to: None, reason: "dead".into() },
        LeaseState::Migrating { from: A, to: Some(B), reason: "dead".into() },
        LeaseState::Releasing { node: A, reason: EndReason::Released },
        LeaseState::Ended { reason: EndReason::Expired },
    ]
}

#[test]
fn a_lease_lives_from_request_over_a_move_to_its_end() {
    let (state, event) = LeaseState::Provisioning { node: A }.confirm(A).unwrap();
    assert_eq!(event, LeaseEvent::Activated { node: A });
    let (state, _) = state.lose_node(A, OnNodeLoss::Migrate, "no answer").unwrap();
    assert_eq!(state.occupies(), Some(A), "it keeps its own node until another is found");
    let (state, event) = state.place_on(B, "").unwrap();
    assert_eq!(event, LeaseEvent::Moving { from: A, to: B, reason: None });
    assert_eq!(state.wants_account_on(), Some(B));
    let (state, event) = state.confirm(B).unwrap();
    assert_eq!(event, LeaseEvent::Moved { from: A, to: B });
    let (state, _) = state.end(EndReason::Released).unwrap();
    assert_eq!((state.occupies(), state.wants_account_on()), (Some(B), None));
    let (state, _) = state.finish(B).unwrap();
    assert_eq!((state.phase(), state.occupies()), (Phase::Ended, None));
}

#[test]
fn a_migrating_lease_takes_its_own_node_back() {
    let waiting = LeaseState::Migrating { from: A, to: None, reason: "dead".into() };
    assert_eq!(waiting.confirm(A).unwrap().1, LeaseEvent::Returned { node: A });
}

#[test]
fn a_confirmation_from_another_node_is_refused() {
    for state in every_state() {
        assert!(state.clone().confirm(NodeId(9)).is_err(), "{state:?}");
    }
    let moving = LeaseState::Migrating { from: A, to: Some(B), reason: "dead".into() };
    assert!(moving.confirm(A).is_err(), "the lost node's word came too late");
}

#[test]
fn a_lease_with_the_policy_end_ends_when_its_node_is_lost() {
    let (state, _) = LeaseState::Active { node: A }.lose_node(A, OnNodeLoss::End, "dead").unwrap();
    assert_eq!(state, LeaseState::Releasing { node: A, reason: EndReason::NodeLost });
}

#[test]
fn a_working_lease_leaves_a_drained_node_for_another_and_may_come_back() {
    let (state, event) = LeaseState::Active { node: A }.leave_node(A, B, "disk swap").unwrap();
    assert_eq!(event, LeaseEvent::Moving { from: A, to: B, reason: Some("disk swap".into()) });
    assert_eq!(state.occupies(), Some(B));
    assert_eq!(state.clone().confirm(B).unwrap().1, LeaseEvent::Moved { from: A, to: B });
    // The new node could not take it: its old one still has the account.
    let (state, _) = state.lose_node(B, OnNodeLoss::Migrate, "no answer").unwrap();
    assert_eq!(state.confirm(A).unwrap(), (LeaseState::Active { node: A }, LeaseEvent::Returned { node: A }));
}

#[test]
fn only_a_login_that_works_there_leaves_a_drained_node() {
    for state in every_state() {
        assert!(state.clone().leave_node(A, A, "").is_err(), "to itself: {state:?}");
        assert!(state.clone().leave_node(B, NodeId(3), "").is_err(), "it is not on B: {state:?}");
        let active = matches!(state, LeaseState::Active { .. });
        assert_eq!(state.clone().leave_node(A, NodeId(3), "").is_ok(), active, "{state:?}");
        assert_eq!(state.lose_drained_node(A, OnNodeLoss::Wait, "").is_ok(), active);
    }
}

#[test]
fn at_the_deadline_of_a_drain_each_lease_goes_by_its_policy() {
    let at_deadline =
        |policy| LeaseState::Active { node: A }.lose_drained_node(A, policy, "disk swap").unwrap();
    for policy in [OnNodeLoss::Migrate, OnNodeLoss::Wait] {
        let (state, event) = at_deadline(policy);
        assert_eq!(state, LeaseState::Migrating { from: A, to: None, reason: "disk swap".into() });
        assert_eq!(event, LeaseEvent::NodeLost { node: A, reason: "disk swap".into() });
    }
    let (state, _) = at_deadline(OnNodeLoss::End);
    assert_eq!(state, LeaseState::Releasing { node: A, reason: EndReason::Drained });
    assert!(EndReason::Drained.to_string().contains("drained"));
}

#[test]
fn nothing_leaves_the_end_and_nothing_is_released_twice() {
    let ended = LeaseState::Ended { reason: EndReason::Expired };
    assert!(ended.clone().end(EndReason::Released).is_err());
    assert!(ended.clone().place_on(B, "").is_err());
    assert!(ended.clone().lose_node(A, OnNodeLoss::Migrate, "").is_err());
    assert!(ended.finish(A).is_err());
    let releasing = LeaseState::Releasing { node: A, reason: EndReason::Released };
    let refusal = releasing.end(EndReason::Expired).unwrap_err();
    assert_eq!(refusal.to_string(), "a lease that is releasing cannot be released");
}

#[test]
fn a_state_that_wants_an_account_also_occupies_that_node() {
    for state in every_state() {
        if let Some(node) = state.wants_account_on() {
            assert_eq!(state.occupies(), Some(node), "{state:?}");
        }
    }
}
