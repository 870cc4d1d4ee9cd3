//! Readers of the event feed at their worst: their replica dies, or they never read.

use crate::api::{Api, Database};
use orion_domain::{Clock as _, SystemClock, Timestamp, event::NodeEvent};
use orion_store::{NewEvent, Store};
use reqwest::Method;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::{collections::HashSet, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// Period of events that a reader may get again when it resumes, the same as in the store.
const OVERLAP: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);

async fn write(store: &Store, number: i64, text: &str, at: Timestamp) {
    let data = json!({ "number": number, "text": text });
    let event = NewEvent::new(NodeEvent::Cleaned(data));
    store.events().append(&event, at).await.expect("written");
}

/// One event of a feed, with the id that a client would resume from.
struct Told {
    resume_from: i64,
    event: Value,
}

impl Told {
    fn id(&self) -> i64 {
        self.event["id"].as_i64().expect("a number")
    }

    fn number(&self) -> Option<i64> {
        self.event["data"]["number"].as_i64()
    }

    fn at(&self) -> Timestamp {
        self.event["at"].as_str().expect("a time").parse().expect("a time")
    }
}

/// A feed that is read frame by frame.
struct Feed {
    reply: reqwest::Response,
    text: String,
    /// The last id that came.
    resume_from: i64,
}

impl Feed {
    async fn open(api: &Api, token: &str, last: Option<i64>) -> Self {
        let mut request = api.request(Method::GET, "/api/events").bearer_auth(token).timeout(PATIENCE);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last.to_string());
        }
        let reply = request.send().await.expect("a feed");
        assert_eq!(reply.status(), 200);
        Self { reply, text: String::new(), resume_from: last.unwrap_or(0) }
    }

    /// The next frame: its event, or none for one that has only an id. The error is the end of the stream.
    async fn next(&mut self) -> Result<Option<Told>, ()> {
        let frame = loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.text = rest;
                break frame;
            }
            match self.reply.chunk().await {
                Ok(Some(piece)) => self.text.push_str(std::str::from_utf8(&piece).expect("text")),
                Ok(None) | Err(_) => return Err(()),
            }
        };
        let value = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if let Some(id) = value("id:") {
            self.resume_from = id.parse().expect("a number");
        }
        let event = value("data:").map(|data| serde_json::from_str(data).expect("an event"));
        Ok(event.map(|event| Told { resume_from: self.resume_from, event }))
    }
}

