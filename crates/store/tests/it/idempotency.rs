//! Idempotency keys: one request wins, the others learn of it.

use crate::world::{TTL, World, at, on_both, sha};
use orion_domain::{
    lease::{EndReason, Phase},
    node::Health,
};
use orion_store::{Cas, IdemNew, IdemState, PlaceOutcome, PlaceRequest, RequestEnd};
use std::time::Duration;

on_both!(
    of_two_requests_at_once_one_wins_and_the_other_is_told,
    a_refused_placement_keeps_no_key,
    the_first_reply_is_kept_and_the_secrets_go,
    keys_are_forgotten_when_their_time_is_up,
    an_extended_lease_keeps_its_reply_longer,
    a_request_that_failed_ends_as_a_whole_and_frees_its_key,
    a_request_whose_reply_is_kept_is_not_ended,
    a_request_without_a_key_ends_all_the_same,
    of_a_reply_and_an_end_at_once_exactly_one_counts,
);

fn key(request_key: &str) -> IdemNew {
    IdemNew {
        scope: "alice POST /api/rent".into(),
        key_sha256: sha(1),
        body_sha256: sha(2),
        request_key: Some(request_key.into()),
        secrets_sealed: Some(vec![1, 2, 3]),
        expires_at: at(1000),
    }
}

async fn wish(world: &World) -> PlaceRequest {
    let user = world.user("alice").await;
    let mut wish = world.wish(user, 1);
    wish.idem = Some(key(&wish.request_key));
    wish
}

