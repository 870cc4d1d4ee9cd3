//! No lease is active, or ends for ever, on a node that is dead.

use crate::world::{Placed, TTL, World, at, on_both};
use orion_domain::{
    NodeId,
    lease::{EndReason, Lease, LeaseState, OnNodeLoss, Phase},
    node::{Health, QuarantineCause},
};
use orion_store::{Cas, FinishReconcile, MoveOutcome, MoveReason, MoveRequest, NodeClaim, PlaceRequest};

on_both!(
    a_node_that_died_while_its_lease_was_provided_confirms_nothing_and_the_lease_moves_on,
    a_late_word_about_a_dead_node_gives_no_waiting_lease_back,
    a_lease_that_an_older_version_left_active_on_a_dead_node_is_taken_off_it,
    a_release_that_an_older_version_left_on_a_dead_node_ends,
    nothing_is_taken_off_a_dead_node_while_the_brake_is_on,
    a_lease_whose_node_does_not_make_its_account_again_leaves_it_by_its_policy,
);

async fn a_lease_whose_node_does_not_make_its_account_again_leaves_it_by_its_policy(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(3).await;
    let moves = world.active_lease(&world.wish(user, 1)).await;
    let ends = PlaceRequest { on_node_loss: OnNodeLoss::End, ..world.wish(user, 1) };
    let ends = world.active_lease(&ends).await;
    let doubted = async |lease: &Lease| {
        let node = lease.state.occupies().unwrap();
        world.store.agents().doubt_account(node, lease.id, "booted", at(5)).await.unwrap().done().unwrap();
        world.claim(node, at(5)).await
    };
    let leave = async |claim: &NodeClaim| {
        world
            .store
            .nodes()
            .leave_refusing_node(claim, claim.desired[0].lease, "refused", at(6))
            .await
            .unwrap()
    };
    let claim = doubted(&moves).await;
    let known = world.store.cluster().brake().await.unwrap();
    world.store.cluster().engage_brake(&known, "s", "many", at(5)).await.unwrap().done().unwrap();
    assert_eq!(leave(&claim).await, Cas::Stale, "the brake is on");
    assert_eq!(world.lease(moves.id).await.state.phase(), Phase::Active);
    world.store.cluster().release_brake(None, "over", None, at(6)).await.unwrap().done().unwrap();
    assert_eq!(leave(&NodeClaim { token: "another".into(), ..claim.clone() }).await, Cas::Stale);
    assert_eq!(leave(&claim).await, Cas::Done(Phase::Migrating));
    assert_eq!(leave(&claim).await, Cas::Stale);
    world.check_invariants().await;
    // In the same run it goes to another node, and the old one is out of use until it is clean.
    let old = claim.node.id;
    let why = MoveReason::Refused("refused".into(), QuarantineCause::Passing);
    let request = MoveRequest {
        lease: moves.id,
        away_from: old,
        claim_of_old: Some(&claim),
        why,
        first_turn: TTL,
        now: at(6),
    };
    let moved = world.store.leases().migrate(&request).await.unwrap();
    let MoveOutcome::Placed(next) = moved else { panic!("{moved:?}") };
    let next = world.claim_placed(next, at(6)).await;
    assert_eq!(world.finish(&next.claim, at(7)).await.activated, [moves.id]);
    assert_eq!(world.node(old).await.quarantine_cause, Some(QuarantineCause::Passing));
    world.clean(old, at(60)).await;
    assert_eq!(world.node(old).await.quarantine, None, "the same work succeeded");

    let claim = doubted(&ends).await;
    assert_eq!(leave(&claim).await, Cas::Done(Phase::Releasing), "what is there is removed first");
    world.store.nodes().release_claim(&claim, at(7)).await.unwrap();
    assert_eq!(world.clean(claim.node.id, at(8)).await.ended, [ends.id]);
    world.check_invariants().await;
}

fn result(claim: &NodeClaim) -> FinishReconcile {
    FinishReconcile {
        applied_version: claim.desired_version,
        ready: claim.desired.iter().map(|desired| (desired.lease, None)).collect(),
        ..FinishReconcile::default()
    }
}

fn move_away<'a>(placed: &'a Placed, from: NodeId, claim: Option<&'a NodeClaim>) -> MoveRequest<'a> {
    MoveRequest {
        lease: placed.lease.id,
        away_from: from,
        claim_of_old: claim,
        why: MoveReason::Lost("dead".into()),
        first_turn: TTL,
        now: at(6),
    }
}

