//! Claims, epochs, and what a reconcile's result changes.

use crate::world::{TTL, World, at, on_both};
use orion_domain::{
    lease::{EndReason, LeaseState, Phase},
    node::QuarantineCause,
    reconcile::Desired,
};
use orion_store::{Cas, FinishReconcile, Unfinished};
use serde_json::json;
use std::time::Duration;

on_both!(
    a_claimed_node_is_not_claimed_again_until_the_claim_expires,
    a_claim_can_be_held_longer_and_given_back,
    the_result_of_a_lost_claim_changes_nothing,
    a_confirmed_account_makes_its_lease_active,
    what_changed_while_it_was_applied_leaves_the_node_dirty,
    a_lease_that_ends_while_its_account_is_made_does_not_become_active,
    where_containers_are_not_in_order_accounts_are_confirmed_and_nothing_ends,
    a_released_lease_ends_only_when_its_removal_was_applied,
    a_lease_released_before_the_claim_ends_although_the_node_is_dirty_again,
    a_node_is_reconciled_when_it_is_dirty_alive_admitted_and_nobodys,
    a_failure_pauses_the_node_and_may_quarantine_it,
    the_report_of_a_cleaning_is_kept_and_told,
    the_password_hash_is_wiped_at_the_end,
);

async fn a_claimed_node_is_not_claimed_again_until_the_claim_expires(world: World) {
    let node = world.free_node(1).await;
    let first = world.claim(node, at(10)).await;
    assert!(world.store.nodes().claim(node, "other", TTL, at(39)).await.unwrap().is_none());
    let second = world.store.nodes().claim(node, "other", TTL, at(40)).await.unwrap().unwrap();
    assert!(second.epoch > first.epoch, "{} > {}", second.epoch, first.epoch);
    assert_ne!(second.token, first.token);
    assert!(world.store.nodes().claim(orion_domain::NodeId(999), "x", TTL, at(40)).await.unwrap().is_none());
}

async fn a_claim_can_be_held_longer_and_given_back(world: World) {
    let node = world.free_node(1).await;
    let claim = world.claim(node, at(10)).await;
    assert!(world.store.nodes().extend_claim(&claim, TTL, at(30)).await.unwrap());
    assert!(world.store.nodes().claim(node, "other", TTL, at(59)).await.unwrap().is_none());
    world.store.nodes().release_claim(&claim, at(59)).await.unwrap();
    let other = world.store.nodes().claim(node, "other", TTL, at(59)).await.unwrap().unwrap();
    assert!(!world.store.nodes().extend_claim(&claim, TTL, at(59)).await.unwrap(), "it was given back");
    world.store.nodes().release_claim(&claim, at(59)).await.unwrap();
    assert!(
        world.store.nodes().extend_claim(&other, TTL, at(60)).await.unwrap(),
        "the other's claim still holds"
    );
}

async fn the_result_of_a_lost_claim_changes_nothing(world: World) {
    let user = world.user("alice").await;
    world.free_node(1).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let node = placed.claim.node.id;
    let newer = world.claim(node, at(60)).await;
    let before = (world.node(node).await, world.lease(placed.lease.id).await);
    let result = FinishReconcile {
        applied_version: placed.claim.desired_version,
        ready: vec![(placed.lease.id, None)],
        report: Some(json!({ "removed": 1 })),
        ..FinishReconcile::default()
    };
    assert_eq!(
        world.store.nodes().finish_reconcile(&placed.claim, &result, at(61)).await.unwrap(),
        Cas::Stale
    );
    let failed = world
        .store
        .nodes()
        .fail_reconcile(&placed.claim, "x", at(99), Some(QuarantineCause::Passing), at(61))
        .await
        .unwrap();
    assert_eq!(failed, Cas::Stale);
    assert_eq!(before, (world.node(node).await, world.lease(placed.lease.id).await));
    assert_eq!(world.kinds_of_lease(placed.lease.id).await, ["lease.placed"]);
    assert_eq!(world.finish(&newer, at(62)).await.activated, [placed.lease.id]);
}

async fn a_confirmed_account_makes_its_lease_active(world: World) {
    let user = world.user("alice").await;
    world.free_node(1).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let result = FinishReconcile {
        applied_version: placed.claim.desired_version,
        ready: vec![(placed.lease.id, Some(at(3600)))],
        subordinate: Some(vec![(100_000, 65_536)]),
        ..FinishReconcile::default()
    };
    let finished =
        world.store.nodes().finish_reconcile(&placed.claim, &result, at(1)).await.unwrap().done().unwrap();
    assert_eq!((finished.activated, finished.ended), (vec![placed.lease.id], vec![]));
    let (lease, node) = (world.lease(placed.lease.id).await, world.node(placed.claim.node.id).await);
    assert_eq!(lease.state, LeaseState::Active { node: node.id });
    assert_eq!((lease.since, lease.deadline_applied), (at(1), Some(at(3600))));
    assert!(!node.is_dirty());
    assert_eq!((node.claimed_until, node.subordinate_uids), (None, vec![(100_000, 65_536)]));
    assert_eq!(world.kinds_of_lease(lease.id).await, ["lease.placed", "lease.active"]);
    assert_eq!(world.clean(node.id, at(2)).await.activated, [], "a second confirmation is no transition");
    world.check_invariants().await;
}

