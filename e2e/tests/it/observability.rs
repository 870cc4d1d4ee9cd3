//! What an operator sees of a rental and of a node's death: metrics, webhooks, logs.

use super::{
    PATIENCE,
    system::{Database, System},
    user::http,
};
use orion_testkit::{FakeApi, wait_until};
use serde_json::json;

/// The value of one line of `/metrics`; the line begins with its name and labels.
async fn metric(system: &System, line: &str) -> f64 {
    let text = http().get(format!("{}/metrics", system.url())).send().await.expect("a page");
    let text = text.text().await.expect("text");
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {line} in\n{text}")).parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rental_and_a_death_are_measured_sent_to_webhooks_and_logged() {
    let system = System::start(Database::Sqlite, 2).await;
    let receiver = FakeApi::always(200, json!({}));
    let wish = json!({ "url": format!("{}/hook", receiver.url()), "kinds": ["lease.*", "node.dead"] });
    let webhook = system.admin().post("/api/admin/webhooks", wish).await.expect(201);
    let mia = system.user("mia").await;
    let ticket = mia.rent_one().await;
    let node = mia.show(ticket.rental_id).await["node_id"].as_i64().expect("a node");
    system.worker_at(&ticket.host_ip).kill();
    mia.until_moved(ticket.rental_id, &ticket.host_ip).await;

    for (line, expected) in [
        ("orion_rent_to_login_seconds_count", 1.0),
        ("orion_death_to_moved_seconds_count", 1.0),
        ("orion_leases{state=\"active\"}", 1.0),
        ("orion_leases{state=\"migrating\"}", 0.0),
        ("orion_nodes{health=\"dead\"}", 1.0),
        ("orion_nodes{health=\"alive\"}", 1.0),
        ("orion_nodes_offered", 0.0),
        ("orion_brake_engaged", 0.0),
        ("orion_database_up", 1.0),
    ] {
        assert_eq!(metric(&system, line).await, expected, "{line}");
    }
    let rent = metric(&system, "orion_rent_to_login_seconds_sum").await;
    let moved = metric(&system, "orion_death_to_moved_seconds_sum").await;
    eprintln!("from rent to login {rent:.3} s, from death to moved {moved:.3} s");
    assert!(rent > 0.0 && moved > 0.0);
    for line in [
        "orion_probe_seconds_count{kind=\"connect\",outcome=\"ok\"}",
        "orion_reconcile_total{result=\"done\"}",
        "orion_agent_links",
        "orion_ssh_sessions",
    ] {
        assert!(metric(&system, line).await > 0.0, "{line}");
    }

    let wanted =
        ["lease.placed", "lease.active", "node.dead", "lease.node_lost", "lease.moving", "lease.moved"];
    let kinds = wait_until("all events reach the webhook", PATIENCE, async || {
        let seen: Vec<_> = receiver.seen().iter().map(|request| request.json()["type"].clone()).collect();
        if wanted.iter().all(|kind| seen.contains(&json!(kind))) { Ok(seen) } else { Err(seen) }
    })
    .await;
    for kind in &kinds {
        let kind = kind.as_str().expect("text");
        assert!(kind.starts_with("lease.") || kind == "node.dead", "not asked for: {kind}");
    }
    let dead =
        receiver.seen().into_iter().find(|request| request.json()["type"] == "node.dead").expect("it came");
    assert_eq!((dead.line.as_str(), &dead.json()["data"]["node_id"]), ("POST /hook", &json!(node)));
    assert!(dead.header("webhook-signature").is_some_and(|signature| signature.starts_with("v1,")));
    let tested = system.admin().post(&format!("/api/admin/webhooks/{}/test", webhook["id"]), json!({})).await;
    assert_eq!(tested.expect(200)["delivery"]["state"], "delivered");
    wait_until("the deliveries are counted", PATIENCE, async || {
        let delivered = metric(&system, "orion_webhook_deliveries_total{result=\"delivered\"}").await;
        if delivered >= 7.0 { Ok(()) } else { Err(delivered) }
    })
    .await;

    let log = system.up().log();
    let works =
        log.lines().find(|line| line.contains("a lease's login works")).unwrap_or_else(|| panic!("{log}"));
    for part in
        ["request_id=", "path=\"/api/rent\"", &format!("lease={}", ticket.rental_id), &format!("node={node}")]
    {
        assert!(works.contains(part), "no {part} in {works}");
    }
    assert!(!log.contains(webhook["secret"].as_str().expect("a secret").trim_start_matches("whsec_")));
}
