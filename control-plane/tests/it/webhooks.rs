//! Webhooks as an admin sees them. That events arrive is tested beside the scheduler, which sends them.

use crate::{
    api::{Api, Database, Reply},
    on_both_databases,
};
use orion_control_plane::app::idempotency::Idempotent;
use orion_domain::WebhookId;
use orion_service::webhook::WebhookSecret;
use orion_store::Tried;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

const ROUTE: &str = "/api/admin/webhooks";

on_both_databases!(a_webhook_is_made_shown_without_its_secret_and_deleted, a_test_says_what_came_of_it);

async fn a_webhook_is_made_shown_without_its_secret_and_deleted(api: Api) {
    let admin = api.admin("boss").await;
    assert_eq!(api.get(ROUTE, &admin).await.expect(200), json!([]));
    let body = json!({ "url": "https://hooks.example/orion?x=1", "kinds": ["lease.*", "node.dead"] });
    let made = api.post(ROUTE, &admin, &body).await.expect(201);
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    assert!(WebhookSecret::parse(&secret).is_ok());
    let reply = api.get(ROUTE, &admin).await;
    let listed = reply.expect(200);
    assert!(!reply.text.contains("whsec_") && !reply.text.contains("secret"), "{}", reply.text);
    assert_eq!(listed[0]["id"], made["id"]);
    assert_eq!(listed[0]["url"], "https://hooks.example/orion?x=1");
    assert_eq!(listed[0]["kinds"], json!(["lease.*", "node.dead"]));
    assert_eq!((&listed[0]["pending"], &listed[0]["last_delivery"]), (&json!(0), &Value::Null));

    // What is stored opens with the master key for this webhook, and is no secret without it.
    let stored = api.app.store.webhooks().list().await.expect("webhooks").remove(0);
    let master = &api.app.config.master_key;
    let opened = WebhookSecret::open(master, &stored.uid, &stored.secret_sealed).expect("it opens");
    assert_eq!(opened.text().expose(), secret);
    assert!(!format!("{stored:?}").contains(secret.trim_start_matches("whsec_")));

    let all = api.post(ROUTE, &admin, &json!({ "url": "http://127.0.0.1:9/x" })).await.expect(201);
    assert_eq!(all["kinds"], json!(["*"]));
    assert_ne!(all["secret"], made["secret"]);
    let path = format!("{ROUTE}/{}/delete", made["id"]);
    api.post(&path, &admin, &json!({})).await.expect(200);
    api.post(&path, &admin, &json!({})).await.problem(404);
    let left = api.get(ROUTE, &admin).await.expect(200);
    assert_eq!(left.as_array().expect("a list").len(), 1);
    for wrong in [format!("{ROUTE}/x/test"), format!("{ROUTE}/4711/test"), format!("{ROUTE}/4711/delete")] {
        api.post(&wrong, &admin, &json!({})).await.problem(404);
    }
}

