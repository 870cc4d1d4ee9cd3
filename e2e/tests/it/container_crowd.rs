//! Many slices that begin on one node at once.

use super::{
    PATIENCE,
    container_crashes::{SCRIPT, nothing_left},
    container_life::{shell, system},
    user::User,
};
use orion_testkit::wait_until;
use serde_json::json;
use std::{collections::BTreeSet, time::Instant};

/// Leases of each of the two tenants.
const LEASES_EACH: usize = 12;
/// Cores of each. An engine starts a container within its limits: with a hundredth of a core that takes two seconds.
const CPUS: f64 = 0.08;

async fn rented(user: &User) -> Vec<i64> {
    let body = json!({
        "duration_hours": 1, "count": LEASES_EACH, "cpus": CPUS, "memory_mb": 32, "container": shell("main", SCRIPT),
    });
    let reply = user.try_rent(&body, None).await.expect("a reply");
    // What is not begun within a minute is begun all the same.
    assert!([200, 202].contains(&reply.status), "{}", reply.body);
    let tickets = reply.body.as_array().expect("a list").iter();
    tickets.map(|ticket| ticket["rental_id"].as_i64().expect("a number")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slices_begin_on_one_node_in_turns_each_in_a_network_of_its_own_and_leave_nothing() {
    let system = system(1).await;
    let worker = &system.workers()[0];
    system.until_node(worker, "takes containers", |node| node["containers"]["offered"] == true).await;
    let (ida, otto) = (system.user("ida").await, system.user("otto").await);
    let begun = Instant::now();
    let (of_ida, of_otto) = tokio::join!(rented(&ida), rented(&otto));
    for (user, leases) in [(&ida, &of_ida), (&otto, &of_otto)] {
        for id in leases {
            user.until(*id, "begun", |lease| {
                lease["state"] == "active" && lease["containers"][0]["state"] == "running"
            })
            .await;
        }
    }
    eprintln!("all have begun after {:?}", begun.elapsed());
    let subnets = worker.sh(
        "docker network ls --filter name=^orion- -q | xargs docker network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}'",
    );
    assert_eq!(subnets.lines().collect::<BTreeSet<_>>().len(), 2 * LEASES_EACH, "{subnets}");
    // The first leases work while others have not begun.
    let (mut active, mut running) = (Vec::new(), Vec::new());
    for event in [ida.events().await, otto.events().await].concat() {
        let number = event["id"].as_i64().expect("a number");
        match event["kind"].as_str() {
            Some("lease.active") => active.push(number),
            Some("container.running") => running.push(number),
            Some(_) | None => {}
        }
    }
    assert_eq!((active.len(), running.len()), (2 * LEASES_EACH, 2 * LEASES_EACH));
    assert!(active.iter().min() < running.iter().max(), "active: {active:?}, running: {running:?}");

    let releases = of_ida.iter().map(|id| ida.release(*id)).chain(of_otto.iter().map(|id| otto.release(*id)));
    futures_util::future::join_all(releases).await;
    wait_until("nothing is left", 2 * PATIENCE, async || nothing_left(worker)).await;
}
