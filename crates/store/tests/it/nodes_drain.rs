//! Drained nodes: who may leave them and when, what is left at the deadline, and the word that they are empty.

use crate::world::{Placed, TTL, World, at, node_refuses, on_both};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    drain::{Drain, DrainState},
    lease::Holding,
    lease::{EndReason, Lease, LeaseState, OnNodeLoss},
    node::{Health, Node},
    reconcile::Desired,
};
use orion_store::{Cas, DrainRequest, MoveOutcome, MoveReason, MoveRequest, PlaceOutcome};

on_both!(
    a_drained_node_takes_no_leases_until_the_drain_is_over,
    the_same_drain_again_changes_only_what_it_says,
    a_lease_leaves_a_draining_node_and_its_login_there_is_kept_until_the_new_one_works,
    a_look_from_before_a_lease_set_out_does_not_claim_the_node_that_it_leaves,
    one_lease_of_the_fleet_leaves_at_a_time,
    two_that_move_the_same_lease_move_it_once,
    a_lease_without_a_free_node_stays_as_it_was,
    a_lease_whose_new_node_cannot_take_it_goes_back_to_the_draining_one,
    a_lease_on_its_way_off_a_node_survives_the_death_of_that_node_and_of_its_target,
    at_the_deadline_what_is_left_loses_the_node_by_its_policy,
    a_lease_that_lost_a_drained_node_takes_the_first_free_one,
    a_later_deadline_or_the_end_of_the_drain_gives_the_node_back,
    a_drain_that_ends_half_way_leaves_both_nodes_in_order,
    a_node_that_dies_while_it_is_drained_is_drained_when_its_lease_is_elsewhere,
    a_node_that_never_held_anything_is_drained_at_once,
    a_draining_node_survives_a_reset,
    what_does_not_exist_is_not_drained,
);

fn wanted(reason: &str, deadline: Option<Timestamp>) -> DrainRequest {
    DrainRequest { reason: Some(reason.into()), deadline: Some(deadline), actor: None }
}

async fn drain(world: &World, node: NodeId, deadline: Option<Timestamp>) -> Node {
    world.store.nodes().drain(node, &wanted("disk swap", deadline), at(10)).await.unwrap().done().unwrap()
}

async fn undrain(world: &World, node: NodeId, second: i64) -> Node {
    world.store.nodes().undrain(node, None, at(second)).await.unwrap().done().unwrap()
}

/// A lease of that policy, active on a node of its own; `number` is the node's.
async fn lease_on(world: &World, number: u32, policy: OnNodeLoss) -> (Lease, NodeId) {
    let user = match world.store.accounts().by_name("alice").await.unwrap() {
        Some(user) => user.id,
        None => world.user("alice").await,
    };
    let node = world.free_node(number).await;
    let mut wish = world.wish(user, 1);
    wish.on_node_loss = policy;
    let lease = world.active_lease(&wish).await;
    assert_eq!(lease.state, LeaseState::Active { node });
    (lease, node)
}

async fn leave(world: &World, lease: LeaseId, node: NodeId, second: i64) -> MoveOutcome {
    let why = MoveReason::Draining("the node is being drained: disk swap".into());
    move_away(world, lease, node, why, second).await
}

async fn move_away(
    world: &World,
    lease: LeaseId,
    away_from: NodeId,
    why: MoveReason,
    second: i64,
) -> MoveOutcome {
    let request = MoveRequest { lease, away_from, claim_of_old: None, why, first_turn: TTL, now: at(second) };
    world.store.leases().migrate(&request).await.unwrap()
}

async fn placed(world: &World, outcome: MoveOutcome, second: i64) -> Placed {
    match outcome {
        MoveOutcome::Placed(placement) => world.claim_placed(placement, at(second)).await,
        other => panic!("{other:?}"),
    }
}

async fn kinds_of_node(world: &World, node: NodeId) -> Vec<String> {
    let events = world.store.events().of_node(node, 100).await.unwrap();
    let of_node = events.into_iter().filter(|event| event.lease.is_none());
    of_node.map(|event| event.kind).collect()
}

