//! A control plane whose clock is off.

use super::{
    PATIENCE,
    system::{Database, System},
    truthful::Truthful,
    user::{Ticket, User},
};
use orion_testkit::wait_until;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_minutes_off_harms_nobody_and_one_that_is_further_off_is_said_to_be() {
    let system = System::start(Database::Sqlite, 2).await;
    let zeno = system.user("zeno").await;
    let ticket = zeno.rent_one().await;
    let truthful = Truthful::watch(&zeno, std::slice::from_ref(&ticket));

    // Some minutes: nodes are offered, leases are made.
    system.up().kill();
    system.up().start_at("+3m");
    system.up().answers().await;
    system
        .until_node(&system.workers()[1], "seen under the new clock", |node| node["status"] == "alive")
        .await;
    let second = zeno.rent_one().await;
    assert_eq!(second.by_password().run("id -un").await.as_deref(), Ok("zeno\n"));
    zeno.release(second.rental_id).await;

    // More: whatever does not work says that it is the clocks.
    system.up().kill();
    system.up().start_at("+40m");
    system.up().answers().await;
    clocks_are_named_and_the_lease_stays(&system, -2400, &zeno, &ticket).await;
    truthful.was_true().await;

    // Right again: nothing has to be done.
    system.up().kill();
    system.up().start();
    system.up().answers().await;
    zeno.release(ticket.rental_id).await;
    system.until_offered(system.workers()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_a_quarter_of_an_hour_behind_is_said_to_be_and_moves_no_lease() {
    let system = System::start(Database::Sqlite, 2).await;
    let zora = system.user("zora").await;
    let ticket = zora.rent_one().await;
    let truthful = Truthful::watch(&zora, std::slice::from_ref(&ticket));
    // What the control plane signs has run out where the clock is right.
    system.up().kill();
    system.up().start_at("-15m");
    system.up().answers().await;
    clocks_are_named_and_the_lease_stays(&system, 900, &zora, &ticket).await;
    let refused = zora.try_rent(&json!({ "duration_hours": 1 }), None).await.expect("a reply").expect(503);
    assert_eq!(refused["found"], 0, "no login would work: {refused}");
    truthful.was_true().await;

    system.up().kill();
    system.up().start();
    system.up().answers().await;
    system
        .until_node(system.worker_at(&ticket.host_ip), "seen again", |node| node["status"] == "alive")
        .await;
    assert_eq!(zora.show(ticket.rental_id).await["host_ip"], ticket.host_ip.as_str());
    zora.release(ticket.rental_id).await;
    system.until_offered(system.workers()).await;
}

/// Each node says by how many seconds (within half a minute) its clock is ahead, none is given up, and the lease stays.
async fn clocks_are_named_and_the_lease_stays(system: &System, ahead_s: i64, user: &User, ticket: &Ticket) {
    for worker in system.workers() {
        let node = wait_until("the clocks are named, and by how much", PATIENCE, async || {
            let node = system.node(worker).await?;
            let off = node["admin"]["clock_off_ms"].as_i64().unwrap_or_default();
            let told = node["status_reason"].as_str().is_some_and(|reason| reason.contains("clock"));
            if told && (off - ahead_s * 1000).abs() < 30_000 { Ok(node) } else { Err(node.to_string()) }
        })
        .await;
        assert_ne!(node["status"], "dead", "{node}");
    }
    let lease = user.show(ticket.rental_id).await;
    assert_eq!(
        (&lease["state"], &lease["host_ip"]),
        (&"active".into(), &ticket.host_ip.as_str().into()),
        "{lease}"
    );
    let name = format!("{}\n", user.name);
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok(name.as_str()));
}
