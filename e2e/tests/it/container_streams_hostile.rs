//! Clients of containers that mean harm, or are badly written, and engines that hang.

use super::{
    PATIENCE,
    container_life::{rented, shell, system, until},
    container_streams::orion,
    system::System,
    user::User,
};
use orion_testkit::wait_until;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// Followers of logs that a lease may have.
const FOLLOWERS_MAX: usize = 32;

/// Asks, and reads no more than the beginning of the reply.
async fn beginning(system: &System, user: &User, path: &str) -> (TcpStream, String) {
    let address = system.url().replace("http://", "");
    // What the kernel takes for a client that does not read is little, so that it does not take long until it takes no more.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("it is taken");
    let mut stream = socket.connect(address.parse().expect("an address")).await.expect("it listens");
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\r\n", user.token);
    stream.write_all(request.as_bytes()).await.expect("it is taken");
    let mut buffer = vec![0; 700];
    let count = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await;
    let count = count.expect("a reply").expect("a reply");
    (stream, String::from_utf8_lossy(&buffer[..count]).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_followers_that_never_read_cost_bounded_memory_and_hinder_nobody() {
    let system = system(1).await;
    let ida = system.user("ida").await;
    let (ticket, path) = rented(&system, &ida).await;
    let line = "0123456789".repeat(20);
    let mut loud = shell("loud", &format!("while :; do echo {line}; done"));
    // The machine of the test is the node, the API and the clients.
    loud["cpus"] = json!(0.3);
    ida.post(&path, loud).await.expect(201);
    let logs = format!("{path}/loud/logs?follow=true");
    let before = system.up().resident_kib();
    let asking = (0..200).map(|_| beginning(&system, &ida, &logs));
    let replies = futures_util::future::join_all(asking).await;
    let with = |text: &str| replies.iter().filter(|(_, reply)| reply.contains(text)).count();
    assert_eq!(
        with("HTTP/1.1 200 OK"),
        FOLLOWERS_MAX,
        "{:?}",
        replies.iter().map(|(_, r)| r).collect::<Vec<_>>()
    );
    assert_eq!(with("HTTP/1.1 429 "), 200 - FOLLOWERS_MAX);
    let refused = replies.iter().find(|(_, reply)| reply.contains("HTTP/1.1 429 ")).map(|(_, reply)| reply);
    let refused = refused.expect("one").to_ascii_lowercase();
    assert!(
        refused.contains("retry-after: ") && refused.contains("the lease has 32 streams of logs open"),
        "{refused}"
    );

    tokio::time::sleep(Duration::from_secs(3)).await;
    let full = system.up().resident_kib();
    // Nobody else is hindered: a container is run, used and removed, and the node is well.
    let began = Instant::now();
    ida.post(&path, shell("calm", "exec sleep 10000")).await.expect(201);
    ida.get(&format!("{path}/calm/stats")).await.expect(200);
    let done =
        orion(&system, &ida, &["exec", &ticket.rental_id.to_string(), "calm", "--", "echo", "well"]).output();
    assert_eq!(String::from_utf8_lossy(&done.expect("it runs").stdout), "well\n");
    ida.post(&format!("{path}/calm/stop"), json!({})).await.expect(200);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let node = system.node(&system.workers()[0]).await.expect("a node");
    assert_eq!(node["status"], "alive", "{node}");
    let later = system.up().resident_kib();
    assert!(full.saturating_sub(before) < 128 * 1024, "{before} KiB, then {full} KiB");
    assert!(later.saturating_sub(full) < 16 * 1024, "{full} KiB, then {later} KiB: it grows");

    // Who does not read for 30 s is cut off, and the place is free.
    wait_until("a place is free", Duration::from_secs(120), async || {
        let (_, reply) = beginning(&system, &ida, &logs).await;
        if reply.contains("HTTP/1.1 200 OK") { Ok(()) } else { Err(reply) }
    })
    .await;
    drop(replies);
    ida.release(ticket.rental_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_leaves_no_command_behind() {
    let system = system(1).await;
    let (worker, ida) = (&system.workers()[0], system.user("ida").await);
    let (ticket, path) = rented(&system, &ida).await;
    let lease = ticket.rental_id.to_string();
    ida.post(&path, shell("web", "exec sleep 10000")).await.expect(201);
    until(&ida, &format!("{path}/web"), "running").await;
    let exec = |seconds: &str| {
        orion(&system, &ida, &["exec", &lease, "web", "--", "sleep", seconds]).spawn().expect("it starts")
    };
    let until_gone = async |what: &str, wanted: &str| {
        wait_until(what, PATIENCE, async || {
            let found = worker.sh("pgrep -xfc 'sleep 8001' || true").trim().to_owned();
            if found == wanted { Ok(()) } else { Err(found) }
        })
        .await;
    };
    // One whose client vanishes while the engine hangs.
    let mut first = exec("8001");
    until_gone("it runs", "1").await;
    worker.freeze_engine();
    first.kill().expect("it is ours");
    first.wait().expect("it is ours");
    until_gone("its process is ended without the engine", "0").await;
    // One that is to begin while it hangs is refused in time: the engine has not even made it.
    let began = Instant::now();
    let second = exec("8002").wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("did not answer in time"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    worker.thaw_engine();
    ida.release(ticket.rental_id).await;
}
