//! Logs, events and terminals.

use std::time::{Duration, Instant};

use orion_containers::{
    EventAction, Exec, ExecOutput, ExecRequest, LogOptions, LogSource, Terminal, TtySize,
};
use orion_testkit::wait_until;
use tokio::time::timeout;

use crate::node::{Node, placement, shell, spec};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_with_both_streams_apart_and_ends_with_the_container() {
    let node = Node::shared();
    let engine = node.engine();
    let script = "echo one; echo two >&2; sleep 0.3; echo three";
    let created = engine.create(&spec(shell(script)), &placement()).await.unwrap();
    node.run(&created.id);
    let mut log =
        engine.logs(&created.id, &LogOptions { follow: true, ..LogOptions::default() }).await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(chunk) = timeout(LIMIT, log.next()).await.expect("it ends") {
        let chunk = chunk.unwrap();
        match chunk.source {
            LogSource::Stdout => out.extend_from_slice(&chunk.bytes),
            LogSource::Stderr => err.extend_from_slice(&chunk.bytes),
        }
    }
    assert_eq!((out.as_slice(), err.as_slice()), (&b"one\nthree\n"[..], &b"two\n"[..]));
    let last = engine.last_lines(&created.id, 1).await.unwrap();
    assert_eq!(last.len(), 1);
    assert_eq!(&last[0].bytes[..], b"three\n");
    engine.remove(&created.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_does_not_read_hinders_no_other_call_and_the_log_keeps_its_size() {
    let node = Node::shared();
    let engine = node.engine();
    let script = "i=0; while [ $i -lt 400000 ]; do echo 0123456789012345678901234567890123456789012345678901234567; \
                  i=$((i + 1)); done; sleep 60";
    let created = engine.create(&spec(shell(script)), &placement()).await.unwrap();
    node.run(&created.id);
    let _idle =
        engine.logs(&created.id, &LogOptions { follow: true, ..LogOptions::default() }).await.unwrap();
    let began = Instant::now();
    for _ in 0..20 {
        engine.inspect(&created.id).await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let size = node
        .worker()
        .sh(&format!("sleep 1; cat /var/lib/docker/containers/{}/*-json.log* | wc -c", created.id));
    assert!(size.trim().parse::<u64>().unwrap() <= 21_000_000, "{size}");
    engine.remove(&created.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_is_told_at_once_with_its_code() {
    let node = Node::shared();
    let engine = node.engine();
    let mut events = engine.events().await.unwrap();
    let placement = placement();
    let created = engine.create(&spec(shell("sleep 0.2; exit 5")), &placement).await.unwrap();
    node.run(&created.id);
    let mut seen = Vec::new();
    while seen.last() != Some(&EventAction::Ended { code: Some(5) }) {
        let event = timeout(LIMIT, events.next()).await.expect("in time").expect("it goes on").unwrap();
        if event.container.as_ref() == Some(&placement.container_ulid) {
            assert_eq!((event.lease.as_str(), event.epoch), (placement.lease_ulid.as_str(), Some(1)));
            seen.push(event.action);
        }
    }
    assert_eq!(seen, [EventAction::Created, EventAction::Started, EventAction::Ended { code: Some(5) }]);
    engine.remove(&created.id).await.unwrap();
}

async fn read_until(output: &mut ExecOutput, text: &str) -> String {
    let mut all = String::new();
    let reading = async {
        while !all.contains(text) {
            let chunk = output.next().await.unwrap_or_else(|| panic!("it ended: {all}"));
            all.push_str(&String::from_utf8_lossy(&chunk.expect("it is read").bytes));
        }
    };
    let read = timeout(LIMIT, reading).await;
    assert!(read.is_ok(), "no {text:?} came: {all:?}");
    all
}

/// Both outputs to their end.
async fn read_whole(output: &mut ExecOutput) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    while let Some(chunk) = timeout(LIMIT, output.next()).await.expect("it ends") {
        let chunk = chunk.expect("it is read");
        let text = String::from_utf8_lossy(&chunk.bytes).into_owned();
        match chunk.source {
            LogSource::Stdout => out.push_str(&text),
            LogSource::Stderr => err.push_str(&text),
        }
    }
    (out, err)
}

async fn code_of(exec: &Exec) -> i64 {
    wait_until("the exit code is there", LIMIT, async || {
        exec.exit_code().await.map_err(|error| error.to_string())?.ok_or_else(|| "it runs".to_owned())
    })
    .await
}

fn terminal() -> Terminal {
    Terminal { size: TtySize { columns: 91, rows: 33 }, term: "xterm".into() }
}

/// Processes of a container by a part of their command.
fn left(node: &Node, id: &str, text: &str) -> String {
    node.worker()
        .sh(&format!("docker top {id} -eo pid,args | grep -c '^ *[0-9]* *{text}' || true"))
        .trim()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_its_size_takes_another_and_gives_the_exit_code() {
    let node = Node::shared();
    let engine = node.engine();
    let created = engine.create(&spec(shell("exec sleep 600")), &placement()).await.unwrap();
    node.run(&created.id);
    let request = ExecRequest {
        command: vec!["sh".into()],
        terminal: Some(terminal()),
        stdin: true,
        ..ExecRequest::default()
    };
    let exec = engine.exec(&created.id, &request).await.unwrap();
    let (mut input, mut output) = exec.start(request.terminal.as_ref()).await.unwrap();
    input.write(b"stty size; echo term=$TERM\n").await.unwrap();
    let shown = read_until(&mut output, "term=xterm").await;
    assert!(shown.contains("33 91"), "{shown}");
    exec.resize(TtySize { columns: 100, rows: 50 }).await.unwrap();
    input.write(b"stty size\n").await.unwrap();
    read_until(&mut output, "50 100").await;
    assert_eq!(exec.exit_code().await.unwrap(), None);
    input.write(b"exit 6\n").await.unwrap();
    read_whole(&mut output).await;
    assert_eq!(code_of(&exec).await, 6);

    let gone = engine.exec(&created.id, &request).await.unwrap();
    let id = gone.id().to_owned();
    drop(gone.start(request.terminal.as_ref()).await.unwrap());
    drop(gone);
    assert_eq!(left(&node, &created.id, "sh$"), "1", "an engine leaves it running");
    assert!(engine.exec_of(&id).await.unwrap().end().await.unwrap());
    assert_eq!(left(&node, &created.id, "sh$"), "0", "the shell of a client that vanished");
    engine.remove(&created.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_outputs_stay_apart_input_ends_and_nothing_is_left_of_a_session_that_was_ended() {
    let node = Node::shared();
    let engine = node.engine();
    let created = engine.create(&spec(shell("exec sleep 600")), &placement()).await.unwrap();
    node.run(&created.id);
    let request = |script: &str, stdin| ExecRequest {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        stdin,
        env: vec![("WORD".into(), "a b".into())],
        ..ExecRequest::default()
    };
    let exec = engine.exec(&created.id, &request("wc -c; echo \"$WORD\" >&2; exit 5", true)).await.unwrap();
    let (mut input, mut output) = exec.start(None).await.unwrap();
    for _ in 0..100 {
        input.write(&[b'x'; 10_000]).await.unwrap();
    }
    input.finish().await.unwrap();
    assert_eq!(read_whole(&mut output).await, ("1000000\n".to_owned(), "a b\n".to_owned()));
    assert_eq!(code_of(&exec).await, 5);

    let exec = engine.exec(&created.id, &request("cat; echo over", false)).await.unwrap();
    let (_input, mut output) = exec.start(None).await.unwrap();
    assert_eq!(read_whole(&mut output).await, ("over\n".to_owned(), String::new()), "no input");

    let nothing = ExecRequest { command: vec!["/no/such".into()], ..ExecRequest::default() };
    let exec = engine.exec(&created.id, &nothing).await.unwrap();
    let (_input, mut output) = exec.start(None).await.unwrap();
    let (out, err) = read_whole(&mut output).await;
    assert!(format!("{out}{err}").contains("/no/such"), "{out}{err}");
    assert!(matches!(code_of(&exec).await, 126 | 127));

    let script = "trap '' HUP; sleep 1001 & sleep 1002; echo never";
    let exec = engine.exec(&created.id, &request(script, true)).await.unwrap();
    let streams = exec.start(None).await.unwrap();
    wait_until("it runs", LIMIT, async || {
        let count = left(&node, &created.id, "sleep 100[12]");
        if count == "2" { Ok(()) } else { Err(count) }
    })
    .await;
    drop(streams);
    assert_eq!(left(&node, &created.id, "sleep 100[12]"), "2", "an engine leaves them running");
    // The number of the process is enough.
    node.worker().freeze_engine();
    assert!(exec.end().await.unwrap());
    node.worker().thaw_engine();
    assert_eq!(left(&node, &created.id, "sleep 100[12]"), "0");
    assert_eq!(left(&node, &created.id, "sleep 600"), "1", "the container itself");
    assert!(exec.end().await.unwrap(), "again");
    engine.remove(&created.id).await.unwrap();
}
