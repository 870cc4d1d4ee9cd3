//! A database that is older than its nodes: what they remember raises it, and nothing else does.

use crate::world::{FIRST_UID, TTL, World, at, on_both};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    lease::{EndReason, Phase},
    names::UnixName,
    reconcile::Desired,
};
use orion_store::{
    AfterRestore, ClaimRenewed, HighWaterCompared, HighWaterMarks, NodeClaim, RestoreSettled, UidRange,
};
use std::time::Duration;

on_both!(
    a_node_that_remembers_no_more_than_the_database_changes_nothing,
    an_epoch_that_only_the_node_has_seen_raises_the_databases_and_makes_the_node_dirty,
    a_uid_that_only_a_node_has_seen_is_never_given_out,
    what_many_say_at_once_is_raised_once,
    a_holder_who_was_taken_over_raises_nothing,
    a_claim_that_a_node_refuses_for_its_epoch_goes_on_above_it,
    a_claim_whose_epoch_another_has_raised_meanwhile_goes_on,
    a_claim_that_goes_on_is_for_what_the_node_should_hold_now,
    a_new_lease_whose_uid_was_used_gets_another,
    a_new_lease_whose_name_has_rights_on_its_node_gets_an_account_of_another_name,
    another_uid_lies_in_no_subordinate_range_of_the_node,
    only_a_new_lease_under_its_own_claim_gets_another_uid,
    a_node_that_remembers_what_cannot_be_is_not_believed,
    one_node_raises_the_uids_once_a_day_and_again_after_a_restore,
    after_a_restore_nothing_is_believed_and_nothing_is_given_out_twice,
    after_a_restore_may_be_said_again,
    a_database_in_use_is_not_settled,
    more_uids_than_there_are_are_not_left_out,
);

const UIDS: UidRange = UidRange { first: FIRST_UID, last: 60_000_000 };

async fn epoch(world: &World, node: NodeId) -> u64 {
    let epoch = world.count(&format!("SELECT epoch FROM nodes WHERE id = {node}")).await;
    u64::try_from(epoch).unwrap()
}

async fn next_uid(world: &World) -> u32 {
    world.store.cluster().get_setting("next_uid").await.unwrap().unwrap().parse().unwrap()
}

async fn events(world: &World, kind: &str) -> i64 {
    world.count(&format!("SELECT COUNT(*) FROM events WHERE kind = '{kind}'")).await
}

async fn compare(
    world: &World,
    node: NodeId,
    epoch: u64,
    highest_uid: u32,
    now: Timestamp,
) -> HighWaterCompared {
    world
        .store
        .nodes()
        .reconcile_high_water(node, HighWaterMarks { epoch, highest_uid }, UIDS, now)
        .await
        .unwrap()
}

fn claim_of(renewed: ClaimRenewed) -> NodeClaim {
    match renewed {
        ClaimRenewed::Renewed(claim) => *claim,
        other => panic!("{other:?}"),
    }
}

async fn a_node_that_remembers_no_more_than_the_database_changes_nothing(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let (before, uid) = (world.node(node).await, next_uid(&world).await);
    let seen = epoch(&world, node).await;
    assert_eq!(
        compare(&world, node, seen, lease.account.as_ref().unwrap().uid, at(10)).await,
        HighWaterCompared::Known
    );
    assert_eq!(compare(&world, node, 0, 0, at(10)).await, HighWaterCompared::Known);
    assert_eq!(compare(&world, node, 0, 5_000, at(10)).await, HighWaterCompared::Known, "no uid of Orion's");
    assert_eq!(compare(&world, NodeId(999), seen + 1, 0, at(10)).await, HighWaterCompared::Gone);
    assert_eq!((world.node(node).await, next_uid(&world).await), (before, uid));
}

async fn an_epoch_that_only_the_node_has_seen_raises_the_databases_and_makes_the_node_dirty(world: World) {
    let node = world.free_node(1).await;
    let seen = epoch(&world, node).await + 40;
    let raised = compare(&world, node, seen, 0, at(10)).await;
    assert_eq!(raised, HighWaterCompared::Raised { epoch: Some(seen + 1), next_uid: None });
    assert!(world.node(node).await.is_dirty(), "it is looked at before it is offered");
    assert_eq!(world.store.nodes().dirty(at(10), 10).await.unwrap(), [node]);
    assert_eq!(events(&world, "node.epoch_raised").await, 1);
    assert!(world.claim(node, at(11)).await.epoch > seen);
    assert_eq!(compare(&world, node, seen, 0, at(12)).await, HighWaterCompared::Known, "once is enough");
}

