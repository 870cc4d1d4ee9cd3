//! Lost nodes and moved leases.

use crate::world::{Placed, TTL, World, at, on_both};
use orion_domain::{
    NodeId,
    lease::{EndReason, Lease, LeaseState, OnNodeLoss, Phase},
    node::{Health, QuarantineCause},
};
use orion_store::{Cas, MoveOutcome, MoveReason, MoveRequest, NodeClaim};

on_both!(
    a_dead_node_is_dirty_and_its_lease_migrates_in_the_same_step,
    a_lease_moves_to_another_node_with_its_account,
    a_lease_is_moved_only_off_the_node_that_it_is_on,
    a_lease_takes_its_own_node_back,
    the_policy_end_ends_a_lease_with_its_node,
    a_lease_being_released_ends_when_its_node_dies,
    a_lease_being_provisioned_is_left_to_its_provisioner,
    a_verdict_on_an_older_node_is_stale,
    a_node_that_refused_is_quarantined_and_another_one_is_taken,
    a_node_that_is_unfit_is_not_tried_again_for_that_lease,
    without_a_free_node_a_lease_in_provisioning_stays_as_it_was,
    a_migrating_lease_whose_target_dies_waits_for_its_own_node_again,
    a_migrating_lease_whose_target_dies_and_whose_own_node_is_taken_stays,
    a_migrating_lease_says_what_it_waits_for,
    a_move_with_a_lost_claim_is_stale,
    a_lease_whose_uid_is_subordinate_on_a_node_does_not_go_there,
    a_lease_released_on_a_dead_node_is_over_at_once,
    a_node_that_refused_is_quarantined_also_when_no_other_is_free,
    a_lease_that_waits_in_vain_leaves_its_node_alone,
    a_lease_whose_own_node_is_back_is_not_moved_away,
    a_lease_whose_own_node_cannot_give_it_back_moves_on,
    a_lost_node_that_is_back_and_refuses_is_quarantined_and_the_lease_waits_on_it,
);

fn request<'a>(
    lease: &Lease,
    away_from: NodeId,
    claim: Option<&'a NodeClaim>,
    why: MoveReason,
) -> MoveRequest<'a> {
    MoveRequest { lease: lease.id, away_from, claim_of_old: claim, why, first_turn: TTL, now: at(100) }
}

async fn moved(world: &World, request: &MoveRequest<'_>) -> Placed {
    match world.store.leases().migrate(request).await.unwrap() {
        MoveOutcome::Placed(placement) => world.claim_placed(placement, request.now).await,
        other => panic!("{other:?}"),
    }
}

fn node_of(lease: &Lease) -> NodeId {
    lease.state.occupies().unwrap()
}

async fn a_dead_node_is_dirty_and_its_lease_migrates_in_the_same_step(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    // The event cannot be written: then nothing else may be.
    let dead = |version| world.store.nodes().set_health(node, version, Health::Dead, "no answer", at(50));
    let before = (world.node(node).await, world.lease(lease.id).await);
    world.sql("ALTER TABLE events RENAME TO hidden").await.unwrap();
    assert!(dead(before.0.version).await.is_err());
    world.sql("ALTER TABLE hidden RENAME TO events").await.unwrap();
    assert_eq!(before, (world.node(node).await, world.lease(lease.id).await), "I4");

    let changed = dead(before.0.version).await.unwrap().done().unwrap();
    assert_eq!(changed.leases, [lease.id]);
    assert_eq!(changed.node, world.node(node).await);
    assert!(changed.node.is_dirty());
    assert_eq!((changed.node.health, changed.node.health_since), (Health::Dead, at(50)));
    let state = LeaseState::Migrating { from: node, to: None, reason: "no answer".into() };
    assert_eq!(world.lease(lease.id).await.state, state);
    assert_eq!(world.kinds_of_lease(lease.id).await, ["lease.placed", "lease.active", "lease.node_lost"]);
    let again = dead(changed.node.version).await.unwrap().done().unwrap();
    assert_eq!((again.leases.len(), again.node.version), (0, changed.node.version), "nothing new, no write");
    world.check_invariants().await;
}

