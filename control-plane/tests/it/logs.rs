//! What a log line says of where it comes from.

use crate::{
    api::{Api, Database},
    process::ControlPlane,
};
use serde_json::{Value, json};

/// Every line of a log, which must be one JSON object.
fn lines(log: &tempfile::NamedTempFile) -> Vec<Value> {
    let text = std::fs::read_to_string(log.path()).expect("the log");
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["timestamp", "level", "target", "message"] {
            assert!(value[key].is_string(), "no {key}: {line}");
        }
        value
    };
    text.lines().map(line).collect()
}

/// A field of a line, or of the innermost span that has it.
fn field<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    let spans = line["spans"].as_array().map(Vec::as_slice).unwrap_or_default();
    line.get(name).or_else(|| spans.iter().rev().find_map(|span| span.get(name)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lines_of_a_rental_carry_its_request_its_lease_and_its_node() {
    // A process of its own has a log of its own; this one only fills the database.
    let api = Api::start(Database::MariaDb).await;
    let alice = api.user("alice").await;
    // Nothing answers there: the rental is placed, dialled, and undone.
    let node = api.offered_node("w1").await;
    let log = tempfile::NamedTempFile::new().expect("a file");
    let key = api.app.config.master_key.to_base64();
    let process = ControlPlane::start(api.database(), &key, log.as_file(), &[]).await;
    let request = ControlPlane::client().post(format!("{}/api/rent", process.url)).bearer_auth(&alice);
    let request = request.header("x-request-id", "rent-0815").json(&json!({ "duration_hours": 1 }));
    let reply = request.send().await.expect("a reply");
    assert_eq!(reply.status(), 503);
    assert_eq!(reply.headers()["x-request-id"], "rent-0815");
    process.stop().await;

    let lines = lines(&log);
    let of_request: Vec<&Value> =
        lines.iter().filter(|line| field(line, "request_id") == Some(&json!("rent-0815"))).collect();
    assert!(!of_request.is_empty(), "{lines:#?}");
    for line in &of_request {
        assert_eq!(field(line, "path"), Some(&json!("/api/rent")), "{line}");
    }
    let told = of_request.iter().find(|line| {
        line["message"].as_str().is_some_and(|message| message.starts_with("a node did not take a lease"))
    });
    let told = told.unwrap_or_else(|| panic!("{of_request:#?}"));
    assert_eq!(field(told, "node"), Some(&json!(node.to_string())), "{told}");
    let lease = field(told, "lease").and_then(Value::as_str).expect("a lease");
    assert!(lease.parse::<i64>().is_ok_and(|id| id > 0), "{told}");
    assert_eq!(told["target"], "orion_fleet::provision");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_taken_over_only_if_it_looks_like_one() {
    let api = Api::start(Database::Sqlite).await;
    let given = async |ids: &[&[u8]]| {
        let mut request = api.request(reqwest::Method::GET, "/api/live");
        for id in ids {
            request = request.header("x-request-id", *id);
        }
        let reply = request.send().await.expect("a reply");
        let mut ids = reply.headers().get_all("x-request-id").iter();
        let id = ids.next().expect("an id").to_str().expect("text").to_owned();
        assert!(ids.next().is_none(), "one id");
        id
    };
    let longest = "a".repeat(64);
    for sane in
        ["7", "8e03978e-40d5-43e8-bc93-6894a57f9324", "Root=1-67891233-abcdef012345678912345678", &longest]
    {
        let kept = given(&[sane.as_bytes()]).await;
        assert_eq!(kept == sane, !sane.contains('='), "{sane}");
    }
    let too_long = "a".repeat(65);
    let odd: [&[u8]; 6] =
        [b"", b"a b", too_long.as_bytes(), "schl\u{fc}ssel".as_bytes(), b"x\"y", b"{\"level\":\"ERROR\"}"];
    for odd in odd {
        let id = given(&[odd]).await;
        assert_eq!((id.len(), id.matches('-').count()), (36, 4), "a new one in place of {odd:?}: {id}");
    }
    let id = given(&[b"one", b"two"]).await;
    assert_eq!(id.len(), 36, "two ids are none: {id}");
}
