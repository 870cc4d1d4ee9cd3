//! Draining: who may, what is refused, and what everybody sees of it.

use crate::{
    api::{Api, PASSWORD, Reply},
    on_both_databases,
};
use orion_domain::{LeaseId, NodeId};
use orion_store::{FinishReconcile, MoveOutcome, MoveReason, MoveRequest};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

on_both_databases!(
    only_an_admin_drains_and_only_what_makes_sense,
    a_drain_is_seen_by_all_and_its_leases_by_admins,
    an_owner_sees_what_becomes_of_a_lease_on_a_draining_node,
    a_deadline_is_changed_and_taken_back,
);

fn path(node: impl std::fmt::Display, what: &str) -> String {
    format!("/api/admin/nodes/{node}/{what}")
}

/// The node of an active lease.
async fn node_of(api: &Api, lease: LeaseId) -> NodeId {
    let lease = api.app.store.leases().get(lease).await.expect("a lease").expect("placed");
    lease.state.occupies().expect("a node")
}

async fn only_an_admin_drains_and_only_what_makes_sense(api: Api) {
    let (user, admin) = (api.user("alice").await, api.admin("boss").await);
    let node = api.offered_node("node-1").await;
    for what in ["drain", "undrain"] {
        api.post(&path(node, what), "", &json!({})).await.problem(401);
        api.post(&path(node, what), &user, &json!({})).await.problem(403);
        for unknown in ["4711", "0", "-1", "node-1", "99999999999999999999"] {
            api.post(&path(unknown, what), &admin, &json!({})).await.problem(404);
        }
    }
    let problem = api.post(&path(node, "undrain"), &admin, &json!({})).await.problem(409);
    assert_eq!(problem["kind"], "not_draining");
    let past = api.app.now().minus(Duration::from_secs(1)).to_string();
    for (body, field) in [
        (json!({ "deadline": past }), "deadline"),
        (json!({ "deadline": "tomorrow" }), "deadline"),
        (json!({ "deadline": "9999-01-01T00:00:00Z" }), "deadline"),
        (json!({ "deadline": "2030-01-01T00:00:00Z", "deadline_hours": 1 }), "deadline"),
        (json!({ "deadline_hours": 0 }), "deadline_hours"),
        (json!({ "deadline_hours": -1 }), "deadline_hours"),
        (json!({ "deadline_hours": 9000 }), "deadline_hours"),
        (json!({ "deadline_hours": "2h" }), "deadline_hours"),
        (json!({ "reason": "x".repeat(201) }), "reason"),
        (json!({ "reason": 7 }), "reason"),
    ] {
        let problem = api.post(&path(node, "drain"), &admin, &body).await.problem(400);
        assert_eq!(problem["field"], field, "{body}: {problem}");
    }
    let shown = api.get(&format!("/api/nodes/{node}"), &admin).await.expect(200);
    assert_eq!((&shown["status"], &shown["drain"]), (&json!("alive"), &Value::Null), "nothing was begun");
    // The body may be left out, and whatever is drained takes no leases at once.
    let bare = api.request(Method::POST, &path(node, "drain")).bearer_auth(&admin);
    let begun = Reply::of(bare).await.expect(200);
    assert_eq!(begun["node"]["drain"]["reason"], "an admin drains it");
    let refused = api.post("/api/rent", &user, &json!({ "duration_hours": 1 })).await.problem(503);
    assert_eq!(refused["found"], 0);
    let over = api.post(&path(node, "undrain"), &admin, &json!({})).await.expect(200);
    assert_eq!(over["node"]["drain"], Value::Null);
    assert!(!api.get("/metrics", "").await.text.contains(PASSWORD));
}

