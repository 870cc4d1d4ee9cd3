//! Sign-up and login: conflicts, repetition, and what a stranger can learn.

use crate::{
    api::{Api, Database, PASSWORD, Reply},
    on_both_databases,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

on_both_databases!(
    a_name_can_be_had_once,
    a_sign_up_under_one_key_is_one_sign_up,
    a_token_is_void_after_logging_out,
);

async fn a_name_can_be_had_once(api: Api) {
    let body = json!({ "username": "alice", "password": PASSWORD });
    let made = api.post("/auth/signup", "", &body).await.expect(201);
    assert!(made["message"].is_string());
    for path in ["/auth/signup", "/api/signup"] {
        let problem = api.post(path, "", &body).await.problem(409);
        assert_eq!(problem["kind"], "username_taken");
    }
    // Also when all come at once.
    let body = json!({ "username": "bob", "password": PASSWORD });
    let replies = futures_util::future::join_all((0..6).map(|_| api.post("/api/signup", "", &body))).await;
    let mut statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409]);
    let token = api.log_in("bob").await;
    let me = api.get("/auth/me", &token).await.expect(200);
    assert_eq!((&me["username"], &me["role"]), (&json!("bob"), &json!("user")));
}

async fn a_sign_up_under_one_key_is_one_sign_up(api: Api) {
    let body = json!({ "username": "alice", "password": PASSWORD });
    // The same content, written in another order.
    let same: Value =
        serde_json::from_str(&format!(r#"{{"password":"{PASSWORD}","username":"alice"}}"#)).expect("JSON");
    for body in [&body, &same, &body] {
        api.post_keyed("/auth/signup", "one", body).await.expect(201);
    }
    let other = json!({ "username": "alice", "password": "another password" });
    let problem = api.post_keyed("/auth/signup", "one", &other).await.problem(422);
    assert_eq!(problem["kind"], "idempotency_key_reused");
    api.post_keyed("/auth/signup", "two", &body).await.problem(409);
    api.log_in("alice").await;
    let body = json!({ "username": "bob", "password": PASSWORD });
    let at_once = (0..5).map(|_| api.post_keyed("/auth/signup", "three", &body));
    for reply in futures_util::future::join_all(at_once).await {
        reply.expect(201);
    }
}

async fn a_token_is_void_after_logging_out(api: Api) {
    let (first, second) = (api.user("alice").await, api.log_in("alice").await);
    api.post("/api/auth/logout", &first, &json!({})).await.expect(200);
    for token in [&first, &second] {
        api.get("/auth/me", token).await.problem(401);
    }
    let third = api.log_in("alice").await;
    api.get("/auth/me", &third).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_name_and_a_wrong_password_cannot_be_told_apart() {
    let api = Api::start(Database::Sqlite).await;
    for name in ["alice", "bob", "carol"] {
        api.user(name).await;
    }
    let try_with = async |name: &str| {
        let begun = Instant::now();
        let body = json!({ "username": name, "password": "not the password" });
        let problem = api.post("/auth/login", "", &body).await.problem(401);
        (begun.elapsed(), problem)
    };
    // The hash that stands in for a missing one is made at the first use.
    try_with("nobody-yet").await;
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for round in 0..9 {
        let (took, wrong_password) = try_with(["alice", "bob", "carol"][round % 3]).await;
        known.push(took);
        let (took, wrong_name) = try_with(&format!("nobody{round}")).await;
        unknown.push(took);
        assert_eq!(wrong_password, wrong_name);
    }
    known.sort();
    unknown.sort();
    let (known, unknown): (Duration, Duration) = (known[4], unknown[4]);
    assert!(known < unknown * 3 && unknown < known * 3, "{known:?} and {unknown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sixth_login_after_five_failures_is_not_tried() {
    let api = Api::start(Database::Sqlite).await;
    api.user("alice").await;
    api.user("bob").await;
    let wrong = json!({ "username": "alice", "password": "not the password" });
    for number in 0..5 {
        // No proxy is trusted: what a client claims to be its address does not count.
        let claim = format!("10.0.0.{number}");
        let request = api.request(Method::POST, "/auth/login").header("X-Forwarded-For", claim).json(&wrong);
        Reply::of(request).await.problem(401);
    }
    let right = json!({ "username": "alice", "password": PASSWORD });
    let request = api.request(Method::POST, "/auth/login").header("X-Forwarded-For", "10.9.9.9").json(&right);
    let reply = Reply::of(request).await;
    let problem = reply.problem(429);
    assert_eq!(problem["kind"], "too_many_requests");
    let seconds: u64 = reply.header("retry-after").parse().expect("seconds");
    assert!((1..=61).contains(&seconds), "{seconds}");
    api.post("/api/login", "", &right).await.problem(429);
    api.log_in("bob").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_says_where_a_login_comes_from() {
    let api = Api::start_with(Database::Sqlite, |config| {
        config.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    })
    .await;
    api.user("alice").await;
    let log_in = async |from: &str, password: &str| {
        let body = json!({ "username": "alice", "password": password });
        let request = api.request(Method::POST, "/auth/login").header("X-Forwarded-For", from).json(&body);
        Reply::of(request).await.status
    };
    for _ in 0..5 {
        assert_eq!(log_in("10.0.0.1", "not the password").await, 401);
    }
    assert_eq!(log_in("10.0.0.1", PASSWORD).await, 429);
    // What stands before the proxy's own word is the client's claim.
    assert_eq!(log_in("10.0.0.2, 10.0.0.1", PASSWORD).await, 429);
    assert_eq!(log_in("10.0.0.2", PASSWORD).await, 200);
}
