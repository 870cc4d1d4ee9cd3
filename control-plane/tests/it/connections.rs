//! Clients that connect and then do nothing, by the thousand.

use crate::api::{Api, Database};
use orion_domain::node::LinkState;
use orion_testkit::{KeyPair, wait_until};
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

const MANY: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_that_say_nothing_keep_nobody_out_and_are_closed() {
    let api = Api::start_with(Database::Sqlite, |config| config.head_timeout = Duration::from_secs(3)).await;
    let mut silent = JoinSet::new();
    for number in 0..MANY {
        let mut stream = TcpStream::connect(api.address()).await.expect("a connection");
        // A half of them begins a request and never ends its head.
        if number % 2 == 0 {
            stream.write_all(b"GET /api/live HTTP/1.1\r\nX-Slow: ").await.expect("written");
        }
        silent.spawn(async move {
            let mut rest = Vec::new();
            // Closed with or without a word (408): what matters is that it ends.
            drop(stream.read_to_end(&mut rest).await);
            number
        });
    }
    let token = api.user("alice").await;
    api.get("/api/nodes", &token).await.expect(200);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut left: std::collections::HashSet<usize> = (0..MANY).collect();
    while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, silent.join_next()).await {
        left.remove(&ended.expect("no panic"));
    }
    assert!(left.is_empty(), "still open: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_agents_links_that_never_beat_are_served_and_then_given_up() {
    let api = Api::start(Database::Sqlite).await;
    let join = api.join_token().await;
    let mut tokens = Vec::new();
    for number in 0..MANY {
        let [high, low] = u16::try_from(number).expect("fits").to_be_bytes();
        let key = KeyPair::generate().public_line().to_owned();
        let body = json!({ "hostname": format!("idle-{number}"), "ip": format!("127.20.{high}.{low}"),
                           "ssh_port": 1, "host_keys": [key] });
        let reply = api.post("/api/workers/register", &join, &body).await.expect(201);
        tokens.push(reply["node_token"].as_str().expect("a token").to_owned());
    }
    let mut links = Vec::new();
    for token in tokens {
        links.push(api.open_link(&token).await);
    }
    wait_until("all links are held", PATIENCE, async || match api.app.links.count() {
        MANY => Ok(()),
        other => Err(format!("{other} links")),
    })
    .await;
    let admin = api.admin("root-admin").await;
    api.get("/api/nodes?limit=1000", &admin).await.expect(200);
    wait_until("links that never beat are given up", PATIENCE, async || match api.app.links.count() {
        0 => Ok(()),
        other => Err(format!("{other} links")),
    })
    .await;
    wait_until("the database knows", PATIENCE, async || {
        let nodes = api.app.store.nodes().all().await.expect("nodes");
        let up = nodes.iter().filter(|node| node.link == LinkState::Up).count();
        if up == 0 { Ok(()) } else { Err(format!("{up} links are up")) }
    })
    .await;
    drop(links);
}
