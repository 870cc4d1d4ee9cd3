//! Leases that are not the caller's, not there, or over; lists and their pages.

use crate::{
    api::{Api, Database},
    on_both_databases,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    node::{Health, LinkState},
};
use orion_store::FinishReconcile;
use orion_testkit::wait_until;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest wait for a state that must come.
const PATIENCE: Duration = Duration::from_secs(20);

on_both_databases!(
    a_lease_that_is_not_the_callers_looks_like_one_that_does_not_exist,
    a_lease_that_was_released_cannot_be_extended,
    a_long_list_is_given_in_pages_that_link_to_the_next,
    a_lease_shows_whether_its_node_keeps_the_deadline_by_itself,
    a_request_that_waited_to_be_placed_has_a_lease_that_begins_when_it_is_placed,
);

/// A claim and a lease that counted from the request would be over, or shorter, when it is placed.
async fn a_request_that_waited_to_be_placed_has_a_lease_that_begins_when_it_is_placed(api: Api) {
    let token = api.user("alice").await;
    api.offered_node("w1").await;
    let places = &api.app.placing;
    let _others = places.acquire_many(3).await.expect("places");
    let mut last = Some(places.acquire().await.expect("a place"));
    let rent = api.request(Method::POST, "/api/rent").bearer_auth(&token);
    let rent = tokio::spawn(rent.json(&json!({ "duration_hours": 1 })).send());
    let placed_after = wait_until("the request waits for a place", PATIENCE, async || {
        let now = api.app.now();
        drop(last.take());
        // Who waits has it at once.
        match places.try_acquire() {
            Ok(place) => {
                last = Some(place);
                Err("nobody waits")
            }
            Err(_) => Ok(now),
        }
    })
    .await;
    let lease = wait_until("the lease is there", PATIENCE, async || {
        let listed = api.get("/api/rentals?all=true", &token).await.expect(200);
        listed.as_array().and_then(|leases| leases.first().cloned()).ok_or_else(|| listed.to_string())
    })
    .await;
    let begins: Timestamp = lease["leased_from"].as_str().expect("a time").parse().expect("RFC 3339");
    // It is shown in milliseconds.
    assert!(begins.plus(Duration::from_millis(1)) > placed_after, "{begins} is before {placed_after}");
    rent.abort();
}

async fn a_lease_shows_whether_its_node_keeps_the_deadline_by_itself(api: Api) {
    let token = api.user("alice").await;
    let lease = api.active_lease("alice").await.0;
    let shown = async || api.get(&format!("/api/rentals/{lease}"), &token).await.expect(200);
    let node = NodeId(shown().await["node_id"].as_i64().expect("a number"));
    let (store, now) = (&api.app.store, api.app.now());
    let keeps = async |who: &str, why: &str| assert_eq!(shown().await["deadline"], who, "{why}");
    let set_health = async |health| {
        let version = store.nodes().get(node).await.expect("a node").expect("registered").version;
        store
            .nodes()
            .set_health(node, version, health, "test", now)
            .await
            .expect("written")
            .done()
            .expect("news");
    };
    keeps("node", "no agent: the process that the playbook left").await;
    set_health(Health::Suspect).await;
    keeps("control plane only", "no agent: it may have been booted").await;
    set_health(Health::Alive).await;
    keeps("control plane only", "it answers again, and was not looked at yet").await;
    let claim = store.nodes().claim(node, "test", Duration::from_secs(10), now).await.expect("claimed");
    let claim = claim.expect("nobody else claims it");
    let applied = FinishReconcile {
        applied_version: claim.desired_version,
        ready: claim.desired.iter().map(|desired| (desired.lease, Some(desired.until))).collect(),
        ..FinishReconcile::default()
    };
    store.nodes().finish_reconcile(&claim, &applied, now).await.expect("applied");
    keeps("node", "it was looked at").await;
    // Its kernel is another one: the node is looked at before anything is said of it.
    for kernel in ["kernel-1", "kernel-2"] {
        store.agents().record_boot_id(node, kernel, now).await.expect("recorded");
    }
    keeps("control plane only", "no agent: it was booted").await;
    let (_, epoch) = store.agents().open_link(node, "api", now).await.expect("written").done().expect("news");
    keeps("node", "its agent sees to it").await;
    let lost = store.agents().link_changed(node, epoch, "api", LinkState::Lost, now).await;
    lost.expect("written").done().expect("news");
    keeps("control plane only", "its agent may be gone").await;
}

