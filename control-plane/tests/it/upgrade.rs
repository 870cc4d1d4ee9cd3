//! The API on a database that an older version left, and with that version's agents.

use crate::api::{Api, Database};
use futures_util::{SinkExt as _, StreamExt as _};
use orion_domain::{LeaseId, agent::FromAgent};
use orion_service::sealed::MasterKey;
use orion_testkit::{KeyPair, MariaDb};
use serde_json::{Value, json};
use std::{collections::BTreeSet, process::Command, time::Duration};
use tokio_tungstenite::tungstenite::Message;

macro_rules! fixture {
    ($file:literal) => {
        include_str!(concat!("../../../crates/store/tests/fixtures/schema-21/", $file))
    };
}

/// The dump holds times of its day; what must not have passed by now is set to a later time.
const NOT_OVER: &str = "UPDATE leases SET leased_until = leased_until + 9000000000000000 WHERE state <> 'ended'; \
                        UPDATE idempotency SET expires_at = expires_at + 9000000000000000; \
                        UPDATE join_tokens SET expires_at = expires_at + 9000000000000000;";

/// Returns passwords, keys and replies of the old system's users.
fn known() -> Value {
    serde_json::from_str(fixture!("known.json")).expect("JSON")
}

async fn start(database: Database) -> Api {
    let data = tempfile::tempdir().expect("a temporary directory");
    let url = match database {
        Database::Sqlite => {
            let file = data.path().join("orion.db");
            let script = format!("{}{NOT_OVER}", fixture!("sqlite.sql"));
            let loaded = Command::new("sqlite3").arg("-bail").arg(&file).arg(script).status();
            assert!(loaded.expect("sqlite3 is there").success());
            format!("sqlite:{}", file.display())
        }
        Database::MariaDb => {
            let database = MariaDb::shared().create_database();
            MariaDb::shared().execute(&format!(
                "USE {}; {}{NOT_OVER}",
                database.name,
                fixture!("mariadb.sql")
            ));
            database.url
        }
    };
    let master_key = MasterKey::parse(known()["master_key"].as_str().expect("a key")).expect("a master key");
    Api::open(url, data, master_key, |_| {}).await
}

async fn log_in(api: &Api, name: &str) -> String {
    let body = json!({ "username": name, "password": known()["passwords"][name] });
    api.post("/auth/login", "", &body).await.expect(200)["token"].as_str().expect("a token").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_leases_and_kept_replies_are_there_after_an_upgrade_of_sqlite() {
    everything_is_there(start(Database::Sqlite).await, "sqlite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_leases_and_kept_replies_are_there_after_an_upgrade_of_mariadb() {
    everything_is_there(start(Database::MariaDb).await, "mariadb").await;
}

async fn everything_is_there(api: Api, engine: &str) {
    let known = known();
    let (alice, bob, admin) =
        (log_in(&api, "alice").await, log_in(&api, "bob").await, log_in(&api, "admin").await);
    let states = async |token: &str| -> Vec<(String, String)> {
        let leases = api.get("/api/rentals", token).await.expect(200);
        let row =
            |lease: &Value| [&lease["name"], &lease["state"]].map(|v| v.as_str().unwrap_or("").to_owned());
        leases.as_array().expect("a list").iter().map(|lease| row(lease).into()).collect()
    };
    let mut all = states(&alice).await;
    all.extend(states(&bob).await);
    all.sort();
    let expected = [
        ("keyed", "active"),
        ("moves", "migrating"),
        ("stuck", "releasing"),
        ("waits", "migrating"),
        ("withkey", "active"),
    ];
    assert_eq!(all, expected.map(|(name, state)| (name.to_owned(), state.to_owned())));
    // The same request under the same key has the same reply, with the password that is stored nowhere else.
    let again = api.post_keyed_as("/api/rent", "fixture-1", &known["body"], &alice).await.expect(200);
    for key in ["rental_id", "client_user", "client_pass", "host_ip", "known_hosts"] {
        assert_eq!(again[0][key], known[engine]["reply"][0][key], "{key}");
    }
    assert_eq!(api.get("/api/nodes", &admin).await.expect(200).as_array().map(Vec::len), Some(8));
    assert_eq!(
        api.app.store.leases().get(LeaseId(5)).await.expect("read").map(|l| l.state.phase().as_str()),
        Some("ended")
    );
}

/// Plays what an agent of the old version said, word by word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_the_old_version_registers_links_and_beats() {
    let api = start(Database::Sqlite).await;
    let (mut said, mut told, mut register) = (Vec::new(), BTreeSet::new(), Value::Null);
    for line in fixture!("agent.jsonl").lines() {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        match (entry.get("from_agent"), entry.get("to_agent")) {
            (Some(word), None) => said.push(word.clone()),
            (None, Some(word)) => drop(told.insert(word["type"].as_str().expect("a type").to_owned())),
            (Some(_), Some(_)) | (None, None) => register = entry["register"].clone(),
        }
    }
    assert_eq!(said.len(), 15, "the recording is there");
    // That machine is known; this one is its twin with a key, a name and an address of its own.
    register["hostname"] = json!("late");
    register["ip"] = json!(api.worker_ip());
    register["host_keys"] = json!([KeyPair::generate().public_line()]);
    let join = known()["sqlite"]["join_token"].as_str().expect("a token").to_owned();
    let created = api.post("/api/workers/register", &join, &register).await.expect(201);
    let mut link = api.open_link(created["node_token"].as_str().expect("a node token")).await;
    for word in said {
        serde_json::from_value::<FromAgent>(word.clone()).expect("a word of the old version is still one");
        link.send(Message::text(word.to_string())).await.expect("the link is open");
        if word["type"] != "beat" {
            continue;
        }
        // Every beat is acknowledged, and nothing is said that the old agent does not know.
        loop {
            let heard = tokio::time::timeout(Duration::from_secs(10), link.next()).await;
            let heard = heard.expect("an answer in time").expect("the link is open").expect("a message");
            let Message::Text(text) = heard else { continue };
            let heard: Value = serde_json::from_str(&text).expect("JSON");
            let kind = heard["type"].as_str().expect("a type").to_owned();
            assert!(told.contains(&kind), "the old agent does not know {heard}");
            if kind == "ack" {
                assert_eq!(heard["seq"], word["seq"]);
                break;
            }
        }
    }
}
