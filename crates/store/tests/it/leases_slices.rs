//! Leases that hold a slice of a node, beside each other.

use crate::world::{FIRST_UID, TTL, World, at, lease_refuses, on_both};
use orion_domain::{
    LeaseId, NodeId,
    lease::{EndReason, Holding, Lease, LeaseState, Phase},
    node::{Facts, Gpu, Health},
};
use orion_store::{
    Cas, DrainRequest, IdemNew, MoveOutcome, MoveReason, MoveRequest, PlaceOutcome, PlaceRequest, Step,
};

on_both!(
    slices_lie_beside_each_other_until_the_node_is_full,
    a_whole_node_and_a_slice_exclude_each_other,
    work_for_one_lease_keeps_no_slice_away_and_an_unclean_node_does,
    the_end_of_one_lease_gives_back_its_slice_alone,
    all_slices_of_a_dead_node_lose_it_and_their_room_is_given_back_when_they_left,
    of_many_placements_at_once_none_takes_more_than_there_is,
    slices_leave_a_drained_node_one_after_the_other_and_at_its_deadline_all,
    the_end_of_a_slice_beside_one_that_is_on_its_way_off_the_node_leaves_that_one_alone,
    slices_of_a_dead_node_move_each_to_where_there_is_room,
    a_slice_that_yields_keeps_its_room_until_it_is_removed_and_then_queues,
    a_lease_without_an_account_holds_its_slice_and_has_no_login,
    clients_that_rent_slices_at_once_never_take_more_than_a_node_has,
    the_check_of_sums_would_catch_placements_that_read_before_they_write,
    a_request_for_slices_with_the_same_key_is_placed_once,
    each_gpu_is_of_one_slice_alone_and_comes_back_with_it,
    a_node_that_becomes_smaller_keeps_its_leases_and_takes_no_others_until_they_fit,
    a_whole_node_beside_slices_is_not_given_back_and_nothing_hangs,
    the_schema_refuses_what_does_not_fit,
);

/// The first free node, with four cores and 8 GiB.
async fn node_of_four_cores(world: &World) -> NodeId {
    four_cores(world, 1).await
}

async fn four_cores(world: &World, number: u32) -> NodeId {
    let node = world.free_node(number).await;
    let mut facts = world.node(node).await.facts;
    for cores in [2, 4] {
        (facts.cpu_cores, facts.memory_mb) = (Some(cores), Some(u64::from(cores) * 2048));
        world.store.nodes().update_facts(node, &facts, at(0)).await.unwrap().done().unwrap();
    }
    let capacity = world.node(node).await.capacity;
    assert_eq!((capacity.cpu_milli, capacity.memory_mb), (4000, 8192));
    node
}

async fn slice(world: &World, name: &str, cpu_milli: u32, memory_mb: u32) -> PlaceRequest {
    let user = match world.store.accounts().by_name(name).await.unwrap() {
        Some(user) => user.id,
        None => world.user(name).await,
    };
    let holding = Holding::Slice { cpu_milli, memory_mb, gpus: 0 };
    let first_turn = std::time::Duration::ZERO;
    PlaceRequest { username: name.parse().unwrap(), holding, first_turn, ..world.wish(user, 1) }
}

async fn placed(world: &World, request: &PlaceRequest) -> Lease {
    match world.store.leases().place(request).await.unwrap() {
        PlaceOutcome::Placed(mut placements) => placements.remove(0).lease,
        other => panic!("{other:?}"),
    }
}

async fn no_room(world: &World, request: &PlaceRequest) {
    let refused = world.store.leases().place(request).await.unwrap();
    assert!(matches!(refused, PlaceOutcome::TooFew { found: 0, .. }), "{refused:?}");
}

async fn held(world: &World, node: NodeId) -> (i64, i64) {
    let capacity = world.node(node).await.capacity;
    (capacity.cpu_held, capacity.memory_held_mb)
}