async fn to_move_off(world: &World, second: i64) -> Vec<LeaseId> {
    let leases = world.store.nodes().leases_to_move_off(at(second), 100).await.unwrap();
    leases.into_iter().map(|(lease, _)| lease.id).collect()
}

async fn dirty(world: &World, second: i64) -> Vec<NodeId> {
    world.store.nodes().dirty(at(second), 100).await.unwrap()
}

async fn is_placed(world: &World) -> bool {
    let user = world.store.accounts().by_name("alice").await.unwrap().unwrap().id;
    match world.store.leases().place(&world.wish(user, 1)).await.unwrap() {
        PlaceOutcome::Placed(_) => true,
        PlaceOutcome::TooFew { .. } => false,
        other => panic!("{other:?}"),
    }
}

async fn a_drained_node_takes_no_leases_until_the_drain_is_over(world: World) {
    world.user("alice").await;
    let node = world.free_node(1).await;
    assert!(!world.store.nodes().is_draining().await.unwrap());
    let drained = drain(&world, node, Some(at(100))).await;
    let expected =
        Drain { reason: "disk swap".into(), since: at(10), deadline: Some(at(100)), drained_at: None };
    assert_eq!(drained.drain, Some(expected));
    assert_eq!(drained, world.node(node).await);
    assert!(world.store.nodes().is_draining().await.unwrap() && !drained.is_offerable());
    assert!(!is_placed(&world).await, "I7");

    assert_eq!(world.store.nodes().emptied(at(20)).await.unwrap(), [node]);
    let empty = world.store.nodes().finish_drain(node, at(20)).await.unwrap().done().unwrap();
    assert_eq!(empty.drain.as_ref().unwrap().drained_at, Some(at(20)));
    assert_eq!(empty.status(), "drained");
    assert!(!world.store.nodes().is_draining().await.unwrap(), "there is nothing left to do");
    assert_eq!(world.store.nodes().emptied(at(21)).await.unwrap(), []);
    assert_eq!(world.store.nodes().finish_drain(node, at(21)).await.unwrap(), Cas::Stale, "it is said once");
    assert!(!is_placed(&world).await);

    let back = undrain(&world, node, 30).await;
    assert!(back.drain.is_none() && back.is_dirty(), "it may have been changed: it is looked at first");
    assert!(!is_placed(&world).await);
    world.clean(node, at(31)).await;
    assert!(is_placed(&world).await);
    let kinds = kinds_of_node(&world, node).await;
    assert_eq!(kinds[kinds.len() - 3..], ["node.draining", "node.drained", "node.undrained"]);
    let refused = node_refuses("not being drained", "undrained");
    assert_eq!(world.store.nodes().undrain(node, None, at(32)).await.unwrap(), refused);
}

async fn the_same_drain_again_changes_only_what_it_says(world: World) {
    let (lease, node) = lease_on(&world, 1, OnNodeLoss::Migrate).await;
    let user = lease.user;
    let ask = async |request: &DrainRequest, second| {
        world.store.nodes().drain(node, request, at(second)).await.unwrap().done().unwrap()
    };
    let first = ask(&DrainRequest { actor: Some(user), ..DrainRequest::default() }, 1).await;
    let drain = first.drain.clone().unwrap();
    assert_eq!((drain.reason.as_str(), drain.deadline), ("an admin drains it", None));
    let again = ask(&DrainRequest::default(), 2).await;
    assert_eq!(again, first, "nothing new, no write");
    let limited = ask(&DrainRequest { deadline: Some(Some(at(50))), ..DrainRequest::default() }, 3).await;
    let drain = limited.drain.unwrap();
    assert_eq!((drain.reason.as_str(), drain.deadline), ("an admin drains it", Some(at(50))));
    let reasoned = ask(&DrainRequest { reason: Some("new fans".into()), ..DrainRequest::default() }, 4).await;
    let drain = reasoned.drain.unwrap();
    assert_eq!((drain.reason.as_str(), drain.deadline, drain.since), ("new fans", Some(at(50)), at(1)));
    let open = ask(&DrainRequest { deadline: Some(None), ..DrainRequest::default() }, 5).await;
    assert_eq!(open.drain.unwrap().deadline, None);

    let told = world.store.events().of_node(node, 100).await.unwrap();
    let told: Vec<_> = told.iter().filter(|event| event.kind == "node.draining").collect();
    assert_eq!(told.len(), 4);
    assert_eq!(told[0].data["actor"], user.0);
    assert_eq!(told[2].data["reason"], "new fans");
    assert_eq!(told[2].data["deadline"], at(50).to_string());
    let events = world.store.events().of_lease(lease.id, 100).await.unwrap();
    let tenant: Vec<_> = events.iter().filter(|event| event.kind == "lease.node_draining").collect();
    assert_eq!(tenant.len(), 4, "its owner hears of each change");
    assert!(tenant.iter().all(|event| event.user == Some(user)));
    assert_eq!(tenant[2].data["deadline"], at(50).to_string());
    assert_eq!(world.lease(lease.id).await.state, lease.state);
}

