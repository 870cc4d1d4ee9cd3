//! Many nodes gone at once: more likely the scheduler is the one cut off.

use super::{
    system::{Database, System, stays_for},
    truthful::Truthful,
    user::is_refused,
};
use orion_testkit::Worker;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn three_of_five_nodes_gone_at_once_move_nothing_and_the_brake_is_shown_and_ends_no_end() {
    let system = System::start(Database::Sqlite, 5).await;
    let kara = system.user("kara").await;
    let [ticket, given_back] = [kara.rent_one().await, kara.rent_one().await];
    let short = kara.rent(json!({ "duration_hours": 20.0 / 3600.0 })).await.remove(0);
    let leased = system.worker_at(&ticket.host_ip);
    let alive = [&given_back.host_ip, &short.host_ip].map(|ip| system.worker_at(ip).name());
    let is_free = |worker: &&Worker| worker.name() != leased.name() && !alive.contains(&worker.name());
    let others: Vec<_> = system.workers().iter().filter(is_free).collect();
    let gone = [leased, others[0], others[1]];
    let truthful = Truthful::watch(&kara, &[ticket.clone(), given_back.clone(), short.clone()]);
    Worker::kill_together(&gone);
    let engaged = |health: &Value| health["brake"]["engaged"] == true;
    let health = system.until_health("the brake is engaged", engaged).await;
    let reason = health["brake"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("3 of 5 nodes went silent"), "{reason}");
    assert!(health["brake"]["since"].is_string(), "{health}");
    stays_for(Duration::from_secs(6), async || {
        let lease = kara.show(ticket.rental_id).await;
        let nodes = lease["nodes"].as_array().map(Vec::len);
        (nodes != Some(1) || lease["state"] == "ended").then(|| lease.to_string())
    })
    .await;
    // What a lease's own end does goes on: its owner gives it back, its time is up.
    kara.release(given_back.rental_id).await;
    for over in [&given_back, &short] {
        kara.until(over.rental_id, "over", |lease| lease["state"] == "ended").await;
        is_refused(&over.by_password()).await;
    }
    assert_eq!(system.admin().get("/api/health").await.expect(200)["brake"]["engaged"], true);
    let events = system.events().await;
    assert_eq!(count(&events, "brake.engaged"), 1, "{events:#?}");
    assert_eq!(count(&events, "lease.moving"), 0);

    gone.iter().for_each(|worker| worker.start());
    let here = |lease: &Value| lease["state"] == "active" && lease["host_ip"] == ticket.host_ip.as_str();
    kara.until(ticket.rental_id, "on its own node", here).await;
    system.until_health("the brake is lifted", |health| health["brake"]["engaged"] == false).await;
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("kara\n"));
    assert_eq!(count(&system.events().await, "brake.lifted"), 1);
    truthful.was_true().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_who_knows_that_the_nodes_are_gone_lifts_the_brake_and_the_lease_moves() {
    let system = System::start(Database::Sqlite, 4).await;
    let kara = system.user("kara").await;
    let ticket = kara.rent_one().await;
    let leased = system.worker_at(&ticket.host_ip);
    let others: Vec<_> = system.workers().iter().filter(|worker| worker.ip() != leased.ip()).collect();
    let gone = [leased, others[0], others[1]];
    let truthful = Truthful::watch(&kara, std::slice::from_ref(&ticket));
    Worker::kill_together(&gone);
    system.until_health("the brake is engaged", |health| health["brake"]["engaged"] == true).await;
    let lift = json!({ "reason": "the rack has no power" });
    let lifted = system.admin().post("/api/admin/brake/lift", lift).await.expect(200);
    assert_eq!(lifted["message"], "Brake lifted");
    kara.until_moved(ticket.rental_id, &ticket.host_ip).await;
    truthful.was_true().await;
    let health =
        system.until_health("the brake stays off", |health| health["brake"]["engaged"] == false).await;
    assert!(
        health["brake"]["reason"].as_str().is_none_or(|why| why.contains("the rack has no power")),
        "{health}"
    );
    let events = system.events().await;
    assert_eq!((count(&events, "brake.engaged"), count(&events, "brake.lifted")), (1, 1), "{events:#?}");
    let told = events.iter().find(|event| event["kind"] == "brake.lifted").expect("counted above");
    assert!(told["data"]["actor"].is_i64(), "{told}");
}

fn count(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["kind"] == kind).count()
}
