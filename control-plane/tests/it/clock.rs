//! A machine whose clock is off the database's takes no leases: their deadlines would be wrong.

use crate::api::Api;
use orion_testkit::{MariaDb, wait_until};
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lease_is_taken_while_the_clock_is_off() {
    let server = MariaDb::start();
    // What a connection runs first, unless its user may do everything.
    server.execute("REVOKE SUPER, CONNECTION ADMIN ON *.* FROM orion@'127.0.0.1'");
    server.execute("SET GLOBAL init_connect = 'SET @@timestamp = UNIX_TIMESTAMP() - 60'");
    let data = tempfile::tempdir().expect("a temporary directory");
    let api = Api::start_on(server.create_database().url, data, |_| {}).await;
    let token = api.user("alice").await;
    let rent = json!({ "duration_hours": 1 });
    let refused = api.post("/api/rent", &token, &rent).await.problem(503);
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("clock")), "{refused}");
    api.get("/api/rentals", &token).await.expect(200);

    // It forgets the setting, and every connection is a new one.
    server.kill();
    server.start_again();
    wait_until("the clock is right again", Duration::from_secs(30), async || {
        let refused = api.post("/api/rent", &token, &rent).await.problem(503);
        if refused["kind"] == "too_few_free" { Ok(()) } else { Err(refused.to_string()) }
    })
    .await;
}
