//! Events on their way to webhooks: real schedulers, a real database, real receivers that take them, fail, hang,
//! and redirect.

use crate::{PATIENCE, process::Scheduler};
use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use orion_domain::{
    LeaseId, NodeId, WebhookId,
    event::{EventPayload, HealthChange, LeaseEvent, NodeEvent},
    node::Health,
};
use orion_fleet::Fleet;
use orion_service::{
    assemble::{Settings, assemble},
    sealed::MasterKey,
    webhook::WebhookSecret,
};
use orion_store::{Cas, DeliveryState, NewEvent, NewWebhook, WebhookTally};
use orion_testkit::{MariaDb, free_port, random_word, wait_until};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// User ids of these schedulers.
static NEXT_UID: AtomicU32 = AtomicU32::new(62_000);

/// A database with webhooks, and schedulers that send to them.
/// The death of a node, told with a number.
fn dead(number: i64) -> NodeEvent {
    NodeEvent::Dead(HealthChange { reason: number.to_string(), was: Health::Suspect })
}

struct World {
    fleet: Fleet,
    master: MasterKey,
    database_url: String,
    directory: TempDir,
}

impl World {
    async fn new() -> Self {
        let database_url = MariaDb::shared().create_database().url;
        let master = MasterKey::generate();
        let settings = Settings::new(vec![database_url.clone()], 8, master.clone());
        let fleet = assemble(&settings).await.expect("it assembles").fleet;
        Self { fleet, master, database_url, directory: tempfile::tempdir().expect("a temporary directory") }
    }

    fn scheduler(&self, settings: &[(&str, &str)]) -> Scheduler {
        let uid = NEXT_UID.fetch_add(1, Relaxed);
        let key = self.master.to_base64();
        Scheduler::start_with(self.directory.path(), uid, &self.database_url, key.expose(), settings)
    }

    async fn webhook(&self, url: &str, kinds: &[&str]) -> (WebhookId, WebhookSecret) {
        let secret = WebhookSecret::generate();
        let uid = random_word()[..26].to_uppercase();
        let new = NewWebhook {
            url: url.to_owned(),
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            secret_sealed: secret.seal(&self.master, &uid),
            uid,
            created_by: None,
        };
        let made = self.fleet.store.webhooks().create(&new, self.fleet.now()).await.expect("stored");
        (made.id, secret)
    }

    async fn event(&self, payload: impl Into<EventPayload>) {
        let event = NewEvent::new(payload).of_lease(LeaseId(7)).of_node(NodeId(3));
        self.fleet.store.events().append(&event, self.fleet.now()).await.expect("stored");
    }

    async fn tally(&self, webhook: WebhookId) -> WebhookTally {
        let mut tallies = self.fleet.store.webhooks().counts(&[webhook]).await.expect("counted");
        tallies.remove(&webhook).expect("this one")
    }

    async fn until_tally(&self, webhook: WebhookId, what: &str, wanted: impl Fn(&WebhookTally) -> bool) {
        wait_until(what, PATIENCE, async || {
            let tally = self.tally(webhook).await;
            if wanted(&tally) { Ok(()) } else { Err(tally) }
        })
        .await;
    }
}