async fn a_node_that_died_while_its_lease_was_provided_confirms_nothing_and_the_lease_moves_on(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(2).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let node = placed.claim.node.id;
    world.set_health(node, Health::Dead, at(5)).await;
    let finished =
        world.store.nodes().finish_reconcile(&placed.claim, &result(&placed.claim), at(6)).await.unwrap();
    let finished = finished.done().expect("the claim is still the provisioner's");
    assert!(finished.node_is_dead && finished.activated.is_empty(), "{finished:?}");
    assert_eq!(world.lease(placed.lease.id).await.state, LeaseState::Provisioning { node });
    world.check_invariants().await;
    let moved = world.store.leases().migrate(&move_away(&placed, node, Some(&placed.claim))).await.unwrap();
    let MoveOutcome::Placed(next) = moved else { panic!("{moved:?}") };
    let next = world.claim_placed(next, at(6)).await;
    assert_ne!(next.claim.node.id, node);
    assert_eq!(world.finish(&next.claim, at(7)).await.activated, [placed.lease.id]);
    world.check_invariants().await;
}

async fn a_late_word_about_a_dead_node_gives_no_waiting_lease_back(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let extended =
        world.store.leases().extend(lease.id, at(7200), "api", TTL, at(1)).await.unwrap().done().unwrap();
    let claim = extended.1.expect("the node is free and alive");
    assert_eq!(world.set_health(node, Health::Dead, at(5)).await, [lease.id]);
    let late = world.store.nodes().finish_reconcile(&claim, &result(&claim), at(6)).await.unwrap();
    assert_eq!(late, Cas::Stale, "the claim ended with the node");
    assert!(!world.store.nodes().extend_claim(&claim, TTL, at(6)).await.unwrap());
    assert_eq!(world.lease(lease.id).await.state.phase(), Phase::Migrating);
    world.check_invariants().await;
    let other = world.free_node(2).await;
    let request = MoveRequest {
        lease: lease.id,
        away_from: node,
        claim_of_old: None,
        why: MoveReason::NodeDead,
        first_turn: TTL,
        now: at(6),
    };
    let MoveOutcome::Placed(next) = world.store.leases().migrate(&request).await.unwrap() else {
        panic!("it takes the next free node at once")
    };
    assert_eq!(next.node(), other);
}

/// Behind the store's back, as an older version may have left it.
async fn found_dead(world: &World, node: NodeId) {
    let sql = format!("UPDATE nodes SET health = 'dead', health_reason = 'gone' WHERE id = {node}");
    assert_eq!(world.sql(&sql).await.unwrap(), 1);
}

async fn a_lease_that_an_older_version_left_active_on_a_dead_node_is_taken_off_it(world: World) {
    let user = world.user("alice").await;
    let nodes = world.free_nodes(2).await;
    let moving = world.active_lease(&world.wish(user, 1)).await;
    let ends = PlaceRequest { on_node_loss: OnNodeLoss::End, ..world.wish(user, 1) };
    let ending = world.active_lease(&ends).await;
    assert_eq!(world.store.nodes().leases_on_dead_nodes(10).await.unwrap(), []);
    for node in nodes {
        found_dead(&world, node).await;
    }
    assert_eq!(world.store.nodes().leases_on_dead_nodes(10).await.unwrap(), [moving.id, ending.id]);
    for lease in [moving.id, ending.id] {
        assert_eq!(world.store.nodes().take_off_dead_node(lease, at(9)).await.unwrap(), Cas::Done(lease));
        assert_eq!(world.store.nodes().take_off_dead_node(lease, at(9)).await.unwrap(), Cas::Stale);
    }
    assert_eq!(world.lease(moving.id).await.state.phase(), Phase::Migrating);
    assert_eq!(world.lease(ending.id).await.state, LeaseState::Ended { reason: EndReason::NodeLost });
    assert_eq!(world.kinds_of_lease(moving.id).await, ["lease.placed", "lease.active", "lease.node_lost"]);
    world.check_invariants().await;
}

async fn a_release_that_an_older_version_left_on_a_dead_node_ends(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(2)).await.unwrap();
    found_dead(&world, node).await;
    assert_eq!(world.store.nodes().take_off_dead_node(lease.id, at(3)).await.unwrap(), Cas::Done(lease.id));
    assert_eq!(world.lease(lease.id).await.state, LeaseState::Ended { reason: EndReason::Released });
    assert!(world.node(node).await.is_dirty(), "what it left is still there");
    world.check_invariants().await;
}

async fn nothing_is_taken_off_a_dead_node_while_the_brake_is_on(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    found_dead(&world, node).await;
    let known = world.store.cluster().brake().await.unwrap();
    world.store.cluster().engage_brake(&known, "s", "many", at(2)).await.unwrap().done().unwrap();
    assert_eq!(world.store.nodes().take_off_dead_node(lease.id, at(3)).await.unwrap(), Cas::Stale);
    assert_eq!(world.lease(lease.id).await.state.phase(), Phase::Active);
    // Its own end goes on.
    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(4)).await.unwrap();
    assert_eq!(world.lease(lease.id).await.state.phase(), Phase::Ended);
}
