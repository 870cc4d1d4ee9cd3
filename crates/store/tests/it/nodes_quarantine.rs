//! A quarantine has a cause, a beginning and an end.

use crate::world::{Placed, TTL, World, at, on_both};
use orion_domain::{
    NodeId, Timestamp,
    lease::EndReason,
    node::{Node, QuarantineCause},
};
use orion_store::{Cas, MoveOutcome, MoveReason, MoveRequest};

on_both!(
    a_cause_that_passed_ends_the_quarantine_with_the_work_that_succeeds,
    what_an_admin_has_to_judge_is_ended_by_nobody_else,
    a_node_that_refuses_accounts_again_and_again_is_tried_after_growing_pauses,
    a_quarantined_node_that_is_clean_is_looked_at_when_its_pause_is_over,
    a_quarantine_of_an_older_version_has_a_cause,
    what_is_seen_of_many_nodes_at_once_quarantines_none_of_them,
);

async fn quarantined(
    world: &World,
    id: NodeId,
) -> (Option<String>, Option<QuarantineCause>, Option<Timestamp>) {
    let Node { quarantine, quarantine_cause, quarantine_since, .. } = world.node(id).await;
    (quarantine, quarantine_cause, quarantine_since)
}

async fn fail(world: &World, id: NodeId, cause: QuarantineCause, reason: &str, now: Timestamp) -> Node {
    let claim = world.claim(id, now).await;
    let failed = world.store.nodes().fail_reconcile(&claim, reason, now, Some(cause), now).await.unwrap();
    failed.done().expect("the claim holds")
}

async fn kinds(world: &World, id: NodeId) -> Vec<String> {
    let events = world.store.events().of_node(id, 100).await.unwrap();
    events.into_iter().map(|event| event.kind).filter(|kind| kind.contains("quarantine")).collect()
}

async fn a_cause_that_passed_ends_the_quarantine_with_the_work_that_succeeds(world: World) {
    for (number, cause) in [(1, QuarantineCause::Passing), (2, QuarantineCause::Cleaning)] {
        let node = world.alive_node_from(&world.registration(number)).await;
        fail(&world, node, cause, "files are locked", at(1)).await;
        assert_eq!(
            quarantined(&world, node).await,
            (Some("files are locked".into()), Some(cause), Some(at(1)))
        );
        fail(&world, node, cause, "files are locked by 7", at(2)).await;
        assert_eq!(quarantined(&world, node).await.2, Some(at(1)), "it has been out of use since then");
        world.clean(node, at(3)).await;
        assert_eq!(quarantined(&world, node).await, (None, None, None));
        assert!(world.node(node).await.is_offerable(), "no admin has to come");
        assert_eq!(
            kinds(&world, node).await,
            ["node.quarantined", "node.quarantined", "node.quarantine_ended"]
        );
        let told = world.store.events().of_node(node, 1).await.unwrap().remove(0);
        assert_eq!(
            (&told.data["reason"], &told.data["cause"]),
            (&"files are locked by 7".into(), &cause.as_str().into())
        );
    }
}

async fn what_an_admin_has_to_judge_is_ended_by_nobody_else(world: World) {
    let node = world.alive_node_from(&world.registration(1)).await;
    world.store.nodes().quarantine(node, "its host key changed", at(1)).await.unwrap().done().unwrap();
    fail(&world, node, QuarantineCause::Passing, "no room", at(2)).await;
    let is = (Some("its host key changed".into()), Some(QuarantineCause::Operator), Some(at(1)));
    assert_eq!(quarantined(&world, node).await, is, "a cause that passes does not take its place");
    world.clean(node, at(3)).await;
    assert_eq!(quarantined(&world, node).await, is);
    assert_eq!(world.store.nodes().dirty(at(9_999), 9).await.unwrap(), [], "and nobody tries on");
    world.store.nodes().lift_quarantine(node, at(4)).await.unwrap().done().unwrap();
    assert_eq!(quarantined(&world, node).await, (None, None, None));
    assert_eq!(kinds(&world, node).await, ["node.quarantined", "node.quarantine_lifted"]);
}

/// A lease is placed on the only node, which refuses, and ends. When the node is tried again at the earliest.
async fn refuse(world: &World, placed: Placed, node: NodeId, now: Timestamp) {
    let why = MoveReason::Refused("useradd: locked".into(), QuarantineCause::Passing);
    let request = MoveRequest {
        lease: placed.lease.id,
        away_from: node,
        claim_of_old: Some(&placed.claim),
        why,
        first_turn: TTL,
        now,
    };
    assert!(matches!(world.store.leases().migrate(&request).await.unwrap(), MoveOutcome::NoneFree { .. }));
    world.store.nodes().release_claim(&placed.claim, now).await.unwrap();
    world.store.leases().end(&[placed.lease.id], &EndReason::Released, None, now).await.unwrap();
}

