//! Placement: never a double lease, never a node that must not be offered, all or none.

use crate::world::{FIRST_UID, TTL, World, at, on_both};
use orion_domain::{NodeId, lease::EndReason, node::Health};
use orion_store::{NewAccount, PlaceOutcome, PlaceRequest, StoreError};
use std::{collections::HashSet, sync::Arc};

on_both!(
    tenants_in_a_hurry_never_share_a_node,
    the_check_for_double_leases_would_catch_them,
    all_nodes_or_none,
    the_schema_refuses_a_second_lease_on_a_node,
    a_node_that_must_not_be_offered_is_not_offered,
    a_node_that_another_lease_has_is_not_told_as_a_taken_name,
    a_node_needs_every_tag_that_is_asked_for,
    a_user_gets_as_many_nodes_as_the_quota_says_and_not_one_more,
    uids_only_grow_and_are_never_used_again,
    uids_of_a_nodes_subordinate_ranges_are_skipped,
    when_the_uids_are_used_up_nothing_is_placed,
    a_request_that_comes_to_nothing_uses_up_no_uid,
    a_lease_name_is_unique_among_live_leases_and_free_after_the_end,
    a_placement_tells_its_holder_all_it_needs,
    a_node_that_another_lease_had_while_a_placement_chooses_it_is_not_taken,
    a_placement_claims_no_node_and_the_scheduler_leaves_it_its_first_turn,
    a_free_node_that_is_worked_on_is_placed_on_and_its_work_is_waited_for,
    a_lease_that_is_extended_before_its_login_is_made_is_left_to_its_provisioner,
    who_placed_a_lease_that_is_over_claims_its_node_no_more,
    placements_beside_work_on_the_nodes_double_none,
    a_turn_and_a_lease_count_from_when_they_are_written_not_from_when_they_were_asked_for,
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
                    world.store.leases().place(&world.wish(user, count)).await.unwrap()
                {
                    assert_eq!(placed.len(), count);
                    for placement in placed {
                        let placement = world.claim_placed(placement, at(0)).await;
                        rented += 1;
                        world.finish(&placement.claim, at(1)).await;
                        if (tenant + round) % 2 == 0 {
                            let id = placement.lease.id;
                            let reason = EndReason::Released;
                            let claim =
                                world.store.leases().release_and_claim(id, &reason, None, "t", TTL, at(2));
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
    match world.store.leases().place(&wish).await.unwrap() {
        PlaceOutcome::TooFew { found, next_end } => assert_eq!((found, next_end), (3, None)),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.count("SELECT COUNT(*) FROM leases").await, 0);
    assert_eq!(world.count("SELECT COUNT(*) FROM nodes WHERE whole_lease IS NOT NULL").await, 0);
    wish.count = 3;
    wish.accounts.truncate(3);
    let placed = world.place(&wish).await;
    let nodes: HashSet<NodeId> = placed.iter().map(|placement| placement.claim.node.id).collect();
    assert_eq!(nodes.len(), 3);
    match world.store.leases().place(&world.wish(user, 1)).await.unwrap() {
        PlaceOutcome::TooFew { found, next_end } => assert_eq!((found, next_end), (0, Some(at(3600)))),
        other => panic!("{other:?}"),
    }
    let gpu = PlaceRequest { tags: vec!["gpu".parse().unwrap()], ..world.wish(user, 1) };
    match world.store.leases().place(&gpu).await.unwrap() {
        PlaceOutcome::TooFew { next_end, .. } => assert_eq!(next_end, None, "the end of none helps"),
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
        "UPDATE nodes SET whole_lease = NULL, applied_version = desired_version, \
                       claim_token = NULL, claimed_until = NULL WHERE id = {node}"
    );
    world.sql(&sql).await.unwrap();
    assert!(world.node(node).await.is_offerable());
    let error = world.store.leases().place(&world.wish(user, 1)).await.unwrap_err();
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
        "way_in = 'unknown'",
        "way_in = 'shut', way_in_reason = '/etc/nologin is there'",
        "desired_version = desired_version + 1",
        "whole_lease = 4711",
    ];
    let restore = "UPDATE nodes SET admission = 'admitted', health = 'alive', quarantine = NULL, cordon = NULL, way_in = 'open', \
                   drain_since = NULL, desired_version = applied_version, whole_lease = NULL, claim_token = NULL, claimed_until = NULL";
    for spoiler in spoilers {
        world.sql(&format!("UPDATE nodes SET {spoiler}")).await.unwrap();
        match world.store.leases().place(&world.wish(user, 1)).await.unwrap() {
            PlaceOutcome::TooFew { found: 0, .. } => {}
            other => panic!("offered although {spoiler}: {other:?}"),
        }
        assert!(!world.node(node).await.is_offerable(), "the domain disagrees on {spoiler}");
        world.sql(restore).await.unwrap();
    }
    assert!(world.node(node).await.is_offerable());
    assert_eq!(world.place(&world.wish(user, 1)).await.len(), 1, "the control: it is offered otherwise");
}

async fn a_node_that_another_lease_has_is_not_told_as_a_taken_name(world: World) {
    let user = world.user("alice").await;
    world.free_node(1).await;
    world.active_lease(&world.wish(user, 1)).await;
    world.sql("UPDATE nodes SET whole_lease = NULL").await.unwrap();
    let named = PlaceRequest { name: Some("train".parse().unwrap()), ..world.wish(user, 1) };
    let outcome = world.store.leases().place(&named).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    assert_eq!(world.count("SELECT COUNT(*) FROM leases").await, 1);
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
    assert!(matches!(
        world.store.leases().place(&wish).await.unwrap(),
        PlaceOutcome::TooFew { found: 0, .. }
    ));
}

async fn a_user_gets_as_many_nodes_as_the_quota_says_and_not_one_more(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(4).await;
    let within = |count| PlaceRequest { nodes_max: Some(2), ..world.wish(user, count) };
    let refused = async |count| match world.store.leases().place(&within(count)).await.unwrap() {
        PlaceOutcome::QuotaOfNodes { have } => have,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(3).await, 0);
    assert_eq!(world.place(&within(1)).await.len(), 1);
    assert_eq!(refused(2).await, 1);
    assert_eq!(world.place(&within(1)).await.len(), 1);
    assert_eq!(refused(1).await, 2);
}

async fn uids_only_grow_and_are_never_used_again(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let mut uids = Vec::new();
    for _ in 0..3 {
        let lease = world.active_lease(&world.wish(user, 1)).await;
        uids.push(lease.account.as_ref().unwrap().uid);
        world.store.leases().end(&[lease.id], &EndReason::Released, None, at(5)).await.unwrap();
        world.clean(node, at(5)).await;
    }
    let forgotten = world.store.nodes().forget_clean(at(6)).await.unwrap();
    assert_eq!(forgotten.forgotten, [node]);
    world.sql("DELETE FROM leases").await.unwrap();
    world.free_node(2).await;
    uids.push(world.active_lease(&world.wish(user, 1)).await.account.as_ref().unwrap().uid);
    assert_eq!(uids, [FIRST_UID, FIRST_UID + 1, FIRST_UID + 2, FIRST_UID + 3]);
}

async fn uids_of_a_nodes_subordinate_ranges_are_skipped(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let ranges = [(100_000, 65_536), (165_536, 65_536), (231_072, 10)];
    world.set_subordinate(node, &ranges, at(0)).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    assert_eq!(lease.account.as_ref().unwrap().uid, 231_082);
    world.free_node(2).await;
    let next = world.active_lease(&world.wish(user, 1)).await;
    assert_eq!(next.account.as_ref().unwrap().uid, 231_083, "uids grow fleet-wide");
}

async fn when_the_uids_are_used_up_nothing_is_placed(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(3).await;
    let mut wish = world.wish(user, 2);
    wish.last_uid = wish.first_uid;
    assert!(matches!(world.store.leases().place(&wish).await.unwrap(), PlaceOutcome::UidsExhausted));
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
        assert!(matches!(world.store.leases().place(&named).await.unwrap(), PlaceOutcome::NameTaken(_)));
        let outcome = world.store.leases().place(&world.wish(user, 2)).await.unwrap();
        assert!(matches!(outcome, PlaceOutcome::TooFew { found: 1, .. }), "{outcome:?}");
    }
    let next = world.active_lease(&world.wish(user, 1)).await;
    assert_eq!(next.account.as_ref().unwrap().uid, lease.account.as_ref().unwrap().uid + 1);
}

async fn a_lease_name_is_unique_among_live_leases_and_free_after_the_end(world: World) {
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    world.free_nodes(5).await;
    let mut wish = world.wish(alice, 1);
    wish.name = Some("train".parse().unwrap());
    let lease = world.active_lease(&wish).await;
    wish.request_key = "again".into();
    match world.store.leases().place(&wish).await.unwrap() {
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

    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(5)).await.unwrap();
    let node = lease.state.occupies().unwrap();
    let name = "train".parse().unwrap();
    assert_eq!(world.store.leases().by_name(alice, &name).await.unwrap().unwrap().id, lease.id);
    assert_eq!(world.clean(node, at(6)).await.ended, [lease.id]);
    assert_eq!(world.store.leases().by_name(alice, &name).await.unwrap(), None);
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
    assert_eq!(claim.retiring, []);
    let desired = &claim.desired[0];
    assert_eq!((desired.lease, desired.until), (placed.lease.id, wish.until));
    assert!(desired.is_new(), "no login of it was ever known to work");
    assert_eq!(desired.account, placed.lease.account);
    assert_eq!(desired.account.as_ref().unwrap().public_key, wish.accounts[0].public_key);
    assert_eq!(placed.lease, world.lease(placed.lease.id).await);
    assert!(claim.node.claimed_until == Some(at(0).plus(TTL)));
    let next = world.store.nodes().claim(node, "other", TTL, at(31)).await.unwrap().unwrap();
    assert!(next.epoch > claim.epoch);
    assert_eq!(world.node(node).await.health, Health::Alive);
}

async fn a_node_that_another_lease_had_while_a_placement_chooses_it_is_not_taken(world: World) {
    let user = world.user("alice").await;
    let hurried = world.free_node(1).await;
    let claim = format!(
        "UPDATE nodes SET desired_version = desired_version + 1, applied_version = applied_version + 1 \
         WHERE id = NEW.node_id AND id = {hurried}"
    );
    // The lease's row is written after the choice and before the node's: another lease was there just then.
    let body = if world.is_maria() { claim } else { format!("BEGIN {claim}; END") };
    world.sql(&format!("CREATE TRIGGER hurry AFTER INSERT ON leases FOR EACH ROW {body}")).await.unwrap();
    let before = world.node(hurried).await;
    let error = world.store.leases().place(&world.wish(user, 1)).await.unwrap_err();
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

async fn a_turn_and_a_lease_count_from_when_they_are_written_not_from_when_they_were_asked_for(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(1).await;
    let wish = world.wish(user, 1);
    let length = wish.until.since(wish.from);
    // The database is busy for a while: what every placement writes is held by another.
    let held = world.hold("UPDATE settings SET value = value WHERE name = 'next_uid'").await;
    let store = world.store.clone();
    let placing = tokio::spawn(async move { store.leases().place(&wish).await });
    let pause = std::time::Duration::from_millis(1500);
    tokio::time::sleep(pause).await;
    assert!(!placing.is_finished(), "nothing is in its way");
    held.release().await;
    let PlaceOutcome::Placed(placed) = placing.await.unwrap().unwrap() else { panic!("nothing was free") };
    let lease = &placed[0].lease;
    // The placement began a moment after it was told to.
    assert!(lease.from.since(world.wish(user, 1).from) >= pause / 2, "{:?}", lease.from);
    assert_eq!(lease.until.since(lease.from), length);
    let turn = world.count("SELECT first_turn_until FROM nodes WHERE whole_lease IS NOT NULL").await;
    assert!(turn >= lease.from.plus(TTL).as_micros(), "the first turn lasts for its whole time");
}

async fn a_placement_claims_no_node_and_the_scheduler_leaves_it_its_first_turn(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let before = world.count("SELECT epoch FROM nodes").await;
    let PlaceOutcome::Placed(placed) = world.store.leases().place(&world.wish(user, 1)).await.unwrap() else {
        panic!("it is free")
    };
    assert_eq!(world.count("SELECT COUNT(*) FROM nodes WHERE claim_token IS NULL").await, 1);
    assert_eq!(placed[0].node(), node);
    assert_eq!(world.store.nodes().dirty(at(29), 9).await.unwrap(), []);
    assert_eq!(world.store.nodes().claim(node, "scheduler", TTL, at(29)).await.unwrap(), None);
    assert_eq!(world.store.leases().orphaned(at(29), 9).await.unwrap(), []);
    assert_eq!(world.store.nodes().dirty(at(30), 9).await.unwrap(), [node], "its provisioner is gone");
    assert_eq!(world.store.leases().orphaned(at(30), 9).await.unwrap().len(), 1);
    let claim = world.store.nodes().claim_placed(&placed[0], "api-1", TTL, at(1)).await.unwrap().unwrap();
    assert_eq!((claim.epoch, claim.holds.as_slice()), (before as u64 + 1, &[(placed[0].lease.id, 1)][..]));
    assert_eq!(claim.node, world.node(node).await);
    // The claim uses the turn up: what fails is the scheduler's at once.
    world.store.nodes().fail_reconcile(&claim, "x", at(2), None, at(2)).await.unwrap();
    assert_eq!(world.store.nodes().dirty(at(2), 9).await.unwrap(), [node]);
}

async fn a_lease_that_is_extended_before_its_login_is_made_is_left_to_its_provisioner(world: World) {
    let user = world.user("alice").await;
    world.free_node(1).await;
    let PlaceOutcome::Placed(placed) = world.store.leases().place(&world.wish(user, 1)).await.unwrap() else {
        panic!("it is free")
    };
    let extended =
        world.store.leases().extend(placed[0].lease.id, at(9000), "api-2", TTL, at(1)).await.unwrap();
    let (lease, claim) = extended.done().unwrap();
    assert_eq!((lease.until, claim), (at(9000), None));
    let claim = world.store.nodes().claim_placed(&placed[0], "api-1", TTL, at(2)).await.unwrap().unwrap();
    assert_eq!(claim.desired[0].until, at(9000));
    assert_eq!(world.finish(&claim, at(3)).await.activated, [lease.id]);
    world.check_invariants().await;
}

async fn who_placed_a_lease_that_is_over_claims_its_node_no_more(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let PlaceOutcome::Placed(placed) = world.store.leases().place(&world.wish(user, 1)).await.unwrap() else {
        panic!("it is free")
    };
    let id = placed[0].lease.id;
    let ended = world.store.leases().release_and_claim(id, &EndReason::Released, None, "api-2", TTL, at(1));
    let cleaner = ended.await.unwrap().done().unwrap().expect("nobody else works there");
    world.finish(&cleaner, at(2)).await;
    assert_eq!(world.store.nodes().claim_placed(&placed[0], "api-1", TTL, at(3)).await.unwrap(), None);
    let mut next = world.wish(user, 1);
    next.request_key = "next".into();
    let PlaceOutcome::Placed(next) = world.store.leases().place(&next).await.unwrap() else {
        panic!("it is clean")
    };
    assert_eq!(world.store.nodes().claim_placed(&placed[0], "api-1", TTL, at(4)).await.unwrap(), None);
    assert_eq!(world.store.nodes().dirty(at(5), 9).await.unwrap(), [], "the first turn is the next one's");
    assert_eq!(next[0].node(), node);
    let claim = world.store.nodes().claim_placed(&next[0], "api-1", TTL, at(5)).await.unwrap().unwrap();
    assert_eq!(world.finish(&claim, at(6)).await.activated, [next[0].lease.id]);
}

async fn a_free_node_that_is_worked_on_is_placed_on_and_its_work_is_waited_for(world: World) {
    let user = world.user("alice").await;
    let busy = world.free_node(1).await;
    let work = world.claim(busy, at(0)).await;
    let idle = world.free_node(2).await;
    let mut wish = world.wish(user, 1);
    assert_eq!(world.place(&wish).await[0].claim.node.id, idle, "one that nobody works on comes first");
    wish.request_key = "second".into();
    let PlaceOutcome::Placed(mut placed) = world.store.leases().place(&wish).await.unwrap() else {
        panic!("a claim holds no capacity")
    };
    let placement = placed.remove(0);
    assert_eq!(placement.node(), busy);
    let claim =
        async |second| world.store.nodes().claim_placed(&placement, "api-1", TTL, at(second)).await.unwrap();
    assert_eq!(claim(1).await, None);
    // What the other applied is not what the lease wants: the node stays dirty, and its work is the lease's.
    assert_eq!(world.finish(&work, at(2)).await, orion_store::Finished::default());
    let claim = claim(3).await.expect("the work is over");
    assert!(claim.epoch > work.epoch && claim.was_clean_before, "{claim:?}");
    assert_eq!(world.finish(&claim, at(4)).await.activated, [placement.lease.id]);
    world.check_invariants().await;
}

async fn placements_beside_work_on_the_nodes_double_none(world: World) {
    let user = world.user("alice").await;
    let nodes = world.free_nodes(16).await;
    let mut work = tokio::task::JoinSet::new();
    for node in nodes {
        let store = world.store.clone();
        work.spawn(async move {
            for _ in 0..8 {
                if let Some(claim) = store.nodes().claim(node, "task", TTL, at(1)).await.unwrap() {
                    store.nodes().release_claim(&claim, at(1)).await.unwrap();
                }
            }
        });
    }
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (store, wish) = (world.store.clone(), world.wish(user, 1));
        clients.spawn(async move {
            let PlaceOutcome::Placed(placed) = store.leases().place(&wish).await.unwrap() else {
                return false;
            };
            while store.nodes().claim_placed(&placed[0], "api-1", TTL, at(2)).await.unwrap().is_none() {
                tokio::task::yield_now().await;
            }
            true
        });
    }
    let placed = clients.join_all().await.into_iter().filter(|placed| *placed).count();
    work.join_all().await;
    assert_eq!(placed, 16);
    assert_eq!(world.count("SELECT COUNT(*) FROM leases").await, 16);
    world.check_invariants().await;
}
