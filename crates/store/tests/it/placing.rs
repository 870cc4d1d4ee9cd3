//! Placement: never a double lease, never a node that must not be offered, all or none.

use crate::world::{FIRST_UID, TTL, World, at, on_both};
use orion_domain::{NodeId, lease::EndReason, node::Health};
use orion_store::{NewAccount, PlaceOutcome};
use std::{collections::HashSet, sync::Arc};

on_both!(
    tenants_in_a_hurry_never_share_a_node,
    the_check_for_double_leases_would_catch_them,
    all_nodes_or_none,
    the_schema_refuses_a_second_lease_on_a_node,
    a_node_that_must_not_be_offered_is_not_offered,
    a_node_needs_every_tag_that_is_asked_for,
    uids_only_grow_and_are_never_used_again,
    uids_of_a_nodes_subordinate_ranges_are_skipped,
    when_the_uids_are_used_up_nothing_is_placed,
    a_request_that_comes_to_nothing_uses_up_no_uid,
    a_lease_name_is_unique_among_live_leases_and_free_after_the_end,
    a_placement_tells_its_holder_all_it_needs,
    a_node_that_is_claimed_while_a_placement_chooses_it_is_not_taken,
);

async fn tenants_in_a_hurry_never_share_a_node(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(20).await;
    let world = Arc::new(world);
    let mut tenants = tokio::task::JoinSet::new();
    for tenant in 0..32 {
        let world = world.clone();
        tenants.spawn(async move {
            let mut rented = 0;
            for round in 0..4 {
                let count = if (tenant + round) % 3 == 0 { 2 } else { 1 };
                if let PlaceOutcome::Placed(placed) =
                    world.store.place(&world.wish(user, count)).await.unwrap()
                {
                    assert_eq!(placed.len(), count);
                    for placement in placed {
                        rented += 1;
                        world.finish(&placement.claim, at(1)).await;
                        if (tenant + round) % 2 == 0 {
                            let id = placement.lease.id;
                            let reason = EndReason::Released;
                            let claim = world.store.release_and_claim(id, &reason, None, "t", TTL, at(2));
                            let claim = claim.await.unwrap().done().unwrap().expect("it is free and alive");
                            assert_eq!(world.finish(&claim, at(2)).await.ended, [id]);
                        }
                    }
                }
            }
            rented
        });
    }
    let rented: i64 = tenants.join_all().await.into_iter().sum();
    assert!(rented >= 20, "only {rented} leases were made");
    assert_eq!(world.count("SELECT COUNT(*) FROM leases").await, rented);
    assert_eq!(world.count("SELECT COUNT(*) FROM events WHERE kind = 'lease.placed'").await, rented);
    let shrunk = "SELECT COUNT(*) FROM lease_nodes a JOIN lease_nodes b ON a.node_id = b.node_id AND a.id < b.id \
                  JOIN leases former ON former.id = a.lease_id JOIN leases later ON later.id = b.lease_id \
                  WHERE former.account_uid >= later.account_uid";
    assert_eq!(world.count(shrunk).await, 0, "the uids of a node only grow");
    world.check_invariants().await;
}

/// The control: check-then-write, on a table without the UNIQUE, makes double leases, and the check finds them.
async fn the_check_for_double_leases_would_catch_them(world: World) {
    let text = if world.is_maria() { "VARCHAR(16)" } else { "TEXT" };
    let table = format!("CREATE TABLE naive (node_id BIGINT NOT NULL, state {text} NOT NULL)");
    world.sql(&table).await.unwrap();
    let (world, all_have_read) = (Arc::new(world), Arc::new(tokio::sync::Barrier::new(8)));
    let mut tenants = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (world, all_have_read) = (world.clone(), all_have_read.clone());
        tenants.spawn(async move {
            let taken = world.count("SELECT COUNT(*) FROM naive WHERE node_id = 1").await;
            all_have_read.wait().await;
            if taken == 0 {
                world.sql("INSERT INTO naive (node_id, state) VALUES (1, 'active')").await.unwrap();
            }
        });
    }
    tenants.join_all().await;
    assert_eq!(world.doubled_in("naive").await, 1);
    assert_eq!(world.doubled_in("leases").await, 0);
}

async fn all_nodes_or_none(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(3).await;
    let mut wish = world.wish(user, 4);
    match world.store.place(&wish).await.unwrap() {
        PlaceOutcome::TooFew { found, next_end } => assert_eq!((found, next_end), (3, None)),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.count("SELECT COUNT(*) FROM leases").await, 0);
    assert_eq!(world.count("SELECT COUNT(*) FROM nodes WHERE lease_id IS NOT NULL").await, 0);
    wish.count = 3;
    wish.accounts.truncate(3);
    let placed = world.place(&wish).await;
    let nodes: HashSet<NodeId> = placed.iter().map(|placement| placement.claim.node.id).collect();
    assert_eq!(nodes.len(), 3);
    match world.store.place(&world.wish(user, 1)).await.unwrap() {
        PlaceOutcome::TooFew { found, next_end } => assert_eq!((found, next_end), (0, Some(at(3600)))),
        other => panic!("{other:?}"),
    }
    world.check_invariants().await;
}