async fn slices_lie_beside_each_other_until_the_node_is_full(world: World) {
    let node = node_of_four_cores(&world).await;
    let alice = placed(&world, &slice(&world, "alice", 1500, 2048).await).await;
    let bob = placed(&world, &slice(&world, "bob", 2500, 1024).await).await;
    assert_eq!([alice.state.occupies(), bob.state.occupies()], [Some(node); 2]);
    assert_eq!(held(&world, node).await, (4000, 3072));
    let wish = slice(&world, "carol", 1, 1).await;
    no_room(&world, &wish).await;
    // One reconcile confirms both, each under its own lease.
    let claim = world.claim(node, at(1)).await;
    let desired: Vec<_> =
        claim.desired.iter().map(|desired| (desired.lease, desired.account.as_ref().unwrap().uid)).collect();
    assert_eq!(desired, [(alice.id, FIRST_UID), (bob.id, FIRST_UID + 1)]);
    assert_eq!(claim.holds, [(alice.id, 1), (bob.id, 1)]);
    assert_eq!(world.finish(&claim, at(2)).await.activated, [alice.id, bob.id]);
    assert_eq!(
        world.lease(alice.id).await.holding,
        Holding::Slice { cpu_milli: 1500, memory_mb: 2048, gpus: 0 }
    );
    assert_eq!(world.count("SELECT COUNT(*) FROM holds WHERE applied = desired").await, 2);
    world.check_holds(at(3)).await;
}

async fn a_whole_node_and_a_slice_exclude_each_other(world: World) {
    let node = node_of_four_cores(&world).await;
    let wish = slice(&world, "alice", 500, 512).await;
    let lease = placed(&world, &wish).await;
    world.clean(node, at(1)).await;
    let whole = world.wish(lease.user, 1);
    let refused = world.store.leases().place(&whole).await.unwrap();
    assert!(matches!(refused, PlaceOutcome::TooFew { found: 0, .. }), "{refused:?}");
    assert!(!world.node(node).await.is_offerable());
    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(2)).await.unwrap();
    world.clean(node, at(3)).await;
    assert!(world.node(node).await.is_offerable());
    world.active_lease(&whole).await;
    no_room(&world, &wish).await;
    world.check_holds(at(4)).await;
}

async fn work_for_one_lease_keeps_no_slice_away_and_an_unclean_node_does(world: World) {
    let node = node_of_four_cores(&world).await;
    placed(&world, &slice(&world, "alice", 500, 512).await).await;
    let pending = world.node(node).await;
    assert!(
        pending.is_dirty() && !pending.unclean,
        "work is pending, and nothing of an earlier life is there"
    );
    placed(&world, &slice(&world, "bob", 500, 512).await).await;
    world.clean(node, at(1)).await;
    // Away for a while and back: what is on it is not known until it was looked at.
    for (health, now) in [(Health::Unreachable, 2), (Health::Alive, 3)] {
        let version = world.node(node).await.version;
        world.store.nodes().set_health(node, version, health, "test", at(now)).await.unwrap().done().unwrap();
    }
    assert!(world.node(node).await.unclean);
    let wish = slice(&world, "carol", 500, 512).await;
    no_room(&world, &wish).await;
    world.clean(node, at(4)).await;
    assert!(!world.node(node).await.unclean);
    placed(&world, &wish).await;
    world.check_holds(at(5)).await;
}

