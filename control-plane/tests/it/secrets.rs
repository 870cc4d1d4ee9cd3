//! What must never be written into a log.

use crate::api::{Api, Database, PASSWORD};
use orion_testkit::KeyPair;
use serde_json::json;
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};
use tracing_subscriber::fmt::MakeWriter;

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_logged_at_any_level() {
    let log = Log::default();
    // Everything that Orion and its database driver say; HTTP libraries, which also serve the test's own
    // client here, down to debug.
    let levels = "trace,hyper=debug,hyper_util=debug,reqwest=debug,h2=debug,mio=info";
    let subscriber = tracing_subscriber::fmt().with_env_filter(levels).with_writer(log.clone()).finish();
    // For the whole process: what the other tests do meanwhile is looked through as well.
    tracing::subscriber::set_global_default(subscriber).expect("no other test sets one");

    let api = Api::start(Database::Sqlite).await;
    let user = api.user("alice").await;
    let admin = api.admin("boss").await;
    let node_password = "a password for nodes";
    let rent = json!({ "duration_hours": 1, "ssh_password": node_password });
    api.post("/api/rent", &user, &rent).await.problem(503);
    // With a node on offer where nothing answers: the rent goes as far as dialling.
    api.offered_node("w1").await;
    api.post("/api/rent", &user, &rent).await.problem(503);
    let wrong = json!({ "username": "alice", "password": "a wrong password" });
    api.post("/auth/login", "", &wrong).await.problem(401);
    let join = api.post("/api/tokens", &admin, &json!({})).await.expect(201);
    let join = join["token"].as_str().expect("a token").to_owned();
    let body = api.worker("w2", &KeyPair::generate());
    let registered = api.post("/api/workers/register", &join, &body).await.expect(201);
    let node = registered["node_token"].as_str().expect("a node token").to_owned();
    api.post("/api/workers/register", &node, &body).await.expect(200);
    api.get("/api/rentals", "a token that is none").await.problem(401);
    api.post_keyed("/auth/signup", "an idempotency key", &json!({ "username": "x" })).await.problem(400);
    let keyed = json!({ "username": "bob", "password": PASSWORD });
    api.post_keyed("/auth/signup", "an idempotency key", &keyed).await.expect(201);

    let bytes = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        text.contains("/auth/login") && text.contains("did not take a lease"),
        "the log was seen: {text}"
    );
    let secrets = [
        PASSWORD,
        node_password,
        "a wrong password",
        &user,
        &admin,
        &join,
        &node,
        "a token that is none",
        "an idempotency key",
        "$argon2id$",
        "$6$",
    ];
    for secret in secrets {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "a secret was logged: {line:?}");
    }
}
