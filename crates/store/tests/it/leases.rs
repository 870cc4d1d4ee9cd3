//! Release, extension, expiry, and the lists that owners and the scheduler read.

use crate::world::{TTL, World, at, lease_refuses, on_both};
use orion_domain::{
    LeaseId, NodeId,
    lease::{EndReason, LeaseState, OnNodeLoss},
    node::{Health, QuarantineCause},
};
use orion_store::{Cas, IdemNew, MoveOutcome, MoveReason, MoveRequest, PlaceOutcome, StoreError};

on_both!(
    a_release_claims_the_node_and_happens_once,
    a_release_of_a_claimed_node_leaves_it_to_the_scheduler,
    an_extension_moves_the_end_and_makes_the_node_dirty,
    the_reply_of_an_extended_lease_is_kept_for_a_day_after_its_end,
    two_extensions_at_once_are_both_counted_or_one_is_told,
    leases_are_due_when_their_time_is_up,
    owners_see_their_leases_with_their_nodes,
    leases_are_found_by_request,
    those_that_cannot_be_moved_hide_no_lease_that_can,
    a_lease_whose_provisioner_is_gone_is_found,
    a_lease_on_its_way_to_a_node_that_was_lost_in_turn_is_found,
    every_transition_and_its_event_stand_or_fall_together,
    a_corrupt_row_is_named,
);

async fn a_release_claims_the_node_and_happens_once(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let release = || {
        world.store.leases().release_and_claim(lease.id, &EndReason::Released, Some(user), "api", TTL, at(9))
    };
    let claim = release().await.unwrap().done().unwrap().expect("it is free and alive");
    assert_eq!((claim.node.id, claim.desired.is_empty()), (node, true));
    assert_eq!(claim.retiring, [(lease.id, lease.account.clone())]);
    assert!(claim.was_clean_before);
    let Cas::Refused(refused) = release().await.unwrap() else { panic!("it is ending") };
    assert_eq!((refused.from, refused.attempted), ("releasing", "released"));
    let missing =
        world.store.leases().release_and_claim(LeaseId(99), &EndReason::Released, None, "api", TTL, at(9));
    assert!(matches!(missing.await.unwrap(), Cas::Gone));
    assert_eq!(world.finish(&claim, at(10)).await.ended, [lease.id]);
    let events = world.store.events().of_lease(lease.id, 100).await.unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["lease.placed", "lease.active", "lease.releasing", "lease.ended"]);
    assert_eq!(events[2].data["actor"], user.0);
    assert!(events.iter().all(|event| event.user == Some(user) && event.node == Some(node)));
    world.check_invariants().await;
}

async fn a_release_of_a_claimed_node_leaves_it_to_the_scheduler(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let claim = world.claim(node, at(1)).await;
    let released =
        world.store.leases().release_and_claim(lease.id, &EndReason::Released, None, "api", TTL, at(2));
    assert!(matches!(released.await.unwrap(), Cas::Done(None)));
    world.store.nodes().release_claim(&claim, at(3)).await.unwrap();
    assert_eq!(world.store.nodes().dirty(at(3), 10).await.unwrap(), [node]);
    assert_eq!(world.clean(node, at(4)).await.ended, [lease.id]);
}

async fn an_extension_moves_the_end_and_makes_the_node_dirty(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let extend = |until| world.store.leases().extend(lease.id, at(until), "api", TTL, at(9));
    let (extended, claim) = extend(7200).await.unwrap().done().unwrap();
    let claim = claim.expect("it is free and alive");
    assert_eq!((extended.until, extended.deadline_applied), (at(7200), Some(at(3600))));
    assert_eq!(extended, world.lease(lease.id).await);
    assert!(world.node(node).await.is_dirty());
    assert_eq!(claim.desired[0].until, at(7200));
    world.finish(&claim, at(10)).await;
    assert_eq!(world.lease(lease.id).await.deadline_applied, Some(at(7200)));
    assert_eq!(extend(7200).await.unwrap(), Cas::Stale, "not later");
    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(11)).await.unwrap();
    assert_eq!(extend(9000).await.unwrap(), lease_refuses("releasing", "extended"));
    assert_eq!(world.store.leases().extend(LeaseId(99), at(1), "a", TTL, at(9)).await.unwrap(), Cas::Gone);
}