async fn the_end_of_one_lease_gives_back_its_slice_alone(world: World) {
    let node = node_of_four_cores(&world).await;
    let alice = placed(&world, &slice(&world, "alice", 1000, 1024).await).await;
    let bob = placed(&world, &slice(&world, "bob", 2000, 2048).await).await;
    world.clean(node, at(1)).await;
    assert_eq!(
        world.store.leases().end(&[alice.id], &EndReason::Released, None, at(2)).await.unwrap(),
        [alice.id]
    );
    assert_eq!(held(&world, node).await, (3000, 3072), "its account may still be there");
    let claim = world.claim(node, at(3)).await;
    assert_eq!(claim.desired.iter().map(|desired| desired.lease).collect::<Vec<_>>(), [bob.id]);
    assert_eq!(claim.retiring.iter().map(|(lease, _)| *lease).collect::<Vec<_>>(), [alice.id]);
    assert_eq!(world.finish(&claim, at(4)).await.ended, [alice.id]);
    assert_eq!(held(&world, node).await, (2000, 2048));
    assert_eq!(world.lease(bob.id).await.state.phase(), Phase::Active);
    world.check_holds(at(5)).await;
}

async fn all_slices_of_a_dead_node_lose_it_and_their_room_is_given_back_when_they_left(world: World) {
    let node = node_of_four_cores(&world).await;
    let alice = placed(&world, &slice(&world, "alice", 1000, 1024).await).await;
    let bob = placed(&world, &slice(&world, "bob", 2000, 2048).await).await;
    world.clean(node, at(1)).await;
    let version = world.node(node).await.version;
    let died = world.store.nodes().set_health(node, version, Health::Dead, "gone", at(2)).await.unwrap();
    let Cas::Done(changed) = died else { panic!("{died:?}") };
    assert_eq!(changed.leases, [alice.id, bob.id]);
    for lease in [&alice, &bob] {
        assert_eq!(world.lease(lease.id).await.state.phase(), Phase::Migrating);
    }
    assert_eq!(held(&world, node).await, (3000, 3072), "it is theirs until they have another");
    world.store.leases().end(&[alice.id, bob.id], &EndReason::Released, None, at(3)).await.unwrap();
    assert_eq!(held(&world, node).await, (0, 0));
    world.check_holds(at(4)).await;
}

async fn of_many_placements_at_once_none_takes_more_than_there_is(world: World) {
    let node = node_of_four_cores(&world).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (store, wish) = (world.store.clone(), slice(&world, &format!("user{number}"), 1000, 1024).await);
        tasks.spawn(async move { store.leases().place(&wish).await.unwrap() });
    }
    let outcomes = tasks.join_all().await;
    let placed = outcomes.iter().filter(|outcome| matches!(outcome, PlaceOutcome::Placed(_))).count();
    assert_eq!((placed, held(&world, node).await), (4, (4000, 4096)), "{outcomes:?}");
    world.check_holds(at(1)).await;
}

fn move_off(lease: &Lease, away_from: NodeId, why: MoveReason, second: i64) -> MoveRequest<'static> {
    let (lease, now) = (lease.id, at(second));
    MoveRequest { lease, away_from, claim_of_old: None, why, first_turn: TTL, now }
}

/// Moves a lease and confirms its account on the new node, which is returned.
async fn moved(world: &World, request: &MoveRequest<'_>) -> NodeId {
    let MoveOutcome::Placed(placement) = world.store.leases().migrate(request).await.unwrap() else {
        panic!("there is room")
    };
    let placed = world.claim_placed(placement, request.now).await;
    assert!(world.finish(&placed.claim, request.now).await.activated.contains(&request.lease));
    placed.claim.node.id
}

