//! Requests that are wrong, and what the reply says about them.

use crate::{
    api::{Api, Database, PASSWORD, Reply},
    on_both_databases,
};
use orion_testkit::KeyPair;
use reqwest::Method;
use serde_json::{Value, json};

on_both_databases!(a_rental_that_breaks_a_rule_is_refused_with_the_field_and_the_reason);

async fn a_rental_that_breaks_a_rule_is_refused_with_the_field_and_the_reason(api: Api) {
    let token = api.user("alice").await;
    let key = KeyPair::generate();
    let (line, private) = (key.public_line(), key.private_text());
    let with_options = format!("command=\"/bin/sh\" {line}");
    let two_lines = format!("{line}\n{line}");
    let long = "x".repeat(200);
    let table: Vec<(&str, Value, &str)> = vec![
        ("duration_hours", json!({}), "missing"),
        ("duration_hours", json!({ "duration_hours": null }), ""),
        ("duration_hours", json!({ "duration_hours": "1" }), "string"),
        ("duration_hours", json!({ "duration_hours": "NaN" }), "string"),
        ("duration_hours", json!({ "duration_hours": [1] }), "sequence"),
        ("duration_hours", json!({ "duration_hours": true }), "boolean"),
        ("duration_hours", json!({ "duration_hours": 0 }), "more than 0"),
        ("duration_hours", json!({ "duration_hours": -1 }), "more than 0"),
        ("duration_hours", json!({ "duration_hours": 1e9 }), "at most 720"),
        ("duration_hours", json!({ "duration_hours": 720.001 }), "at most 720"),
        ("duration_hours", json!({ "duration_hours": 1e-9 }), "at least one second"),
        ("count", json!({ "duration_hours": 1, "count": 0 }), "at least 1"),
        ("count", json!({ "duration_hours": 1, "count": -1 }), "at least 1"),
        ("count", json!({ "duration_hours": 1, "count": 10_000 }), "at most 100"),
        ("count", json!({ "duration_hours": 1, "count": 1.5 }), ""),
        ("count", json!({ "duration_hours": 1, "count": "2" }), "string"),
        ("count", json!({ "duration_hours": 1, "count": u64::MAX }), ""),
        (
            "ssh_password",
            json!({ "duration_hours": 1, "ssh_password": "long enough\nroot:x" }),
            "line breaks",
        ),
        ("ssh_password", json!({ "duration_hours": 1, "ssh_password": "short" }), "at least 8"),
        ("ssh_password", json!({ "duration_hours": 1, "ssh_password": long }), "at most 128"),
        ("ssh_public_key", json!({ "duration_hours": 1, "ssh_public_key": "hello" }), "not an OpenSSH"),
        (
            "ssh_public_key",
            json!({ "duration_hours": 1, "ssh_public_key": &line[..line.len() / 2] }),
            "not an",
        ),
        ("ssh_public_key", json!({ "duration_hours": 1, "ssh_public_key": private }), "private key"),
        ("ssh_public_key", json!({ "duration_hours": 1, "ssh_public_key": with_options }), "without options"),
        ("ssh_public_key", json!({ "duration_hours": 1, "ssh_public_key": two_lines }), "single line"),
        ("tags", json!({ "duration_hours": 1, "tags": "gpu" }), "sequence"),
        ("tags", json!({ "duration_hours": 1, "tags": ["a b"] }), "a tag has"),
        ("cluster_id", json!({ "duration_hours": 1, "cluster_id": 7 }), "no cluster 7"),
        ("on_node_loss", json!({ "duration_hours": 1, "on_node_loss": "explode" }), "explode"),
        ("name", json!({ "duration_hours": 1, "name": "12" }), "starts with a letter"),
        ("name", json!({ "duration_hours": 1, "name": "A_b" }), "a lease name has"),
    ];
    for (field, body, reason) in table {
        let problem = api.post("/api/rent", &token, &body).await.problem(400);
        let detail = problem["detail"].as_str().expect("a detail");
        let names_it = problem["field"] == field || detail.contains(field);
        assert!(names_it && detail.contains(reason), "{body}: {problem}");
    }
    assert_eq!(api.get("/api/rentals?all=true", &token).await.expect(200), json!([]), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_breaks_a_rule_is_refused_with_the_field_whatever_its_size() {
    let api = Api::start(Database::Sqlite).await;
    let token = api.user("alice").await;
    api.offered_node("w1").await;
    assert!(api.place("alice", None).await);
    let path = "/api/rentals/1/containers";
    let many: serde_json::Map<String, Value> =
        (0..10_000).map(|number| (format!("NAME_{number:04}"), json!("a value of some length"))).collect();
    let word = "x".repeat(1_000_000);
    let mebibyte = json!([{ "path": "/srv/data", "content": "x".repeat(1_048_577) }]);
    let table = [
        ("image", json!("-v")),
        ("image", json!("Debian:12")),
        ("image", json!("a b")),
        ("image", json!(format!("debian@sha256:{}", "0".repeat(63)))),
        ("env", json!(many)),
        ("env", json!({ "A": "two\nlines" })),
        ("env", json!({ "A=B": "x" })),
        ("files", json!([{ "path": "/srv/../etc/passwd", "content": "x" }])),
        ("files", mebibyte),
        ("command", json!([word])),
        ("ports", json!([80, 80])),
        ("ports", json!([0])),
        ("shm_mb", json!(-1)),
        ("restart", json!("sometimes")),
    ];
    for (field, value) in table {
        let mut body = json!({ "image": "debian:12" });
        body[field] = value;
        let problem = api.post(path, &token, &body).await.problem(400);
        let named = problem["field"].as_str().unwrap_or_default();
        assert!(named.contains(field), "{field}: {problem}");
        let rent = json!({ "duration_hours": 1, "container": body });
        let problem = api.post("/api/rent", &token, &rent).await.problem(400);
        let named = problem["field"].as_str().unwrap_or_default();
        assert!(named.contains(field), "{field} of a rental: {problem}");
    }
    let body = json!({ "image": "debian:12", "command": ["x".repeat(3 * 1024 * 1024)] });
    api.post(path, &token, &body).await.problem(413);
    assert_eq!(api.get(path, &token).await.expect(200), json!([]), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_of_the_wrong_type_is_not_given_back() {
    let api = Api::start(Database::Sqlite).await;
    let token = api.user("alice").await;
    let body = json!({ "duration_hours": 1, "ssh_password": 27_182_818 });
    let problem = api.post("/api/rent", &token, &body).await.problem(400);
    assert!(!problem.to_string().contains("27182818"), "{problem}");
    for path in ["/auth/signup", "/auth/login"] {
        let body = json!({ "username": "bob", "password": 27_182_818 });
        let problem = api.post(path, "", &body).await.problem(400);
        assert!(!problem.to_string().contains("27182818"), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_of_a_user_name_and_a_password_is_named() {
    let api = Api::start(Database::Sqlite).await;
    let names = [
        ("", "1 to 31 characters"),
        ("a234567890123456789012345678901x", "1 to 31 characters"),
        ("Alice", "consists of a-z"),
        ("1alice", "starts with a letter"),
        ("-alice", "starts with a letter"),
        ("al ice", "consists of a-z"),
        ("al:ice", "consists of a-z"),
        ("al\nice", "consists of a-z"),
        ("../etc", "consists of a-z"),
        ("$(id)", "consists of a-z"),
        ("été", "consists of a-z"),
        ("root", "reserved"),
        ("www-data", "reserved"),
        ("orion-lease", "reserved"),
        ("systemd-x", "reserved"),
        ("admin", "operator's account"),
    ];
    for (name, rule) in names {
        let body = json!({ "username": name, "password": PASSWORD });
        let problem = api.post("/auth/signup", "", &body).await.problem(400);
        assert_eq!(problem["field"], "username", "{name:?}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains(rule)), "{name:?}: {problem}");
    }
    let long = "x".repeat(129);
    let passwords = [
        ("short", "at least 8 characters"),
        ("long enough\nroot:x", "line breaks"),
        ("long enough\u{7}", "control characters"),
        (long.as_str(), "at most 128 bytes"),
    ];
    for (password, rule) in passwords {
        let body = json!({ "username": "alice", "password": password });
        let problem = api.post("/auth/signup", "", &body).await.problem(400);
        assert_eq!(problem["field"], "password", "{problem}");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(rule) && !detail.contains(password), "{problem}");
    }
    for body in [json!({}), json!({ "username": "alice" }), json!({ "username": 1, "password": PASSWORD })] {
        api.post("/auth/signup", "", &body).await.problem(400);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_no_json_object_is_refused() {
    let api = Api::start(Database::Sqlite).await;
    let send = async |kind: &str, body: &str| {
        let request = api.request(Method::POST, "/auth/login").header("content-type", kind);
        Reply::of(request.body(body.to_owned())).await
    };
    let right = json!({ "username": "alice", "password": PASSWORD }).to_string();
    for (kind, body, reason) in [
        ("application/json", "{ \"username\":", "no JSON"),
        ("application/json", "", "no JSON"),
        ("application/json", "{\"username\":\"a\",\"password\":1e999}", "no JSON"),
        ("application/json", "[]", "must be a JSON object"),
        ("application/json", "\"alice\"", "must be a JSON object"),
        ("application/x-www-form-urlencoded", "username=alice&password=x", "Content-Type"),
        ("text/plain", right.as_str(), "Content-Type"),
    ] {
        let problem = send(kind, body).await.problem(400);
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains(reason)), "{body}: {problem}");
    }
    send("application/json", &right).await.problem(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_large_is_refused() {
    let api = Api::start(Database::Sqlite).await;
    let body = json!({ "username": "alice", "password": "x".repeat(70 * 1024) });
    let problem = api.post("/auth/signup", "", &body).await.problem(413);
    assert_eq!(problem["kind"], "too_large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_has_1_to_255_printable_characters() {
    let api = Api::start(Database::Sqlite).await;
    let body = json!({ "username": "alice", "password": PASSWORD });
    for key in ["", " ", &"k".repeat(256)] {
        let problem = api.post_keyed("/auth/signup", key, &body).await.problem(400);
        assert!(
            problem["detail"].as_str().is_some_and(|text| text.starts_with("Idempotency-Key")),
            "{problem}"
        );
    }
    api.post_keyed("/auth/signup", &"k".repeat(255), &body).await.expect(201);
}
