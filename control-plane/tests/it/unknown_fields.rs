//! What a request may hold: on every route of the document, what is not in it is refused with the nearest name.

use crate::api::{Api, Database, Reply};
use orion_control_plane::router::{Access, Route, document, routes};
use orion_testkit::KeyPair;
use reqwest::Method;
use serde_json::{Value, json};

/// Returns the route's operation in the OpenAPI document.
fn operation(route: &Route) -> &'static Value {
    &document()["paths"][route.path][route.method.as_str().to_ascii_lowercase()]
}

fn concrete(route: &Route) -> String {
    let path = route.path.replace("{rental_id}", "4711").replace("{id}", "4711");
    path.replace("{file}", "swagger-ui.css").replace("{user}", "nobody-here")
}

/// Strict routes, each with a token that it takes. Agents' routes are not strict.
async fn strict_routes(api: &Api) -> Vec<(Route, String)> {
    let (user, admin) = (api.user("alice").await, api.admin("boss").await);
    let with_token = |route: Route| match route.access {
        Access::Anyone => Some((route, String::new())),
        Access::User => Some((route, user.clone())),
        Access::Admin => Some((route, admin.clone())),
        Access::Worker => None,
        Access::Visitor => Some((route, String::new())),
    };
    routes().into_iter().filter_map(with_token).collect()
}