async fn slices_leave_a_drained_node_one_after_the_other_and_at_its_deadline_all(world: World) {
    let old = node_of_four_cores(&world).await;
    let alice = placed(&world, &slice(&world, "alice", 1000, 1024).await).await;
    let bob = placed(&world, &slice(&world, "bob", 2000, 2048).await).await;
    world.clean(old, at(1)).await;
    let new = four_cores(&world, 2).await;
    let request = DrainRequest { deadline: Some(Some(at(100))), ..DrainRequest::default() };
    world.store.nodes().drain(old, &request, at(2)).await.unwrap().done().unwrap();
    let to_move = async |second| -> Vec<_> {
        let leases = world.store.nodes().leases_to_move_off(at(second), 9).await.unwrap();
        leases.into_iter().map(|(lease, node)| (lease.id, node.id)).collect()
    };
    assert_eq!(to_move(3).await, [(alice.id, old), (bob.id, old)], "each of them, with its node");
    assert!(world.store.nodes().has_free(&[], alice.holding).await.unwrap());
    let why = || MoveReason::Draining("the node is being drained".into());
    assert_eq!(moved(&world, &move_off(&alice, old, why(), 4)).await, new);
    assert_eq!(world.lease(bob.id).await.state, LeaseState::Active { node: old }, "it stays meanwhile");
    assert_eq!(held(&world, old).await, (3000, 3072), "the account that left may still be there");
    assert_eq!(world.clean(old, at(5)).await.activated, []);
    assert_eq!((held(&world, old).await, held(&world, new).await), ((2000, 2048), (1000, 1024)));
    world.check_holds(at(5)).await;
    let carol = placed(&world, &slice(&world, "carol", 500, 512).await).await;
    assert_eq!(carol.state.occupies(), Some(new), "a drained node takes no slice");
    assert_eq!(to_move(6).await, [(bob.id, old)]);

    // Alice's new node is drained, too: at the deadline both that are there lose it, each by its policy.
    world.clean(new, at(6)).await;
    world.store.nodes().drain(new, &request, at(7)).await.unwrap().done().unwrap();
    assert_eq!(world.store.nodes().due_drains(at(100)).await.unwrap(), [old, new]);
    let lost = world.store.nodes().end_drain(new, at(100)).await.unwrap();
    assert_eq!(lost, Cas::Done(vec![alice.id, carol.id]));
    for lease in [alice.id, carol.id] {
        assert_eq!(world.lease(lease).await.state.phase(), Phase::Migrating);
    }
    world.check_holds(at(101)).await;
}

async fn the_end_of_a_slice_beside_one_that_is_on_its_way_off_the_node_leaves_that_one_alone(world: World) {
    let old = node_of_four_cores(&world).await;
    let alice = placed(&world, &slice(&world, "alice", 1000, 1024).await).await;
    let bob = placed(&world, &slice(&world, "bob", 2000, 2048).await).await;
    let carol = placed(&world, &slice(&world, "carol", 500, 512).await).await;
    world.clean(old, at(1)).await;
    four_cores(&world, 2).await;
    world.store.nodes().drain(old, &DrainRequest::default(), at(2)).await.unwrap().done().unwrap();
    let request = move_off(&alice, old, MoveReason::Draining("the node is being drained".into()), 3);
    let MoveOutcome::Placed(placement) = world.store.leases().migrate(&request).await.unwrap() else {
        panic!("there is room")
    };
    let placement = world.claim_placed(placement, at(3)).await;

    let (leases, nodes) = (world.store.leases(), world.store.nodes());
    let ended =
        leases.release_and_claim(bob.id, &EndReason::Released, None, "test", TTL, at(4)).await.unwrap();
    let claim = ended.done().unwrap().expect("the node lives and is free to be worked on");
    assert_eq!(claim.departing, std::slice::from_ref(&alice.ulid), "what is of alice's lease there stays");
    assert!(claim.retires(bob.id) && !claim.retires(alice.id));
    assert_eq!(world.finish(&claim, at(5)).await.ended, [bob.id]);
    let longer = leases.extend(carol.id, at(1_000_000), "test", TTL, at(6)).await.unwrap().done().unwrap();
    let claim = longer.1.expect("the node is free to be worked on");
    assert_eq!(claim.departing, std::slice::from_ref(&alice.ulid));
    world.finish(&claim, at(7)).await;
    assert_eq!(nodes.dirty(at(8), 9).await.unwrap(), [], "it waits for alice's new node");
    assert!(world.node(old).await.is_dirty());

    assert_eq!(world.finish(&placement.claim, at(9)).await.activated, [alice.id]);
    assert_eq!(nodes.dirty(at(10), 9).await.unwrap(), [old], "what she left there is removed now");
    assert_eq!(world.claim(old, at(10)).await.departing, [] as [&str; 0]);
    world.check_holds(at(11)).await;
}

