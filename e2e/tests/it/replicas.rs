//! Several control planes and schedulers on one database: they start at once, die and stop, and nothing is done
//! twice or left undone.

use super::{
    PATIENCE,
    services::{Service, Services},
    user::{User, is_clean},
};
use orion_testkit::{Agent, MariaDb, Worker, Workers, program, wait_until};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Workers that have registered at one replica, and are offered.
async fn offered_workers(admin: &User, replica: &Service, count: usize) -> Workers {
    let token = admin.post("/api/tokens", json!({ "note": "tests" })).await.expect(201);
    let join_token = token["token"].as_str().expect("a token");
    let agent = Agent::new(&program("orion-agent"), replica.port(), join_token);
    let workers = Workers::start_with_agent(count, agent.setting("ORION_REFUSED_RETRY_S", "1"));
    until_offered(admin, count).await;
    workers
}

async fn until_offered(admin: &User, count: usize) {
    wait_until(&format!("{count} nodes are offered"), PATIENCE, async || {
        let nodes = admin.get("/api/nodes").await.expect(200);
        let offered = nodes.as_array().expect("a list").iter().filter(|node| node["offerable"] == true);
        if offered.count() >= count { Ok(()) } else { Err(nodes.to_string()) }
    })
    .await;
}

fn worker_at<'a>(workers: &'a Workers, ip: &str) -> &'a Worker {
    workers.all().iter().find(|worker| worker.ip().to_string() == ip).expect("one of ours")
}

/// Counts the events of a kind on a lease.
fn happened(events: &[Value], lease: i64, kind: &str) -> usize {
    events.iter().filter(|event| event["lease_id"] == lease && event["kind"] == kind).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_start_at_once_on_an_empty_database_agree_on_everything() {
    let services = Services::new();
    let control_planes = [services.control_plane(), services.control_plane(), services.control_plane()];
    let schedulers = [services.scheduler(), services.scheduler(), services.scheduler()];
    for service in control_planes.iter().chain(&schedulers) {
        service.is_healthy().await;
    }
    // One admin, one token key: a token of one replica is good at every other.
    let admin = services.admin(&control_planes[0]).await;
    for replica in &control_planes {
        let here = User::anyone(&replica.url()).with_token(&admin.token);
        assert_eq!(here.get("/auth/me").await.expect(200)["username"], "admin");
    }
    let count =
        format!("USE {}; SELECT COUNT(*), COUNT(DISTINCT kind) FROM replicas", services.database().name);
    wait_until("all beat", PATIENCE, async || match MariaDb::shared().execute(&count).trim() {
        "6\t2" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_replicas_leave_nothing_undone_and_nothing_is_done_twice() {
    let services = Services::new();
    let (one, two) = (services.control_plane(), services.control_plane());
    let schedulers = [services.scheduler(), services.scheduler(), services.scheduler()];
    for service in [&one, &two].into_iter().chain(&schedulers) {
        service.is_healthy().await;
    }
    let admin = services.admin(&two).await;
    let workers = offered_workers(&admin, &two, 4).await;
    let rosa = User::sign_up(&one.url(), "rosa").await;
    let tickets = rosa.rent(json!({ "duration_hours": 1, "count": 2 })).await;

    // The replica that made the leases dies: the other knows them.
    one.kill();
    let rosa = User::anyone(&two.url()).with_token(&rosa.token);
    assert_eq!(rosa.leases().await.len(), 2);

    // Two of three schedulers die, and with them the sessions to most nodes; then a leased machine dies.
    schedulers[0].kill();
    schedulers[2].kill();
    let first = &tickets[0];
    worker_at(&workers, &first.host_ip).kill();
    rosa.until_moved(first.rental_id, &first.host_ip).await;
    assert_eq!(rosa.login_now(first).await.run("id -un").await.as_deref(), Ok("rosa\n"));
    assert_eq!(tickets[1].by_password().run("id -un").await.as_deref(), Ok("rosa\n"), "untouched");

    // All come back; what happened was done once.
    one.start();
    schedulers[0].start();
    schedulers[2].start();
    one.is_healthy().await;
    worker_at(&workers, &first.host_ip).start();
    for ticket in &tickets {
        rosa.release(ticket.rental_id).await;
    }
    until_offered(&admin, 4).await;
    workers.all().iter().for_each(is_clean);
    let events = admin.events().await;
    assert_eq!(happened(&events, first.rental_id, "lease.node_lost"), 1, "{events:?}");
    assert_eq!(happened(&events, first.rental_id, "lease.moved"), 1);
    assert_eq!(happened(&events, first.rental_id, "lease.ended"), 1);
    assert_eq!(happened(&events, tickets[1].rental_id, "lease.node_lost"), 0);
    let ids: HashSet<i64> = events.iter().filter_map(|event| event["id"].as_i64()).collect();
    assert_eq!(ids.len(), events.len(), "no event twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_asked_to_stop_finishes_what_it_does_and_deregisters() {
    let services = Services::new();
    let (api, scheduler) = (services.control_plane(), services.scheduler());
    api.is_healthy().await;
    scheduler.is_healthy().await;
    let admin = services.admin(&api).await;
    let workers = offered_workers(&admin, &api, 1).await;
    let rosa = User::sign_up(&api.url(), "rosa").await;
    let renting = tokio::spawn({
        let rosa = rosa.clone();
        async move { rosa.try_rent(&json!({ "duration_hours": 1 }), None).await }
    });
    let placed = format!("USE {}; SELECT COUNT(*) FROM leases", services.database().name);
    wait_until("the rent has begun", PATIENCE, async || match MariaDb::shared().execute(&placed).trim() {
        "1" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    api.signal("TERM");
    let reply = renting.await.expect("no panic").expect("the reply still comes").expect(200);
    let ticket = super::user::tickets(&reply).remove(0);
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("rosa\n"));
    assert!(api.ended().await.success());
    scheduler.signal("TERM");
    assert!(scheduler.ended().await.success());
    let left = format!("USE {}; SELECT COUNT(*) FROM replicas", services.database().name);
    assert_eq!(MariaDb::shared().execute(&left).trim(), "0", "both deregistered");
    drop(workers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_waits_for_a_database_that_is_not_there_yet() {
    let server = MariaDb::start();
    let database = server.create_database();
    server.stop();
    let services = Services::new().setting("ORION_DATABASE_WAIT_S", "60");
    let services = services.on(database);
    let api = services.control_plane();
    wait_until("it says that it waits", PATIENCE, async || {
        let log = api.log();
        if log.contains("the database is not there yet") { Ok(()) } else { Err(log) }
    })
    .await;
    server.start_again();
    api.answers().await;
}
