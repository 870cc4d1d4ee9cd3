//! Forgetting one node: who may, what keeps it, and that its machine can register again.

use crate::{api::Api, on_both_databases};
use futures_util::StreamExt;
use orion_domain::{NodeId, agent::ToAgent, lease::EndReason, node::Health};
use orion_testkit::KeyPair;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

const REGISTER: &str = "/api/workers/register";

on_both_databases!(
    only_an_admin_forgets_nodes_and_only_those_without_a_lease,
    a_machine_that_was_set_up_anew_registers_after_its_old_node_was_forgotten,
    a_living_node_that_is_dirty_needs_force,
    the_agent_of_a_forgotten_node_is_told_to_register_again_and_may,
);

fn path(node: impl std::fmt::Display) -> String {
    format!("/api/admin/nodes/{node}/forget")
}

async fn only_an_admin_forgets_nodes_and_only_those_without_a_lease(api: Api) {
    let (user, admin) = (api.user("alice").await, api.admin("boss").await);
    let lease = api.active_lease("alice").await;
    let node = api.app.store.leases().get(lease).await.expect("read").expect("placed").state.occupies();
    let node = node.expect("a node");
    api.post(&path(node), "", &json!({})).await.problem(401);
    api.post(&path(node), &user, &json!({})).await.problem(403);
    for unknown in ["4711", "0", "-1", "node-1", "99999999999999999999"] {
        api.post(&path(unknown), &admin, &json!({})).await.problem(404);
    }
    let problem = api.post(&path(node), &admin, &json!({ "force": "yes" })).await.problem(400);
    assert_eq!(problem["field"], "force", "{problem}");
    for force in [false, true] {
        let problem = api.post(&path(node), &admin, &json!({ "force": force })).await.problem(409);
        assert_eq!(problem["kind"], "node_leased");
        let says = |key: &str, part: &str| problem[key].as_str().is_some_and(|text| text.contains(part));
        assert!(says("detail", &format!("lease {lease} is on node {node}")), "{problem}");
        assert!(says("hint", &format!("orion release {lease}")), "{problem}");
    }
    let (store, now) = (&api.app.store, api.app.now());
    store.leases().end(&[lease], &EndReason::Released, None, now).await.expect("ended");
    let version = store.nodes().get(node).await.expect("read").expect("a node").version;
    store.nodes().set_health(node, version, Health::Dead, "gone", now).await.expect("dead");
    // The body may be left out.
    let bare = api.request(Method::POST, &path(node)).bearer_auth(&admin).send().await.expect("a reply");
    assert_eq!(bare.status(), 200);
    api.get(&format!("/api/nodes/{node}"), &admin).await.problem(404);
    api.post(&path(node), &admin, &json!({})).await.problem(404);
    let events = api.get("/api/events?follow=false", &admin).await.text;
    let actor = api.user_id("boss").await.0;
    let told = events.lines().find(|line| line.contains("\"kind\":\"node.forgotten\"")).expect("an event");
    assert!(told.contains(&format!("\"actor\":{actor}")), "{told}");
    let shown = api.get(&format!("/api/rentals/{lease}"), &user).await.expect(200);
    assert_eq!(shown["nodes"][0]["hostname"], Value::Null, "{shown}");
}

async fn a_machine_that_was_set_up_anew_registers_after_its_old_node_was_forgotten(api: Api) {
    let (admin, join) = (api.admin("boss").await, api.join_token().await);
    let first = api.worker("w1", &KeyPair::generate());
    let created = api.post(REGISTER, &join, &first).await.expect(201);
    let node = created["node_id"].as_i64().expect("a number");
    // New keys at the same name and address; and the same keys with other words.
    let mut anew = first.clone();
    anew["host_keys"] = json!([KeyPair::generate().public_line()]);
    let mut same = first.clone();
    same["cpu_cores"] = json!(4);
    for body in [&anew, &same] {
        let problem = api.post(REGISTER, &join, body).await.problem(409);
        assert!(
            problem["hint"]
                .as_str()
                .is_some_and(|hint| hint.ends_with(&format!("orion nodes forget {node}"))),
            "{problem}"
        );
    }
    let mut old = node;
    for body in [&anew, &same] {
        let forgotten = api.post(&path(old), &admin, &json!({})).await.expect(200);
        assert_eq!(forgotten, json!({ "message": "Node forgotten", "node_id": old, "hostname": "w1" }));
        let new = api.post(REGISTER, &join, body).await.expect(201);
        assert_ne!(new["node_id"], old);
        assert!(new["node_token"].is_string() && new["node_token"] != created["node_token"], "{new}");
        old = new["node_id"].as_i64().expect("a number");
    }
    let nodes = api.get("/api/nodes", &admin).await.expect(200);
    assert_eq!((nodes.as_array().map(Vec::len), &nodes[0]["node_id"]), (Some(1), &json!(old)));
}

async fn a_living_node_that_is_dirty_needs_force(api: Api) {
    let admin = api.admin("boss").await;
    let node = api.offered_node("node-1").await;
    let (store, now) = (&api.app.store, api.app.now());
    store.nodes().quarantine(node, "odd", now).await.expect("written");
    store.nodes().lift_quarantine(node, now).await.expect("written");
    let problem = api.post(&path(node), &admin, &json!({})).await.problem(409);
    assert_eq!(problem["kind"], "node_dirty", "{problem}");
    assert!(problem["hint"].as_str().is_some_and(|hint| hint.contains("--force")), "{problem}");
    let claim = store.nodes().claim(node, "test", Duration::from_secs(10), now).await.expect("written");
    claim.expect("nobody else claims it");
    assert_eq!(api.post(&path(node), &admin, &json!({})).await.problem(409)["kind"], "node_busy");
    api.post(&path(node), &admin, &json!({ "force": true })).await.expect(200);
    assert!(store.nodes().get(node).await.expect("read").is_none());
}

async fn the_agent_of_a_forgotten_node_is_told_to_register_again_and_may(api: Api) {
    let (admin, join) = (api.admin("boss").await, api.join_token().await);
    let body = api.worker("w1", &KeyPair::generate());
    let created = api.post(REGISTER, &join, &body).await.expect(201);
    let token = created["node_token"].as_str().expect("a node token");
    let node = NodeId(created["node_id"].as_i64().expect("a number"));
    // On MariaDB the link is at another replica, which learns of it from the database.
    let replica = if api.app.store.is_for_one_process() { None } else { Some(api.replica().await) };
    let holder = replica.as_ref().unwrap_or(&api);
    let mut link = holder.open_link(token).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while holder.app.links.count() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "no link");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    api.post(&path(node), &admin, &json!({})).await.expect(200);
    let told = async {
        while let Some(Ok(message)) = link.next().await {
            if let Message::Text(text) = message
                && let Ok(ToAgent::RegisterAgain) = serde_json::from_str(&text)
            {
                return true;
            }
        }
        false
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await;
    assert!(told.expect("the link ends"), "it was told to register again");
    assert_eq!(api.get("/api/workers/link", token).await.problem(401)["forgotten"], true);
    let again = api.post(REGISTER, token, &body).await.expect(201);
    assert_ne!(again["node_id"], created["node_id"]);
    let fresh = again["node_token"].as_str().expect("a node token");
    // By force it needs a join token.
    api.post(&path(&again["node_id"]), &admin, &json!({ "force": true })).await.expect(200);
    assert_eq!(api.post(REGISTER, fresh, &body).await.problem(401)["forgotten"], true);
    api.post(REGISTER, &join, &body).await.expect(201);
}