async fn of_two_requests_at_once_one_wins_and_the_other_is_told(world: World) {
    world.free_nodes(3).await;
    let wish = wish(&world).await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (store, wish) = (world.store.clone(), wish.clone());
        requests.spawn(async move { store.leases().place(&wish).await.unwrap() });
    }
    let (mut placed, mut replayed) = (0, 0);
    for outcome in requests.join_all().await {
        match outcome {
            PlaceOutcome::Placed(placements) => {
                placed += 1;
                assert!(placements[0].lease.finish_after_crash);
            }
            PlaceOutcome::Replayed(row) => {
                replayed += 1;
                assert_eq!((row.state, row.body_sha256), (IdemState::Running, sha(2)));
                assert_eq!(row.request_key.as_ref(), Some(&wish.request_key));
                assert_eq!(row.secrets_sealed, Some(vec![1, 2, 3]));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((placed, replayed), (1, 5));
    assert_eq!(world.count("SELECT COUNT(*) FROM leases").await, 1);
}

async fn a_refused_placement_keeps_no_key(world: World) {
    let wish = wish(&world).await;
    assert!(matches!(world.store.leases().place(&wish).await.unwrap(), PlaceOutcome::TooFew { .. }));
    assert_eq!(world.store.idempotency().get("alice POST /api/rent", &sha(1)).await.unwrap(), None);
    world.free_node(1).await;
    world.place(&wish).await;
}

async fn the_first_reply_is_kept_and_the_secrets_go(world: World) {
    let new = key("r1");
    assert_eq!(world.store.idempotency().begin(&new, at(0)).await.unwrap(), None);
    let seen = world.store.idempotency().begin(&new, at(1)).await.unwrap().unwrap();
    assert_eq!((seen.state, seen.created_at), (IdemState::Running, at(0)));
    let finish = |status, reply: &'static [u8]| {
        world.store.idempotency().finish("alice POST /api/rent", &new.key_sha256, status, reply, at(2000))
    };
    assert_eq!(finish(200, b"first").await.unwrap(), Cas::Done(()));
    assert_eq!(finish(500, b"second").await.unwrap(), Cas::Stale);
    assert_eq!(
        finish(200, b"first").await.unwrap(),
        Cas::Done(()),
        "the same once more, after a lost COMMIT"
    );
    let row = world.store.idempotency().get(&new.scope, &new.key_sha256).await.unwrap().unwrap();
    assert_eq!((row.state, row.reply_status), (IdemState::Done, Some(200)));
    assert_eq!((row.reply_sealed, row.secrets_sealed), (Some(b"first".to_vec()), None));
    let nowhere = world.store.idempotency().finish("x", &sha(9), 200, b"", at(2000)).await.unwrap();
    assert_eq!(nowhere, Cas::Stale);
    world.store.idempotency().delete(&new.scope, &new.key_sha256).await.unwrap();
    assert_eq!(world.store.idempotency().get(&new.scope, &new.key_sha256).await.unwrap(), None);
}

async fn keys_are_forgotten_when_their_time_is_up(world: World) {
    let new = key("r1");
    world.store.idempotency().begin(&new, at(0)).await.unwrap();
    assert!(world.store.idempotency().begin(&new, at(999)).await.unwrap().is_some());
    let mut later = key("r2");
    later.expires_at = at(3000);
    assert_eq!(world.store.idempotency().begin(&later, at(1000)).await.unwrap(), None, "the old one is over");
    assert_eq!(world.store.idempotency().sweep(at(2999)).await.unwrap(), 0);
    assert_eq!(world.store.idempotency().sweep(at(3000)).await.unwrap(), 1);
}

async fn an_extended_lease_keeps_its_reply_longer(world: World) {
    world.free_node(1).await;
    let wish = wish(&world).await;
    let lease = world.active_lease(&wish).await;
    world.store.leases().extend(lease.id, at(7200), "api", TTL, at(5)).await.unwrap().done().unwrap();
    let kept = at(7200).plus(Duration::from_secs(24 * 3600));
    assert_eq!(world.count("SELECT expires_at FROM idempotency").await, kept.as_micros());
}

fn failed() -> EndReason {
    EndReason::Failed { detail: "no node took it".into() }
}

async fn a_request_that_failed_ends_as_a_whole_and_frees_its_key(world: World) {
    world.free_nodes(5).await;
    let user = world.user("alice").await;
    let mut wish = world.wish(user, 4);
    wish.idem = Some(key(&wish.request_key));
    let placed = world.place(&wish).await;
    let ids: Vec<_> = placed.iter().map(|placement| placement.lease.id).collect();
    let of_somebody_else = world.active_lease(&world.wish(user, 1)).await;
    // One each: active, migrating, ending already, and still being provisioned.
    world.finish(&placed[0].claim, at(1)).await;
    world.finish(&placed[1].claim, at(1)).await;
    world.set_health(placed[1].claim.node.id, Health::Dead, at(2)).await;
    assert_eq!(world.store.leases().end(&ids[2..3], &failed(), None, at(3)).await.unwrap(), ids[2..3]);
    let kept = world.store.idempotency().get("alice POST /api/rent", &sha(1)).await.unwrap();
    assert_eq!(kept.unwrap().state, IdemState::Running, "one lease is not the request");

    let ended = world.store.leases().end_request(&wish.request_key, &failed(), at(5)).await.unwrap();
    assert_eq!(ended, RequestEnd::Ended(vec![ids[0], ids[1], ids[3]]));
    assert_eq!(world.store.idempotency().get("alice POST /api/rent", &sha(1)).await.unwrap(), None);
    let mut phases = Vec::new();
    for id in &ids {
        phases.push(world.lease(*id).await.state.phase());
    }
    assert_eq!(phases, [Phase::Releasing, Phase::Ended, Phase::Releasing, Phase::Releasing]);
    assert_eq!(world.lease(of_somebody_else.id).await, of_somebody_else);
    let events = world.store.events().of_lease(ids[3], 9).await.unwrap();
    assert_eq!(events.last().unwrap().data["reason"]["detail"], "no node took it");
    let late = world
        .store
        .idempotency()
        .finish("alice POST /api/rent", &sha(1), 200, b"late", at(2000))
        .await
        .unwrap();
    assert_eq!(late, Cas::Stale, "the reply must not be given: its leases end");
    let again = world.store.leases().end_request(&wish.request_key, &failed(), at(6)).await.unwrap();
    assert_eq!(again, RequestEnd::Ended(vec![]));
    world.check_invariants().await;
}

async fn a_request_whose_reply_is_kept_is_not_ended(world: World) {
    world.free_nodes(2).await;
    let wish = wish(&world).await;
    let lease = world.active_lease(&wish).await;
    let finish =
        world.store.idempotency().finish("alice POST /api/rent", &sha(1), 200, b"first", at(2000)).await;
    assert_eq!(finish.unwrap(), Cas::Done(()));
    let outcome = world.store.leases().end_request(&wish.request_key, &failed(), at(5)).await.unwrap();
    assert_eq!(outcome, RequestEnd::Acknowledged);
    assert_eq!(world.lease(lease.id).await, lease);
    let row = world.store.idempotency().get("alice POST /api/rent", &sha(1)).await.unwrap().unwrap();
    assert_eq!(row.reply_sealed, Some(b"first".to_vec()));
}

async fn a_request_without_a_key_ends_all_the_same(world: World) {
    world.free_nodes(2).await;
    let user = world.user("alice").await;
    let wish = world.wish(user, 2);
    let placed = world.place(&wish).await;
    let ended = world.store.leases().end_request(&wish.request_key, &failed(), at(5)).await.unwrap();
    assert_eq!(ended, RequestEnd::Ended(placed.iter().map(|placement| placement.lease.id).collect()));
    let unknown = world.store.leases().end_request("unknown", &failed(), at(5)).await.unwrap();
    assert_eq!(unknown, RequestEnd::Ended(vec![]));
}

async fn of_a_reply_and_an_end_at_once_exactly_one_counts(world: World) {
    let user = world.user("alice").await;
    world.free_nodes(16).await;
    for number in 0..16 {
        let mut wish = world.wish(user, 1);
        wish.idem = Some(IdemNew { key_sha256: sha(number), ..key(&wish.request_key) });
        let lease = world.active_lease(&wish).await;
        let (store, key_sha256) = (world.store.clone(), sha(number));
        let reply = tokio::spawn(async move {
            store
                .idempotency()
                .finish("alice POST /api/rent", &key_sha256, 200, b"reply", at(2000))
                .await
                .unwrap()
        });
        let (store, request_key) = (world.store.clone(), wish.request_key);
        let end =
            tokio::spawn(
                async move { store.leases().end_request(&request_key, &failed(), at(5)).await.unwrap() },
            );
        let (reply, end) = (reply.await.unwrap(), end.await.unwrap());
        let row = world.store.idempotency().get("alice POST /api/rent", &sha(number)).await.unwrap();
        let phase = world.lease(lease.id).await.state.phase();
        match reply {
            Cas::Done(()) => {
                assert_eq!((end, phase), (RequestEnd::Acknowledged, Phase::Active));
                assert_eq!(row.unwrap().state, IdemState::Done);
            }
            Cas::Stale => {
                assert_eq!((end, phase), (RequestEnd::Ended(vec![lease.id]), Phase::Releasing));
                assert_eq!(row, None);
            }
            Cas::Gone => panic!("gone is stale here"),
        }
    }
}
