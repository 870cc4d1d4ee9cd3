//! The database goes away: calls fail fast, commits without an answer are looked up, and everything recovers.

use crate::{
    mariadb::Server,
    world::{TTL, World, at, config},
};
use orion_domain::UserId;
use orion_store::{PlaceOutcome, Store, StoreConfig};
use sqlx::{Connection, Executor, mysql::MySqlConnection};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Longest that a caller may wait for "the database is away".
const FAST: Duration = Duration::from_millis(2500);

async fn fails_fast(store: &Store) {
    let started = Instant::now();
    let read = store.accounts().get(UserId(1)).await.unwrap_err();
    assert!(read.is_unavailable(), "{read:?}");
    assert!(started.elapsed() < FAST, "the read took {:?}", started.elapsed());
    let started = Instant::now();
    let write = store.cluster().put_setting("x", "y").await.unwrap_err();
    assert!(write.is_unavailable(), "{write:?}");
    assert!(started.elapsed() < FAST, "the write took {:?}", started.elapsed());
    assert!(!store.is_healthy().await);
}

async fn until_healthy(store: &Store) {
    let started = Instant::now();
    while !store.is_healthy().await {
        assert!(started.elapsed() < Duration::from_secs(20), "it does not recover");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_reported_fast_and_used_again_when_it_is_back() {
    let server = tokio::task::spawn_blocking(|| Server::start("killed")).await.unwrap();
    let world = World::on(&server).await;
    world.user("alice").await;
    tokio::task::block_in_place(|| server.kill());
    fails_fast(&world.store).await;
    let closed = Store::open(&config(&world.url)).await.unwrap_err();
    assert!(closed.is_unavailable(), "{closed:?}");
    tokio::task::block_in_place(|| server.restart());
    until_healthy(&world.store).await;
    assert!(world.store.accounts().by_name("alice").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_waits_too_long_for_a_lock_is_run_again_and_counted() {
    let world = World::mariadb().await;
    world.store.cluster().put_setting("x", "before").await.unwrap();
    let mut other = MySqlConnection::connect(&world.url).await.unwrap();
    other.execute("BEGIN").await.unwrap();
    other.execute("UPDATE settings SET value = 'held' WHERE name = 'x'").await.unwrap();
    let store = world.store.clone();
    let write = tokio::spawn(async move { store.cluster().put_setting("x", "after").await });
    let started = Instant::now();
    while world.store.retries().conflict == 0 {
        assert!(started.elapsed() < Duration::from_secs(20), "it never gives up waiting for the lock");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    other.execute("COMMIT").await.unwrap();
    write.await.unwrap().unwrap();
    assert_eq!(world.store.cluster().get_setting("x").await.unwrap().as_deref(), Some("after"));
    assert_eq!((world.store.retries().host_lost, world.store.retries().commit_unknown), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_is_reported_fast_and_used_again_when_it_goes_on() {
    let server = tokio::task::spawn_blocking(|| Server::start("stopped")).await.unwrap();
    let world = World::on(&server).await;
    world.user("alice").await;
    server.stop();
    fails_fast(&world.store).await;
    server.go_on();
    until_healthy(&world.store).await;
    assert!(world.store.accounts().by_name("alice").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_host_is_used_when_one_is_gone() {
    let server = tokio::task::spawn_blocking(|| Server::start("second")).await.unwrap();
    let world = World::on(&server).await;
    world.user("alice").await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = world.url.replace(&format!(":{}", server.port), &format!(":{}", nobody.port()));
    let config = StoreConfig { urls: vec![gone, world.url.clone()], connections_max: 5 };
    let store = Store::open(&config).await.unwrap();
    assert!(store.accounts().by_name("alice").await.unwrap().is_some());
    assert!(store.clone().retries().host_lost > 0, "it was tried again, and that is counted");
    store.cluster().put_setting("x", "y").await.unwrap();
}

const PASS: u8 = 0;
const CUT_BEFORE: u8 = 1;
const CUT_AFTER: u8 = 2;

/// A way to the server that breaks once at a COMMIT: before it arrives, or before its answer does.
async fn breaking_proxy(server: SocketAddr, mode: Arc<AtomicU8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let mode = mode.clone();
            tokio::spawn(async move { forward(client, server, &mode).await });
        }
    });
    port
}

async fn forward(mut client: TcpStream, server: SocketAddr, mode: &AtomicU8) {
    let Ok(mut upstream) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut from_server) = ([0; 65_536], [0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(length @ 1..) = read else { return };
                let is_commit = from_client[..length].windows(6).any(|word| word == b"COMMIT");
                let breaks = if is_commit { mode.swap(PASS, SeqCst) } else { PASS };
                if breaks == CUT_BEFORE {
                    return;
                }
                if upstream.write_all(&from_client[..length]).await.is_err() {
                    return;
                }
                if breaks == CUT_AFTER {
                    // The server answers: it has committed. Nobody hears it.
                    let _ = upstream.read(&mut from_server).await;
                    return;
                }
            }
            read = upstream.read(&mut from_server) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&from_server[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_happens_exactly_once() {
    let server = tokio::task::spawn_blocking(crate::mariadb::shared).await.unwrap();
    let world = World::on(server).await;
    let user = world.user("alice").await;
    world.free_nodes(6).await;
    let mode = Arc::new(AtomicU8::new(PASS));
    let port = breaking_proxy(([127, 0, 0, 1], server.port).into(), mode.clone()).await;
    let url = world.url.replace(&format!(":{}", server.port), &format!(":{port}"));
    let store = Store::open(&config(&url)).await.unwrap();
    for (rounds, breaks) in [CUT_AFTER, CUT_BEFORE, CUT_AFTER, PASS].into_iter().enumerate() {
        mode.store(breaks, SeqCst);
        let placed = match store.leases().place(&world.wish(user, 1)).await.unwrap() {
            PlaceOutcome::Placed(mut placed) => placed.remove(0),
            other => panic!("{other:?}"),
        };
        assert_eq!(mode.load(SeqCst), PASS, "the way broke");
        assert_eq!(world.count("SELECT COUNT(*) FROM leases").await, rounds as i64 + 1);
        assert_eq!(world.lease(placed.lease.id).await, placed.lease);
        mode.store(breaks, SeqCst);
        let claim = store.nodes().claim_placed(&placed, "api-1", TTL, at(1)).await.unwrap();
        let claim = claim.expect("nobody else works on it");
        mode.store(breaks, SeqCst);
        let result = orion_store::FinishReconcile {
            applied_version: claim.desired_version,
            ready: vec![(placed.lease.id, None)],
            ..Default::default()
        };
        let finished = store.nodes().finish_reconcile(&claim, &result, at(1)).await.unwrap();
        assert_eq!(finished.done().unwrap().activated, [placed.lease.id]);
        assert_eq!(world.kinds_of_lease(placed.lease.id).await, ["lease.placed", "lease.active"]);
    }
    world.check_invariants().await;
}