async fn the_reply_of_an_extended_lease_is_kept_for_a_day_after_its_end(world: World) {
    let user = world.user("alice").await;
    world.free_node(1).await;
    let mut wish = world.wish(user, 1);
    wish.idem = Some(IdemNew {
        scope: "alice POST /api/rent".into(),
        key_sha256: "a".repeat(64),
        body_sha256: "b".repeat(64),
        request_key: Some(wish.request_key.clone()),
        secrets_sealed: None,
        expires_at: at(3600),
    });
    let lease = world.active_lease(&wish).await;
    world.store.leases().extend(lease.id, at(7200), "api", TTL, at(9)).await.unwrap().done().unwrap();
    let kept =
        format!("SELECT COUNT(*) FROM idempotency WHERE expires_at = {}", at(7200 + 86_400).as_micros());
    assert_eq!(world.count(&kept).await, 1);
}

async fn two_extensions_at_once_are_both_counted_or_one_is_told(world: World) {
    let user = world.user("alice").await;
    world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let extend = || world.store.leases().extend(lease.id, at(7200), "api", TTL, at(9));
    let (a, b) = tokio::join!(extend(), extend());
    let done = [a.unwrap(), b.unwrap()].into_iter().filter(|outcome| matches!(outcome, Cas::Done(_))).count();
    assert_eq!(done, 1);
    assert_eq!(world.lease(lease.id).await.until, at(7200));
}