#[test]
fn a_feed_goes_on_at_another_replica_without_a_gap_when_its_own_dies() {
    const WRITERS: i64 = 4;
    const EACH: i64 = 300;
    const OLD: i64 = 40;
    // The replica that dies has a runtime of its own, which is taken away in the middle of everything.
    let doomed = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let first = doomed.block_on(Api::start(Database::MariaDb));
    let living = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    living.block_on(async {
        let second = first.replica().await;
        let store = second.app.store.clone();
        let long_ago = SystemClock.now().minus(Duration::from_secs(3600));
        for number in 0..OLD {
            write(&store, -1 - number, "", long_ago).await;
        }
        let boss = second.admin("boss").await;
        let mut feed = Feed::open(&first, &boss, Some(0)).await;
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let store = store.clone();
            writers.spawn(async move {
                for number in 0..EACH {
                    write(&store, writer * EACH + number, "", SystemClock.now()).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        // The client reads until it has a good part, and then its replica dies under it.
        let mut before: Vec<Told> = Vec::new();
        while before.iter().filter(|told| told.number().is_some_and(|number| number >= 0)).count() < 200 {
            before.extend(feed.next().await.expect("the feed goes on"));
        }
        doomed.shutdown_background();
        while let Ok(told) = feed.next().await {
            before.extend(told);
        }
        let last = before.last().expect("events");
        let (resume_from, last_at) = (last.resume_from, last.at());

        let mut feed = Feed::open(&second, &boss, Some(resume_from)).await;
        assert!(feed.next().await.expect("a first frame").is_none());
        assert_eq!(
            feed.resume_from, resume_from,
            "a feed that breaks again before its first event loses no ground"
        );
        let mut after: Vec<Told> = Vec::new();
        let wanted: HashSet<i64> = (0..WRITERS * EACH).collect();
        let mut seen: HashSet<i64> = before.iter().filter_map(Told::number).collect();
        while !wanted.is_subset(&seen) {
            let next = tokio::time::timeout(PATIENCE, feed.next()).await;
            let told = next.unwrap_or_else(|_| panic!("missing: {:?}", wanted.difference(&seen)));
            let Some(told) = told.expect("the feed goes on") else { continue };
            seen.extend(told.number());
            assert!(told.resume_from >= resume_from, "what comes again does not set the reader back");
            after.push(told);
        }
        writers.join_all().await;

        for part in [&before, &after] {
            let ids: HashSet<i64> = part.iter().map(Told::id).collect();
            assert_eq!(ids.len(), part.len(), "no event twice in one stream");
        }
        let known: HashSet<i64> = before.iter().map(Told::id).collect();
        let again: Vec<&Told> = after.iter().filter(|told| known.contains(&told.id())).collect();
        for told in &again {
            let age = last_at.since(told.at());
            assert!(age <= OVERLAP, "{} came again, and is {age:?} older than the last one", told.event);
        }
        assert!(
            before.iter().any(|told| told.number() == Some(-1)),
            "the first stream began at the beginning"
        );
        eprintln!("{} events, {} more, {} of them again", before.len(), after.len(), again.len());
    });
    drop(first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_reads_is_disconnected_and_holds_up_nobody() {
    const EVENTS: i64 = 3_000;
    // All events together are larger than everything that a connection may buffer.
    let text = "x".repeat(8_000);
    let api =
        Api::start_with(Database::Sqlite, |config| config.unread_timeout = Duration::from_secs(2)).await;
    let boss = api.admin("boss").await;

    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let address: SocketAddr = api.address().parse().expect("an address");
    socket.connect(&address.into()).expect("connected");
    socket.set_nonblocking(true).expect("a socket for tokio");
    let mut idle = TcpStream::from_std(socket.into()).expect("a stream");
    let head = format!("GET /api/events?after=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {boss}\r\n\r\n");
    idle.write_all(head.as_bytes()).await.expect("sent");
    orion_testkit::wait_until("its stream is open", PATIENCE, async || {
        (api.app.streams.count() == 1).then_some(())
    })
    .await;

    let mut reading = Feed::open(&api, &boss, Some(0)).await;
    let mut writers = JoinSet::new();
    for part in 0..4 {
        let (store, text) = (api.app.store.clone(), text.clone());
        writers.spawn(async move {
            for number in (part..EVENTS).step_by(4) {
                write(&store, number, &text, SystemClock.now()).await;
            }
        });
    }
    let mut seen = HashSet::new();
    while seen.len() < usize::try_from(EVENTS).expect("few") {
        let told = tokio::time::timeout(PATIENCE, reading.next()).await.expect("others are served");
        seen.extend(told.expect("the feed goes on").and_then(|told| told.number()));
    }
    writers.join_all().await;
    orion_testkit::wait_until("the stream of the idle one is over", PATIENCE, async || {
        (api.app.streams.count() == 1).then_some(())
    })
    .await;
    // What was on its way still comes; then the connection is closed.
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(10), idle.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "still open after {} bytes", rest.len());
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the reply was cut off, not brought to its end");
    let all = usize::try_from(EVENTS).expect("few") * text.len();
    assert!(rest.len() < all, "everything was kept for it: {} bytes of {all}", rest.len());
    drop(reading);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_falls_far_behind_and_then_reads_gets_everything() {
    // More than may wait for it, beside what a connection may buffer.
    const EVENTS: i64 = 8_000;
    let text = "x".repeat(8_000);
    let api = Api::start(Database::Sqlite).await;
    let boss = api.admin("boss").await;
    let mut feed = Feed::open(&api, &boss, None).await;
    let mut writers = JoinSet::new();
    for part in 0..4 {
        let (store, text) = (api.app.store.clone(), text.clone());
        writers.spawn(async move {
            for number in (part..EVENTS).step_by(4) {
                write(&store, number, &text, SystemClock.now()).await;
            }
        });
    }
    writers.join_all().await;
    let (mut seen, mut again) = (HashSet::new(), 0);
    while seen.len() < usize::try_from(EVENTS).expect("few") {
        let told = tokio::time::timeout(PATIENCE, feed.next()).await.expect("it is served");
        if let Some(number) = told.expect("the feed goes on").and_then(|told| told.number()) {
            again += usize::from(!seen.insert(number));
        }
    }
    assert!(again > 0, "it fell behind, and went on from before the place where it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_so_many_streams_and_no_more() {
    let api = Api::start_with(Database::Sqlite, |config| config.streams_of_user_max = 2).await;
    let (alice, bob) = (api.user("alice").await, api.user("bob").await);
    let status = async |token: &str| {
        let request = api.request(Method::GET, "/api/events").bearer_auth(token);
        request.send().await.expect("a reply").status().as_u16()
    };
    let mut open = vec![Feed::open(&api, &alice, None).await, Feed::open(&api, &alice, Some(0)).await];
    assert_eq!(status(&alice).await, 429);
    let other = Feed::open(&api, &bob, None).await;
    open.pop();
    orion_testkit::wait_until("there is a place again", PATIENCE, async || {
        (api.app.streams.count() == 2).then_some(())
    })
    .await;
    open.push(Feed::open(&api, &alice, None).await);
    assert_eq!(status(&alice).await, 429);
    drop((open, other));
    orion_testkit::wait_until("all places are free", PATIENCE, async || {
        (api.app.streams.count() == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_a_database_that_was_restored_goes_on_at_its_end() {
    let api = Api::start(Database::Sqlite).await;
    let boss = api.admin("boss").await;
    // Its last event is of a time that the restored database does not know.
    let mut feed = Feed::open(&api, &boss, Some(1_000_000)).await;
    assert!(feed.next().await.expect("a first frame").is_none());
    write(&api.app.store, 1, "", api.app.now()).await;
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(told) = feed.next().await.expect("the feed goes on")
                && told.number() == Some(1)
            {
                return told;
            }
        }
    });
    let told = found.await.expect("it comes");
    assert!(told.resume_from < 1_000);
}
