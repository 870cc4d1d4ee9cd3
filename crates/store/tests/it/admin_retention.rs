//! What is old is deleted in batches; what is needed stays.

use crate::world::{World, at, on_both, sha};
use orion_domain::{EventId, Timestamp, lease::EndReason, node::Health};
use orion_store::{EventTail, IdemNew, Kept, NewInvite, Prunable, Scope};
use std::time::Duration;

on_both!(
    old_events_go_but_those_of_live_leases_and_of_present_healths_stay,
    leases_that_are_over_go_with_their_histories_and_no_uid_comes_again,
    keys_and_invitations_whose_time_is_up_go_in_batches,
    a_reader_of_the_log_gets_each_event_once_while_old_ones_go,
);

const DAY: i64 = 24 * 3600;

fn kept(days: u64) -> Kept {
    let kept = Duration::from_secs(days * 24 * 3600);
    Kept { events: kept, leases: kept, forgotten: kept }
}

/// Prunes until there is nothing more; how many rows went, and in how many steps.
async fn prune(world: &World, what: Prunable, kept: &Kept, now: Timestamp) -> (u64, u32) {
    let (mut deleted, mut steps, mut from) = (0, 0, Timestamp::from_micros(0));
    loop {
        let pruned = world.store.admin().prune(what, kept, from, now).await.unwrap();
        deleted += pruned.deleted;
        steps += 1;
        assert!(steps < 1_000, "it does not end");
        let Some(next) = pruned.next else { return (deleted, steps) };
        from = next;
    }
}

async fn many_events(world: &World, count: u32, second: i64) {
    for from in (0..count).step_by(500) {
        let rows: Vec<String> = (from..count.min(from + 500))
            .map(|n| {
                format!(
                    "('{n:018}{second:08}', {}, 'node.inventory', NULL, NULL, NULL, '{{}}')",
                    at(second).as_micros() + i64::from(n / 700)
                )
            })
            .collect();
        let sql = format!(
            "INSERT INTO events (uid, at, kind, lease_id, node_id, user_id, data) VALUES {}",
            rows.join(", ")
        );
        world.sql(&sql).await.unwrap();
    }
}

async fn old_events_go_but_those_of_live_leases_and_of_present_healths_stay(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(2).await;
    let live = world.active_lease(&world.wish(user, 1)).await;
    many_events(&world, 1_600, 1).await;
    let now = at(40 * DAY);
    let before = world.store.admin().audit(Scope::All, at(1)).await.unwrap();
    let (deleted, steps) = prune(&world, Prunable::Events, &kept(30), now).await;
    assert!(deleted >= 1_600 && steps > 3, "{deleted} in {steps} steps");
    assert_eq!(world.count("SELECT COUNT(*) FROM events WHERE kind = 'node.inventory'").await, 0);
    let id = live.id;
    let of_live = world.store.events().of_lease(id, 100).await.unwrap();
    assert!(of_live.iter().any(|event| event.kind == "lease.active"), "{of_live:?}");
    // Doctor finds nothing that it did not find before: each state still has the event that tells of it.
    assert_eq!(world.store.admin().audit(Scope::All, at(1)).await.unwrap(), before);
    assert_eq!(prune(&world, Prunable::Events, &kept(30), now).await.0, 0);
    let alive = "SELECT COUNT(*) FROM events WHERE kind = 'node.alive'";
    assert_eq!(world.count(alive).await, 2);
    // A node's health that is past is told by what came later.
    for node in world.store.nodes().all().await.unwrap() {
        world.store.nodes().set_health(node.id, node.version, Health::Suspect, "x", at(10)).await.unwrap();
    }
    prune(&world, Prunable::Events, &kept(30), now).await;
    assert_eq!(world.count(alive).await, 0);
}

async fn leases_that_are_over_go_with_their_histories_and_no_uid_comes_again(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(1).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let uid = placed.lease.account.as_ref().unwrap().uid;
    world.store.leases().end(&[placed.lease.id], &EndReason::Released, None, at(2)).await.unwrap();
    let claim = placed.claim;
    world.store.nodes().release_claim(&claim, at(2)).await.unwrap();
    let claim =
        world.store.nodes().claim(claim.node.id, "t", crate::world::TTL, at(3)).await.unwrap().unwrap();
    assert_eq!(world.finish(&claim, at(3)).await.ended, [placed.lease.id]);
    assert_eq!(prune(&world, Prunable::Leases, &kept(30), at(29 * DAY)).await.0, 0, "not yet");
    assert_eq!(prune(&world, Prunable::Leases, &kept(30), at(31 * DAY)).await.0, 1);
    for table in ["leases", "lease_nodes", "lease_unfit"] {
        assert_eq!(world.count(&format!("SELECT COUNT(*) FROM {table}")).await, 0, "{table}");
    }
    let again = world.place(&world.wish(user, 1)).await.remove(0);
    assert!(again.lease.account.as_ref().unwrap().uid > uid && again.lease.id > placed.lease.id, "{again:?}");
    world.check_invariants().await;
}

async fn keys_and_invitations_whose_time_is_up_go_in_batches(world: World) {
    for number in 0..1_100 {
        let key = IdemNew {
            scope: "rent user 1".into(),
            key_sha256: sha(number),
            body_sha256: sha(number),
            request_key: None,
            secrets_sealed: None,
            expires_at: at(if number < 1_050 { 10 } else { 100 }),
        };
        assert!(world.store.idempotency().begin(&key, at(0)).await.unwrap().is_none());
    }
    let (deleted, steps) = prune(&world, Prunable::Keys, &kept(30), at(50)).await;
    assert_eq!((deleted, steps), (1_050, 3));
    assert_eq!(world.count("SELECT COUNT(*) FROM idempotency").await, 50);
    for (number, ends) in [(1, 10), (2, 60 * DAY)] {
        let new = NewInvite {
            sha256: sha(number),
            note: String::new(),
            created_by: None,
            expires_at: at(ends),
            uses: 1,
        };
        world.store.accounts().create_invite(&new, at(0)).await.unwrap();
    }
    assert_eq!(prune(&world, Prunable::Invites, &kept(30), at(40 * DAY)).await.0, 1);
    assert!(world.store.accounts().is_invited(&sha(2), at(40 * DAY)).await.unwrap());
}

async fn a_reader_of_the_log_gets_each_event_once_while_old_ones_go(world: World) {
    many_events(&world, 900, 1).await;
    let mut tail = EventTail::resume(&world.store, EventId(0)).await.unwrap();
    let first = tail.poll(&world.store).await.unwrap();
    assert_eq!(first.len(), 900);
    prune(&world, Prunable::Events, &kept(30), at(40 * DAY)).await;
    assert!(tail.poll(&world.store).await.unwrap().is_empty());
    many_events(&world, 3, 39 * DAY).await;
    assert_eq!(tail.poll(&world.store).await.unwrap().len(), 3);
    assert!(tail.poll(&world.store).await.unwrap().is_empty());
}
