//! Leases that lost their node while no other is free, and those whose policy is not to move.

use super::{
    system::{Database, System},
    user::{Ticket, User, is_clean},
};
use orion_testkit::Worker;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_without_a_node_waits_visibly_and_takes_the_first_that_comes() {
    let system = System::start(Database::Sqlite, 2).await;
    let (hugo, ines) = (system.user("hugo").await, system.user("ines").await);
    let (lost, other) = (hugo.rent_one().await, ines.rent_one().await);
    let own = system.worker_at(&lost.host_ip);

    // Its own node returns first.
    own.kill();
    waits(&hugo, &lost, "no node is free").await;
    own.start();
    back_at(&hugo, &lost, own).await;
    let shown = hugo.show(lost.rental_id).await;
    // Told once, however often it was tried.
    let expected = ["lease.placed", "lease.active", "lease.node_lost", "lease.waiting", "lease.returned"];
    assert_eq!(kinds(&shown), expected);

    // Another one comes free first.
    own.kill();
    waits(&hugo, &lost, "no node is free").await;
    ines.release(other.rental_id).await;
    let moved = hugo.until_moved(lost.rental_id, &lost.host_ip).await;
    assert_eq!(moved["host_ip"], other.host_ip.as_str());
    assert_eq!(hugo.login_now(&lost).await.run("id -un").await.as_deref(), Ok("hugo\n"));
    own.start();
    system.until_offered(std::slice::from_ref(own)).await;
    is_clean(own);

    // A lease that waits can be ended, too.
    let refill = ines.rent_one().await;
    assert_eq!(refill.host_ip, lost.host_ip);
    own.kill();
    waits(&ines, &refill, "no node is free").await;
    ines.release(refill.rental_id).await;
    ines.until(refill.rental_id, "over", |lease| lease["state"] == "ended").await;
    own.start();
    system.until_offered(std::slice::from_ref(own)).await;
    is_clean(own);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_policy_is_to_wait_or_to_end_does_not_move() {
    let system = System::start(Database::Sqlite, 2).await;
    let jana = system.user("jana").await;
    let stays = jana.rent(json!({ "duration_hours": 1, "on_node_loss": "wait" })).await.remove(0);
    let worker = system.worker_at(&stays.host_ip);
    worker.kill();
    waits(&jana, &stays, "it waits for its own node").await;
    // The other node is free, and stays so.
    let free = system.workers().iter().find(|other| other.ip() != worker.ip()).expect("two workers");
    assert_eq!(system.node(free).await.expect("known")["offerable"], true);
    worker.start();
    back_at(&jana, &stays, worker).await;

    let ends = jana.rent(json!({ "duration_hours": 1, "on_node_loss": "end" })).await.remove(0);
    assert_eq!(ends.host_ip, free.ip().to_string());
    free.kill();
    let ended = jana.until(ends.rental_id, "over", |lease| lease["state"] == "ended").await;
    assert!(ended["state_reason"].as_str().is_some_and(|why| why.contains("its node was lost")), "{ended}");
    free.start();
    system.until_offered(std::slice::from_ref(free)).await;
    is_clean(free);
    assert_eq!(stays.by_password().run("id -un").await.as_deref(), Ok("jana\n"), "the other was not touched");
}

/// Visibly: the state, since when, and why.
async fn waits(user: &User, ticket: &Ticket, why: &str) {
    let waiting = |lease: &Value| {
        lease["state"] == "migrating" && lease["state_reason"].as_str().is_some_and(|text| text.contains(why))
    };
    let lease = user.until(ticket.rental_id, why, waiting).await;
    assert!(lease["state_since"].is_string() && lease["host_ip"].is_null(), "{lease}");
}

/// Active on its own node again, with the same password.
async fn back_at(user: &User, ticket: &Ticket, worker: &Worker) {
    let ip = worker.ip().to_string();
    let back = |lease: &Value| lease["state"] == "active" && lease["host_ip"] == ip.as_str();
    user.until(ticket.rental_id, "back on its own node", back).await;
    let name = format!("{}\n", user.name);
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok(name.as_str()));
}

fn kinds(lease: &Value) -> Vec<&str> {
    let events = lease["events"].as_array().expect("the lease's events");
    events.iter().filter_map(|event| event["kind"].as_str()).collect()
}
