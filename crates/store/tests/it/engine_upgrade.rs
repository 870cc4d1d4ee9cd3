//! A database as an older version of Orion left it: it comes up with every lease alive, and work goes on.

use crate::world::{TTL, World};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    lease::{EndReason, Lease, LeaseState, Phase},
    node::{Health, Node},
};
use orion_store::{MoveOutcome, MoveReason, MoveRequest};
use std::time::{Duration, Instant};

/// Two minutes after the dumps were made, in microseconds.
fn now(world: &World) -> Timestamp {
    Timestamp::from_micros(if world.is_maria() { 1_795_893_700_000_000 } else { 1_795_893_520_000_000 })
}

macro_rules! on_both_dumps {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::dump_on_sqlite().await).await; }
        )* }
        mod on_mariadb { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::dump_on_mariadb().await).await; }
        )* }
    };
}

on_both_dumps!(
    every_lease_lives_through_the_upgrade_with_its_account,
    work_goes_on_after_the_upgrade,
    a_long_history_comes_up_with_every_lease_and_event,
    an_upgrade_that_was_cut_off_after_any_migration_is_finished_by_the_next_start,
);

async fn dump_on_sqlite() -> World {
    World::before_upgrade_sqlite(include_str!("../fixtures/schema-21/sqlite.sql")).await
}

async fn dump_on_mariadb() -> World {
    World::before_upgrade_mariadb(include_str!("../fixtures/schema-21/mariadb.sql")).await
}

/// The leases in the dumps: number, name, state.
const LEASES: [(i64, Option<&str>, Phase); 6] = [
    (1, Some("keyed"), Phase::Active),
    (2, Some("withkey"), Phase::Active),
    (3, Some("waits"), Phase::Migrating),
    (4, Some("moves"), Phase::Migrating),
    (5, Some("ended"), Phase::Ended),
    (6, Some("stuck"), Phase::Releasing),
];

/// Query for the accounts of the old schema: user, uid, hash, key, node, end.
const ACCOUNTS: &str = "SELECT CAST(id AS CHAR), client_user, CAST(account_uid AS CHAR), password_hash, \
                        COALESCE(public_key, ''), CAST(node_id AS CHAR), CAST(leased_until AS CHAR) \
                        FROM leases WHERE state <> 'ended' ORDER BY id";

async fn every_lease_lives_through_the_upgrade_with_its_account(world: World) {
    let before = world.texts(ACCOUNTS, 7).await;
    assert_eq!(before.len(), 5, "the dump is loaded");
    let world = world.upgraded().await;
    for (id, name, phase) in LEASES {
        let lease = world.lease(LeaseId(id)).await;
        assert_eq!(
            (lease.name.as_ref().map(|name| name.as_str()), lease.state.phase()),
            (name, phase),
            "lease {id}"
        );
    }
    for row in before {
        let lease = world.lease(LeaseId(row[0].parse().unwrap())).await;
        let account = lease.account.as_ref().unwrap();
        let after = [
            lease.id.to_string(),
            account.user.to_string(),
            account.uid.to_string(),
            account.password_hash.expose().to_owned(),
            account.public_key.as_ref().map(ToString::to_string).unwrap_or_default(),
            node_of(&lease).to_string(),
            lease.until.as_micros().to_string(),
        ];
        assert_eq!(after.as_slice(), row, "lease {}", lease.id);
    }
    world.check_invariants().await;
    assert_eq!(world.count("SELECT COUNT(*) FROM webhook_deliveries WHERE state = 'pending'").await, 5);
    assert_eq!(world.count("SELECT COUNT(*) FROM idempotency WHERE state = 'done'").await, 1);
}