async fn a_uid_that_only_a_node_has_seen_is_never_given_out(world: World) {
    let user = world.user("alice").await;
    let nodes = world.free_nodes(3).await;
    let known = world.active_lease(&world.wish(user, 1)).await.account.as_ref().unwrap().uid;
    let raised = compare(&world, nodes[0], 0, known + 7, at(10)).await;
    assert_eq!(raised, HighWaterCompared::Raised { epoch: None, next_uid: Some(known + 8) });
    assert_eq!(events(&world, "uids.raised").await, 1);
    for placement in world.place(&world.wish(user, 2)).await {
        assert!(
            placement.lease.account.as_ref().unwrap().uid > known + 7,
            "{}",
            placement.lease.account.as_ref().unwrap().uid
        );
    }
    world.check_invariants().await;
}

async fn what_many_say_at_once_is_raised_once(world: World) {
    let node = world.free_node(1).await;
    let memory = HighWaterMarks { epoch: epoch(&world, node).await + 9, highest_uid: FIRST_UID + 9 };
    let mut said = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = world.store.clone();
        said.spawn(
            async move { store.nodes().reconcile_high_water(node, memory, UIDS, at(10)).await.unwrap() },
        );
    }
    let raised = said.join_all().await;
    let raised = raised.iter().filter(|outcome| **outcome != HighWaterCompared::Known).count();
    assert_eq!(raised, 1);
    assert_eq!((events(&world, "node.epoch_raised").await, events(&world, "uids.raised").await), (1, 1));
    assert_eq!((epoch(&world, node).await, next_uid(&world).await), (memory.epoch + 1, FIRST_UID + 10));
}

/// The normal race: somebody paused, and wakes when another has the node.
async fn a_holder_who_was_taken_over_raises_nothing(world: World) {
    let node = world.free_node(1).await;
    let late = world.claim(node, at(10)).await;
    let other = world.store.nodes().claim(node, "other", TTL, at(40)).await.unwrap().unwrap();
    let before = world.node(node).await;
    for seen in [other.epoch, other.epoch + 1000] {
        let renewed = world.store.nodes().renew_epoch(&late, seen, at(41)).await.unwrap();
        assert_eq!(renewed, ClaimRenewed::Superseded);
    }
    // A refusal for an epoch that is not above its own makes no sense, and raises nothing either.
    for seen in [0, other.epoch] {
        let renewed = world.store.nodes().renew_epoch(&other, seen, at(41)).await.unwrap();
        assert_eq!(renewed, ClaimRenewed::Superseded);
    }
    assert_eq!(world.node(node).await, before);
    assert_eq!(epoch(&world, node).await, other.epoch);
    assert_eq!(events(&world, "node.epoch_raised").await, 0);
}

async fn a_claim_that_a_node_refuses_for_its_epoch_goes_on_above_it(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let seen = placed.claim.epoch + 500;
    let claim = claim_of(world.store.nodes().renew_epoch(&placed.claim, seen, at(1)).await.unwrap());
    assert!(claim.epoch > seen);
    assert_eq!((&claim.token, &claim.desired), (&placed.claim.token, &placed.claim.desired));
    assert_eq!(events(&world, "node.epoch_raised").await, 1);
    let finished = world.finish(&claim, at(2)).await;
    assert_eq!(finished.activated, [placed.lease.id]);
    assert!(!world.node(node).await.is_dirty());
    world.check_invariants().await;
}

async fn a_claim_whose_epoch_another_has_raised_meanwhile_goes_on(world: World) {
    let node = world.free_node(1).await;
    let claim = world.claim(node, at(10)).await;
    let seen = claim.epoch + 500;
    compare(&world, node, seen, 0, at(11)).await;
    let renewed = claim_of(world.store.nodes().renew_epoch(&claim, seen, at(12)).await.unwrap());
    assert!(renewed.epoch > seen && renewed.token == claim.token);
    assert_eq!(events(&world, "node.epoch_raised").await, 1, "it was raised once");
    world.finish(&renewed, at(13)).await;
    assert!(!world.node(node).await.is_dirty());
}