async fn a_lease_moves_to_another_node_with_its_account(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(2).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let old = node_of(&lease);
    world.set_health(old, Health::Dead, at(50)).await;
    let placed = moved(&world, &request(&lease, old, None, MoveReason::NodeDead)).await;
    let new = placed.claim.node.id;
    assert_ne!(new, old);
    assert_eq!(placed.lease, world.lease(lease.id).await);
    assert_eq!(placed.lease.account, lease.account, "the same login");
    assert_eq!(placed.lease.deadline_applied, None, "the new node has not heard of the deadline");
    let desired = &placed.claim.desired[0];
    assert_eq!((&desired.account, desired.is_new()), (&lease.account, false), "its name is known by now");
    assert!(placed.claim.was_clean_before);
    let finished = world.finish(&placed.claim, at(101)).await;
    assert_eq!(finished.activated, [lease.id]);
    assert_eq!(finished.recovered, [(lease.id, at(50))], "and when it lost its node");
    assert_eq!(world.lease(lease.id).await.state, LeaseState::Active { node: new });
    let (old, history) = (world.node(old).await, world.store.leases().history(lease.id).await.unwrap());
    assert!(old.whole_lease.is_none() && old.is_dirty(), "I2: it may still hold the account");
    assert_eq!(
        history.iter().map(|entry| (entry.node, entry.left_at)).collect::<Vec<_>>(),
        [(old.id, Some(at(100))), (new, None)]
    );
    let kinds = ["lease.placed", "lease.active", "lease.node_lost", "lease.moving", "lease.moved"];
    assert_eq!(world.kinds_of_lease(lease.id).await, kinds);
    let again =
        world.store.leases().migrate(&request(&lease, old.id, None, MoveReason::NodeDead)).await.unwrap();
    assert!(matches!(again, MoveOutcome::Stale));
    world.check_invariants().await;
}

async fn a_lease_is_moved_only_off_the_node_that_it_is_on(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(3).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let other = [NodeId(1), NodeId(2), NodeId(3)].into_iter().find(|id| *id != placed.claim.node.id).unwrap();
    for why in [MoveReason::NodeDead, MoveReason::Lost("no answer".into())] {
        let outcome = world.store.leases().migrate(&request(&placed.lease, other, None, why)).await.unwrap();
        assert!(matches!(outcome, MoveOutcome::Stale), "{outcome:?}");
    }
    assert_eq!(placed.lease, world.lease(placed.lease.id).await);
}

async fn a_lease_takes_its_own_node_back(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    world.set_health(node, Health::Dead, at(50)).await;
    let outcome =
        world.store.leases().migrate(&request(&lease, node, None, MoveReason::NodeDead)).await.unwrap();
    assert!(matches!(outcome, MoveOutcome::NoneFree { next_end: Some(end) } if end == at(3600)));
    assert_eq!(world.node(node).await.whole_lease, Some(lease.id), "it stays its own");
    world.set_health(node, Health::Alive, at(120)).await;
    let finished = world.clean(node, at(121)).await;
    assert_eq!((finished.activated, finished.recovered), (vec![lease.id], vec![]));
    let kinds = world.kinds_of_lease(lease.id).await;
    assert_eq!(kinds[2..], ["lease.node_lost", "lease.waiting", "lease.returned"]);
    world.check_invariants().await;
}

async fn the_policy_end_ends_a_lease_with_its_node(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let mut wish = world.wish(user, 1);
    wish.on_node_loss = OnNodeLoss::End;
    let lease = world.active_lease(&wish).await;
    assert_eq!(world.set_health(node, Health::Dead, at(50)).await, [lease.id]);
    assert_eq!(world.lease(lease.id).await.state, LeaseState::Ended { reason: EndReason::NodeLost });
    let node = world.node(node).await;
    assert!(node.whole_lease.is_none() && node.is_dirty());
    world.check_invariants().await;
}