async fn slices_of_a_dead_node_move_each_to_where_there_is_room(world: World) {
    let dead = node_of_four_cores(&world).await;
    let alice = placed(&world, &slice(&world, "alice", 2000, 1024).await).await;
    let bob = placed(&world, &slice(&world, "bob", 2000, 1024).await).await;
    world.clean(dead, at(1)).await;
    world.set_health(dead, Health::Dead, at(2)).await;
    let refused =
        world.store.leases().migrate(&move_off(&alice, dead, MoveReason::NodeDead, 3)).await.unwrap();
    assert!(matches!(refused, MoveOutcome::NoneFree { .. }), "not to the node that it lost: {refused:?}");
    let (second, third) = (four_cores(&world, 2).await, four_cores(&world, 3).await);
    let whole = placed(&world, &slice(&world, "carol", 3000, 1024).await).await;
    world.clean(whole.state.occupies().unwrap(), at(3)).await;
    let other = if whole.state.occupies() == Some(second) { third } else { second };
    for lease in [&alice, &bob] {
        assert_eq!(moved(&world, &move_off(lease, dead, MoveReason::NodeDead, 4)).await, other);
    }
    assert_eq!((held(&world, dead).await, held(&world, other).await), ((0, 0), (4000, 2048)));
    // What it still has of them goes when it returns.
    world.set_health(dead, Health::Alive, at(5)).await;
    let claim = world.claim(dead, at(6)).await;
    assert_eq!((claim.desired.len(), claim.retiring.len()), (0, 0));
    world.finish(&claim, at(7)).await;
    assert!(world.node(dead).await.is_offerable());
    world.check_holds(at(8)).await;
}

async fn a_slice_that_yields_keeps_its_room_until_it_is_removed_and_then_queues(world: World) {
    let node = node_of_four_cores(&world).await;
    let alice = placed(&world, &slice(&world, "alice", 3000, 1024).await).await;
    let bob = placed(&world, &slice(&world, "bob", 1000, 1024).await).await;
    let preempt = Step::Preempt("a booking begins".into());
    let too_soon = world.store.leases().step(alice.id, &preempt, None, at(1)).await.unwrap();
    assert_eq!(too_soon, lease_refuses("provisioning", "preempted"), "it has no login yet");
    world.clean(node, at(1)).await;
    world.store.leases().step(alice.id, &preempt, None, at(2)).await.unwrap().done().unwrap();
    assert_eq!(held(&world, node).await, (4000, 2048));
    assert_eq!(world.store.nodes().dirty(at(2), 9).await.unwrap(), [node]);
    world.check_holds(at(2)).await;
    let claim = world.claim(node, at(3)).await;
    assert_eq!(claim.desired.iter().map(|desired| desired.lease).collect::<Vec<_>>(), [bob.id]);
    assert_eq!(claim.retiring, [(alice.id, alice.account.clone())]);
    let finished = world.finish(&claim, at(4)).await;
    assert_eq!((finished.queued, finished.ended), (vec![alice.id], vec![]));
    assert_eq!(held(&world, node).await, (1000, 1024));
    let waits = LeaseState::Queued { reason: "a booking begins".into() };
    assert_eq!(world.lease(alice.id).await.state, waits);
    world.check_holds(at(5)).await;
    // It takes the room again as soon as it may; and yields at once where the node dies.
    let Cas::Done(Some(placement)) = world.store.leases().begin(alice.id, TTL, at(6)).await.unwrap() else {
        panic!("there is room")
    };
    let placed = world.claim_placed(placement, at(6)).await;
    world.finish(&placed.claim, at(6)).await;
    world.store.leases().step(alice.id, &preempt, None, at(7)).await.unwrap().done().unwrap();
    assert_eq!(world.set_health(node, Health::Dead, at(8)).await, [alice.id, bob.id]);
    assert_eq!(world.lease(alice.id).await.state, waits);
    world.check_holds(at(9)).await;
}