async fn a_claim_that_goes_on_is_for_what_the_node_should_hold_now(world: World) {
    let user = world.user("alice").await;
    world.free_node(1).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let ended =
        world.store.leases().end(&[placed.lease.id], &EndReason::Released, None, at(1)).await.unwrap();
    assert_eq!(ended, [placed.lease.id]);
    let seen = placed.claim.epoch + 1;
    let claim = claim_of(world.store.nodes().renew_epoch(&placed.claim, seen, at(2)).await.unwrap());
    assert_eq!(claim.desired, [] as [Desired; 0]);
    assert_eq!(claim.retiring[0].0, placed.lease.id);
}

async fn a_new_lease_whose_uid_was_used_gets_another(world: World) {
    let user = world.user("alice").await;
    world.free_node(1).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let (lease, first) = (placed.lease.id, placed.lease.account.as_ref().unwrap().uid);

    // The node has seen no more than the database gave out: only this lease gets another one.
    let renewed = world.store.nodes().renew_uid(&placed.claim, lease, first, UIDS, at(1)).await.unwrap();
    let second = claim_of(renewed);
    assert_eq!(second.desired[0].account.as_ref().unwrap().uid, first + 1);
    assert_eq!(events(&world, "uids.raised").await, 0);

    // It has seen more: everybody gets higher ones from now on.
    let renewed = world.store.nodes().renew_uid(&second, lease, first + 50, UIDS, at(2)).await.unwrap();
    let third = claim_of(renewed);
    assert_eq!(third.desired[0].account.as_ref().unwrap().uid, first + 51);
    assert_eq!(
        (world.lease(lease).await.account.as_ref().unwrap().uid, next_uid(&world).await),
        (first + 51, first + 52)
    );
    assert_eq!(events(&world, "uids.raised").await, 1);
    assert_eq!(world.kinds_of_lease(lease).await, ["lease.placed", "lease.new_uid", "lease.new_uid"]);
    assert_eq!(world.finish(&third, at(3)).await.activated, [lease]);
    world.check_invariants().await;
}

async fn a_new_lease_whose_name_has_rights_on_its_node_gets_an_account_of_another_name(world: World) {
    let user = world.user("alice").await;
    let nodes = world.free_nodes(2).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let lease = placed.lease.id;
    let renamed =
        world.store.nodes().rename_account(&placed.claim, lease, "sudoers names it", at(1)).await.unwrap();
    let claim = claim_of(renamed);
    let expected = UnixName::of_uid(placed.lease.account.as_ref().unwrap().uid);
    assert_eq!(claim.desired[0].account.as_ref().unwrap().user, expected);
    assert_eq!(world.kinds_of_lease(lease).await, ["lease.placed", "lease.new_account"]);
    assert_eq!(world.finish(&claim, at(2)).await.activated, [lease]);
    // A login that works keeps its name, whoever asks.
    let again = world.store.nodes().rename_account(&claim, lease, "sudoers names it", at(3)).await.unwrap();
    assert!(matches!(again, ClaimRenewed::Superseded), "{again:?}");
    assert_eq!(world.lease(lease).await.account.as_ref().unwrap().user, expected);
    // Nor does a claim that was lost rename anything.
    let second = world.place(&world.wish(user, 1)).await.remove(0);
    assert!(nodes.contains(&second.claim.node.id));
    world.store.nodes().release_claim(&second.claim, at(4)).await.unwrap();
    let late = world.store.nodes().rename_account(&second.claim, second.lease.id, "", at(5)).await.unwrap();
    assert!(matches!(late, ClaimRenewed::Superseded), "{late:?}");
    assert_eq!(
        world.lease(second.lease.id).await.account.as_ref().unwrap().user,
        second.lease.account.as_ref().unwrap().user
    );
    world.check_invariants().await;
}

async fn another_uid_lies_in_no_subordinate_range_of_the_node(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    world.set_subordinate(node, &[(FIRST_UID + 1, 65_536)], at(0)).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let first = placed.lease.account.as_ref().unwrap().uid;
    assert_eq!(first, FIRST_UID);
    let renewed =
        world.store.nodes().renew_uid(&placed.claim, placed.lease.id, first, UIDS, at(1)).await.unwrap();
    assert_eq!(claim_of(renewed).desired[0].account.as_ref().unwrap().uid, FIRST_UID + 1 + 65_536);
}