async fn a_lease_being_released_ends_when_its_node_dies(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(1)).await.unwrap();
    assert_eq!(world.set_health(node, Health::Dead, at(50)).await, [lease.id]);
    assert_eq!(world.lease(lease.id).await.state, LeaseState::Ended { reason: EndReason::Released });
    let node = world.node(node).await;
    assert!(node.whole_lease.is_none() && node.is_dirty());
    world.check_invariants().await;
}

async fn a_lease_being_provisioned_is_left_to_its_provisioner(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(2).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let node = placed.claim.node.id;
    assert_eq!(world.set_health(node, Health::Dead, at(50)).await, []);
    assert_eq!(world.lease(placed.lease.id).await.state, placed.lease.state);
    let next = moved(&world, &request(&placed.lease, node, Some(&placed.claim), MoveReason::NodeDead)).await;
    assert_eq!(next.lease.state, LeaseState::Provisioning { node: next.claim.node.id });
    assert_ne!(next.claim.node.id, node);
    world.check_invariants().await;
}

async fn a_verdict_on_an_older_node_is_stale(world: World) {
    let node = world.free_node(1).await;
    let version = world.node(node).await.version;
    world.set_health(node, Health::Suspect, at(50)).await;
    let late = world.store.nodes().set_health(node, version, Health::Dead, "late", at(51)).await.unwrap();
    assert_eq!(late, Cas::Stale);
    assert_eq!(world.node(node).await.health, Health::Suspect);
    let gone = world.store.nodes().set_health(NodeId(999), 1, Health::Dead, "x", at(51)).await.unwrap();
    assert_eq!(gone, Cas::Gone);
}

async fn a_node_that_refused_is_quarantined_and_another_one_is_taken(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(2).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let bad = placed.claim.node.id;
    let why = MoveReason::Refused("useradd: disk full".into(), QuarantineCause::Passing);
    let next = moved(&world, &request(&placed.lease, bad, Some(&placed.claim), why)).await;
    let old = world.node(bad).await;
    assert_eq!(old.quarantine.as_deref(), Some("useradd: disk full"));
    assert!(old.is_dirty() && old.whole_lease.is_none() && old.claimed_until.is_none());
    assert_eq!(world.finish(&next.claim, at(101)).await.activated, [placed.lease.id]);
    let late = orion_store::FinishReconcile {
        applied_version: placed.claim.desired_version,
        ready: vec![(placed.lease.id, None)],
        ..Default::default()
    };
    assert_eq!(
        world.store.nodes().finish_reconcile(&placed.claim, &late, at(102)).await.unwrap(),
        Cas::Stale
    );
    let kinds = world.kinds_of_lease(placed.lease.id).await;
    assert_eq!(kinds, ["lease.placed", "lease.replaced", "lease.active"]);
    world.check_invariants().await;
}

async fn a_node_that_is_unfit_is_not_tried_again_for_that_lease(world: World) {
    let user = world.user("alice").await;
    let nodes = world.free_nodes(2).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let unfit = placed.claim.node.id;
    let why = || MoveReason::Unfit("alice exists there".into());
    let next = moved(&world, &request(&placed.lease, unfit, Some(&placed.claim), why())).await;
    world.clean(unfit, at(101)).await;
    assert!(world.node(unfit).await.is_offerable(), "for others it is fine");
    let other = next.claim.node.id;
    let outcome =
        world.store.leases().migrate(&request(&next.lease, other, Some(&next.claim), why())).await.unwrap();
    assert!(matches!(outcome, MoveOutcome::NoneFree { .. }), "{outcome:?}");
    let somebody = world.place(&world.wish(user, 1)).await.remove(0);
    assert_eq!(somebody.claim.node.id, unfit);
    assert_eq!(nodes.len(), 2);
}