async fn the_schema_refuses_a_second_lease_on_a_node(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    // The compare-and-swap is bypassed: the node is made to look free.
    let sql = format!(
        "UPDATE nodes SET lease_id = NULL, applied_version = desired_version, \
                       claim_token = NULL, claimed_until = NULL WHERE id = {node}"
    );
    world.sql(&sql).await.unwrap();
    assert!(world.node(node).await.is_offerable());
    let error = world.store.place(&world.wish(user, 1)).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert_eq!(world.count("SELECT COUNT(*) FROM leases").await, 1);
    assert_eq!(world.lease(placed.lease.id).await.state, placed.lease.state);
}

async fn a_node_that_must_not_be_offered_is_not_offered(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let spoilers = [
        "admission = 'pending'",
        "admission = 'reported'",
        "health = 'unknown'",
        "health = 'suspect'",
        "health = 'unreachable'",
        "health = 'dead'",
        "quarantine = 'its host key changed'",
        "cordon = 'maintenance', drain_since = 1",
        "desired_version = desired_version + 1",
        "lease_id = 4711",
        "claim_token = 'x', claimed_until = 1800000001000000",
    ];
    let restore = "UPDATE nodes SET admission = 'admitted', health = 'alive', quarantine = NULL, cordon = NULL, \
                   drain_since = NULL, desired_version = applied_version, lease_id = NULL, claim_token = NULL, claimed_until = NULL";
    for spoiler in spoilers {
        world.sql(&format!("UPDATE nodes SET {spoiler}")).await.unwrap();
        match world.store.place(&world.wish(user, 1)).await.unwrap() {
            PlaceOutcome::TooFew { found: 0, .. } => {}
            other => panic!("offered although {spoiler}: {other:?}"),
        }
        let claimed = spoiler.starts_with("claim");
        assert!(claimed || !world.node(node).await.is_offerable(), "the domain disagrees on {spoiler}");
        world.sql(restore).await.unwrap();
    }
    assert!(world.node(node).await.is_offerable());
    assert_eq!(world.place(&world.wish(user, 1)).await.len(), 1, "the control: it is offered otherwise");
}

async fn a_node_needs_every_tag_that_is_asked_for(world: World) {
    let user = world.user("alice").await;
    let mut ids = Vec::new();
    for (number, tags) in [(1, vec!["gpu"]), (2, vec!["gpu", "rack-3"]), (3, vec![])] {
        let mut request = world.registration(number);
        request.tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        let id = world.alive_node_from(&request).await;
        world.clean(id, at(0)).await;
        ids.push(id);
    }
    let mut wish = world.wish(user, 1);
    wish.tags = vec!["gpu".parse().unwrap(), "rack-3".parse().unwrap()];
    let placed = world.place(&wish).await.remove(0);
    assert_eq!(placed.claim.node.id, ids[1]);
    assert_eq!(world.lease(placed.lease.id).await.tags, wish.tags);
    wish.tags = vec!["gpu".parse().unwrap()];
    wish.request_key = "second".into();
    assert_eq!(world.place(&wish).await[0].claim.node.id, ids[0]);
    wish.request_key = "third".into();
    assert!(matches!(world.store.place(&wish).await.unwrap(), PlaceOutcome::TooFew { found: 0, .. }));
}

async fn uids_only_grow_and_are_never_used_again(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let mut uids = Vec::new();
    for _ in 0..3 {
        let lease = world.active_lease(&world.wish(user, 1)).await;
        uids.push(lease.account.uid);
        world.store.end_leases(&[lease.id], &EndReason::Released, None, at(5)).await.unwrap();
        world.clean(node, at(5)).await;
    }
    let forgotten = world.store.forget_clean_nodes(at(6)).await.unwrap();
    assert_eq!(forgotten.forgotten, [node]);
    world.sql("DELETE FROM leases").await.unwrap();
    world.free_node(2).await;
    uids.push(world.active_lease(&world.wish(user, 1)).await.account.uid);
    assert_eq!(uids, [FIRST_UID, FIRST_UID + 1, FIRST_UID + 2, FIRST_UID + 3]);
}

async fn uids_of_a_nodes_subordinate_ranges_are_skipped(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let ranges = [(100_000, 65_536), (165_536, 65_536), (231_072, 10)];
    world.set_subordinate(node, &ranges, at(0)).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    assert_eq!(lease.account.uid, 231_082);
    world.free_node(2).await;
    let next = world.active_lease(&world.wish(user, 1)).await;
    assert_eq!(next.account.uid, 231_083, "uids grow fleet-wide");
}