async fn a_lease_without_an_account_holds_its_slice_and_has_no_login(world: World) {
    let node = node_of_four_cores(&world).await;
    let alice = placed(&world, &slice(&world, "alice", 500, 512).await).await;
    let without = PlaceRequest { accounts: Vec::new(), ..slice(&world, "bob", 1000, 1024).await };
    let bob = placed(&world, &without).await;
    assert_eq!((bob.account.as_ref(), &world.lease(bob.id).await), (None, &bob));
    assert_eq!(alice.account.as_ref().map(|account| account.uid), Some(FIRST_UID));
    let claim = world.claim(node, at(1)).await;
    assert!(claim.desired_of(bob.id).is_some_and(|desired| desired.account.is_none()));
    assert_eq!(claim.others_than(alice.id), 0, "it has no account of which the node could tell");
    assert_eq!(world.finish(&claim, at(2)).await.activated, [alice.id, bob.id]);
    let next = placed(&world, &slice(&world, "carol", 500, 512).await).await;
    assert_eq!(next.account.map(|account| account.uid), Some(FIRST_UID + 1), "it used up no uid");
    world.store.leases().end(&[bob.id], &EndReason::Released, None, at(3)).await.unwrap();
    let claim = world.claim(node, at(4)).await;
    assert_eq!(claim.retiring, [(bob.id, None)]);
    assert_eq!(world.finish(&claim, at(5)).await.ended, [bob.id]);
    assert_eq!(held(&world, node).await, (1000, 1024));
    world.check_holds(at(6)).await;
}

async fn the_schema_refuses_what_does_not_fit(world: World) {
    let node = node_of_four_cores(&world).await;
    let lease = placed(&world, &slice(&world, "alice", 1000, 1024).await).await;
    for sql in [
        format!("UPDATE nodes SET cpu_held = 4001 WHERE id = {node}"),
        format!("UPDATE nodes SET memory_held_mb = 8193 WHERE id = {node}"),
        format!("UPDATE nodes SET cpu_held = -1 WHERE id = {node}"),
        format!("UPDATE nodes SET whole_lease = 9 WHERE id = {node}"),
        format!("UPDATE holds SET applied = desired + 1 WHERE lease_id = {}", lease.id),
        format!("UPDATE leases SET cpu_milli = 0 WHERE id = {}", lease.id),
        format!("UPDATE leases SET account_uid = NULL WHERE id = {}", lease.id),
        format!("UPDATE leases SET client_user = NULL, account_uid = NULL WHERE id = {}", lease.id),
        format!("UPDATE leases SET state = 'queued' WHERE id = {}", lease.id),
        format!("UPDATE leases SET state = 'yielding', occupies_node = NULL WHERE id = {}", lease.id),
        format!("UPDATE leases SET state = 'pending' WHERE id = {}", lease.id),
    ] {
        world.sql(&sql).await.expect_err(&sql);
    }
}

/// What leases hold of a node, beside what it has; by SQL, from the holds alone.
const OVER_CAPACITY: &str = "SELECT COUNT(*) FROM nodes n WHERE \
    n.cpu_milli < (SELECT COALESCE(SUM(h.cpu_milli), 0) FROM holds h WHERE h.node_id = n.id) \
    OR n.memory_capacity_mb < (SELECT COALESCE(SUM(h.memory_mb), 0) FROM holds h WHERE h.node_id = n.id)";

