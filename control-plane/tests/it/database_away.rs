//! A database that hangs, dies, and comes back.

use crate::api::{Api, PASSWORD};
use orion_testkit::{MariaDb, wait_until};
use serde_json::json;
use std::time::{Duration, Instant};

/// Longest wait of a client for the answer that the database is away.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_said_at_once_and_everything_recovers_by_itself() {
    let server = MariaDb::start();
    let data = tempfile::tempdir().expect("a temporary directory");
    let api = Api::start_on(server.create_database().url, data, |_| {}).await;
    let token = api.user("alice").await;

    server.pause();
    everything_says_503(&api, &token).await;
    server.resume();
    everything_works(&api, &token).await;

    server.kill();
    everything_says_503(&api, &token).await;
    server.start_again();
    everything_works(&api, &token).await;

    server.stop();
    everything_says_503(&api, &token).await;
    server.start_again();
    everything_works(&api, &token).await;
    let again = json!({ "username": "alice", "password": PASSWORD });
    api.post("/auth/signup", "", &again).await.problem(409);
}

async fn everything_says_503(api: &Api, token: &str) {
    // A server that is stopped in its tracks may finish a word.
    wait_until("the database is seen to be away", Duration::from_secs(10), async || {
        let health = api.get("/api/health", "").await.expect(503);
        if health["parts"]["database"]["status"] == "down" { Ok(()) } else { Err(health.to_string()) }
    })
    .await;
    let credentials = json!({ "username": "alice", "password": PASSWORD });
    let rent = json!({ "duration_hours": 1 });
    let begun = Instant::now();
    let (rentals, rental, login, health) = tokio::join!(
        api.get("/api/rentals", token),
        api.post("/api/rent", token, &rent),
        api.post("/auth/login", "", &credentials),
        api.get("/api/health", "")
    );
    let took = begun.elapsed();
    for reply in [rentals, rental, login] {
        assert_eq!(reply.problem(503)["kind"], "unavailable");
        assert!(!reply.header("retry-after").is_empty());
    }
    assert_eq!(health.expect(503)["parts"]["database"]["status"], "down");
    assert!(took < ANSWERED_WITHIN, "{took:?}");
    assert_eq!(api.get("/api/live", "").await.status, 200, "this process lives");
}

async fn everything_works(api: &Api, token: &str) {
    wait_until("the API recovers", Duration::from_secs(30), async || {
        let reply = api.get("/api/rentals", token).await;
        if reply.status == 200 { Ok(()) } else { Err(reply.text) }
    })
    .await;
    api.log_in("alice").await;
    assert_eq!(api.get("/api/health", "").await.expect(503)["parts"]["database"]["status"], "up");
}