async fn leases_are_due_when_their_time_is_up(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(3).await;
    let mut ids = Vec::new();
    for until in [300, 100, 200] {
        let mut wish = world.wish(user, 1);
        wish.until = at(until);
        ids.push(world.active_lease(&wish).await.id);
    }
    let store = &world.store;
    let next_due = |now| async move { store.leases().next_due(at(now)).await.unwrap() };
    assert_eq!(next_due(99).await, Some(at(100)));
    assert_eq!(next_due(100).await, Some(at(200)), "one that is due is not waited for");
    assert_eq!(next_due(300).await, None);
    assert_eq!(world.store.leases().due(at(99), 10).await.unwrap(), []);
    let due: Vec<LeaseId> =
        world.store.leases().due(at(200), 10).await.unwrap().into_iter().map(|lease| lease.id).collect();
    assert_eq!(due, [ids[1], ids[2]]);
    assert_eq!(world.store.leases().due(at(200), 1).await.unwrap().len(), 1);
    assert_eq!(world.store.leases().end(&due, &EndReason::Expired, None, at(201)).await.unwrap(), due);
    assert_eq!(world.store.leases().end(&due, &EndReason::Expired, None, at(202)).await.unwrap(), []);
    assert_eq!(world.store.leases().due(at(250), 10).await.unwrap(), []);
    assert_eq!(next_due(50).await, Some(at(300)), "those that are ending are due no more");
    for (now, expected, why) in
        [(150, Some(at(200)), "it still has its node"), (300, None, "nothing ends later")]
    {
        let mut wish = world.wish(user, 1);
        wish.now = at(now);
        match world.store.leases().place(&wish).await.unwrap() {
            PlaceOutcome::TooFew { found, next_end } => assert_eq!((found, next_end), (0, expected), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

async fn owners_see_their_leases_with_their_nodes(world: World) {
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    world.free_nodes(3).await;
    let first = world.active_lease(&world.wish(alice, 1)).await;
    let of_bob = world.active_lease(&world.wish(bob, 1)).await;
    let second = world.active_lease(&world.wish(alice, 1)).await;
    let node = first.state.occupies().unwrap();
    world.store.leases().end(&[first.id], &EndReason::Released, None, at(1)).await.unwrap();
    world.clean(node, at(2)).await;
    let ids = |rows: &[orion_store::LeaseRow]| rows.iter().map(|row| row.lease.id).collect::<Vec<_>>();
    let all = world.store.leases().list(Some(alice), true, LeaseId(0), 10).await.unwrap();
    assert_eq!(ids(&all), [first.id, second.id]);
    assert_eq!((all[0].ended_at, all[1].ended_at), (Some(at(2)), None));
    assert_eq!(all[0].node.as_ref().unwrap().id, node, "the last node of an ended lease");
    assert_eq!(all[1].node.as_ref().unwrap().whole_lease, Some(second.id));
    assert_eq!(
        ids(&world.store.leases().list(Some(alice), false, LeaseId(0), 10).await.unwrap()),
        [second.id]
    );
    assert_eq!(ids(&world.store.leases().list(None, true, first.id, 1).await.unwrap()), [of_bob.id]);
    world.store.nodes().forget_clean(at(3)).await.unwrap();
    assert_eq!(world.store.leases().with_node(first.id).await.unwrap().unwrap().node, None);
    let on = world.store.leases().on_nodes(&[NodeId(1), NodeId(2), NodeId(3), NodeId(99)]).await.unwrap();
    assert_eq!(on.len(), 2);
    assert!(
        on.iter().all(|(node, leases)| leases.iter().map(|lease| lease.state.occupies()).eq([Some(*node)]))
    );
}

async fn leases_are_found_by_request(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(3).await;
    let wish = world.wish(user, 2);
    let placed = world.place(&wish).await;
    world.finish(&placed[0].claim, at(10)).await;
    let of_request = world.store.leases().of_request(&wish.request_key).await.unwrap();
    assert_eq!(of_request.len(), 2);
    assert_eq!(world.store.leases().of_request("unknown").await.unwrap(), []);
}

async fn those_that_cannot_be_moved_hide_no_lease_that_can(world: World) {
    const ITS_OWN: &str = "it waits for its own node";
    let user = world.user("alice").await;
    let mut leases = Vec::new();
    for (number, policy) in (1..).zip([
        OnNodeLoss::Wait,
        OnNodeLoss::Migrate,
        OnNodeLoss::Migrate,
        OnNodeLoss::Migrate,
        OnNodeLoss::Migrate,
    ]) {
        let node = world.free_node(number).await;
        let mut wish = world.wish(user, 1);
        wish.on_node_loss = policy;
        let lease = world.active_lease(&wish).await;
        assert_eq!(lease.state, LeaseState::Active { node });
        leases.push((lease.id, node));
    }
    let page = async |after, limit| -> Vec<_> {
        let page = world.store.leases().to_migrate(ITS_OWN, after, limit).await.unwrap();
        page.into_iter().map(|lease| (lease.since, lease.id)).collect()
    };
    assert_eq!(page(None, 9).await, [], "all have their nodes");
    let [waits, moves, second, third, last] = leases[..] else { panic!("{leases:?}") };
    for (lost, second) in [(waits, 50), (moves, 50), (third, 60), (second, 60), (last, 70)] {
        world.set_health(lost.1, Health::Dead, at(second)).await;
    }
    assert_eq!(page(None, 1).await, [(at(50), waits.0)], "it does not say yet what it waits for");
    world.store.leases().set_waiting(waits.0, ITS_OWN, at(71)).await.unwrap().done().unwrap();
    assert_eq!(page(None, 1).await, [(at(50), moves.0)]);
    world.free_node(9).await;
    let request = MoveRequest {
        lease: moves.0,
        away_from: moves.1,
        claim_of_old: None,
        why: MoveReason::NodeDead,
        first_turn: TTL,
        now: at(72),
    };
    let moved = world.store.leases().migrate(&request).await.unwrap();
    assert!(matches!(moved, MoveOutcome::Placed(_)), "{moved:?}");
    let mut after = None;
    let mut reached = Vec::new();
    while let [next] = page(after, 1).await[..] {
        reached.push(next);
        after = Some(next);
    }
    assert_eq!(reached, [(at(60), second.0), (at(60), third.0), (at(70), last.0)], "one has a new node");
    assert_eq!(page(None, 9).await, reached);
    // Something else to wait for is said, and so it is looked at again.
    world.store.leases().set_waiting(waits.0, "no node is free", at(73)).await.unwrap().done().unwrap();
    assert_eq!(page(None, 1).await, [(at(50), waits.0)]);
}

async fn a_lease_whose_provisioner_is_gone_is_found(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(2).await;
    let placed = world.place(&world.wish(user, 2)).await;
    assert_eq!(world.store.leases().orphaned(at(29), 10).await.unwrap(), []);
    world.store.nodes().extend_claim(&placed[0].claim, TTL, at(29)).await.unwrap();
    let orphaned = world.store.leases().orphaned(at(30), 10).await.unwrap();
    assert_eq!(orphaned, std::slice::from_ref(&placed[1].lease));
    world.claim(placed[1].claim.node.id, at(30)).await;
    assert_eq!(world.store.leases().orphaned(at(30), 10).await.unwrap(), []);
}

async fn a_lease_on_its_way_to_a_node_that_was_lost_in_turn_is_found(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(2).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let own = lease.state.occupies().unwrap();
    world.set_health(own, Health::Dead, at(50)).await;
    let found = |now| {
        let store = &world.store;
        async move { store.leases().orphaned(at(now), 10).await.unwrap() }
    };
    assert_eq!(found(99).await, [], "it waits: that is no way to a node");
    let request = MoveRequest {
        lease: lease.id,
        away_from: own,
        claim_of_old: None,
        why: MoveReason::NodeDead,
        first_turn: TTL,
        now: at(100),
    };
    let target = match world.store.leases().migrate(&request).await.unwrap() {
        MoveOutcome::Placed(placement) => placement.node(),
        other => panic!("{other:?}"),
    };
    assert_eq!(found(131).await, [], "the target is alive: its reconcile makes the account");
    world.set_health(target, Health::Unreachable, at(105)).await;
    assert_eq!(found(129).await, [], "its provisioner is still at work");
    assert_eq!(found(130).await, [world.lease(lease.id).await]);
    let claim = world.claim(target, at(130)).await;
    assert_eq!(found(131).await, []);
    world.store.nodes().release_claim(&claim, at(132)).await.unwrap();
    assert_eq!(found(132).await.len(), 1);
}

async fn every_transition_and_its_event_stand_or_fall_together(world: World) {
    let user = world.user("alice").await;
    let nodes = world.free_nodes(2).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let node = lease.state.occupies().unwrap();
    let free = nodes.into_iter().find(|id| *id != node).unwrap();
    let claim = world.claim(node, at(5)).await;
    let state = |world: World| async move {
        let sum = "SELECT SUM(version) FROM nodes";
        let numbers = [
            world
                .count(
                    &sum.replace("SUM(version)", "CAST(SUM(version) AS SIGNED)")
                        .replace("SIGNED", word(&world)),
                )
                .await,
            world.count("SELECT COUNT(*) FROM leases").await,
            world.count("SELECT COUNT(*) FROM lease_nodes").await,
            world.count("SELECT COUNT(*) FROM idempotency").await,
        ];
        (world, numbers)
    };
    let (world, before) = state(world).await;
    world.sql("ALTER TABLE events RENAME TO hidden").await.unwrap();
    let version = world.node(node).await.version;
    let fails = [
        world.store.leases().place(&world.wish(user, 1)).await.is_err(),
        world.store.leases().end(&[lease.id], &EndReason::Released, None, at(6)).await.is_err(),
        world.store.leases().extend(lease.id, at(7200), "a", TTL, at(6)).await.is_err(),
        world.store.nodes().set_health(node, version, Health::Dead, "x", at(6)).await.is_err(),
        world
            .store
            .nodes()
            .fail_reconcile(&claim, "x", at(9), Some(QuarantineCause::Passing), at(6))
            .await
            .is_err(),
        world.store.nodes().quarantine(free, "x", at(6)).await.is_err(),
        world.store.nodes().register(&world.registration(9)).await.is_err(),
    ];
    world.sql("ALTER TABLE hidden RENAME TO events").await.unwrap();
    assert_eq!(fails, [true; 7]);
    let (world, after) = state(world).await;
    assert_eq!(before, after);
    assert_eq!(world.lease(lease.id).await, lease);
    world.finish(&claim, at(7)).await;
}

fn word(world: &World) -> &'static str {
    if world.is_maria() { "SIGNED" } else { "INTEGER" }
}

async fn a_corrupt_row_is_named(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    world.sql("UPDATE leases SET tags = '{nonsense'").await.unwrap();
    match world.store.leases().get(lease.id).await.unwrap_err() {
        StoreError::Corrupt { table, id, detail } => {
            assert_eq!((table, id), ("leases", lease.id.0));
            assert!(detail.starts_with("tags: "), "{detail}");
        }
        other => panic!("{other:?}"),
    }
    world.sql("UPDATE nodes SET addr = '0.0.0.0'").await.unwrap();
    let error = world.store.nodes().all().await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("row {node} of table nodes is corrupt: addr: ")), "{text}");
    for impossible in [
        "UPDATE leases SET state = 'sleeping'",
        "UPDATE leases SET occupies_node = NULL",
        "UPDATE nodes SET applied_version = desired_version + 1",
        "UPDATE nodes SET health = 'fine'",
        "UPDATE nodes SET ssh_port = 0",
    ] {
        assert!(world.sql(impossible).await.is_err(), "the schema allows {impossible}");
    }
}