async fn a_drain_is_seen_by_all_and_its_leases_by_admins(api: Api) {
    let (owner, other, admin) = (api.user("alice").await, api.user("bob").await, api.admin("boss").await);
    let lease = api.active_lease("alice").await;
    let node = node_of(&api, lease).await;
    let body = json!({ "reason": "disk swap", "deadline_hours": 2 });
    let begun = api.post(&path(node, "drain"), &admin, &body).await.expect(200);
    let drain = &begun["node"]["drain"];
    assert_eq!(drain["leases"], json!([lease]));
    for token in [&owner, &other, &admin] {
        let one = api.get(&format!("/api/nodes/{node}"), token).await.expect(200);
        let mut without_history = one.clone();
        if let Some(admin) = without_history.get_mut("admin").and_then(Value::as_object_mut) {
            admin.remove("events");
        }
        let listed = &api.get("/api/nodes", token).await.expect(200)[0];
        assert_eq!(&without_history, listed, "a list shows the same");
        assert_eq!((&one["status"], &one["status_reason"]), (&json!("draining"), &json!("disk swap")));
        assert_eq!(one["offerable"], false);
        let seen = &one["drain"];
        assert_eq!((&seen["deadline"], &seen["since"]), (&drain["deadline"], &drain["since"]));
        assert_eq!((&seen["leases_left"], &seen["state"]), (&json!(1), &json!("waiting for a free node")));
        assert_eq!(seen.get("leases").is_some(), token == &admin, "{seen}");
    }
    let state = async || {
        let shown = api.get(&format!("/api/nodes/{node}"), &admin).await.expect(200);
        (
            shown["drain"]["state"].as_str().unwrap_or_default().to_owned(),
            shown["drain"]["leases_left"].clone(),
        )
    };
    api.offered_node("spare").await;
    assert_eq!(state().await, ("moving".into(), json!(1)), "it is about to leave");
    let (store, now) = (&api.app.store, api.app.now());
    let request = MoveRequest {
        lease,
        away_from: node,
        claim_of_old: None,
        why: MoveReason::Draining("the node is being drained: disk swap".into()),
        first_turn: Duration::from_secs(10),
        now,
    };
    let MoveOutcome::Placed(placement) = store.leases().migrate(&request).await.expect("moved") else {
        panic!("no node was free")
    };
    assert_eq!(state().await, ("moving".into(), json!(1)), "its login works on the old node");
    let ttl = Duration::from_secs(10);
    let claim = store.nodes().claim_placed(&placement, "test", ttl, now).await.expect("claimed");
    let claim = claim.expect("nobody else works on it");
    let applied = FinishReconcile {
        applied_version: claim.desired_version,
        ready: vec![(lease, None)],
        ..FinishReconcile::default()
    };
    store.nodes().finish_reconcile(&claim, &applied, now).await.expect("applied");
    assert_eq!(state().await, ("cleaning".into(), json!(0)));
    let claim = store.nodes().claim(node, "test", Duration::from_secs(10), now).await.expect("claimed");
    let claim = claim.expect("nobody else claims it");
    let clean = FinishReconcile { applied_version: claim.desired_version, ..FinishReconcile::default() };
    store.nodes().finish_reconcile(&claim, &clean, now).await.expect("applied");
    assert_eq!(state().await, ("cleaning".into(), json!(0)), "nobody has said so yet");
    assert_eq!(store.nodes().emptied(now).await.expect("read"), [node]);
    store.nodes().finish_drain(node, now).await.expect("written");
    assert_eq!(state().await, ("drained".into(), json!(0)));
    let shown = api.get(&format!("/api/nodes/{node}"), &owner).await.expect(200);
    assert_eq!(
        (&shown["status"], &shown["drain"]["drained_at"]),
        (&json!("drained"), &json!(now.to_string()))
    );
}

async fn an_owner_sees_what_becomes_of_a_lease_on_a_draining_node(api: Api) {
    let (owner, admin) = (api.user("alice").await, api.admin("boss").await);
    let lease = api.active_lease("alice").await;
    let node = node_of(&api, lease).await;
    let show = async || api.get(&format!("/api/rentals/{lease}"), &owner).await.expect(200);
    let before = show().await;
    assert_eq!((&before["drain"], &before["state_reason"]), (&Value::Null, &json!("the login works")));
    let body = json!({ "reason": "disk swap", "deadline_hours": 0.5 });
    let begun = api.post(&path(node, "drain"), &admin, &body).await.expect(200);
    let shown = show().await;
    assert_eq!((&shown["state"], &shown["host_ip"]), (&json!("active"), &before["host_ip"]));
    let drain = &shown["drain"];
    assert_eq!(
        (&drain["reason"], &drain["deadline"]),
        (&json!("disk swap"), &begun["node"]["drain"]["deadline"])
    );
    let plan = drain["plan"].as_str().expect("a sentence");
    assert!(plan.contains("moves to another node") && plan.contains("deadline"), "{plan}");
    assert!(shown["state_reason"].as_str().is_some_and(|reason| reason.contains(plan)), "{shown}");
    assert_eq!(api.get("/api/rentals", &owner).await.expect(200)[0]["drain"], *drain);
    let told = shown["events"].as_array().expect("events").last().expect("an event").clone();
    assert_eq!(
        (&told["kind"], &told["data"]["deadline"]),
        (&json!("lease.node_draining"), &drain["deadline"])
    );

    // At the deadline it has lost the node.
    let later = api.app.now().plus(Duration::from_secs(3600));
    api.app.store.nodes().end_drain(node, later).await.expect("written");
    let lost = show().await;
    assert_eq!(
        (&lost["state"], &lost["host_ip"], &lost["drain"]),
        (&json!("migrating"), &Value::Null, &Value::Null)
    );
    let why = lost["state_reason"].as_str().expect("a reason");
    assert!(why.contains("drained: disk swap") && why.contains("time was up"), "{why}");
}

async fn a_deadline_is_changed_and_taken_back(api: Api) {
    let (user, admin) = (api.user("alice").await, api.admin("boss").await);
    let node = api.offered_node("node-1").await;
    let at = api.app.now().plus(Duration::from_secs(7200)).to_string();
    let ask = async |body: Value| {
        let reply = api.post(&path(node, "drain"), &admin, &body).await.expect(200);
        (reply["node"]["drain"]["reason"].clone(), reply["node"]["drain"]["deadline"].clone())
    };
    assert_eq!(ask(json!({ "reason": " fans ", "deadline": at })).await, (json!("fans"), json!(at)));
    assert_eq!(ask(json!({})).await, (json!("fans"), json!(at)), "what is left out stays");
    assert_eq!(ask(json!({ "reason": "disks" })).await, (json!("disks"), json!(at)));
    assert_eq!(ask(json!({ "deadline": null })).await, (json!("disks"), Value::Null));
    let events = api.get("/api/events?follow=false", &admin).await.text;
    assert_eq!(events.matches("\"kind\":\"node.draining\"").count(), 3, "{events}");
    let actor = api.user_id("boss").await.0;
    assert!(events.contains(&format!("\"actor\":{actor}")), "{events}");
    let seen_by_user = api.get("/api/events?follow=false", &user).await.text;
    assert!(!seen_by_user.contains("node.draining"), "{seen_by_user}");
}
