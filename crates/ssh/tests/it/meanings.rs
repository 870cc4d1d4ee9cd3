//! What each way of failing says about the node.

use std::sync::Arc;
use std::time::Duration;

use orion_ssh::{ControlCa, Kind, Meaning, Pool, PoolConfig, Stage, Target, scan_host_key};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::fakes::{greeter, server_that_hangs_up_at_login};
use crate::sshd::{Sshd, command};

fn pool() -> Pool {
    Pool::new(PoolConfig::default(), Arc::new(ControlCa::generate()))
}

fn target(port: u16) -> Target {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    Target { node_id: 1, host: "127.0.0.1".into(), port, host_keys: vec![key.parse().unwrap()] }
}

#[tokio::test]
async fn nothing_listening_is_gone() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = pool().connect(&target(port)).await.unwrap_err();
    assert_eq!((error.stage, error.kind.clone()), (Stage::Connect, Kind::Refused));
    assert_eq!(error.meaning(), Meaning::Gone);
}

#[tokio::test]
async fn a_server_that_closes_without_a_word_is_gone() {
    let server = greeter(b"", false).await;
    let error = pool().connect(&target(server.port)).await.unwrap_err();
    assert_eq!((error.stage, error.kind.clone()), (Stage::Banner, Kind::Closed));
    assert_eq!(error.meaning(), Meaning::Gone);
}

#[tokio::test]
async fn both_throttling_texts_mean_alive() {
    let texts: [&'static [u8]; 2] = [b"Not allowed at this time\r\n", b"Exceeded MaxStartups\r\n"];
    for text in texts {
        let server = greeter(text, false).await;
        let error = pool().connect(&target(server.port)).await.unwrap_err();
        assert_eq!((error.stage, error.kind.clone()), (Stage::Banner, Kind::Throttled));
        assert_eq!(error.meaning(), Meaning::Throttled);
        let error = scan_host_key("127.0.0.1", server.port, &PoolConfig::default()).await.unwrap_err();
        assert_eq!(error.meaning(), Meaning::Throttled);
    }
}

#[tokio::test]
async fn a_real_sshd_at_its_maxstartups_is_alive_and_the_pooled_session_does_not_mind() {
    let sshd = Sshd::start("MaxStartups 1");
    let (pool, target) = (sshd.pool(), sshd.target());
    pool.connect(&target).await.unwrap();
    let _stranger = who_takes_the_last_startup(&sshd).await;
    let error = pool.fresh_handshake(&target).await.unwrap_err();
    assert_eq!((error.stage, error.kind.clone()), (Stage::Banner, Kind::Throttled), "{}", sshd.log());
    assert_eq!(error.meaning(), Meaning::Throttled);
    pool.keepalive(&target, Duration::from_secs(2)).await.unwrap();
    assert!(pool.exec(&target, command("true", Duration::from_secs(5))).await.unwrap().is_success());
}

#[tokio::test]
async fn an_sshd_with_rsa_host_keys_alone_is_sick_and_the_remedy_is_named() {
    let sshd = Sshd::start_with_host_key("rsa", "");
    let dialled = pool().connect(&target(sshd.port)).await.unwrap_err();
    let scanned = scan_host_key("127.0.0.1", sshd.port, &PoolConfig::default()).await.unwrap_err();
    for error in [dialled, scanned] {
        assert_eq!(error.meaning(), Meaning::Sick, "{error}");
        let text = error.to_string();
        assert!(text.contains("rsa-sha2-512") && text.contains("ssh-keygen -t ed25519"), "{text}");
    }
}

/// A connection that sshd greets and that says nothing. The login before it may still count for a moment, and then
/// sshd sends this one away.
async fn who_takes_the_last_startup(sshd: &Sshd) -> TcpStream {
    loop {
        let mut stranger = TcpStream::connect(("127.0.0.1", sshd.port)).await.unwrap();
        if stranger.read_u8().await.is_ok_and(|byte| byte == b'S') {
            return stranger;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_connection_lost_during_login_is_a_transport_fault_and_not_bad_credentials() {
    let (server, host_key) = server_that_hangs_up_at_login().await;
    let mut target = target(server.port);
    target.host_keys = vec![host_key];
    let error = pool().connect(&target).await.unwrap_err();
    assert_eq!((error.stage, error.kind.clone()), (Stage::Auth, Kind::Closed));
    assert_eq!(error.meaning(), Meaning::Gone);
}

#[tokio::test]
async fn another_service_on_the_port_is_sick() {
    let server = greeter(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", false).await;
    let error = pool().connect(&target(server.port)).await.unwrap_err();
    assert_eq!(error.stage, Stage::Banner);
    assert!(matches!(error.kind, Kind::Protocol(_)), "{error:?}");
    assert_eq!(error.meaning(), Meaning::Sick);
}

#[tokio::test]
async fn an_endless_greeting_is_not_read_to_its_end() {
    let text: &'static [u8] = Box::leak(vec![b'a'; 100_000].into_boxed_slice());
    let server = greeter(text, true).await;
    let error = pool().connect(&target(server.port)).await.unwrap_err();
    assert_eq!(error.stage, Stage::Banner);
    assert!(matches!(error.kind, Kind::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn a_server_without_a_common_key_exchange_is_sick() {
    let sshd = Sshd::start("KexAlgorithms diffie-hellman-group14-sha256");
    let error = sshd.pool().connect(&sshd.target()).await.unwrap_err();
    assert_eq!(error.stage, Stage::KeyExchange);
    assert!(matches!(&error.kind, Kind::Protocol(detail) if detail.contains("Kex")), "{error:?}");
    assert_eq!(error.meaning(), Meaning::Sick);
}

#[tokio::test]
async fn a_login_shell_that_refuses_shows_as_a_failed_handshake() {
    let sshd = Sshd::start("ForceCommand exit 42");
    let error = sshd.pool().fresh_handshake(&sshd.target()).await.unwrap_err();
    assert_eq!(error.stage, Stage::Exec);
    assert_eq!(error.meaning(), Meaning::Sick);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_session_under_a_dial_says_nothing_about_the_node() {
    let server = greeter(b"", true).await;
    let pool = pool();
    let dial = tokio::spawn({
        let (pool, target) = (pool.clone(), target(server.port));
        async move { pool.connect(&target).await }
    });
    crate::sshd::until("the dial is under way", Duration::from_secs(2), || {
        crate::fakes::client_sockets_to(server.port) > 0
    })
    .await;
    pool.drop_session(1);
    let error = dial.await.unwrap().unwrap_err();
    assert_eq!(error.kind, Kind::Dropped);
    assert_eq!(error.meaning(), Meaning::Nothing);
}