async fn a_lease_leaves_a_draining_node_and_its_login_there_is_kept_until_the_new_one_works(world: World) {
    let (lease, old) = lease_on(&world, 1, OnNodeLoss::Migrate).await;
    let new = world.free_node(2).await;
    assert_eq!(to_move_off(&world, 5).await, []);
    assert_eq!(leave(&world, lease.id, old, 5).await, MoveOutcome::Stale, "the node is not drained");
    drain(&world, old, None).await;
    assert_eq!(to_move_off(&world, 20).await, [lease.id]);
    let placement = placed(&world, leave(&world, lease.id, old, 20).await, 20).await;
    assert_eq!((placement.claim.node.id, placement.lease.account.clone()), (new, lease.account.clone()));
    let reason = "the node is being drained: disk swap".to_string();
    assert_eq!(
        placement.lease.state,
        LeaseState::Migrating { from: old, to: Some(new), reason: reason.clone() }
    );
    assert_eq!(placement.lease, world.lease(lease.id).await);
    for (node, role) in [(old, "leaving"), (new, "arriving")] {
        let hold = format!("SELECT COUNT(*) FROM holds WHERE node_id = {node} AND role = '{role}'");
        assert_eq!(world.count(&hold).await, 1, "{role}");
    }
    let leaving = world.store.nodes().leases_leaving(&[old, new]).await.unwrap();
    assert_eq!(leaving.into_iter().collect::<Vec<_>>(), [(old, vec![lease.id])]);
    world.check_invariants().await;

    // The old node keeps the account for now, and is neither offered nor drained meanwhile.
    assert!(world.node(old).await.is_dirty() && world.node(old).await.whole_lease.is_none());
    assert_eq!(dirty(&world, 21).await, []);
    assert_eq!(world.store.nodes().emptied(at(21)).await.unwrap(), []);
    assert_eq!(world.store.nodes().finish_drain(old, at(21)).await.unwrap(), Cas::Stale);
    let finished = world.finish(&placement.claim, at(22)).await;
    assert_eq!((finished.activated, finished.recovered), (vec![lease.id], vec![]), "nothing was lost");
    assert_eq!(world.lease(lease.id).await.state, LeaseState::Active { node: new });
    assert_eq!(dirty(&world, 23).await, [old]);
    assert_eq!(world.store.nodes().emptied(at(23)).await.unwrap(), [], "it holds the account still");
    let claim = world.claim(old, at(24)).await;
    assert_eq!(claim.desired, [] as [Desired; 0]);
    assert_eq!(world.store.nodes().emptied(at(24)).await.unwrap(), [], "somebody works on it");
    world.finish(&claim, at(25)).await;
    assert_eq!(world.store.nodes().emptied(at(25)).await.unwrap(), [old]);
    world.store.nodes().finish_drain(old, at(25)).await.unwrap().done().unwrap();

    let kinds = ["lease.placed", "lease.active", "lease.node_draining", "lease.moving", "lease.moved"];
    assert_eq!(world.kinds_of_lease(lease.id).await, kinds);
    let events = world.store.events().of_lease(lease.id, 10).await.unwrap();
    assert_eq!(events[3].data["reason"], reason.as_str(), "its event says why it moved");
    let history = world.store.leases().history(lease.id).await.unwrap();
    assert_eq!(history[0].why.as_ref(), Some(&reason));
    world.check_invariants().await;
}