async fn without_a_free_node_a_lease_in_provisioning_stays_as_it_was(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let before = (world.node(node).await, world.lease(placed.lease.id).await);
    let whys = [
        MoveReason::Unfit("alice exists there".into()),
        MoveReason::Lost("timeout".into()),
        MoveReason::NodeDead,
    ];
    for why in whys {
        let outcome = world
            .store
            .leases()
            .migrate(&request(&placed.lease, node, Some(&placed.claim), why))
            .await
            .unwrap();
        assert!(matches!(outcome, MoveOutcome::NoneFree { .. }));
        assert_eq!(before, (world.node(node).await, world.lease(placed.lease.id).await));
    }
}

async fn a_node_that_refused_is_quarantined_also_when_no_other_is_free(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let why = MoveReason::Refused("useradd: disk full".into(), QuarantineCause::Passing);
    let refusal = request(&placed.lease, node, Some(&placed.claim), why);
    assert!(matches!(world.store.leases().migrate(&refusal).await.unwrap(), MoveOutcome::NoneFree { .. }));
    let (after, lease) = (world.node(node).await, world.lease(placed.lease.id).await);
    assert_eq!(after.quarantine.as_deref(), Some("useradd: disk full"));
    assert_eq!((after.whole_lease, &lease), (Some(lease.id), &placed.lease));
    let event = world.store.events().of_node(node, 1).await.unwrap().remove(0);
    assert_eq!((event.kind.as_str(), &event.data["lease_id"]), ("node.quarantined", &lease.id.0.into()));
    assert!(matches!(world.store.leases().migrate(&refusal).await.unwrap(), MoveOutcome::NoneFree { .. }));
    assert_eq!(world.node(node).await.version, after.version, "nothing new, no write");
    // The claim is still the caller's, who gives it back with a pause.
    let failed = world
        .store
        .nodes()
        .fail_reconcile(&placed.claim, "useradd: disk full", at(20), Some(QuarantineCause::Passing), at(11))
        .await;
    assert_eq!(failed.unwrap().done().unwrap().claimed_until, None);
    let end = world.store.leases().end(&[lease.id], &EndReason::Released, None, at(12)).await.unwrap();
    assert_eq!(end, [lease.id]);
    assert_eq!(world.store.nodes().dirty(at(20), 9).await.unwrap(), [node], "what is left there is removed");
    assert_eq!(world.clean(node, at(102)).await.ended, [lease.id]);
    assert_eq!(world.node(node).await.quarantine, None, "the cause has passed");
    world.check_invariants().await;
}

/// A lease that lost its node, and nothing else is free.
async fn waiting(world: &World) -> (NodeId, Lease) {
    let user = world.user("alice").await;
    let own = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    world.set_health(own, Health::Dead, at(50)).await;
    (own, world.lease(lease.id).await)
}

async fn a_lease_that_waits_in_vain_leaves_its_node_alone(world: World) {
    let (own, lease) = waiting(&world).await;
    let before = world.node(own).await;
    let look = || async {
        let outcome =
            world.store.leases().migrate(&request(&lease, own, None, MoveReason::NodeDead)).await.unwrap();
        assert!(matches!(outcome, MoveOutcome::NoneFree { next_end: Some(end) } if end == at(3600)));
        (world.node(own).await, world.lease(lease.id).await, world.kinds_of_lease(lease.id).await)
    };
    let first = look().await;
    assert_eq!(first.0, before);
    assert_eq!(first.2.last().unwrap(), "lease.waiting");
    assert_eq!(look().await, first, "it waits for the same: nothing is written");
}

