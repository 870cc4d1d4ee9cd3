//! Leases that wait for a node: stored, begun, ended, and seen by nobody as on a node.

use crate::world::{TTL, World, at, lease_refuses, on_both};
use orion_domain::{
    LeaseId,
    lease::{EndReason, Lease, LeaseState, Phase},
};
use orion_store::{Cas, PlaceOutcome, Start, Step};

on_both!(
    a_lease_is_requested_approved_begun_and_works,
    a_queued_lease_takes_a_node_as_soon_as_one_is_free,
    a_lease_that_waits_ends_at_once_and_at_its_time,
    leases_that_wait_hold_no_node_and_count_for_no_quota_of_nodes,
);

async fn waiting(world: &World, start: &Start) -> Lease {
    let user = match world.store.accounts().by_name("alice").await.unwrap() {
        Some(user) => user.id,
        None => world.user("alice").await,
    };
    world.store.leases().wait(&world.wish(user, 1), start).await.unwrap().unwrap().remove(0)
}

async fn begun(world: &World, lease: LeaseId, second: i64) {
    let Cas::Done(Some(placement)) = world.store.leases().begin(lease, TTL, at(second)).await.unwrap() else {
        panic!("a node is free")
    };
    assert_eq!(placement.lease, world.lease(lease).await);
    let placed = world.claim_placed(placement, at(second)).await;
    assert_eq!(world.finish(&placed.claim, at(second)).await.activated, [lease]);
}

async fn a_lease_is_requested_approved_begun_and_works(world: World) {
    let node = world.free_node(1).await;
    let lease = waiting(&world, &Start::Requested).await;
    assert_eq!((&lease.state, &world.lease(lease.id).await), (&LeaseState::Requested, &lease));
    let begin = || world.store.leases().begin(lease.id, TTL, at(1));
    assert_eq!(begin().await.unwrap(), lease_refuses("requested", "begun"), "nobody has approved it");
    let approve = || world.store.leases().step(lease.id, &Step::Approve, Some(lease.user), at(1));
    let approved = approve().await.unwrap().done().unwrap();
    assert_eq!(approved.state, LeaseState::Scheduled { reason: None });
    assert_eq!(approve().await.unwrap(), lease_refuses("scheduled", "approved"), "once");
    world.check_invariants().await;
    let waits =
        world.store.leases().set_waiting(lease.id, "no node fits", at(2)).await.unwrap().done().unwrap();
    assert_eq!(waits, world.lease(lease.id).await);
    begun(&world, lease.id, 3).await;
    assert_eq!(world.lease(lease.id).await.state, LeaseState::Active { node });
    let kinds = ["lease.requested", "lease.scheduled", "lease.waiting", "lease.placed", "lease.active"];
    assert_eq!(world.kinds_of_lease(lease.id).await, kinds);
    world.check_invariants().await;
    let told = world.store.admin().audit(orion_store::Scope::All, at(3)).await.unwrap();
    assert!(!told.iter().any(|finding| finding.lease == Some(lease.id)), "{told:?}");
}

async fn a_queued_lease_takes_a_node_as_soon_as_one_is_free(world: World) {
    let lease = waiting(&world, &Start::Queued("no room".into())).await;
    assert_eq!(world.store.leases().begin(lease.id, TTL, at(1)).await.unwrap(), Cas::Done(None));
    assert_eq!(world.lease(lease.id).await, lease, "nothing was written");
    world.free_node(1).await;
    begun(&world, lease.id, 2).await;
    world.check_invariants().await;
}

async fn a_lease_that_waits_ends_at_once_and_at_its_time(world: World) {
    for start in [Start::Requested, Start::Scheduled, Start::Queued("no room".into())] {
        let lease = waiting(&world, &start).await;
        assert_eq!(world.store.leases().due(at(3599), 9).await.unwrap(), []);
        assert_eq!(world.store.leases().next_due(at(1)).await.unwrap(), Some(at(3600)));
        assert_eq!(world.store.leases().due(at(3600), 9).await.unwrap()[0].id, lease.id);
        let expired = EndReason::Expired;
        let ended = world.store.leases().release_and_claim(lease.id, &expired, None, "s", TTL, at(3600));
        assert_eq!(ended.await.unwrap(), Cas::Done(None));
        let ended = world.lease(lease.id).await;
        assert_eq!((ended.state, ended.name), (LeaseState::Ended { reason: expired }, lease.name));
        assert_eq!(world.kinds_of_lease(lease.id).await.last().unwrap(), "lease.ended");
    }
    world.check_invariants().await;
}

async fn leases_that_wait_hold_no_node_and_count_for_no_quota_of_nodes(world: World) {
    let lease = waiting(&world, &Start::Scheduled).await;
    world.free_node(1).await;
    let row = world.store.leases().with_node(lease.id).await.unwrap().unwrap();
    assert_eq!((row.node, row.lease.state.phase()), (None, Phase::Scheduled));
    let listed = world.store.leases().list(Some(lease.user), false, LeaseId(0), 9).await.unwrap();
    assert_eq!(listed.len(), 1, "it is not over");
    assert_eq!(world.store.accounts().live_leases(lease.user).await.unwrap(), 0);
    let mut wish = world.wish(lease.user, 1);
    wish.nodes_max = Some(1);
    assert!(matches!(world.store.leases().place(&wish).await.unwrap(), PlaceOutcome::Placed(_)));
    world.check_invariants().await;
    let occupied = format!("UPDATE leases SET occupies_node = 1 WHERE id = {}", lease.id);
    world.sql(&occupied).await.expect_err("it holds no node");
}