async fn clients_that_rent_slices_at_once_never_take_more_than_a_node_has(world: World) {
    let (first, second) = (four_cores(&world, 1).await, four_cores(&world, 2).await);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..32 {
        // Room for 8 + 8 of half a core and 1 GiB, whatever the order.
        let wish = slice(&world, &format!("user{number}"), 500, 1024).await;
        let store = world.store.clone();
        tasks.spawn(async move { store.leases().place(&wish).await.unwrap() });
    }
    let mut placed = 0;
    while let Some(outcome) = tasks.join_next().await {
        placed += usize::from(matches!(outcome.unwrap(), PlaceOutcome::Placed(_)));
        assert_eq!(world.count(OVER_CAPACITY).await, 0);
    }
    assert_eq!(placed, 16);
    assert_eq!([held(&world, first).await, held(&world, second).await], [(4000, 8192); 2]);
    world.check_holds(at(1)).await;
}

async fn the_check_of_sums_would_catch_placements_that_read_before_they_write(world: World) {
    let node = node_of_four_cores(&world).await;
    // Both look, find room for 3 cores, and then write.
    let leases = [
        placed(&world, &slice(&world, "alice", 1, 1).await).await,
        placed(&world, &slice(&world, "bob", 1, 1).await).await,
    ];
    let mut rooms = Vec::new();
    for _ in &leases {
        rooms.push(world.count("SELECT cpu_milli - cpu_held FROM nodes").await);
    }
    for (lease, room) in leases.iter().zip(rooms) {
        assert!(room >= 3000, "{room}");
        let sql =
            format!("UPDATE holds SET cpu_milli = 3000 WHERE lease_id = {} AND node_id = {node}", lease.id);
        world.sql(&sql).await.unwrap();
    }
    assert_eq!(world.count(OVER_CAPACITY).await, 1);
}

async fn a_request_for_slices_with_the_same_key_is_placed_once(world: World) {
    node_of_four_cores(&world).await;
    let mut wish = PlaceRequest { first_turn: TTL, ..slice(&world, "alice", 500, 512).await };
    wish.idem = Some(IdemNew {
        scope: "alice POST /api/rent".into(),
        key_sha256: "1".repeat(64),
        body_sha256: "2".repeat(64),
        request_key: Some(wish.request_key.clone()),
        secrets_sealed: None,
        expires_at: at(1000),
    });
    let first = placed(&world, &wish).await;
    assert!(first.finish_after_crash);
    assert_eq!(world.store.nodes().dirty(at(1), 9).await.unwrap(), [], "who placed it provisions it");
    let again =
        world.store.leases().place(&PlaceRequest { request_key: "other".into(), ..wish }).await.unwrap();
    assert!(matches!(again, PlaceOutcome::Replayed(_)), "{again:?}");
    assert_eq!(world.count("SELECT COUNT(*) FROM leases").await, 1);
}

fn gpu(number: u32) -> Gpu {
    Gpu { uuid: format!("GPU-{number}"), number, model: "L4".into(), memory_mb: 24_000 }
}

async fn gpus_of(world: &World, node: NodeId) -> Vec<(u32, bool, Option<LeaseId>)> {
    let rows = world.store.nodes().gpus(node).await.unwrap();
    rows.into_iter().map(|row| (row.gpu.number, row.is_present, row.lease)).collect()
}