async fn a_lease_whose_own_node_is_back_is_not_moved_away(world: World) {
    let (own, lease) = waiting(&world).await;
    let other = world.free_node(2).await;
    let look = || async {
        let before = (world.node(own).await, world.node(other).await, world.lease(lease.id).await);
        let outcome =
            world.store.leases().migrate(&request(&lease, own, None, MoveReason::NodeDead)).await.unwrap();
        assert!(matches!(outcome, MoveOutcome::Stale), "{outcome:?}");
        assert_eq!(before, (world.node(own).await, world.node(other).await, world.lease(lease.id).await));
    };
    let claim = world.claim(own, at(90)).await;
    look().await;
    world.store.nodes().release_claim(&claim, at(91)).await.unwrap();
    world.set_health(own, Health::Alive, at(92)).await;
    look().await;
    let claim = world.claim(own, at(93)).await;
    look().await;
    assert_eq!(world.finish(&claim, at(101)).await.activated, [lease.id], "the claim still holds");
    assert_eq!(world.lease(lease.id).await.state, LeaseState::Active { node: own });
    world.check_invariants().await;
}

async fn a_lease_whose_own_node_cannot_give_it_back_moves_on(world: World) {
    let (own, lease) = waiting(&world).await;
    // A claim that expired, and an own node that answers but is not admitted any more.
    world.claim(own, at(70)).await;
    world.set_health(own, Health::Alive, at(71)).await;
    world.sql(&format!("UPDATE nodes SET admission = 'reported' WHERE id = {own}")).await.unwrap();
    let other = world.free_node(2).await;
    let placed = moved(&world, &request(&lease, own, None, MoveReason::NodeDead)).await;
    assert_eq!(placed.claim.node.id, other);
    world.check_invariants().await;
}

async fn a_lost_node_that_is_back_and_refuses_is_quarantined_and_the_lease_waits_on_it(world: World) {
    let (own, lease) = waiting(&world).await;
    world.set_health(own, Health::Alive, at(90)).await;
    let claim = world.claim(own, at(95)).await;
    let why = MoveReason::Refused("read-only file system".into(), QuarantineCause::Passing);
    let outcome = world.store.leases().migrate(&request(&lease, own, Some(&claim), why)).await.unwrap();
    assert!(matches!(outcome, MoveOutcome::NoneFree { .. }), "{outcome:?}");
    let node = world.node(own).await;
    assert_eq!(
        (node.quarantine.as_deref(), node.whole_lease),
        (Some("read-only file system"), Some(lease.id))
    );
    assert!(
        world.store.nodes().extend_claim(&claim, TTL, at(101)).await.unwrap(),
        "the caller still has its claim"
    );
    assert_eq!(world.kinds_of_lease(lease.id).await.last().unwrap(), "lease.waiting");
    world.check_invariants().await;
}

/// A lease that lost `.0` and is on its way to `.1`.
async fn on_its_way(world: &World) -> (NodeId, NodeId, Placed) {
    let user = world.user("alice").await;
    world.free_nodes(2).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let own = node_of(&lease);
    world.set_health(own, Health::Dead, at(50)).await;
    let placed = moved(world, &request(&lease, own, None, MoveReason::NodeDead)).await;
    (own, placed.claim.node.id, placed)
}

async fn a_migrating_lease_whose_target_dies_waits_for_its_own_node_again(world: World) {
    let (own, target, placed) = on_its_way(&world).await;
    assert_eq!(world.set_health(target, Health::Dead, at(110)).await, [placed.lease.id]);
    let lease = world.lease(placed.lease.id).await;
    assert!(matches!(lease.state, LeaseState::Migrating { from, to: None, .. } if from == own));
    let (own, target) = (world.node(own).await, world.node(target).await);
    assert_eq!((own.whole_lease, target.whole_lease), (Some(lease.id), None));
    assert!(own.is_dirty() && target.is_dirty());
    assert_eq!(lease.since, at(50), "it has been on its way since its node was lost");
    world.check_invariants().await;
    // The same when the target only refuses and nobody else is free.
    world.set_health(target.id, Health::Alive, at(200)).await;
    world.clean(target.id, at(201)).await;
    let placed = moved(&world, &request(&lease, own.id, None, MoveReason::NodeDead)).await;
    let why = MoveReason::Refused("no space".into(), QuarantineCause::Passing);
    let outcome =
        world.store.leases().migrate(&request(&lease, target.id, Some(&placed.claim), why)).await.unwrap();
    assert!(matches!(outcome, MoveOutcome::NoneFree { .. }));
    let target = world.node(target.id).await;
    assert!(target.quarantine.is_some() && target.whole_lease.is_none() && target.is_dirty());
    assert_eq!(world.node(own.id).await.whole_lease, Some(lease.id));
    world.check_invariants().await;
}

