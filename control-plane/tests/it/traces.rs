//! Traces, from the real program to a collector.

use crate::process::ControlPlane;
use axum::{Router, body::Bytes, http::HeaderMap, routing::post};
use orion_service::sealed::MasterKey;
use orion_testkit::{MariaDb, free_port};
use std::{
    fs::File,
    process::Command,
    sync::{Arc, Mutex},
};
use tokio::net::TcpListener;

type Batches = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A collector that keeps what it gets.
async fn collector() -> (String, Batches) {
    let batches = Batches::default();
    let kept = batches.clone();
    let take = post(move |headers: HeaderMap, body: Bytes| async move {
        kept.lock().expect("not poisoned").push((headers, body));
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/traces", take)).await });
    (url, batches)
}

/// Starts one that sends its traces to `endpoint`, asks it something under each of these ids, and stops it.
async fn live_and_die(log: &File, endpoint: &str, requests: &[&str]) {
    let (database, key) = (MariaDb::shared().create_database().url, MasterKey::generate().to_base64());
    let process = ControlPlane::start(&database, &key, log, &[("ORION_OTLP_ENDPOINT", endpoint)]).await;
    for id in requests {
        let request =
            ControlPlane::client().get(format!("{}/api/live", process.url)).header("x-request-id", *id);
        assert_eq!(request.send().await.expect("a reply").status(), 200);
    }
    process.stop().await;
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_span_of_a_request_reaches_the_collector_also_the_last_one() {
    let (url, batches) = collector().await;
    let log = tempfile::tempfile().expect("a file");
    live_and_die(&log, &url, &["request-one", "request-two"]).await;
    let batches = batches.lock().expect("not poisoned").clone();
    let all: Vec<u8> = batches.iter().flat_map(|(_, body)| body.to_vec()).collect();
    for text in
        ["service.name", "orion-control-plane", "request_id", "request-one", "request-two", "/api/live"]
    {
        assert!(holds(&all, text), "no '{text}' in {} batches of {} bytes", batches.len(), all.len());
    }
    for (headers, _) in &batches {
        assert_eq!(headers["content-type"], "application/x-protobuf");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_is_told_once_and_costs_nothing_else() {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    live_and_die(log.as_file(), &endpoint, &["one"]).await;
    let text = std::fs::read_to_string(log.path()).expect("the log");
    assert_eq!(text.matches("does not take them").count(), 1, "{text}");
    for line in text.lines() {
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value["message"].is_string() && value["level"].is_string(), "{line}");
    }
}

#[test]
fn an_endpoint_that_is_none_is_refused_by_its_name() {
    let output = Command::new(env!("CARGO_BIN_EXE_orion-control-plane"))
        .env_clear()
        .env("ORION_OTLP_ENDPOINT", "collector:4317")
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(78), "EX_CONFIG");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("ORION_OTLP_ENDPOINT: 'collector:4317' is no"), "{error}");
}