async fn only_a_new_lease_under_its_own_claim_gets_another_uid(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(2).await;
    let active = world.active_lease(&world.wish(user, 1)).await;
    let claim = world.claim(active.state.occupies().unwrap(), at(5)).await;
    let renewed = |claim: NodeClaim, lease: LeaseId| {
        let store = world.store.clone();
        async move { store.nodes().renew_uid(&claim, lease, FIRST_UID + 90, UIDS, at(6)).await.unwrap() }
    };
    assert_eq!(renewed(claim.clone(), active.id).await, ClaimRenewed::Superseded, "its login works");
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    assert_eq!(renewed(claim, placed.lease.id).await, ClaimRenewed::Superseded, "it is on another node");
    world.store.nodes().release_claim(&placed.claim, at(6)).await.unwrap();
    assert_eq!(renewed(placed.claim, placed.lease.id).await, ClaimRenewed::Superseded, "the claim was lost");
    assert_eq!(world.lease(active.id).await, active);
    assert_eq!(
        world.lease(placed.lease.id).await.account.as_ref().unwrap().uid,
        placed.lease.account.as_ref().unwrap().uid
    );
    assert_eq!(events(&world, "uids.raised").await, 0, "what was not done was not told");
}

async fn a_node_that_remembers_what_cannot_be_is_not_believed(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(2).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let node = placed.claim.node.id;
    let (before, uid) = (world.node(node).await, next_uid(&world).await);
    let day = 24 * 3600 * 1000;
    let far = u64::try_from(at(0).as_micros() / 1000).unwrap() + day + 1;
    let impossible = |outcome: HighWaterCompared| match outcome {
        HighWaterCompared::Impossible(why) => why,
        other => panic!("{other:?}"),
    };
    assert!(impossible(compare(&world, node, far, 0, at(0)).await).contains("/var/lib/orion/epoch"));
    for highest in [UIDS.last, u32::MAX, uid + 1_000_000] {
        let why = impossible(compare(&world, node, 0, highest, at(0)).await);
        assert!(why.contains("after-restore") && why.contains("/var/lib/orion/highest_uid"), "{why}");
        let renewed = world
            .store
            .nodes()
            .renew_uid(&placed.claim, placed.lease.id, highest, UIDS, at(0))
            .await
            .unwrap();
        assert!(matches!(renewed, ClaimRenewed::Impossible(_)), "{renewed:?}");
    }
    let renewed = world.store.nodes().renew_epoch(&placed.claim, far, at(0)).await.unwrap();
    assert!(matches!(renewed, ClaimRenewed::Impossible(_)), "{renewed:?}");
    assert_eq!((world.node(node).await, next_uid(&world).await), (before, uid));
    let just = compare(&world, node, far - 1, uid + 999_999, at(0)).await;
    assert!(matches!(just, HighWaterCompared::Raised { epoch: Some(_), next_uid: Some(_) }), "{just:?}");
}

async fn one_node_raises_the_uids_once_a_day_and_again_after_a_restore(world: World) {
    let nodes = world.free_nodes(2).await;
    let day = 24 * 3600;
    let raised = |outcome: HighWaterCompared| matches!(outcome, HighWaterCompared::Raised { .. });
    assert!(raised(compare(&world, nodes[0], 0, FIRST_UID + 10, at(0)).await));
    let again = compare(&world, nodes[0], 0, FIRST_UID + 20, at(day - 1)).await;
    assert!(matches!(again, HighWaterCompared::Impossible(_)), "{again:?}");
    assert!(raised(compare(&world, nodes[1], 0, FIRST_UID + 20, at(day - 1)).await), "another node may");
    assert!(raised(compare(&world, nodes[0], 0, FIRST_UID + 30, at(day + 1)).await));
    settle(&world, 5, at(day + 2)).await;
    let next = next_uid(&world).await;
    assert!(raised(compare(&world, nodes[0], 0, next, at(day + 3)).await));
}

async fn settle(world: &World, uids_left_out: u32, now: Timestamp) -> RestoreSettled {
    let order = AfterRestore { uids_left_out, uids: UIDS, token_key: "jwt-key", now };
    world.store.admin().after_restore(&order).await.unwrap()
}

