//! What is shown of a login: it works only where the way in was seen open and nothing speaks against it.

use crate::{api::Api, on_both_databases};
use futures_util::SinkExt as _;
use orion_domain::{
    NodeId, Timestamp,
    agent::FromAgent,
    node::Health,
    way_in::{Way, WayInReport},
};
use orion_store::{Cas, Prober};
use orion_testkit::{KeyPair, wait_until};
use serde_json::json;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

on_both_databases!(
    a_login_is_said_to_work_only_while_its_node_s_way_in_is_open,
    a_node_whose_way_in_is_shut_is_not_offered_and_the_refusal_says_why,
    an_agent_s_beat_opens_and_shuts_the_way_in_and_tells_its_clock,
);

fn shut(reason: &str) -> WayInReport {
    WayInReport { open: false, reason: reason.into() }
}

async fn a_login_is_said_to_work_only_while_its_node_s_way_in_is_open(api: Api) {
    let alice = api.user("alice").await;
    let lease = api.active_lease("alice").await;
    let store = &api.app.store;
    let shown = async || {
        let one = api.get(&format!("/api/rentals/{lease}"), &alice).await.expect(200);
        let listed = api.get("/api/rentals", &alice).await.expect(200)[0]["state_reason"].clone();
        assert_eq!(one["state_reason"], listed);
        listed.as_str().expect("a sentence").to_owned()
    };
    assert_eq!(shown().await, "the login works");
    let node = store.leases().with_node(lease).await.expect("read").expect("placed").node.expect("a node");
    store
        .agents()
        .set_way_in(node.id, &shut("/etc/nologin is there"), Prober::Scheduler, api.app.now())
        .await
        .expect("said");
    let said = shown().await;
    assert!(said.starts_with("not checked since 20") && said.contains("/etc/nologin is there"), "{said}");
    let open = WayInReport { open: true, reason: String::new() };
    store.agents().set_way_in(node.id, &open, Prober::Scheduler, api.app.now()).await.expect("said");
    assert_eq!(shown().await, "the login works");
    let version = store.nodes().get(node.id).await.expect("read").expect("there").version;
    let (why, now) = ("its sshd is down", api.app.now());
    store.nodes().set_health(node.id, version, Health::Unreachable, why, now).await.expect("written");
    let said = shown().await;
    assert!(said.starts_with("not checked since") && said.contains("its node is unreachable"), "{said}");
}

async fn a_node_whose_way_in_is_shut_is_not_offered_and_the_refusal_says_why(api: Api) {
    let (alice, boss) = (api.user("alice").await, api.admin("boss").await);
    let node = api.offered_node("node-1").await;
    let reason = "AllowUsers of sshd (root bob) does not take lease accounts";
    let now = api.app.now();
    api.app.store.agents().set_way_in(node, &shut(reason), Prober::Scheduler, now).await.expect("said");
    let show = async |token: &str| api.get(&format!("/api/nodes/{node}"), token).await.expect(200);
    let seen = show(&boss).await;
    assert_eq!((&seen["way_in"], &seen["offerable"]), (&json!("shut"), &json!(false)));
    assert_eq!((&seen["way_in_reason"], &seen["way_in_since"]), (&json!(reason), &json!(now.to_string())));
    assert!(seen["status_reason"].as_str().is_some_and(|said| said.contains(reason)), "{seen}");
    let others = show(&alice).await;
    assert_eq!(
        others["way_in_reason"], "AllowUsers of sshd does not take lease accounts",
        "no names for others"
    );
    let refused = api.post("/api/rent", &alice, &json!({ "duration_hours": 1 })).await.problem(503);
    let hint = refused["hint"].as_str().expect("a hint");
    assert!(hint.contains("node-1 (AllowUsers of sshd does not take lease accounts)"), "{hint}");
    let metrics = api.get("/metrics", "").await.text;
    assert!(metrics.contains("orion_nodes_way_in{state=\"shut\"} 1"), "{metrics}");
    assert!(metrics.contains("orion_nodes_offered 0"), "{metrics}");
}