async fn send(api: &Api, route: &Route, token: &str, query: &str, body: Option<&Value>) -> Reply {
    let request = api.request(route.method.clone(), &format!("{}{query}", concrete(route)));
    let request = if token.is_empty() { request } else { request.bearer_auth(token) };
    Reply::of(match body {
        Some(body) => request.json(body),
        None => request,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_refuses_a_query_parameter_that_it_does_not_know() {
    let api = Api::start(Database::Sqlite).await;
    let routes = strict_routes(&api).await;
    assert!(routes.len() > 30, "{}", routes.len());
    for (route, token) in routes {
        let problem = send(&api, &route, &token, "?zebra=1", None).await.problem(400);
        assert_eq!(problem["field"], "zebra", "{}: {problem}", route.path);
        let parameters = operation(&route)["parameters"].as_array().into_iter().flatten();
        for known in parameters.filter(|parameter| parameter["in"] == "query") {
            let name = known["name"].as_str().expect("a name");
            let problem = send(&api, &route, &token, &format!("?{name}x=1"), None).await.problem(400);
            let detail = problem["detail"].as_str().expect("a detail");
            assert!(detail.contains(&format!("`{name}`")), "{}: {problem}", route.path);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_parameter_that_cannot_be_read_is_named() {
    let api = Api::start(Database::Sqlite).await;
    let token = api.user("alice").await;
    for (query, field, what) in [
        ("limit=-1", "limit", "digit"),
        ("limit=", "limit", "empty"),
        ("limit=1&limit=2", "limit", "twice"),
        ("all=yes", "all", "`true` or `false`"),
        ("cursor=x", "cursor", "digit"),
    ] {
        let problem = api.get(&format!("/api/rentals?{query}"), &token).await.problem(400);
        assert_eq!(problem["field"], field, "{query}: {problem}");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.starts_with(&format!("{field}: ")) && detail.contains(what), "{query}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_refuses_a_field_that_it_does_not_know_and_names_the_nearest() {
    let api = Api::start(Database::Sqlite).await;
    let mut misspelt = 0;
    for (route, token) in strict_routes(&api).await {
        if route.method != Method::POST {
            continue;
        }
        let example = operation(&route)["requestBody"]["content"]["application/json"].get("example");
        let mut body = example.cloned().unwrap_or_else(|| json!({}));
        body["zebra"] = json!(1);
        let problem = send(&api, &route, &token, "", Some(&body)).await.problem(400);
        assert_eq!(problem["field"], "zebra", "{}: {problem}", route.path);
        for name in example.and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name) {
            let wrong = format!("{name}s");
            let mut body = example.cloned().expect("an example");
            body[&wrong] = body[name].clone();
            let problem = send(&api, &route, &token, "", Some(&body)).await.problem(400);
            assert_eq!(problem["field"], wrong.as_str(), "{}: {problem}", route.path);
            let detail = problem["detail"].as_str().expect("a detail");
            assert!(detail.contains(&format!("`{name}`")), "{}: {problem}", route.path);
            misspelt += 1;
        }
    }
    assert!(misspelt >= 15, "{misspelt}");
    let token = api.log_in("alice").await;
    assert_eq!(api.get("/api/rentals?all=true", &token).await.expect(200), json!([]), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misspelt_key_of_a_rental_is_refused_with_the_right_name() {
    let api = Api::start(Database::Sqlite).await;
    let token = api.user("alice").await;
    let node = api.offered_node("w1").await;
    for (wrong, right) in
        [("ssh_pubkey", "ssh_public_key"), ("on_node_lost", "on_node_loss"), ("tag", "tags")]
    {
        let body = json!({ "duration_hours": 1, wrong: "x" });
        let problem = api.post("/api/rent", &token, &body).await.problem(400);
        assert_eq!(problem["field"], wrong);
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains(right)), "{problem}");
    }
    let node = api.app.store.nodes().get(node).await.expect("a node").expect("registered");
    assert!(node.is_offerable(), "no request came so far: {node:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_call_a_route_is_told_that_first() {
    let api = Api::start(Database::Sqlite).await;
    let user = api.user("alice").await;
    for (query, body) in [("?zebra=1", None), ("", Some(json!({ "zebra": 1 })))] {
        let path = format!("/api/reset{query}");
        let request = |token: &str| {
            let request = api.request(Method::POST, &path).bearer_auth(token);
            body.as_ref().map_or_else(|| request.try_clone(), |body| Some(request.try_clone()?.json(body)))
        };
        Reply::of(request("nonsense").expect("a request")).await.problem(401);
        Reply::of(request(&user).expect("a request")).await.problem(403);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_body_is_taken_where_none_is_wanted_and_null_where_it_may_be_left_out() {
    let api = Api::start(Database::Sqlite).await;
    let admin = api.admin("boss").await;
    for body in [json!({}), Value::Null] {
        api.post("/api/admin/brake/lift", &admin, &body).await.expect(200);
        api.post("/api/admin/nodes/4711/drain", &admin, &body).await.problem(404);
        api.post("/api/admin/nodes/4711/forget", &admin, &body).await.problem(404);
        api.post("/api/admin/nodes/4711/undrain", &admin, &body).await.problem(404);
    }
    for body in [json!([1]), json!("text"), json!("x".repeat(10_000))] {
        let problem = api.post("/api/admin/nodes/4711/undrain", &admin, &body).await.problem(400);
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains("takes no body")), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_agent_that_says_more_is_taken_and_told_what_was_passed_over() {
    let api = Api::start(Database::Sqlite).await;
    let join = api.join_token().await;
    let mut body = api.worker("w1", &KeyPair::generate());
    for known in ["cpu_cores", "memory_mb"] {
        body[known] = json!(4);
    }
    body["boot_id"] = json!("of a newer agent");
    let registered = api.post("/api/workers/register?from=newer", &join, &body).await.expect(201);
    assert_eq!(registered["ignored"], json!(["boot_id"]));
    let older = api.worker("w2", &KeyPair::generate());
    let registered = api.post("/api/workers/register", &join, &older).await.expect(201);
    assert_eq!(registered.get("ignored"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_begins_before_the_first_is_refused() {
    let api = Api::start(Database::Sqlite).await;
    let token = api.user("alice").await;
    for (path, field) in [
        ("/api/nodes?cursor=-1", "cursor"),
        ("/api/rentals?cursor=-1", "cursor"),
        ("/api/events?after=-1", "after"),
    ] {
        assert_eq!(api.get(path, &token).await.problem(400)["field"], field);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_is_null_is_a_field_that_is_left_out_also_under_a_key() {
    let api = Api::start(Database::Sqlite).await;
    let admin = api.admin("boss").await;
    let send = async |body: Value| {
        let request = api.request(Method::POST, "/api/tokens").header("Idempotency-Key", "k1");
        Reply::of(request.bearer_auth(&admin).json(&body)).await
    };
    let first = send(json!({ "note": "rack 3" })).await.expect(201);
    assert_eq!(send(json!({ "note": "rack 3", "uses": null })).await.expect(201), first);
    send(json!({ "note": "rack 3", "uses": 1 })).await.problem(422);
}