async fn a_look_from_before_a_lease_set_out_does_not_claim_the_node_that_it_leaves(world: World) {
    let (lease, old) = lease_on(&world, 1, OnNodeLoss::Migrate).await;
    let new = world.free_node(2).await;
    drain(&world, old, Some(at(100))).await;
    // It is extended, which makes its node dirty; the lease sets out between the look and the claim.
    world
        .sql(&format!("UPDATE nodes SET desired_version = desired_version + 1 WHERE id = {old}"))
        .await
        .unwrap();
    assert_eq!(dirty(&world, 20).await, [old]);
    let placement = placed(&world, leave(&world, lease.id, old, 20).await, 20).await;
    let before = world.node(old).await;
    let claim = async |second| world.store.nodes().claim(old, "test", TTL, at(second)).await.unwrap();
    assert_eq!(claim(21).await, None, "its login there works until the new one does");
    assert_eq!(world.node(old).await, before, "nothing was written");
    // At the deadline it goes all the same, and so it does as soon as the new login works.
    let late = claim(100).await.expect("the drain is due");
    assert_eq!(late.desired, [] as [Desired; 0]);
    world.store.nodes().release_claim(&late, at(101)).await.unwrap();
    assert_eq!(claim(99).await, None);
    assert_eq!(world.finish(&placement.claim, at(50)).await.activated, [lease.id]);
    assert_eq!(claim(51).await.expect("the new login works").node.id, old);
    assert_eq!(world.lease(lease.id).await.state, LeaseState::Active { node: new });
    world.check_invariants().await;
}

async fn one_lease_of_the_fleet_leaves_at_a_time(world: World) {
    let (first, one) = lease_on(&world, 1, OnNodeLoss::Migrate).await;
    let (second, two) = lease_on(&world, 2, OnNodeLoss::Migrate).await;
    let (dead_lease, dead) = lease_on(&world, 3, OnNodeLoss::Migrate).await;
    for number in 4..8 {
        world.free_node(number).await;
    }
    for node in [one, two, dead] {
        drain(&world, node, None).await;
    }
    assert_eq!(to_move_off(&world, 20).await, [first.id, second.id, dead_lease.id]);
    let placement = placed(&world, leave(&world, first.id, one, 20).await, 20).await;
    assert_eq!(to_move_off(&world, 21).await, [], "one is on its way");
    assert_eq!(leave(&world, second.id, two, 21).await, MoveOutcome::Stale);
    // Death does not wait for its turn, and does not hold up the others.
    world.set_health(dead, Health::Dead, at(22)).await;
    let died =
        placed(&world, move_away(&world, dead_lease.id, dead, MoveReason::NodeDead, 22).await, 22).await;
    world.finish(&placement.claim, at(23)).await;
    assert_eq!(to_move_off(&world, 24).await, [second.id]);
    let next = placed(&world, leave(&world, second.id, two, 24).await, 24).await;
    world.finish(&next.claim, at(25)).await;
    world.finish(&died.claim, at(25)).await;
    world.check_invariants().await;
}

async fn two_that_move_the_same_lease_move_it_once(world: World) {
    let mut nodes = Vec::new();
    for number in 1..=6 {
        nodes.push(lease_on(&world, number, OnNodeLoss::Migrate).await);
    }
    for number in 7..=18 {
        world.free_node(number).await;
    }
    for (_, node) in &nodes {
        drain(&world, *node, None).await;
    }
    // Each asks for all, all at once: over the whole fleet one may go.
    let mut movers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        for (lease, node) in &nodes {
            let (store, lease, node) = (world.store.clone(), lease.id, *node);
            movers.spawn(async move {
                let why = MoveReason::Draining("the node is being drained".into());
                let request = MoveRequest {
                    lease,
                    away_from: node,
                    claim_of_old: None,
                    why,
                    first_turn: TTL,
                    now: at(20),
                };
                matches!(store.leases().migrate(&request).await.unwrap(), MoveOutcome::Placed(_))
            });
        }
    }
    let moved = movers.join_all().await.into_iter().filter(|moved| *moved).count();
    assert_eq!(moved, 1);
    assert_eq!(world.count("SELECT COUNT(*) FROM leases WHERE state = 'migrating'").await, 1);
    world.check_invariants().await;
}