async fn an_agent_s_beat_opens_and_shuts_the_way_in_and_tells_its_clock(api: Api) {
    let join = api.join_token().await;
    let body = api.worker("node-1", &KeyPair::generate());
    let created = api.post("/api/workers/register", &join, &body).await.expect(201);
    let node = NodeId(created["node_id"].as_i64().expect("a number"));
    let mut link = api.open_link(created["node_token"].as_str().expect("a token")).await;
    let mut seq = 0;
    let mut beat = |way_in: Option<WayInReport>, way_in_age_s: Option<u64>, ahead_ms: i64| {
        seq += 1;
        let clock_ms = Some(api.app.now().as_micros() / 1000 + ahead_ms);
        let beat = FromAgent::Beat { seq, load_percent: 0, sshd: true, way_in, way_in_age_s, clock_ms };
        Message::text(serde_json::to_string(&beat).expect("json"))
    };
    let until = async |what: &str, wanted: &dyn Fn(&orion_domain::node::Node) -> bool| {
        wait_until(what, Duration::from_secs(20), async || {
            let seen =
                api.app.store.nodes().get(node).await.map_err(|error| error.to_string())?.ok_or("gone")?;
            if wanted(&seen) { Ok(()) } else { Err(format!("{:?} {:?}", seen.way_in, seen.clock_off_ms)) }
        })
        .await;
    };
    // An agent of an older version says nothing of it.
    link.send(beat(None, None, 0)).await.expect("sent");
    link.send(beat(Some(shut("/etc/nologin is there")), None, 180_000)).await.expect("sent");
    until("shut, and the clock is off", &|seen| {
        seen.way_in.way == Way::Shut
            && seen.way_in.by_agent
            && seen.clock_off_ms.is_some_and(|off| off > 170_000)
    })
    .await;
    let boss = api.admin("boss").await;
    let seen = api.get(&format!("/api/nodes/{node}"), &boss).await.expect(200);
    assert!(
        seen["status_reason"].as_str().is_some_and(|said| said.contains("ahead of the control plane's")),
        "{seen}"
    );
    let late = api
        .app
        .store
        .agents()
        .set_way_in(node, &shut("late"), Prober::Scheduler, api.app.now())
        .await
        .expect("said");
    assert!(matches!(late, Cas::Stale), "the agent's word counts");
    // What changes too fast is heard with a later beat.
    let open = WayInReport { open: true, reason: String::new() };
    wait_until("open again", Duration::from_secs(20), async || {
        link.send(beat(Some(open.clone()), Some(40), 180_000)).await.map_err(|error| error.to_string())?;
        let seen = api.app.store.nodes().get(node).await.map_err(|error| error.to_string())?.ok_or("gone")?;
        if seen.way_in.way == Way::Open { Ok(()) } else { Err(format!("{:?}", seen.way_in)) }
    })
    .await;
    let shown = api.get(&format!("/api/nodes/{node}"), &boss).await.expect(200);
    let at: Timestamp = serde_json::from_value(shown["way_in_at"].clone()).expect("a time");
    let age = api.app.now().since(at).as_secs();
    assert!((40..80).contains(&age), "when the login was seen, not when it was told: {shown}");
    // A node that was too busy since to prove it.
    link.send(beat(Some(open.clone()), Some(91), 180_000)).await.expect("sent");
    until("not seen for long", &|seen| seen.way_in.way == Way::Unknown).await;
    let shown = api.get(&format!("/api/nodes/{node}"), &boss).await.expect(200);
    assert_eq!((&shown["way_in"], &shown["offerable"]), (&json!("unknown"), &json!(false)), "{shown}");
    assert!(
        shown["way_in_reason"].as_str().is_some_and(|said| said.starts_with("not checked since")),
        "{shown}"
    );
    let events = api.app.store.events().of_node(node, 100).await.expect("events");
    let told: Vec<&str> =
        events.iter().map(|event| event.kind.as_str()).filter(|kind| kind.contains("way_in")).collect();
    assert_eq!(told, ["node.way_in_shut", "node.way_in_open", "node.way_in_unknown"]);
    assert!(seen["admin"]["clock_off_ms"].as_i64().is_some_and(|off| off > 170_000), "{seen}");
}