async fn what_changed_while_it_was_applied_leaves_the_node_dirty(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let claim = world.claim(node, at(10)).await;
    let (extended, none) =
        world.store.leases().extend(lease.id, at(7200), "api", TTL, at(11)).await.unwrap().done().unwrap();
    assert!(none.is_none(), "the node is claimed by somebody else");
    assert_eq!(extended.until, at(7200));
    world.finish(&claim, at(12)).await;
    let after = world.node(node).await;
    assert!(after.is_dirty());
    assert_eq!(after.applied_version, claim.desired_version);
    assert_eq!(
        world.lease(lease.id).await.deadline_applied,
        Some(at(3600)),
        "the node knows the old end only"
    );
    assert_eq!(world.store.nodes().dirty(at(12), 10).await.unwrap(), [node]);
    world.clean(node, at(13)).await;
    assert!(!world.node(node).await.is_dirty());
    assert_eq!(world.lease(lease.id).await.deadline_applied, Some(at(7200)));
}

async fn a_lease_that_ends_while_its_account_is_made_does_not_become_active(world: World) {
    let user = world.user("alice").await;
    world.free_node(1).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let (id, node) = (placed.lease.id, placed.claim.node.id);
    assert_eq!(world.store.leases().end(&[id], &EndReason::Released, Some(user), at(1)).await.unwrap(), [id]);
    assert_eq!(world.finish(&placed.claim, at(2)).await, orion_store::Finished::default());
    assert_eq!(world.lease(id).await.state.phase(), Phase::Releasing);
    assert!(world.node(node).await.is_dirty());
    let claim = world.claim(node, at(3)).await;
    assert_eq!(claim.desired, [] as [Desired; 0]);
    assert_eq!(claim.retiring, [(id, placed.lease.account)]);
    assert_eq!(world.finish(&claim, at(4)).await.ended, [id]);
    world.check_invariants().await;
}

async fn where_containers_are_not_in_order_accounts_are_confirmed_and_nothing_ends(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let (claim, placed) = (placed.claim, placed.lease);
    let unfinished = |retry_at| FinishReconcile {
        unfinished: Some(Unfinished { reason: "the engine does not answer".into(), retry_at }),
        ..FinishReconcile::default()
    };
    let result = FinishReconcile {
        applied_version: claim.desired_version,
        ready: vec![(placed.id, None)],
        ..unfinished(at(20))
    };
    let finished =
        world.store.nodes().finish_reconcile(&claim, &result, at(2)).await.unwrap().done().unwrap();
    assert_eq!(finished.activated, [placed.id]);
    let after = world.node(node).await;
    assert!(after.applied_version < after.desired_version && after.claimed_until.is_none());
    assert_eq!(after.reconcile_failures, 1);
    assert_eq!(world.store.nodes().dirty(at(19), 9).await.unwrap(), [], "not before its time");
    assert_eq!(world.store.nodes().dirty(at(20), 9).await.unwrap(), [node]);
    world.store.leases().end(&[placed.id], &EndReason::Released, None, at(21)).await.unwrap();
    let claim = world.claim(node, at(21)).await;
    let result = FinishReconcile { applied_version: claim.desired_version, ..unfinished(at(30)) };
    let finished =
        world.store.nodes().finish_reconcile(&claim, &result, at(22)).await.unwrap().done().unwrap();
    assert_eq!(finished.ended, [], "something of it may be there");
    assert_eq!(world.clean(node, at(31)).await.ended, [placed.id]);
    world.check_invariants().await;
}

async fn a_released_lease_ends_only_when_its_removal_was_applied(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let claim = world.claim(node, at(10)).await;
    world.store.leases().end(&[lease.id], &EndReason::Expired, None, at(11)).await.unwrap();
    // Its holder gave up on the account and reports only a version: it was read before the release.
    let result = FinishReconcile { applied_version: claim.desired_version, ..FinishReconcile::default() };
    let finished =
        world.store.nodes().finish_reconcile(&claim, &result, at(12)).await.unwrap().done().unwrap();
    assert_eq!(finished.ended, []);
    assert_eq!(world.lease(lease.id).await.state.phase(), Phase::Releasing);
    assert_eq!(world.clean(node, at(13)).await.ended, [lease.id]);
    let lease = world.lease(lease.id).await;
    assert_eq!(lease.state, LeaseState::Ended { reason: EndReason::Expired });
    assert!(world.node(node).await.is_offerable());
    let history = world.store.leases().history(lease.id).await.unwrap();
    assert_eq!((history.len(), history[0].node, history[0].left_at), (1, node, Some(at(13))));
    world.check_invariants().await;
}