async fn a_lease_without_a_free_node_stays_as_it_was(world: World) {
    let (lease, node) = lease_on(&world, 1, OnNodeLoss::Migrate).await;
    drain(&world, node, None).await;
    let before = (world.lease(lease.id).await, world.node(node).await);
    assert!(!world.store.nodes().has_free(&[], Holding::WholeNode).await.unwrap());
    assert!(matches!(leave(&world, lease.id, node, 20).await, MoveOutcome::NoneFree { .. }));
    assert_eq!((world.lease(lease.id).await, world.node(node).await), before);
    assert_eq!(world.store.nodes().emptied(at(20)).await.unwrap(), []);
    let state = before.1.drain_state(Some(&before.0), false, false, at(20));
    assert_eq!(state, Some(DrainState::WaitingForNode));
    // A free node of the wrong kind does not help one that wants tags.
    world.free_node(2).await;
    assert!(world.store.nodes().has_free(&[], Holding::WholeNode).await.unwrap());
    assert!(!world.store.nodes().has_free(&["gpu".parse().unwrap()], Holding::WholeNode).await.unwrap());
    // Nor does it leave while somebody works on its node, or while that may be dying.
    let claim = world.claim(node, at(21)).await;
    assert_eq!(to_move_off(&world, 21).await, []);
    assert_eq!(leave(&world, lease.id, node, 21).await, MoveOutcome::Stale);
    world.store.nodes().release_claim(&claim, at(22)).await.unwrap();
    world.set_health(node, Health::Suspect, at(23)).await;
    assert_eq!(to_move_off(&world, 23).await, []);
    assert_eq!(leave(&world, lease.id, node, 23).await, MoveOutcome::Stale);
    world.set_health(node, Health::Unreachable, at(24)).await;
    assert_eq!(to_move_off(&world, 24).await, [lease.id], "its machine is to go, reachable or not");
    placed(&world, leave(&world, lease.id, node, 24).await, 24).await;
}

async fn a_lease_whose_new_node_cannot_take_it_goes_back_to_the_draining_one(world: World) {
    let (lease, old) = lease_on(&world, 1, OnNodeLoss::Migrate).await;
    let new = world.free_node(2).await;
    drain(&world, old, None).await;
    let placement = placed(&world, leave(&world, lease.id, old, 20).await, 20).await;
    let request = MoveRequest {
        lease: lease.id,
        away_from: new,
        claim_of_old: Some(&placement.claim),
        why: MoveReason::Lost("no answer".into()),
        first_turn: TTL,
        now: at(21),
    };
    assert!(matches!(world.store.leases().migrate(&request).await.unwrap(), MoveOutcome::NoneFree { .. }));
    assert_eq!(world.node(old).await.whole_lease, Some(lease.id));
    // The old one still has the account, and confirms it.
    assert!(dirty(&world, 22).await.contains(&old));
    let away = move_away(&world, lease.id, old, MoveReason::NodeDead, 22).await;
    assert_eq!(away, MoveOutcome::Stale, "its own node is about to give it back");
    let claim = world.claim(old, at(23)).await;
    assert!(!claim.desired.is_empty());
    assert_eq!(world.finish(&claim, at(24)).await.activated, [lease.id]);
    assert_eq!(world.lease(lease.id).await.state, LeaseState::Active { node: old });
    assert_eq!(to_move_off(&world, 25).await, [lease.id], "and tries again");
    world.check_invariants().await;
}

