use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

fn every_state() -> Vec<LeaseState> {
    vec![
        LeaseState::Requested,
        LeaseState::Scheduled { reason: None },
        LeaseState::Queued { reason: "no room".into() },
        LeaseState::Provisioning { node: A },
        LeaseState::Active { node: A },
        LeaseState::Migrating { from: A, to: None, reason: "dead".into() },
        LeaseState::Migrating { from: A, to: Some(B), reason: "dead".into() },
        LeaseState::Yielding { node: A, reason: "room".into() },
        LeaseState::Releasing { node: A, reason: EndReason::Released },
        LeaseState::Ended { reason: EndReason::Expired },
    ]
}

type Tried = Result<(LeaseState, LeaseEvent), Refused>;

/// A transition: its name, and what it does to a lease that has to do with A.
type Transition = (&'static str, fn(LeaseState) -> Tried);

const TRANSITIONS: [Transition; 13] = [
    ("approve", LeaseState::approve),
    ("place_on", |state| state.place_on(B, "full")),
    ("queue", |state| state.queue("full")),
    ("confirm A", |state| state.confirm(A)),
    ("confirm B", |state| state.confirm(B)),
    ("leave_node", |state| state.leave_node(A, B, "drained")),
    ("lose A", |state| state.lose_node(A, OnNodeLoss::Migrate, "dead")),
    ("lose B", |state| state.lose_node(B, OnNodeLoss::Migrate, "dead")),
    ("lose_drained_node", |state| state.lose_drained_node(A, OnNodeLoss::Wait, "drained")),
    ("preempt", |state| state.preempt("room")),
    ("end", |state| state.end(EndReason::Released)),
    ("finish A", |state| state.finish(A)),
    ("finish B", |state| state.finish(B)),
];

/// For each of [`every_state`]: the transitions that it allows, each with the phase after it.
const ALLOWED: [&[(&str, Phase)]; 10] = [
    &[("approve", Phase::Scheduled), ("end", Phase::Ended)],
    &[("place_on", Phase::Provisioning), ("end", Phase::Ended)],
    &[("place_on", Phase::Provisioning), ("end", Phase::Ended)],
    &[
        ("place_on", Phase::Provisioning),
        ("queue", Phase::Queued),
        ("confirm A", Phase::Active),
        ("end", Phase::Releasing),
    ],
    &[
        ("leave_node", Phase::Migrating),
        ("lose A", Phase::Migrating),
        ("lose_drained_node", Phase::Migrating),
        ("preempt", Phase::Yielding),
        ("end", Phase::Releasing),
    ],
    &[("place_on", Phase::Migrating), ("confirm A", Phase::Active), ("end", Phase::Releasing)],
    &[
        ("place_on", Phase::Migrating),
        ("confirm B", Phase::Active),
        ("lose B", Phase::Migrating),
        ("end", Phase::Releasing),
    ],
    &[("end", Phase::Releasing), ("finish A", Phase::Queued)],
    &[("finish A", Phase::Ended)],
    &[],
];

#[test]
fn each_state_allows_its_transitions_and_refuses_every_other() {
    for (state, allowed) in every_state().into_iter().zip(ALLOWED) {
        for (name, transition) in TRANSITIONS {
            let wanted = allowed.iter().find(|(known, _)| *known == name).map(|(_, phase)| *phase);
            match transition(state.clone()) {
                Ok((next, _)) => assert_eq!(Some(next.phase()), wanted, "{name} of {state:?}"),
                Err(refused) => assert_eq!((refused.from, None), (state.phase().as_str(), wanted), "{name}"),
            }
        }
    }
}

#[test]
fn every_phase_has_a_state_and_holds_a_node_as_its_states_do() {
    for phase in Phase::ALL {
        let mut states = every_state().into_iter().filter(|state| state.phase() == phase).peekable();
        assert!(states.peek().is_some(), "{phase:?}");
        assert!(states.all(|state| state.occupies().is_some() == phase.holds_node()), "{phase:?}");
    }
}

#[test]
fn a_lease_is_approved_placed_preempted_and_placed_again() {
    let (state, event) = LeaseState::Requested.approve().unwrap();
    assert_eq!(event, LeaseEvent::Scheduled);
    let (state, event) = state.place_on(A, "").unwrap();
    assert_eq!(event, LeaseEvent::Placed { node: A });
    let (state, event) = state.confirm(A).unwrap().0.preempt("a booking begins").unwrap();
    assert_eq!(event, LeaseEvent::Yielding { node: A, reason: "a booking begins".into() });
    assert_eq!((state.occupies(), state.wants_account_on()), (Some(A), None), "held until it is removed");
    let (state, event) = state.finish(A).unwrap();
    assert_eq!(event, LeaseEvent::Queued { reason: "a booking begins".into() });
    assert_eq!(state.place_on(B, "").unwrap().0, LeaseState::Provisioning { node: B });
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

#[test]
fn a_lease_is_lost_on_ended_on_and_moved_off_its_own_node_only() {
    let elsewhere = NodeId(9);
    for state in every_state() {
        assert!(state.clone().lose_node(elsewhere, OnNodeLoss::Migrate, "").is_err(), "{state:?}");
        assert!(state.clone().finish(elsewhere).is_err(), "{state:?}");
        let is_removed = matches!(state, LeaseState::Releasing { .. } | LeaseState::Yielding { .. });
        assert_eq!(state.finish(A).is_ok(), is_removed);
    }
}

#[test]
fn a_lease_that_waits_says_so_once_for_each_reason() {
    let waiting = LeaseState::Migrating { from: A, to: None, reason: "dead".into() };
    let (state, event) = waiting.wait_for("no node is free").expect("another reason");
    assert_eq!(event, LeaseEvent::Waiting { reason: "no node is free".into() });
    assert_eq!(state, LeaseState::Migrating { from: A, to: None, reason: "no node is free".into() });
    assert_eq!(state.wait_for("no node is free"), None, "it said so already");
    for state in every_state() {
        let waits = matches!(
            state,
            LeaseState::Migrating { to: None, .. } | LeaseState::Scheduled { .. } | LeaseState::Queued { .. }
        );
        assert_eq!(state.clone().wait_for("new").is_some(), waits, "{state:?}");
    }
}

#[test]
fn a_lease_that_is_ending_or_over_is_not_extended() {
    let extended: Vec<bool> = every_state().iter().map(|state| state.may_be_extended().is_ok()).collect();
    assert_eq!(extended, [false, false, false, true, true, true, true, false, false, false]);
    let over = LeaseState::Ended { reason: EndReason::Expired }.may_be_extended().unwrap_err();
    assert_eq!(over.to_string(), "a lease that is ended cannot be extended");
}

#[test]
fn every_event_of_a_lease_has_a_kind_of_its_own() {
    let reason = || EndReason::Released;
    let until = Timestamp::from_micros(0);
    let events = [
        (LeaseEvent::Requested, "lease.requested"),
        (LeaseEvent::Scheduled, "lease.scheduled"),
        (LeaseEvent::Queued { reason: String::new() }, "lease.queued"),
        (LeaseEvent::Yielding { node: A, reason: String::new() }, "lease.yielding"),
        (LeaseEvent::Activated { node: A }, "lease.active"),
        (LeaseEvent::NodeLost { node: A, reason: String::new() }, "lease.node_lost"),
        (LeaseEvent::Moving { from: A, to: B, reason: None }, "lease.moving"),
        (LeaseEvent::Waiting { reason: String::new() }, "lease.waiting"),
        (LeaseEvent::Moved { from: A, to: B }, "lease.moved"),
        (LeaseEvent::Returned { node: A }, "lease.returned"),
        (LeaseEvent::Extended { until }, "lease.extended"),
        (LeaseEvent::Releasing { reason: reason() }, "lease.releasing"),
        (LeaseEvent::Ended { reason: reason() }, "lease.ended"),
    ];
    for (event, kind) in events {
        assert_eq!(event.kind(), kind);
    }
}
