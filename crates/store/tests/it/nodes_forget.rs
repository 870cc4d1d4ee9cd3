//! One node is forgotten: which may go, which only by force, which never, and who may come back.

use crate::world::{TTL, World, at, on_both, sha};
use orion_domain::{
    NodeId, UserId,
    lease::EndReason,
    node::{Admission, Health},
};
use orion_store::{
    DrainRequest, ForgetOutcome, ForgetRequest, MoveOutcome, MoveReason, MoveRequest, RegisterOutcome,
    Sighting,
};

on_both!(
    a_clean_node_is_forgotten_and_its_machine_registers_as_a_new_one,
    a_node_with_a_lease_is_never_forgotten,
    a_node_that_a_lease_just_leaves_is_kept,
    a_living_node_that_may_hold_an_account_is_forgotten_by_force_only,
    nodes_that_are_dead_new_or_out_of_use_are_forgotten_at_once,
    a_node_that_is_being_worked_on_is_forgotten_by_force_only,
    the_token_of_a_node_that_was_out_of_use_is_worth_nothing,
    a_token_that_was_forgotten_twice_is_remembered_once,
    of_some_nodes_those_that_are_gone_are_found,
);

const PLAIN: ForgetRequest = ForgetRequest { force: false, actor: Some(UserId(1)) };
const FORCE: ForgetRequest = ForgetRequest { force: true, actor: Some(UserId(1)) };

async fn forget(world: &World, node: NodeId, request: ForgetRequest, second: i64) -> ForgetOutcome {
    let outcome = world.store.nodes().forget(node, request, at(second)).await.unwrap();
    world.check_invariants().await;
    let is_gone = world.store.nodes().get(node).await.unwrap().is_none();
    assert_eq!(is_gone, matches!(outcome, ForgetOutcome::Forgotten(_) | ForgetOutcome::Gone), "{outcome:?}");
    outcome
}

async fn is_forgotten(world: &World, node: NodeId, request: ForgetRequest, second: i64) {
    let outcome = forget(world, node, request, second).await;
    assert!(matches!(&outcome, ForgetOutcome::Forgotten(was) if was.id == node), "{outcome:?}");
}