async fn each_gpu_is_of_one_slice_alone_and_comes_back_with_it(world: World) {
    let node = node_of_four_cores(&world).await;
    world.store.nodes().set_gpus(node, &[gpu(0), gpu(1), gpu(2)]).await.unwrap();
    let with_gpus = async |name: &str, gpus: u32| {
        let wish = slice(&world, name, 500, 512).await;
        PlaceRequest { holding: Holding::Slice { cpu_milli: 500, memory_mb: 512, gpus }, ..wish }
    };
    no_room(&world, &with_gpus("dora", 4).await).await;
    let alice = placed(&world, &with_gpus("alice", 2).await).await;
    assert_eq!(alice.holding, world.lease(alice.id).await.holding);
    no_room(&world, &with_gpus("bob", 2).await).await;
    let bob = placed(&world, &with_gpus("bob", 1).await).await;
    let (a, b) = (Some(alice.id), Some(bob.id));
    assert_eq!(gpus_of(&world, node).await, [(0, true, a), (1, true, a), (2, true, b)]);
    world.check_holds(at(1)).await;
    // One that is leased vanishes, another is new: the leased one stays with its lease.
    world.store.nodes().set_gpus(node, &[gpu(1), gpu(2), gpu(3)]).await.unwrap();
    assert_eq!(gpus_of(&world, node).await, [(0, false, a), (1, true, a), (2, true, b), (3, true, None)]);
    world.clean(node, at(1)).await;
    world.store.leases().end(&[alice.id], &EndReason::Released, None, at(2)).await.unwrap();
    assert_eq!(gpus_of(&world, node).await[1], (1, true, a), "until its removal is verified");
    world.clean(node, at(3)).await;
    assert_eq!(gpus_of(&world, node).await, [(1, true, None), (2, true, b), (3, true, None)]);
    world.check_holds(at(4)).await;
}

async fn a_whole_node_beside_slices_is_not_given_back_and_nothing_hangs(world: World) {
    // A whole-node lease loses its node, and goes to a second one; its first node comes back and takes a slice.
    let first = node_of_four_cores(&world).await;
    let user = world.user("alice").await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    world.set_health(first, Health::Dead, at(2)).await;
    let second = four_cores(&world, 2).await;
    let request = move_off(&lease, first, MoveReason::NodeDead, 3);
    let MoveOutcome::Placed(_) = world.store.leases().migrate(&request).await.unwrap() else {
        panic!("it is free")
    };
    world.set_health(first, Health::Alive, at(4)).await;
    world.clean(first, at(4)).await;
    placed(&world, &slice(&world, "bob", 1000, 1024).await).await;
    // The second one dies before the account worked there: the lease cannot have its first node back.
    world.set_health(second, Health::Dead, at(5)).await;
    assert_eq!(world.node(second).await.health, Health::Dead);
    let state = world.lease(lease.id).await.state;
    assert!(matches!(state, LeaseState::Migrating { from, .. } if from == first), "{state:?}");
    world.check_holds(at(6)).await;
}

async fn a_node_that_becomes_smaller_keeps_its_leases_and_takes_no_others_until_they_fit(world: World) {
    let node = node_of_four_cores(&world).await;
    let reserving = world.store.clone().reserving("0.5,192".parse().unwrap());
    reserving.nodes().apply_reserved().await.unwrap();
    let capacity = async || {
        let capacity = world.node(node).await.capacity;
        (capacity.cpu_milli, capacity.memory_mb, capacity.is_shrunk())
    };
    assert_eq!(capacity().await, (3500, 8000, false));
    let leases = [
        placed(&world, &slice(&world, "alice", 1500, 1000).await).await,
        placed(&world, &slice(&world, "bob", 1500, 3000).await).await,
    ];
    let small = Facts { cpu_cores: Some(2), memory_mb: Some(2048), ..world.node(node).await.facts };
    reserving.nodes().update_facts(node, &small, at(1)).await.unwrap().done().unwrap();
    assert_eq!(capacity().await, (3000, 4000, true));
    no_room(&world, &slice(&world, "carol", 1, 1).await).await;
    world.clean(node, at(2)).await;
    for (lease, left) in [(&leases[1], (1500, 1856, false)), (&leases[0], (1500, 1856, false))] {
        world.store.leases().end(&[lease.id], &EndReason::Released, None, at(3)).await.unwrap();
        world.clean(node, at(4)).await;
        assert_eq!(capacity().await, left);
        world.check_holds(at(5)).await;
    }
    // Without the setting, from the next start on.
    world.store.nodes().apply_reserved().await.unwrap();
    assert_eq!(capacity().await, (2000, 2048, false));
}