async fn a_test_says_what_came_of_it(api: Api) {
    let admin = api.admin("boss").await;
    let made = api.post(ROUTE, &admin, &json!({ "url": "https://hooks.example/" })).await.expect(201);
    let webhook = WebhookId(made["id"].as_i64().expect("a number"));
    let path = format!("{ROUTE}/{webhook}/test");
    // In place of the scheduler.
    let store = api.app.store.clone();
    let now = || api.app.now();
    let sender = async |tried: Tried| {
        let id = orion_testkit::wait_until("the test is due", Duration::from_secs(10), async || {
            store.webhooks().due_deliveries(webhook, now(), 1).await.expect("read").first().copied()
        })
        .await;
        let claim = store
            .webhooks()
            .claim_delivery(id, Duration::from_secs(9), now())
            .await
            .expect("read")
            .expect("claimed");
        assert_eq!(claim.event.kind, "webhook.test");
        store.webhooks().finish_delivery(&claim, &tried, now()).await.expect("written");
    };
    let took = Tried { status: Some(204), error: None, again_at: None };
    let body = json!({});
    let (reply, ()) = tokio::join!(api.post(&path, &admin, &body), sender(took));
    let reply = reply.expect(200);
    assert_eq!(
        (&reply["message"], &reply["delivery"]["status"]),
        (&json!("The receiver took it"), &json!(204))
    );
    let again_at = Some(now().plus(Duration::from_secs(60)));
    let failed = Tried { status: None, error: Some("no reply within 10 s".into()), again_at };
    let (reply, ()) = tokio::join!(api.post(&path, &admin, &body), sender(failed));
    let reply = reply.expect(200);
    assert_eq!(reply["message"], "The receiver did not take it; it is tried again");
    assert_eq!(reply["delivery"]["error"], "no reply within 10 s");
    assert!(reply["delivery"]["next_try_at"].is_string(), "{reply}");
    let listed = api.get(ROUTE, &admin).await.expect(200);
    assert_eq!((&listed[0]["pending"], &listed[0]["failing"]), (&json!(1), &json!(1)));
    assert_eq!(listed[0]["last_delivery"]["state"], "pending");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_again_makes_the_same_webhook() {
    let api = Api::start(Database::Sqlite).await;
    let admin = api.admin("boss").await;
    let send = async |key: &str, body: &Value| {
        let request = api.request(Method::POST, ROUTE).bearer_auth(&admin).header("Idempotency-Key", key);
        Reply::of(request.json(body)).await
    };
    let body = json!({ "url": "https://hooks.example/" });
    let first = send("a", &body).await.expect(201);
    assert_eq!(send("a", &body).await.expect(201), first, "the secret, too");
    assert_ne!(send("b", &body).await.expect(201)["id"], first["id"]);
    send("a", &json!({ "url": "https://other.example/" })).await.problem(422);
    assert_eq!(api.get(ROUTE, &admin).await.expect(200).as_array().expect("a list").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_of_a_kind_that_is_gone_is_replayed_and_a_new_one_is_refused() {
    let api = Api::start(Database::Sqlite).await;
    let admin = api.admin("boss").await;
    let url = "https://hooks.example/";
    let body = |kind: &str| json!({ "url": url, "kinds": [kind] });
    let send = async |key: &str, kind: &str| api.post_keyed_as(ROUTE, key, &body(kind), &admin).await;
    let first = send("a", "node.dead").await.expect(201);
    // As if an older version, which had the kind `node.gone`, had made it.
    let made = api.app.store.webhooks().list().await.expect("webhooks").remove(0);
    let headers = [("idempotency-key".parse().expect("a name"), "a".parse().expect("a value"))];
    let master = &api.app.config.master_key;
    let key = Idempotent::read(
        &headers.into_iter().collect(),
        "webhook",
        made.created_by,
        &body("node.gone"),
        master,
    );
    let kept = key.expect("a good key").expect("a key").row(None, None, api.app.now());
    let database = sqlx::SqlitePool::connect(api.database()).await.expect("the same file");
    let change = "UPDATE idempotency SET body_sha256 = ? WHERE scope = ?";
    let changed = sqlx::query(change).bind(&kept.body_sha256).bind(&kept.scope).execute(&database).await;
    assert_eq!(changed.expect("written").rows_affected(), 1);
    sqlx::raw_sql("UPDATE webhooks SET kinds = '[\"node.gone\"]'").execute(&database).await.expect("written");

    let again = send("a", "node.gone").await.expect(201);
    assert_eq!((&again["id"], &again["secret"]), (&first["id"], &first["secret"]));
    assert_eq!(again["kinds"], json!(["node.gone"]));
    send("a", "node.dead").await.problem(422);
    assert_eq!(send("b", "node.gone").await.problem(400)["field"], "kinds");
    send("b", "node.dead").await.expect(201); // what is refused does not use the key up
    assert_eq!(api.post(ROUTE, &admin, &body("node.gone")).await.problem(400)["field"], "kinds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_of_ones_own_is_used_and_what_is_wrong_is_named() {
    let api = Api::start(Database::Sqlite).await;
    let admin = api.admin("boss").await;
    let own = WebhookSecret::generate().text();
    let body = json!({ "url": "https://hooks.example/", "secret": own.expose() });
    assert_eq!(api.post(ROUTE, &admin, &body).await.expect(201)["secret"], own.expose());
    let url = "https://hooks.example/";
    let many: Vec<String> = (0..51).map(|number| format!("a.b{number}")).collect();
    for (field, wrong) in [
        ("url", json!({ "url": "hooks.example" })),
        ("url", json!({ "url": "ftp://hooks.example/" })),
        ("url", json!({ "url": "https://user:word@hooks.example/" })),
        ("url", json!({ "url": "https://hooks.example/#part" })),
        ("url", json!({ "url": "https://" })),
        ("url", json!({ "url": format!("https://hooks.example/{}", "x".repeat(2000)) })),
        ("kinds", json!({ "url": url, "kinds": [] })),
        ("kinds", json!({ "url": url, "kinds": ["lease"] })),
        ("kinds", json!({ "url": url, "kinds": many })),
        ("secret", json!({ "url": url, "secret": "hunter2" })),
    ] {
        let problem = api.post(ROUTE, &admin, &wrong).await.problem(400);
        assert_eq!(problem["field"], field, "{wrong}: {problem}");
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
    }
    for number in 1..100 {
        api.post(ROUTE, &admin, &json!({ "url": format!("{url}{number}") })).await.expect(201);
    }
    let problem = api.post(ROUTE, &admin, &json!({ "url": url })).await.problem(409);
    assert_eq!(problem["kind"], "too_many_webhooks");
}
