//! What every client meets: unknown paths, wrong methods, headers, the status page, health.

use crate::api::{Api, Database, PASSWORD, Reply};
use reqwest::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_path_and_a_wrong_method_are_problems_like_all_others() {
    let api = Api::start(Database::Sqlite).await;
    for path in ["/nothing", "/api", "/api/rentals/1/2", "/api/workers", "/..%2f"] {
        assert_eq!(api.get(path, "").await.problem(404)["kind"], "not_found");
    }
    for (method, path) in [
        (Method::GET, "/api/rent"),
        (Method::POST, "/api/rentals"),
        (Method::DELETE, "/api/rentals/1"),
        (Method::PUT, "/auth/login"),
        (Method::PATCH, "/"),
    ] {
        let reply = Reply::of(api.request(method, path)).await;
        assert_eq!(reply.problem(405)["kind"], "method_not_allowed");
        assert!(!reply.header("allow").is_empty(), "{path} says which method it has");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_of_other_origins_are_kept_out_unless_the_operator_lets_them_in() {
    let from = async |api: &Api, method: Method, origin: &str| {
        let request = api.request(method, "/api/health").header("Origin", origin);
        let request = request.header("Access-Control-Request-Method", "GET");
        Reply::of(request).await.header("access-control-allow-origin").to_owned()
    };
    let closed = Api::start(Database::Sqlite).await;
    assert_eq!(from(&closed, Method::GET, "https://ui.example").await, "");
    assert_eq!(from(&closed, Method::OPTIONS, "https://ui.example").await, "");
    let open = Api::start_with(Database::Sqlite, |config| {
        config.cors_origins = vec!["https://ui.example".into()];
    })
    .await;
    assert_eq!(from(&open, Method::GET, "https://ui.example").await, "https://ui.example");
    assert_eq!(from(&open, Method::OPTIONS, "https://ui.example").await, "https://ui.example");
    assert_eq!(from(&open, Method::GET, "https://evil.example").await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_page_runs_no_script_but_its_own() {
    let api = Api::start(Database::Sqlite).await;
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let page = api.get("/", "").await;
        assert_eq!(page.status, 200);
        assert!(page.header("content-type").starts_with("text/html"), "{}", page.header("content-type"));
        let policy = page.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let nonce = policy.split("script-src 'nonce-").nth(1).and_then(|rest| rest.split('\'').next());
        let nonce = nonce.expect("a nonce").to_owned();
        assert!(nonce.len() >= 20, "{nonce}");
        for tag in ["<script", "<style"] {
            let all = page.text.matches(tag).count();
            let allowed = page.text.matches(&format!("{tag} nonce=\"{nonce}\"")).count();
            assert!(all > 0 && all == allowed, "{all} {tag}, {allowed} with the nonce");
        }
        assert!(!page.text.contains("__NONCE__"));
        nonces.push(nonce);
    }
    assert_ne!(nonces[0], nonces[1], "each page has its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_names_the_part_that_is_down() {
    let api = Api::start(Database::Sqlite).await;
    assert_eq!(api.get("/api/live", "").await.expect(200)["status"], "live");
    let sick = api.get("/api/health", "").await.expect(503);
    assert_eq!(sick["status"], "unhealthy");
    assert_eq!(sick["parts"]["database"]["status"], "up");
    assert_eq!(sick["parts"]["scheduler"]["status"], "down", "none runs here");
    api.app.store.cluster().heartbeat("s1", "scheduler", api.app.now()).await.expect("written");
    let well = api.get("/api/health", "").await.expect(200);
    assert_eq!((&well["status"], &well["parts"]["scheduler"]["status"]), (&json!("healthy"), &json!("up")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_older_paths_do_the_same() {
    let api = Api::start(Database::Sqlite).await;
    let body = json!({ "username": "alice", "password": PASSWORD });
    api.post("/api/signup", "", &body).await.expect(201);
    for path in ["/auth/login", "/api/login"] {
        let token = api.post(path, "", &body).await.expect(200)["token"].clone();
        api.get("/auth/me", token.as_str().expect("a token")).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_counts_without_names() {
    let api = Api::start(Database::Sqlite).await;
    api.user("alice").await;
    api.active_lease("alice").await;
    api.offered_node("spare").await;
    let metrics = api.get("/metrics", "").await;
    assert_eq!(metrics.status, 200, "{}", metrics.text);
    for line in
        ["orion_leases{state=\"active\"} 1", "orion_nodes{health=\"alive\"} 2", "orion_nodes_offered 1"]
    {
        assert!(metrics.text.contains(line), "no '{line}' in\n{}", metrics.text);
    }
    assert!(!metrics.text.contains("alice") && !metrics.text.contains("spare"), "{}", metrics.text);
}