async fn a_lease_released_before_the_claim_ends_although_the_node_is_dirty_again(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(1)).await.unwrap();
    let claim = world.claim(node, at(2)).await;
    world.store.nodes().quarantine(node, "test", at(2)).await.unwrap();
    world.store.nodes().lift_quarantine(node, at(2)).await.unwrap().done().unwrap();
    assert_eq!(world.finish(&claim, at(3)).await.ended, [lease.id]);
    let node = world.node(node).await;
    assert!(node.is_dirty() && node.whole_lease.is_none());
}

async fn a_node_is_reconciled_when_it_is_dirty_alive_admitted_and_nobodys(world: World) {
    let dirty = world.alive_node_from(&world.registration(1)).await;
    world.free_node(2).await;
    assert_eq!(world.store.nodes().dirty(at(1), 10).await.unwrap(), [dirty]);
    for spoiler in ["health = 'suspect'", "admission = 'reported'", "retry_at = 1800000002000000"] {
        world.sql(&format!("UPDATE nodes SET {spoiler} WHERE id = {dirty}")).await.unwrap();
        assert_eq!(world.store.nodes().dirty(at(1), 10).await.unwrap(), [], "although {spoiler}");
        let sql = format!(
            "UPDATE nodes SET health = 'alive', admission = 'admitted', retry_at = 0 WHERE id = {dirty}"
        );
        world.sql(&sql).await.unwrap();
    }
    let claim = world.claim(dirty, at(1)).await;
    assert_eq!(world.store.nodes().dirty(at(2), 10).await.unwrap(), []);
    assert_eq!(world.store.nodes().dirty(at(31), 10).await.unwrap(), [dirty], "the claim expired");
    world.finish(&claim, at(31)).await;
    assert_eq!(world.store.nodes().dirty(at(31), 10).await.unwrap(), []);
}

async fn a_failure_pauses_the_node_and_may_quarantine_it(world: World) {
    let node = world.alive_node_from(&world.registration(1)).await;
    let claim = world.claim(node, at(1)).await;
    let after =
        world.store.nodes().fail_reconcile(&claim, "useradd: no space", at(9), None, at(2)).await.unwrap();
    let after = after.done().unwrap();
    assert_eq!((after.reconcile_failures, after.quarantine, after.claimed_until), (1, None, None));
    assert_eq!(world.store.nodes().dirty(at(8), 10).await.unwrap(), []);
    assert_eq!(world.store.nodes().dirty(at(9), 10).await.unwrap(), [node]);
    let claim = world.claim(node, at(9)).await;
    let after = world
        .store
        .nodes()
        .fail_reconcile(&claim, "read-only", at(9), Some(QuarantineCause::Passing), at(9))
        .await
        .unwrap()
        .done()
        .unwrap();
    assert_eq!((after.reconcile_failures, after.quarantine.as_deref()), (2, Some("read-only")));
    world.clean(node, at(10)).await;
    assert_eq!(world.node(node).await.reconcile_failures, 0);
    let kinds: Vec<String> =
        world.store.events().of_node(node, 100).await.unwrap().into_iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds[4..],
        ["node.reconcile_failed", "node.quarantined", "node.quarantine_ended"],
        "{kinds:?}"
    );
}

async fn the_report_of_a_cleaning_is_kept_and_told(world: World) {
    let node = world.alive_node_from(&world.registration(1)).await;
    let claim = world.claim(node, at(1)).await;
    let report = json!({ "accounts": ["bob"], "processes": 3 });
    let result = FinishReconcile {
        applied_version: claim.desired_version,
        report: Some(report.clone()),
        ..FinishReconcile::default()
    };
    world.store.nodes().finish_reconcile(&claim, &result, at(2)).await.unwrap().done().unwrap();
    assert_eq!(world.node(node).await.last_clean_report, Some(report.clone()));
    let event = world.store.events().of_node(node, 1).await.unwrap().remove(0);
    assert_eq!((event.kind.as_str(), event.data), ("node.cleaned", report));
    world.clean(node, at(3)).await;
    assert!(world.node(node).await.last_clean_report.is_some(), "a quiet pass does not wipe it");
}

async fn the_password_hash_is_wiped_at_the_end(world: World) {
    let user = world.user("alice").await;
    world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    assert_eq!(lease.account.as_ref().unwrap().password_hash.expose(), "$6$salt$hash");
    let claim =
        world.store.leases().release_and_claim(lease.id, &EndReason::Released, Some(user), "a", TTL, at(1));
    let claim = claim.await.unwrap().done().unwrap().unwrap();
    world.finish(&claim, at(1).plus(Duration::from_millis(200))).await;
    assert_eq!(world.lease(lease.id).await.account.as_ref().unwrap().password_hash.expose(), "");
    let keeps = format!("UPDATE leases SET password_hash = 'x' WHERE id = {}", lease.id);
    assert!(world.sql(&keeps).await.is_err(), "the schema refuses a hash on an ended lease");
}