/// One request that a receiver got.
#[derive(Clone, Debug)]
struct Received {
    headers: HeaderMap,
    body: Bytes,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    fn id(&self) -> String {
        self.header("webhook-id").to_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn number(&self) -> i64 {
        self.json()["data"]["data"]["reason"].as_str().expect("a reason").parse().expect("a number")
    }

    /// Checks the signature as a receiver does.
    #[track_caller]
    fn check_signature(&self, secret: &WebhookSecret) {
        let timestamp: i64 = self.header("webhook-timestamp").parse().expect("seconds");
        let age = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs().cast_signed() - timestamp;
        assert!((-2..=300).contains(&age), "{age} s old");
        let expected = secret.sign(&self.id(), timestamp, &self.body);
        assert_eq!(self.header("webhook-signature"), expected);
    }
}

/// Reaction of a receiver to its n-th request, from 0.
type Answer = Arc<dyn Fn(usize) -> Reaction + Send + Sync>;

enum Reaction {
    Reply(Box<Response>),
    Hang,
}

fn status(status: u16) -> Reaction {
    Reaction::Reply(Box::new(StatusCode::from_u16(status).expect("a status").into_response()))
}

/// An HTTP server that notes what it gets.
struct Receiver {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    async fn start(answer: impl Fn(usize) -> Reaction + Send + Sync + 'static) -> Self {
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let (notes, answer): (_, Answer) = (received.clone(), Arc::new(answer));
        let handler = post(move |headers: HeaderMap, body: Bytes| async move {
            let number = {
                let mut notes = notes.lock().expect("not poisoned");
                notes.push(Received { headers, body });
                notes.len() - 1
            };
            match answer(number) {
                Reaction::Reply(reply) => *reply,
                Reaction::Hang => std::future::pending().await,
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let router = Router::new().route("/hook", handler.clone()).route("/elsewhere", handler);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, received }
    }

    fn all(&self) -> Vec<Received> {
        self.received.lock().expect("not poisoned").clone()
    }

    async fn until(&self, what: &str, wanted: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        wait_until(what, PATIENCE, async || {
            let all = self.all();
            if wanted(&all) { Ok(all) } else { Err(format!("{} requests", all.len())) }
        })
        .await
    }
}

/// Counts how often each number came.
fn counts(received: &[Received]) -> HashMap<i64, usize> {
    received.iter().fold(HashMap::new(), |mut counts, one| {
        *counts.entry(one.number()).or_default() += 1;
        counts
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_arrives_signed_and_only_where_its_kind_is_wanted() {
    let world = World::new().await;
    let (nodes, all) = (Receiver::start(|_| status(204)).await, Receiver::start(|_| status(200)).await);
    world.event(dead(0)).await;
    let (of_nodes, secret) = world.webhook(&nodes.url, &["node.*"]).await;
    let (of_all, other_secret) = world.webhook(&all.url, &["*"]).await;
    let scheduler = world.scheduler(&[]);
    world.event(dead(1)).await;
    world.event(LeaseEvent::Activated { node: NodeId(2) }).await;
    let got_all = all
        .until("both events", |all| {
            let kinds: Vec<Value> = all.iter().map(|one| one.json()["type"].clone()).collect();
            kinds.contains(&json!("node.dead")) && kinds.contains(&json!("lease.active"))
        })
        .await;
    let got = nodes.until("the node's event", |all| !all.is_empty()).await;
    world.until_tally(of_nodes, "nothing is left", |tally| tally.pending == 0).await;
    world.until_tally(of_all, "nothing is left", |tally| tally.pending == 0).await;
    assert_eq!(got.len(), 1, "what was before the webhook is not for it: {got:?}");
    got[0].check_signature(&secret);
    for one in &got_all {
        one.check_signature(&other_secret);
    }
    assert_eq!(got[0].header("content-type"), "application/json");
    let body = got[0].json();
    assert_eq!((&body["type"], &body["data"]["kind"]), (&json!("node.dead"), &json!("node.dead")));
    assert_eq!((&body["data"]["lease_id"], &body["data"]["node_id"]), (&json!(7), &json!(3)));
    assert_eq!((got[0].number(), &body["timestamp"]), (1, &body["data"]["at"]));
    let same = got_all.iter().find(|one| one.json()["type"] == "node.dead").expect("it came");
    assert_eq!(same.id(), got[0].id(), "one event has one id, wherever it goes");
    assert_ne!(
        same.header("webhook-signature"),
        got[0].header("webhook-signature"),
        "each has its own secret"
    );
    // A test goes to one alone.
    let Cas::Done(test) =
        world.fleet.store.webhooks().test(of_nodes, None, world.fleet.now()).await.expect("begun")
    else {
        panic!("there is that webhook")
    };
    nodes.until("the test", |all| all.iter().any(|one| one.json()["type"] == "webhook.test")).await;
    wait_until("the test is recorded", PATIENCE, async || {
        let seen = world.fleet.store.webhooks().delivery(test).await.expect("read")?;
        (seen.state == DeliveryState::Delivered && seen.status == Some(204)).then_some(())
    })
    .await;
    assert!(!all.all().iter().any(|one| one.json()["type"] == "webhook.test"));
    drop(scheduler);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_fails_gets_the_same_event_again() {
    let world = World::new().await;
    let receiver = Receiver::start(|number| status(if number == 0 { 500 } else { 200 })).await;
    let (webhook, secret) = world.webhook(&receiver.url, &["node.dead"]).await;
    let port = free_port().to_string();
    let address = format!("127.0.0.1:{port}");
    let _scheduler = world.scheduler(&[("ORION_METRICS_LISTEN", &address)]);
    world.event(dead(1)).await;
    receiver.until("the first try", |all| !all.is_empty()).await;
    world.until_tally(webhook, "the failure is shown", |tally| tally.failing == 1).await;
    let tally = world.tally(webhook).await;
    let last = tally.last.expect("a try");
    assert_eq!((last.status, last.attempts), (Some(500), 1));
    assert_eq!(last.error.as_deref(), Some("it answered 500 Internal Server Error"));
    let failed = Instant::now();
    let got = receiver.until("the second try", |all| all.len() == 2).await;
    assert!(failed.elapsed() >= Duration::from_secs(2), "it waits between two tries");
    assert_eq!(got[0].id(), got[1].id());
    assert_eq!(got[0].body, got[1].body);
    got[1].check_signature(&secret);
    world.until_tally(webhook, "nothing is left", |tally| (tally.pending, tally.failing) == (0, 0)).await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let metrics = reqwest::Client::builder().no_proxy().build().expect("a client");
    let metrics = metrics.get(format!("http://{address}/metrics")).send().await.expect("a page");
    assert_eq!(metrics.headers()["content-type"], orion_fleet::metrics::OPEN_METRICS);
    let metrics = metrics.text().await.expect("text");
    for line in [
        "orion_webhook_deliveries_total{result=\"delivered\"} 1",
        "orion_webhook_deliveries_total{result=\"failed\"} 1",
        "orion_webhook_deliveries_total{result=\"given_up\"} 0",
        "orion_database_up 1",
        "orion_brake_engaged 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no '{line}' in\n{metrics}");
    }
    assert!(!metrics.contains("orion_agent_links"), "a scheduler holds none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_hangs_holds_up_no_other_and_loses_nothing() {
    let world = World::new().await;
    let hanging = Receiver::start(|_| Reaction::Hang).await;
    let well = Receiver::start(|_| status(200)).await;
    // The one in trouble comes first.
    let (in_trouble, _) = world.webhook(&hanging.url, &["node.dead"]).await;
    let (works, _) = world.webhook(&well.url, &["node.dead"]).await;
    let _scheduler = world.scheduler(&[]);
    for number in 0..150 {
        world.event(dead(number)).await;
    }
    hanging.until("it hangs", |all| !all.is_empty()).await;
    let begun = Instant::now();
    well.until("all events", |all| counts(all).len() == 150).await;
    eprintln!("150 events beside a hanging receiver: {:?}", begun.elapsed());
    world.until_tally(works, "nothing is left", |tally| tally.pending == 0).await;
    let tally = world.tally(in_trouble).await;
    assert_eq!((tally.pending, tally.given_up), (150, 0), "all are still to be sent");
    assert!(hanging.all().len() <= 16, "not all at once: {}", hanging.all().len());
    world
        .until_tally(in_trouble, "a try is over", |tally| {
            tally.last.as_ref().is_some_and(|last| last.error.is_some()) || tally.failing > 8
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_scheduler_was_sending_is_sent_by_another() {
    let world = World::new().await;
    // The first request is never answered: its scheduler dies while it waits.
    let receiver = Receiver::start(|number| if number == 0 { Reaction::Hang } else { status(200) }).await;
    let (webhook, secret) = world.webhook(&receiver.url, &["node.dead"]).await;
    let mut first = world.scheduler(&[]);
    world.event(dead(1)).await;
    receiver.until("it is being sent", |all| all.len() == 1).await;
    first.kill();
    // Nobody runs while this happens.
    world.event(dead(2)).await;
    assert_eq!(world.tally(webhook).await.pending, 1, "the second is not even written down");
    let _second = world.scheduler(&[]);
    let got = receiver
        .until("both have come to their end", |all| {
            let counts = counts(all);
            counts.get(&1) == Some(&2) && counts.contains_key(&2)
        })
        .await;
    for one in &got {
        one.check_signature(&secret);
    }
    world.until_tally(webhook, "nothing is left", |tally| tally.pending == 0).await;
    assert_eq!(receiver.all().len(), 3, "each was sent until it was taken, and not again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_schedulers_one_sends_an_event() {
    let world = World::new().await;
    let receiver = Receiver::start(|_| status(200)).await;
    let mut webhooks = Vec::new();
    for _ in 0..3 {
        webhooks.push(world.webhook(&receiver.url, &["node.dead"]).await.0);
    }
    let mut schedulers: Vec<Scheduler> = (0..3).map(|_| world.scheduler(&[])).collect();
    for number in 0..100 {
        world.event(dead(number)).await;
        if number == 50 {
            // One that says goodbye leaves nothing behind.
            schedulers.remove(0).stop();
        }
    }
    let all = |received: &[Received]| {
        let counts = counts(received);
        counts.len() == 100 && counts.values().all(|count| *count >= 3)
    };
    receiver.until("each event came for each webhook", all).await;
    for webhook in webhooks {
        world.until_tally(webhook, "nothing is left", |tally| tally.pending == 0).await;
    }
    assert_eq!(receiver.all().len(), 300, "and none twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_not_followed_an_endless_reply_not_read_and_no_secret_logged() {
    let world = World::new().await;
    let redirecting = Receiver::start(|_| {
        let reply = (StatusCode::FOUND, [(header::LOCATION, "/elsewhere")]).into_response();
        Reaction::Reply(Box::new(reply))
    })
    .await;
    let endless = Receiver::start(|_| {
        let chunks = std::iter::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 8192])));
        let body = Body::from_stream(futures_util::stream::iter(chunks));
        Reaction::Reply(Box::new(body.into_response()))
    })
    .await;
    let address = |receiver: &Receiver| format!("{}?token=hunter2", receiver.url);
    let (redirected, first_secret) = world.webhook(&address(&redirecting), &["node.dead"]).await;
    let (flooded, second_secret) = world.webhook(&address(&endless), &["node.dead"]).await;
    let nowhere = format!("http://127.0.0.1:{}/?token=hunter2", free_port());
    let (refused, third_secret) = world.webhook(&nowhere, &["node.dead"]).await;
    let scheduler = world.scheduler(&[("ORION_LOG", "trace,sqlx=info,russh=info")]);
    world.event(dead(1)).await;
    world
        .until_tally(flooded, "a reply without an end is one", |tally| {
            tally.last.as_ref().is_some_and(|last| last.state == DeliveryState::Delivered)
        })
        .await;
    for (webhook, said) in [(redirected, "redirects are not followed"), (refused, "onnection refused")] {
        world
            .until_tally(webhook, said, |tally| {
                let error = tally.last.as_ref().and_then(|last| last.error.as_deref()).unwrap_or_default();
                error.contains(said) && !error.contains("hunter2")
            })
            .await;
    }
    assert_eq!(redirecting.all().len(), 1, "the other path was not asked");
    let log = scheduler.log();
    assert!(log.contains("an event was not delivered"), "{log}");
    for secret in [first_secret, second_secret, third_secret] {
        let text = secret.text();
        let bare = text.expose().trim_start_matches("whsec_").to_owned();
        assert!(!log.contains(&bare), "a signing secret stands in the log");
    }
    for line in log.lines().filter(|line| line.contains("orion_")) {
        assert!(!line.contains("hunter2"), "{line}");
    }
}
