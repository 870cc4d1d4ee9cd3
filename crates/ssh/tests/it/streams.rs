//! Byte streams to sockets and commands of a node.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use orion_ssh::{Endpoint, Kind, PoolConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::sshd::{Sshd, command};

const LIMIT: Duration = Duration::from_secs(10);

/// A socket that sends back what it gets; returns its path.
fn echo(dir: &tempfile::TempDir) -> Endpoint {
    let path = dir.path().join("echo");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut writer = connection.try_clone().unwrap();
                // Ends when the other side does.
                let _ = std::io::copy(&mut &connection, &mut writer);
            });
        }
    });
    Endpoint::Socket(path.display().to_string())
}

#[tokio::test]
async fn a_stream_reaches_a_socket_and_a_command_on_either_kind_of_session() {
    let (sshd, dir) = (Sshd::start(""), tempfile::tempdir().unwrap());
    let (pool, target) = (sshd.pool(), sshd.target());
    for endpoint in [echo(&dir), Endpoint::Command("exec cat".into())] {
        let pooled = pool.open_stream(&target, &endpoint, LIMIT).await.unwrap();
        let own = pool.open_own_stream(&target, &endpoint, LIMIT).await.unwrap();
        for mut stream in [pooled, own] {
            stream.write_all(b"hello").await.unwrap();
            let mut back = [0; 5];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"hello", "{endpoint:?}");
        }
    }
    assert_eq!(pool.session_count(), 1, "those of streams are their own");
}

#[tokio::test]
async fn a_stream_that_is_not_read_stalls_nothing_else_and_ends_with_an_error() {
    let (sshd, dir) = (Sshd::start(""), tempfile::tempdir().unwrap());
    let pool = sshd.pool_with(PoolConfig { unread_max_bytes: 64 * 1024, ..PoolConfig::default() });
    let target = sshd.target();
    let mut stream = pool.open_stream(&target, &echo(&dir), LIMIT).await.unwrap();
    let flood = vec![b'x'; 8 * 1024 * 1024];
    stream.write_all(&flood).await.unwrap();
    let output = pool.exec(&target, command("echo alive", LIMIT)).await.unwrap();
    assert_eq!(output.stdout, b"alive\n");
    let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory);
}

#[tokio::test]
async fn a_stream_of_its_own_waits_for_its_reader_and_loses_nothing() {
    let sshd = Sshd::start("");
    let pool = sshd.pool();
    let endpoint = Endpoint::Command("exec head -c 16777216 /dev/zero".into());
    let mut stream = pool.open_own_stream(&sshd.target(), &endpoint, LIMIT).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), 16 * 1024 * 1024);
}

#[tokio::test]
async fn a_socket_where_nobody_listens_and_forwarding_that_is_shut_are_refused_and_the_session_stays() {
    for (more, path) in [("", "/nowhere"), ("AllowStreamLocalForwarding no", "echo")] {
        let (sshd, dir) = (Sshd::start(more), tempfile::tempdir().unwrap());
        let (pool, target) = (sshd.pool(), sshd.target());
        let endpoint = if path == "echo" { echo(&dir) } else { Endpoint::Socket(path.into()) };
        let error = pool.open_stream(&target, &endpoint, LIMIT).await.unwrap_err();
        assert!(error.is_channel_refused(), "{error}");
        assert!(pool.is_connected(target.node_id));
        let mut stream = pool.open_stream(&target, &Endpoint::Command("echo x".into()), LIMIT).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "x\n", "a command needs no forwarding");
    }
}

#[tokio::test]
async fn there_is_a_limit_for_streams_with_sessions_of_their_own() {
    let sshd = Sshd::start("");
    let pool = sshd.pool_with(PoolConfig { own_streams_per_node_max: 1, ..PoolConfig::default() });
    let (target, endpoint) = (sshd.target(), Endpoint::Command("exec cat".into()));
    let first = pool.open_own_stream(&target, &endpoint, LIMIT).await.unwrap();
    let error = pool.open_own_stream(&target, &endpoint, LIMIT).await.unwrap_err();
    assert_eq!(error.kind, Kind::Busy);
    drop(first);
    pool.open_own_stream(&target, &endpoint, LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_connection_goes_to_a_port_ends_in_each_direction_and_says_why_it_does_not_come_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = String::new();
        stream.read_to_string(&mut asked).await.unwrap();
        stream.write_all(asked.to_uppercase().as_bytes()).await.unwrap();
    });
    let sshd = Sshd::start("");
    let (pool, endpoint) = (sshd.pool(), Endpoint::Tcp(at.ip(), at.port()));
    let mut stream = pool.open_own_stream(&sshd.target(), &endpoint, LIMIT).await.unwrap();
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "QUESTION");
    serving.await.unwrap();
    let error = pool.open_own_stream(&sshd.target(), &endpoint, LIMIT).await.unwrap_err();
    assert!(error.is_channel_refused() && !error.is_forwarding_shut(), "nobody listens any more: {error}");
    let sshd = Sshd::start("AllowTcpForwarding no");
    let error = sshd.pool().open_own_stream(&sshd.target(), &endpoint, LIMIT).await.unwrap_err();
    assert!(error.is_forwarding_shut(), "{error}");
}
