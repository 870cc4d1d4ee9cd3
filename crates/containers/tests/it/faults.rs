//! Engines that are down, hang, are not there, speak an old API or answer nonsense; sites that forward nothing.

use std::time::{Duration, Instant};

use orion_containers::{EngineError, EngineMeaning};
use orion_ssh::PoolConfig;

use crate::node::{Node, placement, shell, spec};

/// Listens at Docker's socket in place of the engine and answers every connection with this text.
fn answer(node: &Node, text: &str) {
    node.worker().sh("pkill -f [o]rion-fake-engine; rm -f /run/docker.sock; true");
    let program = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind("/run/docker.sock"); s.listen(16)
text = sys.argv[1].encode().decode("unicode_escape").encode("latin-1")
while True:
    c, _ = s.accept()
    if os.fork() == 0:
        c.recv(65536)
        try:
            c.sendall(text)
            while c.recv(65536): pass
        except OSError: pass
        os._exit(0)
"#;
    node.worker().sh(&format!(
        "cat >/tmp/orion-fake-engine <<'END'\n{program}\nEND\n\
         setsid python3 /tmp/orion-fake-engine '{text}' </dev/null >/dev/null 2>&1 & \
         until [ -S /run/docker.sock ]; do sleep 0.01; done"
    ));
}

fn reply(body: &str) -> String {
    format!("HTTP/1.1 200 OK\\r\\nContent-Length: {}\\r\\n\\r\\n{body}", body.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_an_engine_is_told_within_its_limit_and_ends_with_it() {
    let node = Node::start();
    let engine = node.engine();
    engine.list_containers().await.unwrap();

    node.worker().freeze_engine();
    let began = Instant::now();
    let error = engine.list_containers().await.unwrap_err();
    assert!(matches!(error, EngineError::TimedOut(_)), "{error}");
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    node.worker().thaw_engine();
    engine.list_containers().await.unwrap();

    let mut events = engine.events().await.unwrap();
    node.worker().stop_engine();
    let ended = tokio::time::timeout(Duration::from_secs(5), events.next()).await.expect("it ends at once");
    assert!(ended.is_none_or(|event| event.is_err()), "the stream of an engine that died");
    let error = engine.list_containers().await.unwrap_err();
    assert_eq!(error.meaning(), EngineMeaning::EngineDown, "{error}");

    let old = reply(r#"{"Version":"19.03","ApiVersion":"1.40"}"#);
    let nonsense = reply("{");
    let long = format!("HTTP/1.1 200 OK\\r\\nContent-Length: 99999999\\r\\n\\r\\n{}", "x".repeat(1000));
    for (text, meaning) in [
        (old.as_str(), EngineMeaning::Unusable),
        (nonsense.as_str(), EngineMeaning::EngineDown),
        ("220 smtp.example ESMTP\\r\\n", EngineMeaning::EngineDown),
        ("HTTP/1.1 500 Oops\\r\\nContent-Length: 0\\r\\n\\r\\n", EngineMeaning::EngineDown),
        (long.as_str(), EngineMeaning::EngineDown),
    ] {
        answer(&node, text);
        let error = engine.list_containers().await.unwrap_err();
        assert_eq!(error.meaning(), meaning, "{text}: {error}");
    }
    node.worker().sh("pkill -f [o]rion-fake-engine; rm -f /run/docker.sock");
    node.worker().start_engine();
    engine.list_containers().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_sshd_forwards_nothing_the_engines_own_program_is_the_way() {
    let node = Node::start();
    node.worker().sh("echo 'AllowStreamLocalForwarding no' >/etc/ssh/sshd_config.d/10-site.conf");
    node.worker().reload_sshd();
    let engine = node.engine_with(PoolConfig::default());
    let info = engine.info().await.unwrap();
    assert!(!info.is_forwarded);
    let created = engine.create(&spec(shell("exit 0")), &placement()).await.unwrap();
    engine.remove(&created.id).await.unwrap();
    node.worker().stop_engine();
    let error = engine.list_containers().await.unwrap_err();
    assert_eq!(error.meaning(), EngineMeaning::EngineDown, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_the_making_of_a_container_with_its_name() {
    let node = Node::start();
    let engine = node.engine();
    node.worker().sh("head -c 4G /dev/zero >/var/lib/docker/filled 2>/dev/null; true");
    let mut request = shell("true");
    request.files = [("/big".to_owned(), orion_domain::Secret::new("x".repeat(900_000)))].into();
    let error = engine.create(&spec(request), &placement()).await.unwrap_err();
    assert_eq!(error.meaning(), EngineMeaning::NoSpace, "{error}");
    node.worker().sh("rm /var/lib/docker/filled");
    engine.create(&spec(shell("true")), &placement()).await.unwrap();
}