async fn after_a_restore_nothing_is_believed_and_nothing_is_given_out_twice(world: World) {
    let user = world.user("alice").await;
    let nodes = world.free_nodes(3).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    world.store.cluster().put_sealed_if_absent("jwt-key", b"sealed").await.unwrap();
    world.store.cluster().put_sealed_if_absent("control-ca", b"sealed").await.unwrap();
    world.store.cluster().heartbeat("gone", "api", at(10)).await.unwrap();
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let last_event = world.count("SELECT MAX(id) FROM events").await;
    let before = next_uid(&world).await;

    let settled = settle(&world, 1000, at(60)).await;
    let expected =
        RestoreSettled::Settled { nodes: 3, leases: 2, uid_before: before, next_uid: before + 1000 };
    assert_eq!(settled, expected);
    for id in &nodes {
        let node = world.node(*id).await;
        assert!(node.is_dirty() && node.claimed_until.is_none(), "{node:?}");
        let floor = u64::try_from(at(60).as_micros() / 1000).unwrap();
        assert!(epoch(&world, *id).await >= floor);
        let link_epoch = world.count(&format!("SELECT link_epoch FROM nodes WHERE id = {id}")).await;
        assert!(u64::try_from(link_epoch).unwrap() >= floor, "{link_epoch}");
    }
    assert!(
        !world.store.nodes().extend_claim(&placed.claim, TTL, at(61)).await.unwrap(),
        "the claim is void"
    );
    assert_eq!(world.store.cluster().get_sealed("jwt-key").await.unwrap(), None);
    assert!(world.store.cluster().get_sealed("control-ca").await.unwrap().is_some(), "nodes still let us in");
    assert_eq!(world.store.cluster().replicas().await.unwrap(), []);
    assert_eq!(world.lease(lease.id).await.state.phase(), Phase::Active);
    assert_eq!(events(&world, "database.restored").await, 1);

    assert!(world.count("SELECT MAX(id) FROM events").await > last_event + 999_999_999);
    let newcomer = world.user("bob").await;
    assert!(newcomer.0 >= user.0 + 100_000, "no token of an account that was forgotten is bob's");
    for id in &nodes {
        world.clean(*id, at(62)).await;
    }
    let new = world.place(&world.wish(newcomer, 1)).await.remove(0).lease;
    assert!(
        new.account.as_ref().unwrap().uid >= before + 1000 && new.id.0 >= lease.id.0 + 100_000,
        "{new:?}"
    );
    world.check_invariants().await;
}

async fn after_a_restore_may_be_said_again(world: World) {
    let nodes = world.free_nodes(2).await;
    settle(&world, 1000, at(60)).await;
    let (first, uid) = (epoch(&world, nodes[0]).await, next_uid(&world).await);
    settle(&world, 1000, at(61)).await;
    assert!(epoch(&world, nodes[0]).await > first);
    assert_eq!(next_uid(&world).await, uid + 1000);
    for node in nodes {
        world.clean(node, at(62)).await;
        assert!(!world.node(node).await.is_dirty());
    }
    assert_eq!(events(&world, "database.restored").await, 2);
}

async fn a_database_in_use_is_not_settled(world: World) {
    let node = world.free_node(1).await;
    world.store.cluster().heartbeat("scheduler-1", "scheduler", at(55)).await.unwrap();
    let before = world.node(node).await;
    let RestoreSettled::InUse(running) = settle(&world, 10, at(60)).await else { panic!("it is in use") };
    assert_eq!(running.iter().map(|replica| replica.name.as_str()).collect::<Vec<_>>(), ["scheduler-1"]);
    assert_eq!((world.node(node).await, events(&world, "database.restored").await), (before, 0));
    let later = at(55).plus(Duration::from_secs(11));
    assert!(matches!(settle(&world, 10, later).await, RestoreSettled::Settled { .. }));
}

async fn more_uids_than_there_are_are_not_left_out(world: World) {
    let node = world.free_node(1).await;
    let left = UIDS.last - UIDS.first;
    assert_eq!(settle(&world, left + 1, at(60)).await, RestoreSettled::TooFewUids { left });
    assert!(!world.node(node).await.is_dirty(), "nothing was written");
    assert!(matches!(settle(&world, left, at(60)).await, RestoreSettled::Settled { .. }));
}