async fn when_the_uids_are_used_up_nothing_is_placed(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(3).await;
    let mut wish = world.wish(user, 2);
    wish.last_uid = wish.first_uid;
    assert!(matches!(world.store.place(&wish).await.unwrap(), PlaceOutcome::UidsExhausted));
    assert_eq!(world.count("SELECT COUNT(*) FROM leases").await, 0);
    wish.last_uid += 1;
    assert_eq!(world.place(&wish).await.len(), 2);
}

async fn a_request_that_comes_to_nothing_uses_up_no_uid(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(2).await;
    let mut named = world.wish(user, 1);
    named.name = Some("train".parse().unwrap());
    let lease = world.active_lease(&named).await;
    for _ in 0..3 {
        assert!(matches!(world.store.place(&named).await.unwrap(), PlaceOutcome::NameTaken(_)));
        let outcome = world.store.place(&world.wish(user, 2)).await.unwrap();
        assert!(matches!(outcome, PlaceOutcome::TooFew { found: 1, .. }), "{outcome:?}");
    }
    let next = world.active_lease(&world.wish(user, 1)).await;
    assert_eq!(next.account.uid, lease.account.uid + 1);
}

async fn a_lease_name_is_unique_among_live_leases_and_free_after_the_end(world: World) {
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    world.free_nodes(5).await;
    let mut wish = world.wish(alice, 1);
    wish.name = Some("train".parse().unwrap());
    let lease = world.active_lease(&wish).await;
    wish.request_key = "again".into();
    match world.store.place(&wish).await.unwrap() {
        PlaceOutcome::NameTaken(name) => assert_eq!(name, "train"),
        other => panic!("{other:?}"),
    }
    let mut of_bob = world.wish(bob, 1);
    of_bob.name = wish.name.clone();
    world.active_lease(&of_bob).await;
    let mut two = world.wish(alice, 2);
    two.name = wish.name.clone();
    let names: Vec<String> =
        world.place(&two).await.into_iter().map(|placed| placed.lease.name.unwrap().to_string()).collect();
    assert_eq!(names, ["train-1", "train-2"]);

    world.store.end_leases(&[lease.id], &EndReason::Released, None, at(5)).await.unwrap();
    let node = lease.state.occupies().unwrap();
    let name = "train".parse().unwrap();
    assert_eq!(world.store.lease_by_name(alice, &name).await.unwrap().unwrap().id, lease.id);
    assert_eq!(world.clean(node, at(6)).await.ended, [lease.id]);
    assert_eq!(world.store.lease_by_name(alice, &name).await.unwrap(), None);
    assert_eq!(world.lease(lease.id).await.name, Some(name), "the ended lease keeps its name for people");
    wish.request_key = "after".into();
    world.active_lease(&wish).await;
}

async fn a_placement_tells_its_holder_all_it_needs(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let before = world.node(node).await;
    let mut wish = world.wish(user, 1);
    wish.accounts =
        vec![NewAccount { public_key: Some(crate::world::host_key(9)), ..wish.accounts[0].clone() }];
    let placed = world.place(&wish).await.remove(0);
    let claim = &placed.claim;
    assert_eq!(claim.node, world.node(node).await);
    assert_eq!(claim.desired_version, before.desired_version + 1);
    assert!(claim.was_clean_before);
    assert_eq!(claim.retiring, None);
    let desired = claim.desired.as_ref().unwrap();
    assert_eq!((desired.lease, desired.until), (placed.lease.id, wish.until));
    assert_eq!(desired.account, placed.lease.account);
    assert_eq!(desired.account.public_key, wish.accounts[0].public_key);
    assert_eq!(placed.lease, world.lease(placed.lease.id).await);
    assert!(claim.node.claimed_until == Some(at(0).plus(TTL)));
    let next = world.store.claim_node(node, "other", TTL, at(31)).await.unwrap().unwrap();
    assert!(next.epoch > claim.epoch);
    assert_eq!(world.node(node).await.health, Health::Alive);
}

async fn a_node_that_is_claimed_while_a_placement_chooses_it_is_not_taken(world: World) {
    let user = world.user("alice").await;
    let hurried = world.free_node(1).await;
    let claim = format!(
        "UPDATE nodes SET claim_token = 'hurry', claimed_until = {} WHERE id = NEW.node_id AND id = {hurried}",
        at(60).as_micros()
    );
    // The lease's row is written after the choice and before the node's: somebody claims just then.
    let body = if world.is_maria() { claim } else { format!("BEGIN {claim}; END") };
    world.sql(&format!("CREATE TRIGGER hurry AFTER INSERT ON leases FOR EACH ROW {body}")).await.unwrap();
    let before = world.node(hurried).await;
    let error = world.store.place(&world.wish(user, 1)).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert_eq!(world.node(hurried).await, before);
    assert_eq!(world.count("SELECT COUNT(*) FROM leases").await, 0);
    let other = world.free_node(2).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    assert_eq!(placed.claim.node.id, other, "it chooses again");
    world.sql("DROP TRIGGER hurry").await.unwrap();
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    assert_eq!(placed.claim.node.id, hurried, "the control: nothing else kept it from being taken");
    world.check_invariants().await;
}
