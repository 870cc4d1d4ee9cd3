//! Nodes that fall silent: the network cut, or everything frozen.

use super::{
    system::{Database, System, stays_for},
    user::{Ticket, User, is_clean},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// 15 s are promised; the rest is for a busy machine.
const MOVED_WITHIN: Duration = Duration::from_secs(22);

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_leaves_a_node_that_stays_silent_and_not_one_that_is_away_for_two_seconds() {
    let system = System::start(Database::Sqlite, 3).await;
    let finn = system.user("finn").await;
    let ticket = finn.rent_one().await;
    let worker = system.worker_at(&ticket.host_ip);

    worker.cut();
    stays_for(Duration::from_secs(2), async || not_at(&finn, &ticket, &ticket.host_ip).await).await;
    worker.uncut();
    system.until_node(worker, "alive again", |node| node["status"] == "alive").await;
    stays_for(Duration::from_secs(3), async || not_at(&finn, &ticket, &ticket.host_ip).await).await;
    let shown = finn.show(ticket.rental_id).await;
    assert_eq!(shown["nodes"].as_array().map(Vec::len), Some(1), "nothing moved: {shown}");

    worker.cut();
    let begun = Instant::now();
    let moved = finn.until_moved(ticket.rental_id, &ticket.host_ip).await;
    assert!(begun.elapsed() < MOVED_WITHIN, "{:?}", begun.elapsed());
    assert_eq!(finn.login_now(&ticket).await.run("id -un").await.as_deref(), Ok("finn\n"));
    worker.uncut();
    system.until_offered(std::slice::from_ref(worker)).await;
    is_clean(worker);

    let at = moved["host_ip"].as_str().expect("an address");
    let worker = system.worker_at(at);
    worker.freeze();
    let begun = Instant::now();
    finn.until_moved(ticket.rental_id, at).await;
    assert!(begun.elapsed() < MOVED_WITHIN, "{:?}", begun.elapsed());
    assert_eq!(finn.login_now(&ticket).await.run("id -un").await.as_deref(), Ok("finn\n"));
    worker.thaw();
    system.until_offered(std::slice::from_ref(worker)).await;
    is_clean(worker);
}

async fn not_at(user: &User, ticket: &Ticket, ip: &str) -> Option<String> {
    let lease = user.show(ticket.rental_id).await;
    (lease["state"] != "active" || lease["host_ip"] != ip).then(|| lease.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_node_delays_nobody() {
    let system = System::start(Database::Sqlite, 4).await;
    let gina = system.user("gina").await;
    // The node that will hang is taken, so that the others are what is rented.
    let held = gina.rent(json!({ "duration_hours": 1, "on_node_loss": "wait" })).await.remove(0);
    let before = median_rent(&gina).await;
    let hanging = system.worker_at(&held.host_ip);
    hanging.freeze();
    let during = median_rent(&gina).await;
    assert!(during < before * 3 + Duration::from_millis(300), "{before:?} became {during:?}");
    // Its watcher may wait for it; those of the other nodes go on.
    let other = system.workers().iter().find(|worker| worker.ip() != hanging.ip()).expect("four workers");
    other.kill();
    let begun = Instant::now();
    system.until_node(other, "seen dead", |node| node["status"] == "dead").await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let during = median_rent(&gina).await;
    assert!(during < before * 3 + Duration::from_millis(300), "{before:?} became {during:?}");
    hanging.thaw();
    let back = |lease: &Value| lease["state"] == "active" && lease["host_ip"] == held.host_ip.as_str();
    gina.until(held.rental_id, "its own node is back", back).await;
    assert_eq!(held.by_password().run("id -un").await.as_deref(), Ok("gina\n"));
}

/// Returns the median time of five rents of one node, each released again.
async fn median_rent(user: &User) -> Duration {
    let mut times = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let ticket = user.rent_one().await;
        times.push(begun.elapsed());
        user.release(ticket.rental_id).await;
    }
    times.sort();
    times[2]
}
