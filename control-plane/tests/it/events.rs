//! The feed of events: who sees what, and going on after a break.

use crate::{
    api::{Api, PASSWORD},
    contract, on_both_databases,
};
use futures_util::StreamExt as _;
use orion_domain::{LeaseId, lease::EndReason};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

on_both_databases!(
    a_user_sees_the_own_leases_and_an_admin_sees_all,
    a_feed_that_broke_off_goes_on_without_a_gap,
);

async fn a_user_sees_the_own_leases_and_an_admin_sees_all(api: Api) {
    let (alice, bob, admin) = (api.user("alice").await, api.user("bob").await, api.admin("boss").await);
    let (hers, his) = (api.active_lease("alice").await.0, api.active_lease("bob").await.0);
    let seen = async |token: &str| -> Vec<Value> { feed(&api, token, "?after=0", None, 1).await };
    for (token, own, other) in [(&alice, hers, his), (&bob, his, hers)] {
        let events = seen(token).await;
        let kinds: Vec<&Value> = of_lease(&events, own).iter().map(|event| &event["kind"]).collect();
        assert_eq!(kinds, [&json!("lease.placed"), &json!("lease.active")]);
        assert!(of_lease(&events, other).is_empty(), "{events:#?}");
    }
    let all = seen(&admin).await;
    assert!(!of_lease(&all, hers).is_empty() && !of_lease(&all, his).is_empty(), "{all:#?}");
    assert!(all.iter().any(|event| event["kind"].as_str().is_some_and(|kind| kind.starts_with("node."))));
    for event in &all {
        assert!(event["at"].is_string() && event["id"].is_i64() && event["data"].is_object(), "{event}");
    }
    for wrong in ["x", "1.5", ""] {
        let request =
            api.request(Method::GET, "/api/events").bearer_auth(&alice).header("Last-Event-ID", wrong);
        assert_eq!(request.send().await.expect("a reply").status(), 400, "{wrong:?}");
    }
}

async fn a_feed_that_broke_off_goes_on_without_a_gap(api: Api) {
    let alice = api.user("alice").await;
    let lease = api.active_lease("alice").await;
    let before = feed(&api, &alice, "?after=0", None, 1).await;
    let last = before.last().expect("events")["id"].as_i64().expect("a number");
    end(&api, lease).await;
    let after = feed(&api, &alice, "", Some(last), 1).await;
    let new: Vec<i64> =
        after.iter().filter_map(|event| event["id"].as_i64()).filter(|id| *id > last).collect();
    let all = feed(&api, &alice, "?after=0", None, 1).await;
    let all: Vec<i64> = all.iter().filter_map(|event| event["id"].as_i64()).filter(|id| *id > last).collect();
    assert!(!new.is_empty());
    assert_eq!(new, all, "at least once, in order, none missing");

    // What happens while somebody listens arrives without being asked for.
    let lease = api.active_lease("alice").await;
    let (events, ()) = tokio::join!(feed(&api, &alice, "", Some(last), 3), end(&api, lease));
    let released = of_lease(&events, lease.0).iter().any(|event| event["kind"] == "lease.releasing");
    assert!(released, "{events:#?}");
    assert!(!serde_json::to_string(&events).expect("JSON").contains(PASSWORD));
}

async fn end(api: &Api, lease: LeaseId) {
    let ended = api.app.store.leases().end(&[lease], &EndReason::Released, None, api.app.now()).await;
    assert_eq!(ended.expect("ended"), [lease]);
    api.app.fleet.nudge.all();
}

/// Returns the events that a feed sends until it has been silent for `silence_s` seconds.
async fn feed(api: &Api, token: &str, query: &str, last: Option<i64>, silence_s: u64) -> Vec<Value> {
    let mut request = api.request(Method::GET, &format!("/api/events{query}")).bearer_auth(token);
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last.to_string());
    }
    let reply = request.send().await.expect("a feed");
    assert_eq!(reply.headers()["content-type"], "text/event-stream");
    let mut stream = reply.bytes_stream();
    let mut text = String::new();
    let silence = Duration::from_secs(silence_s);
    while let Ok(Some(piece)) = tokio::time::timeout(silence, stream.next()).await {
        text.push_str(&String::from_utf8_lossy(&piece.expect("the feed goes on")));
    }
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = data.map(|data| serde_json::from_str(data).expect("an event")).collect();
    events.iter().for_each(contract::check_event);
    events
}

fn of_lease(events: &[Value], lease: i64) -> Vec<&Value> {
    events.iter().filter(|event| event["lease_id"] == lease).collect()
}