async fn a_node_that_refuses_accounts_again_and_again_is_tried_after_growing_pauses(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let mut now = 10;
    for pause in [2, 4, 8] {
        let placed =
            world.place(&orion_store::PlaceRequest { now: at(now), ..world.wish(user, 1) }).await.remove(0);
        refuse(&world, placed, node, at(now)).await;
        // What the attempt left is removed at once; that it succeeds says nothing about accounts.
        world.clean(node, at(now)).await;
        assert!(quarantined(&world, node).await.0.is_some(), "not before the pause is over");
        assert_eq!(world.store.nodes().dirty(at(now + pause - 1), 9).await.unwrap(), []);
        assert_eq!(world.store.nodes().dirty(at(now + pause), 9).await.unwrap(), [node]);
        now += pause;
        world.clean(node, at(now)).await;
        assert!(world.node(node).await.is_offerable());
    }
    // One that was made ends the row.
    let lease = world.active_lease(&orion_store::PlaceRequest { now: at(now), ..world.wish(user, 1) }).await;
    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(now)).await.unwrap();
    world.clean(node, at(now)).await;
    let placed =
        world.place(&orion_store::PlaceRequest { now: at(now), ..world.wish(user, 1) }).await.remove(0);
    refuse(&world, placed, node, at(now)).await;
    world.clean(node, at(now)).await;
    assert_eq!(world.store.nodes().dirty(at(now + 2), 9).await.unwrap(), [node]);
    world.check_invariants().await;
}

async fn a_quarantined_node_that_is_clean_is_looked_at_when_its_pause_is_over(world: World) {
    let user = world.user("alice").await;
    let nodes = world.free_nodes(2).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let node = placed.claim.node.id;
    let why = MoveReason::Refused("useradd: locked".into(), QuarantineCause::Passing);
    let request = MoveRequest {
        lease: placed.lease.id,
        away_from: node,
        claim_of_old: Some(&placed.claim),
        why,
        first_turn: TTL,
        now: at(1),
    };
    let moved = world.store.leases().migrate(&request).await.unwrap();
    let MoveOutcome::Placed(next) = moved else { panic!("{moved:?}") };
    assert!(nodes.contains(&next.node()));
    world.clean(node, at(2)).await;
    assert!(!world.node(node).await.is_dirty() && quarantined(&world, node).await.0.is_some());
    let claim = world.claim(node, at(3)).await;
    let failed = world.store.nodes().fail_reconcile(
        &claim,
        "useradd: locked",
        at(7),
        Some(QuarantineCause::Passing),
        at(3),
    );
    failed.await.unwrap().done().unwrap();
    assert_eq!(world.store.nodes().dirty(at(6), 9).await.unwrap(), [], "it failed again, so later");
    assert_eq!(world.store.nodes().dirty(at(7), 9).await.unwrap(), [node]);
    world.clean(node, at(7)).await;
    assert!(world.node(node).await.is_offerable());
}

async fn a_quarantine_of_an_older_version_has_a_cause(world: World) {
    let node = world.free_node(1).await;
    let sql = format!("UPDATE nodes SET quarantine = 'odd', version = version + 1 WHERE id = {node}");
    world.sql(&sql).await.unwrap();
    assert_eq!(quarantined(&world, node).await, (Some("odd".into()), Some(QuarantineCause::Operator), None));
    let sql = format!("UPDATE nodes SET quarantine_cause = 'whim' WHERE id = {node}");
    assert!(world.sql(&sql).await.is_err(), "other causes are not kept");
}

async fn what_is_seen_of_many_nodes_at_once_quarantines_none_of_them(world: World) {
    let node = world.free_node(1).await;
    let known = world.store.cluster().brake().await.unwrap();
    let brake = world.store.cluster().engage_brake(&known, "s", "many", at(1)).await.unwrap().done().unwrap();
    let see = async |now| {
        world.store.nodes().quarantine_as_seen(node, "its host key is not the pinned one", now).await
    };
    assert_eq!(see(at(2)).await.unwrap(), Cas::Stale);
    assert_eq!(quarantined(&world, node).await, (None, None, None));
    world
        .store
        .cluster()
        .release_brake(brake.engaged.as_ref(), "over", None, at(3))
        .await
        .unwrap()
        .done()
        .unwrap();
    assert!(matches!(see(at(4)).await.unwrap(), Cas::Done(_)));
    assert_eq!(quarantined(&world, node).await.1, Some(QuarantineCause::Operator));
}