async fn a_lease_that_is_not_the_callers_looks_like_one_that_does_not_exist(api: Api) {
    let (alice, bob, admin) = (api.user("alice").await, api.user("bob").await, api.admin("boss").await);
    let lease = api.active_lease("alice").await.0;
    let hours = json!({ "additional_hours": 1 });
    for (id, token) in [(4711, &alice), (4711, &admin), (lease, &bob)] {
        let show = api.get(&format!("/api/rentals/{id}"), token).await.problem(404);
        let release = api.post(&format!("/api/release/{id}"), token, &json!({})).await.problem(404);
        let extend = api.post(&format!("/api/extend/{id}"), token, &hours).await.problem(404);
        let expected = format!("you have no lease '{id}'; GET /api/rentals lists yours");
        for problem in [show, release, extend] {
            assert_eq!(problem["detail"], expected);
        }
    }
    for odd in ["0", "-1", "abc", "99999999999999999999", "%2e%2e", "1%20or%201=1"] {
        api.get(&format!("/api/rentals/{odd}"), &alice).await.problem(404);
    }
    assert_eq!(api.get("/api/rentals", &bob).await.expect(200), json!([]));
    for token in [&alice, &admin] {
        let shown = api.get(&format!("/api/rentals/{lease}"), token).await.expect(200);
        assert_eq!((&shown["rental_id"], &shown["state"]), (&json!(lease), &json!("active")));
        assert_eq!(api.get("/api/rentals", token).await.expect(200)[0]["rental_id"], lease);
    }
    // A node shows its lease to the owner and to admins only.
    let lease_of = async |token: &str| api.get("/api/nodes", token).await.expect(200)[0]["lease"].clone();
    assert_eq!(lease_of(&bob).await, Value::Null);
    assert_eq!(lease_of(&alice).await["rental_id"], lease);
    assert_eq!(lease_of(&admin).await["user_id"], json!(api.user_id("alice").await));
}

async fn a_lease_that_was_released_cannot_be_extended(api: Api) {
    let alice = api.user("alice").await;
    let id = api.active_lease("alice").await;
    let lease = api.app.store.leases().get(id).await.expect("a lease").expect("placed");
    let extend = format!("/api/extend/{id}");
    for hours in [json!(0), json!(-1), json!(1e9), json!("NaN"), json!(null), json!(721)] {
        let problem = api.post(&extend, &alice, &json!({ "additional_hours": hours })).await.problem(400);
        assert_eq!(problem["field"], "additional_hours", "{problem}");
    }
    let extended = api.post(&extend, &alice, &json!({ "additional_hours": 0.5 })).await.expect(200);
    assert_eq!(extended["applied"], false, "nothing answers at the node: it cannot know yet");
    let until = lease.until.plus(std::time::Duration::from_secs(1800));
    assert_eq!(extended["new_end_at"], until.to_string());

    // A node in quarantine is not waited for.
    let node = lease.state.occupies().expect("a node");
    api.app.store.nodes().quarantine(node, "a test", api.app.now()).await.expect("quarantined");
    let release = format!("/api/release/{id}");
    let released = api.post(&release, &alice, &json!({})).await.expect(200);
    assert_eq!((&released["state"], &released["rental_id"]), (&json!("releasing"), &json!(id)));
    let message = released["message"].as_str().expect("a sentence");
    assert!(message.contains("being released") && message.contains("may still work"), "{message}");
    let again = api.post(&release, &alice, &json!({})).await.expect(200);
    assert_eq!(again["message"], message, "the second time the same");
    let problem = api.post(&extend, &alice, &json!({ "additional_hours": 1 })).await.problem(409);
    assert_eq!(problem["kind"], "wrong_state");
}

