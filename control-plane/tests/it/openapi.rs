//! The OpenAPI document and its page: complete, true, and readable without a network.

use crate::{
    api::{Api, Database, Reply},
    contract::{self, Reading},
};
use orion_control_plane::router::{Access, Route, document, routes};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Every operation of the document: method, path, and what it says.
fn operations() -> Vec<(String, String, &'static Value)> {
    let paths = document()["paths"].as_object().expect("paths");
    let of_path = |(path, item): (&String, &'static Value)| {
        let methods = item.as_object().expect("methods").iter();
        let of_path: Vec<_> =
            methods.map(|(method, about)| (method.to_uppercase(), path.clone(), about)).collect();
        of_path
    };
    paths.iter().flat_map(of_path).collect()
}

/// The JSON bodies among the media types of a request or a reply.
fn json_bodies(content: &'static Value) -> impl Iterator<Item = &'static Value> {
    let kinds = content.as_object().into_iter().flatten();
    kinds.filter(|(kind, _)| kind.ends_with("json")).map(|(_, media)| media)
}

#[test]
fn the_document_has_every_route_and_no_other() {
    let served: BTreeSet<(String, String)> =
        routes().iter().map(|route| (route.method.to_string(), route.path.to_owned())).collect();
    let written: BTreeSet<(String, String)> =
        operations().into_iter().map(|(method, path, _)| (method, path)).collect();
    assert_eq!(served, written, "left: the router's list; right: the document");
}

#[test]
fn each_route_says_what_it_does_who_may_call_it_and_what_comes_back() {
    let groups: Vec<&str> = document()["tags"]
        .as_array()
        .expect("groups")
        .iter()
        .filter_map(|tag| tag["name"].as_str())
        .collect();
    let mut names = BTreeMap::new();
    for (method, path, about) in operations() {
        let what = format!("{method} {path}");
        let name = about["operationId"].as_str().unwrap_or_else(|| panic!("{what} has no name"));
        if let Some(other) = names.insert(name, what.clone()) {
            panic!("{what} and {other} are both called {name}");
        }
        let summary = about["summary"].as_str().unwrap_or_default();
        assert!(!summary.is_empty() && !summary.ends_with('.'), "{what}: {summary}");
        let group = about["tags"][0].as_str().unwrap_or_default();
        assert!(groups.contains(&group), "{what}: there is no group '{group}'");
        for parameter in about["parameters"].as_array().into_iter().flatten() {
            let described = parameter["description"].as_str().is_some_and(|text| !text.is_empty());
            assert!(described, "{what}: {parameter}");
        }
        let taken: BTreeSet<&str> = about["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "path")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        let in_path: BTreeSet<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        assert_eq!(taken, in_path, "{what}: its path's parameters");
        let statuses = about["responses"].as_object().expect("replies");
        assert!(statuses.keys().any(|status| !status.starts_with(['4', '5'])), "{what} never succeeds");
        for status in statuses.keys() {
            let status: u16 = status.parse().expect("a number");
            let response = contract::response(about, status).expect("no dangling reference");
            assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{what} {status}");
            let is_problem = response["content"].get("application/problem+json").is_some();
            let is_error = status >= 400 && (path.as_str(), status) != ("/api/health", 503);
            assert_eq!(is_problem, is_error, "{what} {status}");
        }
        let route = route(&method, &path);
        let account = |roles: Value| json!([{ "account": roles }]);
        match route.access {
            Access::Anyone => assert_eq!(about["security"], json!([]), "{what}"),
            Access::User => assert_eq!(about["security"], account(json!([])), "{what}"),
            Access::Admin => assert_eq!(about["security"], account(json!(["admin"])), "{what}"),
            Access::Visitor => assert_eq!(about["security"], json!([{ "visitor": [] }]), "{what}"),
            Access::Worker => {
                let schemes = about["security"].as_array().expect("its tokens").iter();
                let schemes: Vec<&String> =
                    schemes.filter_map(Value::as_object).flat_map(|one| one.keys()).collect();
                assert!(schemes.iter().any(|scheme| *scheme == "node_token"), "{what}: {schemes:?}");
                let joins = schemes.iter().any(|scheme| *scheme == "join_token");
                assert_eq!(joins, path == "/api/workers/register", "{what}: {schemes:?}");
            }
        }
    }
}

fn route(method: &str, path: &str) -> Route {
    let found = routes().into_iter().find(|route| route.method == method && route.path == path);
    found.unwrap_or_else(|| panic!("{method} {path}"))
}

#[test]
fn every_json_body_has_an_example_that_fits_its_schema() {
    let mut seen = 0;
    for (method, path, about) in operations() {
        let what = format!("{method} {path}");
        for body in json_bodies(&about["requestBody"]["content"]) {
            let example = body.get("example").unwrap_or_else(|| panic!("{what}: its request has no example"));
            contract::fit(&body["schema"], example, Reading::Reply, &format!("the example of {what}"));
            seen += 1;
        }
        for status in about["responses"].as_object().expect("replies").keys() {
            let response = contract::response(about, status.parse().expect("a number")).expect("a reply");
            for body in json_bodies(&response["content"]) {
                let what = format!("{what} {status}");
                let example = body.get("example").unwrap_or_else(|| panic!("{what} has no example"));
                // The document itself is of another schema, which is not in it.
                if path != "/api/openapi.json" {
                    contract::fit(
                        &body["schema"],
                        example,
                        Reading::Reply,
                        &format!("the example of {what}"),
                    );
                }
                if status.starts_with(['4', '5']) && path != "/api/health" {
                    assert_eq!(example["status"].to_string(), *status, "{what}: {example}");
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_of_a_request_is_taken_by_its_route() {
    let api = Api::start(Database::Sqlite).await;
    let (user, admin, join) = (api.user("carol").await, api.admin("boss").await, api.join_token().await);
    let mut seen = 0;
    for (method, path, about) in operations() {
        let Some(example) = about["requestBody"]["content"]["application/json"].get("example") else {
            continue;
        };
        let token = match route(&method, &path).access {
            Access::Anyone | Access::Visitor => "",
            Access::User => &user,
            Access::Admin => &admin,
            Access::Worker => &join,
        };
        let method_of = method.parse().expect("a method");
        let request = api.request(method_of, &concrete(&path, about)).json(example);
        let reply = Reply::of(if token.is_empty() { request } else { request.bearer_auth(token) }).await;
        // What the examples speak of does not exist here: that is found out after the body was read.
        let taken = matches!(reply.status, 200 | 201 | 404 | 409 | 503)
            || (reply.status == 401 && path.ends_with("login"))
            || (reply.status == 403 && path == "/api/auth/password");
        assert!(taken, "{method} {path}: {reply:?}");
        seen += 1;
    }
    assert!(seen >= 9, "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_takes_the_examples_of_its_parameters() {
    let api = Api::start(Database::Sqlite).await;
    let join = api.join_token().await;
    api.user("alice").await;
    api.admin("boss").await;
    let mut seen = 0;
    for (method, path, about) in operations() {
        let is_page = about["tags"][0] == "pages" && path != "/api/openapi.json";
        if is_page || about["responses"].get("101").is_some() {
            continue;
        }
        // Logging out and reset make tokens void.
        let token = match route(&method, &path).access {
            Access::Anyone | Access::Visitor => String::new(),
            Access::User => api.log_in("alice").await,
            Access::Admin => api.log_in("boss").await,
            Access::Worker => join.clone(),
        };
        let (mut query, mut key) = (Vec::new(), None);
        for parameter in about["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().expect("a name");
            let example = plain(&parameter["example"]);
            match (parameter["in"].as_str(), name) {
                (Some("query"), _) if parameter["required"] == true => {
                    query.push(format!("{name}={example}"))
                }
                (Some("query"), "limit" | "after") => query.push(format!("{name}={example}")),
                (Some("header"), "Idempotency-Key") => key = Some(example),
                _ => {}
            }
        }
        let address = format!("{}?{}", concrete(&path, about), query.join("&"));
        let mut request = api.request(method.parse().expect("a method"), &address);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = about["requestBody"]["content"]["application/json"].get("example") {
            request = request.json(body);
        }
        let status = request.send().await.expect("an answer").status().as_u16();
        // What the examples speak of does not exist here.
        let wrong_password = status == 403 && path == "/api/auth/password";
        // It has no cookie.
        let no_visitor = status == 401 && path == "/api/apps/auth";
        let taken = wrong_password || no_visitor || matches!(status, 200 | 201 | 404 | 409 | 503);
        assert!(taken, "{method} {path}: {status}");
        seen += 1;
    }
    assert!(seen >= 41, "{seen}");
}

/// The path with the examples of its parameters.
fn concrete(path: &str, about: &Value) -> String {
    let parameters = about["parameters"].as_array().into_iter().flatten();
    parameters.filter(|parameter| parameter["in"] == "path").fold(path.to_owned(), |path, parameter| {
        let name = parameter["name"].as_str().expect("a name");
        let example = parameter.get("example").unwrap_or_else(|| panic!("{path}: {name} has no example"));
        path.replace(&format!("{{{name}}}"), &plain(example))
    })
}

/// A value without the quotes of JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anyone_may_read_the_document() {
    let api = Api::start(Database::Sqlite).await;
    let reply = api.get("/api/openapi.json", "").await;
    assert_eq!(&reply.expect(200), document());
    assert!(reply.text.contains("\"openapi\":\"3.1"), "the clients' generators read 3.1");
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_of_the_document_needs_no_other_server() {
    let api = Api::start(Database::Sqlite).await;
    let page = api.get("/docs", "").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    let policy = page.header("content-security-policy").to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("http") && !policy.contains('*') && !policy.contains("unsafe"), "{policy}");
    let links = page.text.split(['"', '\'']).filter(|word| word.starts_with('/') || word.contains("://"));
    let links: Vec<&str> = links.collect();
    assert!(links.len() >= 6, "{links:?}");
    for link in links {
        assert!(link.starts_with("/docs/") || link == "/api/openapi.json", "{link} is not ours");
        let file = Reply::of(api.request(reqwest::Method::GET, link)).await;
        assert_eq!(file.status, 200, "{link}");
        if link.starts_with("/docs/") {
            assert_eq!(file.header("content-security-policy"), policy, "{link}");
            assert_eq!(file.header("x-content-type-options"), "nosniff", "{link}");
        }
    }
    let start = api.get("/docs/swagger-initializer.js", "").await;
    assert!(start.text.contains("/api/openapi.json") && !start.text.contains("://"), "{}", start.text);
    for other in ["index.html", "nothing.js", "..%2fCargo.toml"] {
        api.get(&format!("/docs/{other}"), "").await.problem(404);
    }
}
