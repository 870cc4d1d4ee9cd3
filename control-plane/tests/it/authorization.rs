//! Every route of the list, with every kind of token.

use crate::api::{Api, Database, PASSWORD};
use orion_control_plane::router::{Access, Route, routes};
use orion_testkit::KeyPair;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

/// A day and an hour: longer than a token lives.
const LONG_AGO: Duration = Duration::from_secs(25 * 3600);

/// Tokens that a caller may hold.
struct Tokens {
    user: String,
    admin: String,
    expired: String,
    logged_out: String,
    join: String,
    node: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_lets_in_whom_it_says_and_nobody_else() {
    let api = Api::start(Database::Sqlite).await;
    for route in routes() {
        // Logging out and reset make tokens void: each route gets fresh ones.
        let tokens = fresh_tokens(&api).await;
        match route.access {
            Access::Anyone => anyone(&api, &route, &tokens).await,
            Access::User => user(&api, &route, &tokens).await,
            Access::Admin => admin(&api, &route, &tokens).await,
            Access::Worker => worker(&api, &route, &tokens).await,
            Access::Visitor => visitor(&api, &route, &tokens).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_looked_at_before_the_body() {
    let api = Api::start(Database::Sqlite).await;
    for route in routes().into_iter().filter(|route| route.method == "POST") {
        if matches!(route.access, Access::User | Access::Admin) {
            let request = api.request(route.method.clone(), &concrete(&route)).body("{ this is no JSON");
            assert_eq!(request.send().await.expect("a reply").status(), 401, "{}", route.path);
        }
    }
}

#[test]
fn only_what_must_be_is_open_to_anyone() {
    let all = routes();
    let open = all.iter().filter(|route| route.access == Access::Anyone).map(|route| route.path);
    let expected = [
        "/",
        "/api/live",
        "/api/health",
        "/metrics",
        "/api/openapi.json",
        "/docs",
        "/docs/{file}",
        "/auth/signup",
        "/api/signup",
        "/auth/login",
        "/api/login",
    ];
    assert_eq!(open.collect::<Vec<_>>(), expected, "this list may only shrink");
}

async fn fresh_tokens(api: &Api) -> Tokens {
    let name = format!("user{}", &orion_testkit::random_word()[..12]);
    let user = api.user(&name).await;
    let account = api.app.store.accounts().by_name(&name).await.expect("a user").expect("signed up");
    let then = api.app.now().minus(LONG_AGO);
    let expired = api.app.tokens.issue(account.id, &name, account.token_generation, then).expect("a token");

    let leaver = format!("{name}x");
    let logged_out = api.user(&leaver).await;
    api.post("/api/auth/logout", &logged_out, &json!({})).await.expect(200);

    let join = api.join_token().await;
    let body = api.worker(&format!("w-{name}"), &KeyPair::generate());
    let registered = api.post("/api/workers/register", &join, &body).await.expect(201);
    let node = registered["node_token"].as_str().expect("a node token").to_owned();
    let admin = api.admin("boss").await;
    Tokens { user, admin, expired: expired.expose().to_owned(), logged_out, join, node }
}

/// Covers the case after a restored backup: a new account may have the number of one that is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_older_than_its_account_is_refused() {
    let api = Api::start(Database::Sqlite).await;
    api.user("newcomer").await;
    let account = api.app.store.accounts().by_name("newcomer").await.expect("a user").expect("signed up");
    let token_from = |age: Duration| {
        let then = api.app.now().minus(age);
        let token = api.app.tokens.issue(account.id, "newcomer", account.token_generation, then);
        token.expect("a token").expose().to_owned()
    };
    let older = token_from(Duration::from_secs(60));
    let reply = api.get("/auth/me", &older).await;
    assert_eq!(reply.status, 401, "{reply:?}");
    let now = token_from(Duration::ZERO);
    assert_eq!(api.get("/auth/me", &now).await.expect(200)["username"], "newcomer");
}

/// A path with its parameters filled in: of things that do not exist.
fn concrete(route: &Route) -> String {
    route.path.replace("{rental_id}", "4711").replace("{id}", "4711").replace("{user}", "nobody-here")
}

/// A body that the route can read.
fn body(route: &Route) -> Value {
    match route.path {
        "/auth/signup" | "/api/signup" => json!({ "username": "root", "password": PASSWORD }),
        "/auth/login" | "/api/login" => json!({ "username": "boss", "password": PASSWORD }),
        "/api/rent" => json!({ "duration_hours": 1 }),
        "/api/extend/{rental_id}" => json!({ "additional_hours": 1 }),
        "/api/admin/nodes/{id}/accept-key" => json!({ "fingerprint": "SHA256:x" }),
        "/api/workers/register" => json!({ "hostname": "w", "ip": "127.9.9.9", "ssh_port": 1 }),
        _ => json!({}),
    }
}

async fn status(api: &Api, route: &Route, token: &str) -> StatusCode {
    let mut request = api.request(route.method.clone(), &concrete(route));
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    if route.method == "POST" {
        request = request.json(&body(route));
    }
    // Only the head of the reply is read: a feed of events does not end.
    let reply = request.send().await.expect("a reply");
    let kind = reply.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !reply.status().is_success() && route.path != "/api/health" {
        assert_eq!(kind, "application/problem+json", "{} {}", route.method, route.path);
    }
    if reply.status() == 401 {
        assert!(reply.headers().contains_key("www-authenticate"), "{}", route.path);
    }
    reply.status()
}

fn is_let_in(status: StatusCode) -> bool {
    !matches!(status.as_u16(), 401 | 403 | 500)
}

async fn anyone(api: &Api, route: &Route, tokens: &Tokens) {
    for token in ["", "garbage", &tokens.expired, &tokens.user] {
        let status = status(api, route, token).await;
        assert!(is_let_in(status), "{} {}: {status} for '{token}'", route.method, route.path);
    }
}

async fn nobody_else(api: &Api, route: &Route, tokens: &Tokens) {
    let unsigned = format!("{}x", tokens.user);
    for token in
        ["", "garbage", "a.b.c", &unsigned, &tokens.expired, &tokens.logged_out, &tokens.join, &tokens.node]
    {
        let status = status(api, route, token).await;
        assert_eq!(status, 401, "{} {} for '{token}'", route.method, route.path);
    }
}

async fn user(api: &Api, route: &Route, tokens: &Tokens) {
    nobody_else(api, route, tokens).await;
    for token in [&tokens.user, &tokens.admin] {
        let status = status(api, route, token).await;
        assert!(is_let_in(status), "{} {}: {status}", route.method, route.path);
    }
}

async fn admin(api: &Api, route: &Route, tokens: &Tokens) {
    nobody_else(api, route, tokens).await;
    assert_eq!(status(api, route, &tokens.user).await, 403, "{} {}", route.method, route.path);
    let status = status(api, route, &tokens.admin).await;
    assert!(is_let_in(status), "{} {}: {status}", route.method, route.path);
}

/// No token opens it, but the cookie that a good ticket gives.
async fn visitor(api: &Api, route: &Route, tokens: &Tokens) {
    nobody_else(api, route, tokens).await;
    for token in [&tokens.user, &tokens.admin] {
        assert_eq!(status(api, route, token).await, 401, "{}", route.path);
    }
}

/// A node token opens both of the workers' routes, a join token only the registration.
async fn worker(api: &Api, route: &Route, tokens: &Tokens) {
    for token in ["", "garbage", &tokens.expired, &tokens.logged_out, &tokens.user, &tokens.admin] {
        let status = status(api, route, token).await;
        assert_eq!(status, 401, "{} {} for '{token}'", route.method, route.path);
    }
    let joins = route.path == "/api/workers/register";
    assert_eq!(is_let_in(status(api, route, &tokens.join).await), joins, "{}", route.path);
    let status = status(api, route, &tokens.node).await;
    assert!(is_let_in(status), "{}: {status}", route.path);
}
