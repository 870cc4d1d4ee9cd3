//! A control plane whose clock is off.

use super::{
    PATIENCE,
    system::{Database, System},
    truthful::Truthful,
};
use orion_testkit::wait_until;

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
    for worker in system.workers() {
        let node = wait_until("the clocks are named, and by how much", PATIENCE, async || {
            let node = system.node(worker).await?;
            let off = node["admin"]["clock_off_ms"].as_i64().unwrap_or_default();
            let told = node["status_reason"].as_str().is_some_and(|reason| reason.contains("clock"));
            if told && (-2_430_000..-2_370_000).contains(&off) { Ok(node) } else { Err(node.to_string()) }
        })
        .await;
        assert_ne!(node["status"], "dead", "{node}");
    }
    let lease = zeno.show(ticket.rental_id).await;
    assert_eq!(
        (&lease["state"], &lease["host_ip"]),
        (&"active".into(), &ticket.host_ip.as_str().into()),
        "{lease}"
    );
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("zeno\n"));
    truthful.was_true().await;

    // Right again: nothing has to be done.
    system.up().kill();
    system.up().start();
    system.up().answers().await;
    zeno.release(ticket.rental_id).await;
    system.until_offered(system.workers()).await;
}