async fn a_lease_on_its_way_off_a_node_survives_the_death_of_that_node_and_of_its_target(world: World) {
    let (lease, old) = lease_on(&world, 1, OnNodeLoss::Migrate).await;
    let new = world.free_node(2).await;
    drain(&world, old, None).await;
    let placement = placed(&world, leave(&world, lease.id, old, 20).await, 20).await;
    assert_eq!(world.set_health(old, Health::Dead, at(21)).await, []);
    assert_eq!(world.finish(&placement.claim, at(22)).await.activated, [lease.id]);
    assert_eq!(world.store.nodes().emptied(at(22)).await.unwrap(), [old], "dead and empty");
    world.check_invariants().await;

    // The other way round: the target dies, and the lease has its old node again.
    world.store.nodes().finish_drain(old, at(23)).await.unwrap().done().unwrap();
    drain(&world, new, None).await;
    let third = world.free_node(3).await;
    placed(&world, leave(&world, lease.id, new, 30).await, 30).await;
    assert_eq!(world.set_health(third, Health::Dead, at(31)).await, [lease.id]);
    assert_eq!(world.node(new).await.whole_lease, Some(lease.id));
    let claim = world.claim(new, at(32)).await;
    assert_eq!(world.finish(&claim, at(33)).await.activated, [lease.id]);
    world.check_invariants().await;
}

async fn at_the_deadline_what_is_left_loses_the_node_by_its_policy(world: World) {
    let mut leases = Vec::new();
    for (number, policy) in [(1, OnNodeLoss::Migrate), (2, OnNodeLoss::Wait), (3, OnNodeLoss::End)] {
        let (lease, node) = lease_on(&world, number, policy).await;
        drain(&world, node, Some(at(100))).await;
        leases.push((lease, node));
    }
    let nodes: Vec<NodeId> = leases.iter().map(|(_, node)| *node).collect();
    assert_eq!(to_move_off(&world, 50).await, [leases[0].0.id], "the others may not move");
    assert_eq!(world.store.nodes().due_drains(at(99)).await.unwrap(), []);
    assert_eq!(world.store.nodes().end_drain(nodes[0], at(99)).await.unwrap(), Cas::Stale);
    assert_eq!(world.store.nodes().due_drains(at(100)).await.unwrap(), nodes);
    for (lease, node) in &leases {
        assert_eq!(world.store.nodes().end_drain(*node, at(100)).await.unwrap(), Cas::Done(vec![lease.id]));
        assert_eq!(world.store.nodes().end_drain(*node, at(100)).await.unwrap(), Cas::Stale, "once");
        assert!(world.node(*node).await.is_dirty());
    }
    assert_eq!(world.store.nodes().due_drains(at(100)).await.unwrap(), []);
    let reason = "the node is being drained: disk swap; its time was up".to_string();
    for (lease, node) in &leases[..2] {
        let state = LeaseState::Migrating { from: *node, to: None, reason: reason.clone() };
        assert_eq!(world.lease(lease.id).await.state, state);
    }
    let state = LeaseState::Releasing { node: nodes[2], reason: EndReason::Drained };
    assert_eq!(world.lease(leases[2].0.id).await.state, state);
    world.check_invariants().await;

    // The accounts go, and the nodes are drained: what waits is not there any more.
    assert_eq!(dirty(&world, 101).await, nodes);
    assert_eq!(world.store.nodes().emptied(at(101)).await.unwrap(), []);
    for (index, node) in nodes.iter().enumerate() {
        let claim = world.claim(*node, at(101)).await;
        assert_eq!(claim.desired, [] as [Desired; 0], "it is not opened again");
        let finished = world.finish(&claim, at(102)).await;
        assert_eq!(finished.ended.len(), usize::from(index == 2));
        assert!(finished.activated.is_empty());
    }
    assert_eq!(world.store.nodes().emptied(at(103)).await.unwrap(), nodes);
    for node in &nodes {
        world.store.nodes().finish_drain(*node, at(103)).await.unwrap().done().unwrap();
    }
    assert!(!world.store.nodes().is_draining().await.unwrap());
    assert_eq!(world.lease(leases[2].0.id).await.state, LeaseState::Ended { reason: EndReason::Drained });
    world.check_invariants().await;
}