async fn a_migrating_lease_whose_target_dies_and_whose_own_node_is_taken_stays(world: World) {
    let (own, target, placed) = on_its_way(&world).await;
    world.set_health(own, Health::Alive, at(105)).await;
    world.clean(own, at(106)).await;
    let user = placed.lease.user;
    let other = world.active_lease(&world.wish(user, 1)).await;
    assert_eq!(node_of(&other), own);
    assert_eq!(world.set_health(target, Health::Dead, at(110)).await, []);
    let lease = world.lease(placed.lease.id).await;
    assert_eq!(lease.state, placed.lease.state);
    world.check_invariants().await;
    let outcome =
        world.store.leases().migrate(&request(&lease, target, None, MoveReason::NodeDead)).await.unwrap();
    assert!(matches!(outcome, MoveOutcome::NoneFree { .. }));
    world.check_invariants().await;
    let third = world.free_node(3).await;
    let next = moved(&world, &request(&lease, target, None, MoveReason::NodeDead)).await;
    assert_eq!(next.claim.node.id, third);
    assert_eq!(world.finish(&next.claim, at(120)).await.activated, [lease.id]);
    world.check_invariants().await;
}

async fn a_migrating_lease_says_what_it_waits_for(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    assert_eq!(world.store.leases().set_waiting(lease.id, "x", at(40)).await.unwrap(), Cas::Stale);
    world.set_health(node, Health::Dead, at(50)).await;
    let waiting =
        world.store.leases().set_waiting(lease.id, "no node is free", at(51)).await.unwrap().done().unwrap();
    assert!(matches!(&waiting.state, LeaseState::Migrating { reason, .. } if reason == "no node is free"));
    assert_eq!(
        world.store.leases().set_waiting(lease.id, "no node is free", at(52)).await.unwrap(),
        Cas::Stale
    );
    assert_eq!(world.kinds_of_lease(lease.id).await.last().unwrap(), "lease.waiting");
}

async fn a_move_with_a_lost_claim_is_stale(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(2).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let node = placed.claim.node.id;
    world.claim(node, at(60)).await;
    let why = MoveReason::Lost("timeout".into());
    let late =
        world.store.leases().migrate(&request(&placed.lease, node, Some(&placed.claim), why)).await.unwrap();
    assert!(matches!(late, MoveOutcome::Stale));
    assert_eq!(world.lease(placed.lease.id).await.state, placed.lease.state);
}

async fn a_lease_whose_uid_is_subordinate_on_a_node_does_not_go_there(world: World) {
    let user = world.user("alice").await;
    let first = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let second = world.free_node(2).await;
    world.set_subordinate(second, &[(lease.account.as_ref().unwrap().uid, 1)], at(1)).await;
    world.set_health(first, Health::Dead, at(50)).await;
    let outcome =
        world.store.leases().migrate(&request(&lease, first, None, MoveReason::NodeDead)).await.unwrap();
    assert!(matches!(outcome, MoveOutcome::NoneFree { .. }), "{outcome:?}");
}

async fn a_lease_released_on_a_dead_node_is_over_at_once(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    world.set_health(node, Health::Dead, at(50)).await;
    let released =
        world.store.leases().release_and_claim(lease.id, &EndReason::Released, Some(user), "a", TTL, at(60));
    assert!(matches!(released.await.unwrap(), Cas::Done(None)));
    assert_eq!(world.lease(lease.id).await.state.phase(), Phase::Ended);
    assert!(world.node(node).await.is_dirty());
    world.check_invariants().await;
}