async fn a_long_list_is_given_in_pages_that_link_to_the_next(api: Api) {
    let alice = api.user("alice").await;
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(api.active_lease("alice").await.0);
    }
    for (list, key) in [("/api/rentals", "rental_id"), ("/api/nodes", "node_id")] {
        assert_eq!(api.get(list, &alice).await.header("link"), "", "all on one page");
        let mut seen: Vec<i64> = Vec::new();
        let mut next = Some(format!("{list}?limit=2"));
        while let Some(path) = next {
            let page = api.get(&path, &alice).await;
            let entries = page.expect(200);
            let entries = entries.as_array().expect("the body stays a plain list");
            assert!(entries.len() <= 2);
            seen.extend(entries.iter().filter_map(|entry| entry[key].as_i64()));
            next = page.header("link").split_once('>').map(|(link, rest)| {
                assert_eq!(rest, "; rel=\"next\"");
                link.trim_start_matches('<').to_owned()
            });
        }
        assert_eq!(seen.len(), 3, "each once: {seen:?}");
        assert!(seen.is_sorted(), "in order: {seen:?}");
        for wrong in ["limit=0", "limit=1001", "limit=x", "limit=-1", "cursor=x"] {
            api.get(&format!("{list}?{wrong}"), &alice).await.problem(400);
        }
        assert_eq!(api.get(&format!("{list}?limit=1000"), &alice).await.header("link"), "");
    }
    let first = api.get("/api/rentals?limit=2&all=true", &alice).await;
    assert!(first.header("link").contains("all=true"), "{}", first.header("link"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rental_without_free_nodes_says_how_many_there_are_and_leaves_nothing() {
    let api = Api::start(Database::Sqlite).await;
    let alice = api.user("alice").await;
    let reply = api.post("/api/rent", &alice, &json!({ "duration_hours": 1, "count": 2 })).await;
    let problem = reply.problem(503);
    assert_eq!((&problem["kind"], &problem["found"]), (&json!("too_few_free"), &json!(0)));
    assert_eq!(problem["retry_after_s"], Value::Null, "no lease is due to end");
    api.active_lease("alice").await;
    let reply = api.post("/api/rent", &alice, &json!({ "duration_hours": 1, "count": 2 })).await;
    let seconds = reply.problem(503)["retry_after_s"].as_u64().expect("seconds until the next end");
    assert!((3500..=3601).contains(&seconds), "{seconds}");
    assert_eq!(reply.header("retry-after"), seconds.to_string());
    assert_eq!(api.get("/api/rentals?all=true", &alice).await.expect(200).as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rental_that_waited_for_its_turn_counts_from_when_its_turn_came() {
    let api = Api::start(Database::Sqlite).await;
    let token = api.user("alice").await;
    api.offered_node("w1").await;
    let turns = u32::try_from(api.app.placing.available_permits()).expect("a few");
    let busy = api.app.placing.acquire_many(turns).await.expect("every turn");
    let body = json!({ "duration_hours": 1 });
    let (reply, turn_came) = tokio::join!(api.post("/api/rent", &token, &body), async {
        // Long enough for the request to arrive and to wait.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let now = api.app.now();
        drop(busy);
        now
    });
    reply.problem(503); // nothing listens at the node
    let leases = api.app.store.leases().list(None, true, LeaseId(0), 10).await.expect("leases");
    assert_eq!(leases.len(), 1);
    assert!(leases[0].lease.from >= turn_came, "{:?} {turn_came}", leases[0].lease);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rental_whose_turn_does_not_come_is_refused_and_nothing_is_rented() {
    let api =
        Api::start_with(Database::Sqlite, |config| config.placing_wait = Duration::from_millis(200)).await;
    let token = api.user("alice").await;
    let turns = u32::try_from(api.app.placing.available_permits()).expect("a few");
    let _busy = api.app.placing.acquire_many(turns).await.expect("every turn");
    let problem = api.post("/api/rent", &token, &json!({ "duration_hours": 1 })).await.problem(503);
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("nothing was rented")), "{problem}");
}