async fn a_clean_node_is_forgotten_and_its_machine_registers_as_a_new_one(world: World) {
    let mut first = world.registration(1);
    first.tags = vec!["gpu".parse().unwrap()];
    let node = world.alive_node_from(&first).await;
    world.clean(node, at(0)).await;
    world.store.nodes().touch_seen(&[(node, Sighting { last_seen: at(0), open_at: None })]).await.unwrap();
    let mut again = first.clone();
    again.new_node_token_sha256 = sha(77);
    again.body_sha256 = sha(78);
    let refused = world.store.nodes().register(&again).await.unwrap();
    assert_eq!(refused, RegisterOutcome::Conflict { what: "host key", node }, "the control");

    is_forgotten(&world, node, PLAIN, 1).await;
    let event = world.store.events().of_node(node, 99).await.unwrap().pop().unwrap();
    assert_eq!(event.kind, "node.forgotten");
    assert_eq!(event.data, serde_json::json!({"hostname": "node-1", "force": false, "actor": 1}));
    for table in ["node_tags", "node_host_keys", "node_seen"] {
        assert_eq!(world.count(&format!("SELECT COUNT(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(forget(&world, node, FORCE, 2).await, ForgetOutcome::Gone);

    let new = world.register(&again).await;
    assert_ne!(new.id, node);
    assert_eq!((&new.hostname, &new.sshd().unwrap().addr), (&first.hostname, &first.addr));
    assert_eq!(new.admission, Admission::Reported, "its key has to be found there again");
    assert!(new.is_dirty(), "it is cleaned before it is offered");
}

async fn a_node_with_a_lease_is_never_forgotten(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    for request in [PLAIN, FORCE] {
        assert_eq!(forget(&world, node, request, 1).await, ForgetOutcome::Leased(lease.id));
    }
    // Nor when it is dead and the lease waits for another one.
    world.set_health(node, Health::Dead, at(2)).await;
    for request in [PLAIN, FORCE] {
        assert_eq!(forget(&world, node, request, 3).await, ForgetOutcome::Leased(lease.id));
    }
    world.store.leases().end(&[lease.id], &EndReason::Released, Some(user), at(4)).await.unwrap();
    is_forgotten(&world, node, PLAIN, 5).await;
    let events = world.store.events().of_lease(lease.id, 99).await.unwrap();
    assert_eq!(events.last().unwrap().kind, "lease.ended", "its history stays");
}

async fn a_node_that_a_lease_just_leaves_is_kept(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await.id;
    world.free_node(2).await;
    world.set_health(node, Health::Dead, at(2)).await;
    let request = MoveRequest {
        lease,
        away_from: node,
        claim_of_old: None,
        why: MoveReason::NodeDead,
        first_turn: TTL,
        now: at(3),
    };
    let MoveOutcome::Placed(placement) = world.store.leases().migrate(&request).await.unwrap() else {
        panic!("a node is free")
    };
    let placement = world.claim_placed(placement, at(3)).await;
    for request in [PLAIN, FORCE] {
        assert_eq!(forget(&world, node, request, 4).await, ForgetOutcome::Leaving(lease));
    }
    world.finish(&placement.claim, at(5)).await;
    is_forgotten(&world, node, PLAIN, 6).await;
}

async fn a_living_node_that_may_hold_an_account_is_forgotten_by_force_only(world: World) {
    let fresh = world.alive_node_from(&world.registration(1)).await;
    let unsure = world.free_node(2).await;
    world.set_health(unsure, Health::Suspect, at(1)).await;
    world.set_health(unsure, Health::Alive, at(1)).await;
    world.set_health(unsure, Health::Unreachable, at(1)).await;
    let quarantined = world.free_node(3).await;
    world.store.nodes().quarantine(quarantined, "odd", at(1)).await.unwrap().done().unwrap();
    world.store.nodes().lift_quarantine(quarantined, at(1)).await.unwrap().done().unwrap();
    world.store.nodes().quarantine(quarantined, "odd", at(1)).await.unwrap().done().unwrap();
    // One that was in use and moved waits for a dial, like one that is new.
    let moved = world.free_node(4).await;
    let mut there = world.registration(40);
    there.host_keys = world.registration(4).host_keys;
    there.node_token_sha256_presented = Some(world.registration(4).new_node_token_sha256);
    let updated = world.store.nodes().register(&there).await.unwrap();
    assert!(matches!(updated, RegisterOutcome::Updated(node) if node.admission == Admission::Reported));
    world
        .sql("UPDATE nodes SET desired_version = desired_version + 1 WHERE hostname = 'node-40'")
        .await
        .unwrap();
    for node in [fresh, unsure, quarantined, moved] {
        assert!(world.node(node).await.is_dirty());
        let outcome = forget(&world, node, PLAIN, 2).await;
        assert!(matches!(&outcome, ForgetOutcome::Dirty(it) if it.id == node), "{outcome:?}");
        is_forgotten(&world, node, FORCE, 3).await;
    }
    // What was forced away needs a join token.
    let mut again = world.registration(1);
    again.join_token_sha256 = None;
    again.node_token_sha256_presented = Some(again.new_node_token_sha256.clone());
    again.new_node_token_sha256 = sha(77);
    assert_eq!(world.store.nodes().register(&again).await.unwrap(), RegisterOutcome::BadNodeToken);
    again.join_token_sha256 = Some(sha(7));
    world.register(&again).await;
}

async fn nodes_that_are_dead_new_or_out_of_use_are_forgotten_at_once(world: World) {
    world.join_token().await;
    let reported = world.register(&world.registration(1)).await.id;
    let mut no_keys = world.registration(2);
    no_keys.host_keys.clear();
    let pending = world.register(&no_keys).await.id;
    let dead = world.free_node(3).await;
    world.set_health(dead, Health::Dead, at(1)).await;
    // The machine was set up anew: another key answers, and nothing can be done there.
    let another_key = world.free_node(4).await;
    world.set_health(another_key, Health::Suspect, at(1)).await;
    world
        .sql("UPDATE nodes SET desired_version = desired_version + 1 WHERE hostname = 'node-4'")
        .await
        .unwrap();
    let outcome = forget(&world, another_key, PLAIN, 2).await;
    assert!(matches!(outcome, ForgetOutcome::Dirty(_)), "before it is in quarantine");
    world.store.nodes().quarantine(another_key, "its host key changed", at(1)).await.unwrap().done().unwrap();
    let drained = world.free_node(5).await;
    world.store.nodes().drain(drained, &DrainRequest::default(), at(1)).await.unwrap().done().unwrap();
    world.store.nodes().finish_drain(drained, at(1)).await.unwrap().done().unwrap();
    for node in [reported, pending, dead, another_key, drained] {
        is_forgotten(&world, node, PLAIN, 3).await;
    }
    assert_eq!(world.count("SELECT COUNT(*) FROM nodes").await, 0);
}

async fn a_node_that_is_being_worked_on_is_forgotten_by_force_only(world: World) {
    let node = world.free_node(1).await;
    let claim = world.claim(node, at(1)).await;
    assert_eq!(forget(&world, node, PLAIN, 2).await, ForgetOutcome::Busy);
    is_forgotten(&world, node, FORCE, 3).await;
    assert!(
        !world.store.nodes().extend_claim(&claim, TTL, at(4)).await.unwrap(),
        "whoever works there stops"
    );
    // A claim that ran out keeps nothing.
    let node = world.free_node(2).await;
    world.claim(node, at(1)).await;
    is_forgotten(&world, node, PLAIN, 60).await;
}

async fn the_token_of_a_node_that_was_out_of_use_is_worth_nothing(world: World) {
    for (number, out_of_use) in [(1, "none"), (2, "quarantine"), (3, "drain")] {
        let node = world.free_node(number).await;
        match out_of_use {
            "quarantine" => {
                drop(world.store.nodes().quarantine(node, "odd", at(1)).await.unwrap().done().unwrap())
            }
            "drain" => drop(
                world
                    .store
                    .nodes()
                    .drain(node, &DrainRequest::default(), at(1))
                    .await
                    .unwrap()
                    .done()
                    .unwrap(),
            ),
            _ => {}
        }
        is_forgotten(&world, node, PLAIN, 2).await;
        let mut again = world.registration(number);
        again.join_token_sha256 = None;
        again.node_token_sha256_presented = Some(again.new_node_token_sha256.clone());
        again.new_node_token_sha256 = sha(70 + number);
        let outcome = world.store.nodes().register(&again).await.unwrap();
        if out_of_use == "none" {
            assert!(matches!(outcome, RegisterOutcome::Created(new) if new.id != node));
        } else {
            assert_eq!(outcome, RegisterOutcome::BadNodeToken, "{out_of_use}");
        }
    }
}

async fn a_token_that_was_forgotten_twice_is_remembered_once(world: World) {
    // Under one idempotency key a registration gives the same token each time.
    for second in [1, 2] {
        let node = world.free_node(1).await;
        is_forgotten(&world, node, PLAIN, second).await;
        assert_eq!(world.count("SELECT COUNT(*) FROM forgotten_nodes").await, 1);
    }
    let node = world.free_node(1).await;
    is_forgotten(&world, node, FORCE, 3).await;
    assert_eq!(world.count("SELECT COUNT(*) FROM forgotten_nodes").await, 0, "no back door is left");
}

async fn of_some_nodes_those_that_are_gone_are_found(world: World) {
    let nodes = world.free_nodes(3).await;
    is_forgotten(&world, nodes[1], PLAIN, 1).await;
    assert_eq!(world.store.nodes().gone(&nodes).await.unwrap(), [nodes[1]]);
    assert_eq!(world.store.nodes().gone(&[]).await.unwrap(), []);
    let many: Vec<NodeId> = (1_000_000..1_000_700).map(NodeId).chain(nodes.iter().copied()).collect();
    assert_eq!(world.store.nodes().gone(&many).await.unwrap().len(), 701);
}
