//! Traces, from the real program to a collector.

use axum::{Router, body::Bytes, http::HeaderMap, routing::post};
use orion_service::sealed::MasterKey;
use orion_testkit::{MariaDb, free_port, wait_until};
use std::{
    fs::File,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(40);

/// A control plane; it is killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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

/// Starts one that logs as JSON, and waits until it answers.
async fn control_plane(log: &File, endpoint: &str, requests: &[&str]) -> Process {
    let database = MariaDb::shared().create_database().url;
    let port = free_port();
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_orion-control-plane")])
        .env_clear()
        .env("ORION_DATABASE_URL", database)
        .env("ORION_MASTER_KEY", MasterKey::generate().to_base64().expose())
        .env("ORION_LISTEN", format!("127.0.0.1:{port}"))
        .env("ORION_LOG_FORMAT", "json")
        .env("ORION_OTLP_ENDPOINT", endpoint)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.try_clone().expect("a second handle"))
        .spawn()
        .expect("setpriv (Debian: util-linux) starts");
    let process = Process(child);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
    let get = async |id: &str| {
        let request = client.get(format!("http://127.0.0.1:{port}/api/live")).header("x-request-id", id);
        request.send().await.ok().filter(|reply| reply.status() == 200).map(drop)
    };
    wait_until("it answers", PATIENCE, async || get("waiting").await).await;
    for id in requests {
        get(id).await.expect("a reply");
    }
    process
}

/// SIGTERM, and its end.
fn stop(mut process: Process) {
    let pid = process.0.id().to_string();
    let sent = Command::new("/bin/kill").args(["-s", "TERM", &pid]).status().expect("kill runs");
    assert!(sent.success());
    assert!(process.0.wait().expect("it ends").success());
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_span_of_a_request_reaches_the_collector_also_the_last_one() {
    let (url, batches) = collector().await;
    let log = tempfile::tempfile().expect("a file");
    let process = control_plane(&log, &url, &["request-one", "request-two"]).await;
    tokio::task::spawn_blocking(move || stop(process)).await.expect("it stopped");
    let batches = batches.lock().expect("not poisoned").clone();
    let all: Vec<u8> = batches.iter().flat_map(|(_, body)| body.to_vec()).collect();
    for text in ["service.name", "orion-control-plane", "request_id", "request-one", "request-two", "/api/live"] {
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
    let process = control_plane(log.as_file(), &endpoint, &["one"]).await;
    tokio::task::spawn_blocking(move || stop(process)).await.expect("it stopped");
    let text = std::fs::read_to_string(log.path()).expect("the log");
    assert_eq!(text.matches("does not take them").count(), 1, "{text}");
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
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