async fn work_goes_on_after_the_upgrade(world: World) {
    let world = world.upgraded().await;
    let now = now(&world);
    // A released lease whose node was out of reach ends when that node is clean.
    let stuck = world.lease(LeaseId(6)).await;
    world.clean(node_of(&stuck), now).await;
    assert_eq!(world.lease(stuck.id).await.state.phase(), Phase::Ended);
    // Its node is clean, and a lease that waits for any node takes it.
    let moves = world.lease(LeaseId(4)).await;
    world.is_open(node_of(&stuck), now).await;
    let request = MoveRequest {
        lease: moves.id,
        away_from: node_of(&moves),
        claim_of_old: None,
        why: MoveReason::Lost("the node is dead".into()),
        first_turn: TTL,
        now,
    };
    let MoveOutcome::Placed(placement) = world.store.leases().migrate(&request).await.unwrap() else {
        panic!("no node was free")
    };
    let placement = world.claim_placed(placement, now).await;
    world.finish(&placement.claim, now).await;
    let moved = world.lease(moves.id).await;
    assert_eq!((moved.state.phase(), node_of(&moved)), (Phase::Active, node_of(&stuck)));
    assert_eq!(moved.account.as_ref().unwrap().uid, moves.account.as_ref().unwrap().uid);
    // A dead node returns, and the lease that waits for it is active there again.
    let waits = world.lease(LeaseId(3)).await;
    let own = node_of(&waits);
    world.set_health(own, Health::Alive, now).await;
    world.clean(own, now).await;
    assert!(matches!(world.lease(waits.id).await.state, LeaseState::Active { .. }));
    // A node that was drained is offered again when the drain is over.
    let drained = nodes(&world).await.into_iter().find(|node| node.drain.is_some()).expect("one is drained");
    world.store.nodes().undrain(drained.id, None, now).await.unwrap().done().expect("it was drained");
    world.clean(drained.id, now).await;
    world.is_open(drained.id, now).await;
    assert!(world.node(drained.id).await.is_offerable());
    // What a person has to judge stays so.
    let quarantined: Vec<Node> =
        nodes(&world).await.into_iter().filter(|node| node.quarantine.is_some()).collect();
    assert_eq!(quarantined.len(), 1);
    assert!(format!("{:?}", quarantined[0].quarantine).contains("host key"), "{quarantined:?}");
    // An active lease gets a later end, is released, and its node is clean again.
    let keyed = world.lease(LeaseId(1)).await;
    let later = keyed.until.plus(TTL);
    let (extended, claim) =
        world.store.leases().extend(keyed.id, later, "api-1", TTL, now).await.unwrap().done().unwrap();
    world.finish(&claim.expect("its node is reachable"), now).await;
    assert_eq!((extended.until, world.lease(keyed.id).await.deadline_applied), (later, Some(later)));
    let reason = EndReason::Released;
    let released =
        world.store.leases().release_and_claim(keyed.id, &reason, None, "api-1", TTL, now).await.unwrap();
    world.finish(&released.done().unwrap().expect("its node is reachable"), now).await;
    assert_eq!(world.lease(keyed.id).await.state.phase(), Phase::Ended);
    world.check_invariants().await;
}

/// Events of a long history; a tenth as many leases that are over.
const HISTORY: usize = 200_000;
/// Longest time that it takes to come up.
const UPGRADE_MAX: Duration = Duration::from_secs(60);

/// A table with one column, `n`: the numbers from 1 to `count`.
fn numbers(world: &World, count: usize) -> String {
    if world.is_maria() {
        return format!("(SELECT seq AS n FROM seq_1_to_{count}) numbers");
    }
    format!(
        "(WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < {count}) \
         SELECT n FROM counted) numbers"
    )
}

async fn a_long_history_comes_up_with_every_lease_and_event(world: World) {
    let pad = if world.is_maria() { "LPAD(n, 26, '0')" } else { "printf('%026d', n)" };
    let at = "1700000000000000 + n";
    let leases = format!(
        "INSERT INTO leases (uid, user_id, client_user, account_uid, password_hash, state, state_since, state_reason, \
         node_id, leased_from, leased_until, on_node_loss, tags, request_key, finish_after_crash, ended_at) \
         SELECT {pad}, 2, 'alice', 1000000 + n, '', 'ended', {at}, '{{\"why\":\"released\"}}', 1, {at}, {at}, 'migrate', \
         '[]', {pad}, 0, {at} FROM {}",
        numbers(&world, HISTORY / 10)
    );
    world.sql(&leases).await.unwrap();
    let events = format!(
        "INSERT INTO events (uid, at, kind, lease_id, node_id, user_id, data) \
         SELECT {pad}, {at}, 'lease.extended', 5, 1, 2, '{{}}' FROM {}",
        numbers(&world, HISTORY)
    );
    world.sql(&events).await.unwrap();
    let counted = ["SELECT COUNT(*) FROM events", "SELECT COUNT(*) FROM leases"];
    let before = [world.count(counted[0]).await, world.count(counted[1]).await];
    let began = Instant::now();
    let world = world.upgraded().await;
    let took = began.elapsed();
    assert!(took < UPGRADE_MAX, "{took:?}");
    assert_eq!([world.count(counted[0]).await, world.count(counted[1]).await], before);
    for (id, _, phase) in LEASES {
        assert_eq!(world.lease(LeaseId(id)).await.state.phase(), phase, "lease {id}");
    }
    world.check_invariants().await;
}

async fn an_upgrade_that_was_cut_off_after_any_migration_is_finished_by_the_next_start(world: World) {
    // As a start that died: everything ran, and the last migrations' rows are not there or not done.
    let world = world.upgraded().await;
    if !world.is_maria() {
        // SQLite's migrations are transactions of their own: a half one leaves nothing behind.
        world.upgraded().await.check_invariants().await;
        return;
    }
    world.sql("UPDATE _sqlx_migrations SET success = FALSE WHERE version = (SELECT MAX(version) FROM _sqlx_migrations)").await.unwrap();
    world.sql("DELETE FROM _sqlx_migrations WHERE version > 21 AND success = TRUE").await.unwrap();
    let world = world.upgraded().await;
    assert_eq!(world.count("SELECT COUNT(*) FROM _sqlx_migrations WHERE success = FALSE").await, 0);
    world.check_invariants().await;
}

fn node_of(lease: &Lease) -> NodeId {
    lease.state.occupies().expect("it has a node")
}

async fn nodes(world: &World) -> Vec<Node> {
    world.store.nodes().all().await.unwrap()
}