async fn a_lease_that_lost_a_drained_node_takes_the_first_free_one(world: World) {
    let (lease, old) = lease_on(&world, 1, OnNodeLoss::Migrate).await;
    drain(&world, old, Some(at(100))).await;
    world.store.nodes().end_drain(old, at(100)).await.unwrap().done().unwrap();
    // Its own node is alive, but must not have it back.
    let waits = move_away(&world, lease.id, old, MoveReason::NodeDead, 101).await;
    assert!(matches!(waits, MoveOutcome::NoneFree { .. }), "{waits:?}");
    let LeaseState::Migrating { to: None, reason, .. } = world.lease(lease.id).await.state else {
        panic!("it waits")
    };
    assert_eq!(reason, "no node is free (the node is being drained: disk swap)", "the node is not dead");
    let new = world.free_node(2).await;
    let placement =
        placed(&world, move_away(&world, lease.id, old, MoveReason::NodeDead, 102).await, 102).await;
    assert_eq!(placement.claim.node.id, new);
    assert_eq!(dirty(&world, 102).await, [old], "after the deadline the old one does not wait");
    world.finish(&placement.claim, at(103)).await;
    world.clean(old, at(104)).await;
    world.store.nodes().finish_drain(old, at(105)).await.unwrap().done().unwrap();
    world.check_invariants().await;
}

async fn a_later_deadline_or_the_end_of_the_drain_gives_the_node_back(world: World) {
    let (lease, node) = lease_on(&world, 1, OnNodeLoss::Wait).await;
    drain(&world, node, Some(at(100))).await;
    let lose = async |second| {
        world.store.nodes().end_drain(node, at(second)).await.unwrap().done().unwrap();
        assert!(world.clean(node, at(second)).await.activated.is_empty());
        world.store.nodes().finish_drain(node, at(second)).await.unwrap().done().unwrap();
    };
    lose(100).await;
    // It comes back from a boot, still drained: nothing is opened there.
    world.set_health(node, Health::Dead, at(110)).await;
    world.set_health(node, Health::Alive, at(120)).await;
    assert!(world.clean(node, at(121)).await.activated.is_empty());
    // A later deadline.
    let later = DrainRequest { deadline: Some(Some(at(200))), ..DrainRequest::default() };
    let node_now = world.store.nodes().drain(node, &later, at(130)).await.unwrap().done().unwrap();
    assert_eq!(node_now.drain.as_ref().unwrap().drained_at, None, "it is not drained any more");
    assert_eq!(world.clean(node, at(131)).await.activated, [lease.id]);
    lose(200).await;
    // The end of the drain.
    let open = undrain(&world, node, 210).await;
    assert!(open.is_dirty());
    assert_eq!(world.clean(node, at(211)).await.activated, [lease.id]);
    assert_eq!(world.lease(lease.id).await.state, LeaseState::Active { node });
    let kinds = world.kinds_of_lease(lease.id).await;
    assert_eq!(kinds[kinds.len() - 2..], ["lease.node_undrained", "lease.returned"]);
    world.check_invariants().await;
}

async fn a_drain_that_ends_half_way_leaves_both_nodes_in_order(world: World) {
    let (lease, old) = lease_on(&world, 1, OnNodeLoss::Migrate).await;
    // Before it moved: nothing is touched.
    drain(&world, old, None).await;
    let clean = world.node(old).await;
    let open = undrain(&world, old, 15).await;
    assert_eq!(open.desired_version, clean.desired_version, "a login that works is left alone");
    assert_eq!(leave(&world, lease.id, old, 16).await, MoveOutcome::Stale);
    // While it moves: it goes on, and the old node is cleaned and offered again.
    let new = world.free_node(2).await;
    drain(&world, old, None).await;
    let placement = placed(&world, leave(&world, lease.id, old, 20).await, 20).await;
    undrain(&world, old, 21).await;
    assert_eq!(dirty(&world, 22).await, [old]);
    assert_eq!(world.finish(&placement.claim, at(22)).await.activated, [lease.id]);
    world.clean(old, at(23)).await;
    assert!(world.node(old).await.is_offerable());
    assert_eq!(world.lease(lease.id).await.state, LeaseState::Active { node: new });
    world.check_invariants().await;
}

async fn a_node_that_dies_while_it_is_drained_is_drained_when_its_lease_is_elsewhere(world: World) {
    let (lease, node) = lease_on(&world, 1, OnNodeLoss::Migrate).await;
    drain(&world, node, None).await;
    assert_eq!(world.set_health(node, Health::Dead, at(20)).await, [lease.id]);
    assert_eq!(world.store.nodes().emptied(at(21)).await.unwrap(), [], "its lease has no other node yet");
    assert_eq!(to_move_off(&world, 21).await, []);
    world.free_node(2).await;
    let placement =
        placed(&world, move_away(&world, lease.id, node, MoveReason::NodeDead, 22).await, 22).await;
    assert_eq!(world.store.nodes().emptied(at(22)).await.unwrap(), [], "it may have to come back");
    world.finish(&placement.claim, at(23)).await;
    assert_eq!(world.store.nodes().emptied(at(24)).await.unwrap(), [node]);
    let drained = world.store.nodes().finish_drain(node, at(24)).await.unwrap().done().unwrap();
    assert_eq!((drained.status(), drained.is_dirty()), ("dead", true));
    // Should it return, it is cleaned, and still not offered.
    world.set_health(node, Health::Alive, at(30)).await;
    assert_eq!(dirty(&world, 31).await, [node]);
    world.clean(node, at(31)).await;
    assert!(!world.node(node).await.is_offerable());
    assert_eq!(kinds_of_node(&world, node).await.iter().filter(|kind| *kind == "node.drained").count(), 1);
}

async fn a_node_that_never_held_anything_is_drained_at_once(world: World) {
    world.join_token().await;
    let mut by_hand = world.registration(1);
    by_hand.host_keys.clear();
    let pending = world.register(&by_hand).await;
    let dead = world.free_node(2).await;
    world.set_health(dead, Health::Dead, at(5)).await;
    for node in [pending.id, dead] {
        drain(&world, node, None).await;
        assert_eq!(world.store.nodes().emptied(at(20)).await.unwrap(), [node]);
        let drained = world.store.nodes().finish_drain(node, at(20)).await.unwrap().done().unwrap();
        assert_eq!(drained.drain_state(None, false, false, at(20)), Some(DrainState::Drained));
    }
    let open = undrain(&world, pending.id, 30).await;
    assert_eq!((open.status(), open.drain), ("pending", None));
}

async fn a_draining_node_survives_a_reset(world: World) {
    let (drained, other) = (world.free_node(1).await, world.free_node(2).await);
    drain(&world, drained, None).await;
    let result = world.store.nodes().forget_clean(at(20)).await.unwrap();
    assert_eq!(result.forgotten, [other]);
    assert_eq!(result.kept[0].2, "it is being drained: disk swap");
}

async fn what_does_not_exist_is_not_drained(world: World) {
    let nowhere = NodeId(99);
    assert_eq!(world.store.nodes().drain(nowhere, &DrainRequest::default(), at(1)).await.unwrap(), Cas::Gone);
    assert_eq!(world.store.nodes().undrain(nowhere, None, at(1)).await.unwrap(), Cas::Gone);
    assert_eq!(world.store.nodes().end_drain(nowhere, at(1)).await.unwrap(), Cas::Gone);
    assert_eq!(world.store.nodes().finish_drain(nowhere, at(1)).await.unwrap(), Cas::Gone);
    assert!(world.store.nodes().leases_leaving(&[]).await.unwrap().is_empty());
    let node = world.free_node(1).await;
    let torn = world.sql("UPDATE nodes SET drain_since = 1").await;
    assert!(torn.is_err(), "the schema keeps the two parts of a drain together");
    let half = world.sql("UPDATE nodes SET drained_at = 1").await;
    assert!(half.is_err(), "nothing was drained that is not draining");
    assert!(world.node(node).await.drain.is_none());
}
