//! What goes on for long with containers, from the command line as users do it: their use, commands in them, connections
//! to their ports; and their ends.

use super::{
    PATIENCE,
    container_life::{rented, shell, system, until},
    system::System,
    user::User,
};
use orion_testkit::{Worker, program, wait_until};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Within so long of its end a right has no effect any more.
const RIGHT_ENDS_WITHIN: Duration = Duration::from_secs(15);

/// `orion ARGUMENTS`, as this user.
pub fn orion(system: &System, user: &User, line: &[&str]) -> Command {
    let mut command = Command::new(program("orion"));
    command.args(line).env("ORION_API", system.url()).env("ORION_TOKEN", &user.token);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to its end with this input; status, standard output and standard error.
fn run_with(command: &mut Command, input: &[u8]) -> (i32, String, String) {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writing = std::thread::spawn(move || {
        // A command that does not read all of it is no fault.
        let _ = stdin.write_all(&input);
    });
    let output: Output = child.wait_with_output().expect("it ends");
    writing.join().expect("it does not panic");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Number of processes on the worker whose command is this one.
fn count(worker: &Worker, command: &str) -> usize {
    let counted = worker.sh(&format!("pgrep -xfc '{command}' || true"));
    counted.trim().parse().expect("a number")
}

async fn until_count(worker: &Worker, command: &str, wanted: usize, limit: Duration) {
    wait_until(&format!("{wanted} of {command}"), limit, async || {
        let found = count(worker, command);
        if found == wanted { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

/// Waits until the program has ended by itself.
async fn until_ended(child: &mut Child, limit: Duration) {
    wait_until("the program ends", limit, async || match child.try_wait().expect("it is ours") {
        Some(_) => Ok(()),
        None => Err("it runs".to_owned()),
    })
    .await;
}

async fn a_log_is_given_whole_its_end_since_a_time_and_as_it_grows(
    system: &System,
    ida: &User,
    (lease, path): (&str, &str),
) {
    // The node's time in the middle, and a pause that no rounding hides.
    let script =
        "echo one; sleep 2; date +%s; echo two >&2; read -r line </tmp/more; echo three; exec sleep 1000";
    ida.post(path, shell("talks", &format!("mkfifo /tmp/more; {script}"))).await.expect(201);
    let logs =
        |words: &[&str]| run_with(&mut orion(system, ida, &[&["logs", lease, "talks"], words].concat()), b"");
    let (_, out, _) = wait_until("it has said two", PATIENCE, async || {
        let (status, out, err) = logs(&[]);
        if err == "two\n" { Ok((status, out, err)) } else { Err(format!("{status} {out} {err}")) }
    })
    .await;
    let time = out.strip_prefix("one\n").expect("the first line").trim_end();
    assert_eq!(logs(&["--tail", "1"]), (0, String::new(), "two\n".to_owned()));
    let since = ida.text(&format!("{path}/talks/logs?since={time}")).await;
    let said: Vec<Value> = since.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let said: Vec<_> = said.iter().map(|line| (line["stream"].as_str(), line["text"].as_str())).collect();
    let time = format!("{time}\n");
    assert_eq!(said, [(Some("stdout"), Some(time.as_str())), (Some("stderr"), Some("two\n"))]);

    let mut following = orion(system, ida, &["logs", "-f", lease, "talks"]).spawn().expect("it starts");
    let mut lines = BufReader::new(following.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("it goes on").expect("a line");
    assert_eq!((next(), next()), ("one".to_owned(), time.trim_end().to_owned()));
    let (status, _, err) = run_with(
        &mut orion(system, ida, &["exec", lease, "talks", "--", "sh", "-c", "echo >/tmp/more"]),
        b"",
    );
    assert_eq!(status, 0, "{err}");
    assert_eq!(next(), "three");
    ida.post(&format!("{path}/talks/stop"), json!({})).await.expect(200);
    until_ended(&mut following, RIGHT_ENDS_WITHIN).await;
    assert!(following.wait().expect("it is ours").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_uses_is_shown_once_and_each_second_until_its_lease_ends() {
    let system = system(1).await;
    let ida = system.user("ida").await;
    let (ticket, path) = rented(&system, &ida).await;
    let mut busy = shell("busy", "while :; do :; done");
    busy["cpus"] = json!(0.5);
    busy["memory_mb"] = json!(64);
    ida.post(&path, busy).await.expect(201);
    let once = ida.get(&format!("{path}/busy/stats")).await.expect(200);
    let used = once["cpus_used"].as_f64().expect("a number");
    assert!((0.1..0.8).contains(&used), "half a core: {once}");
    assert_eq!(once["memory_limit_bytes"], 64 << 20);
    assert!(once["memory_bytes"].as_u64() > Some(0) && once["pids"].as_u64() > Some(0), "{once}");
    assert!(once["read_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{once}");
    system.user("eve").await.get(&format!("{path}/busy/stats")).await.expect(404);

    let lease = ticket.rental_id.to_string();
    let (status, out, err) = run_with(&mut orion(&system, &ida, &["stats", &lease, "--no-stream"]), b"");
    assert_eq!(status, 0, "{err}");
    assert!(
        out.lines().nth(1).is_some_and(|row| row.starts_with("busy ") && row.contains("64.0 MiB")),
        "{out}"
    );

    a_log_is_given_whole_its_end_since_a_time_and_as_it_grows(&system, &ida, (&lease, &path)).await;
    let mut following =
        orion(&system, &ida, &["-o", "json", "stats", &lease, "busy"]).spawn().expect("it starts");
    let mut lines = BufReader::new(following.stdout.take().expect("a pipe")).lines();
    for _ in 0..3 {
        let line = lines.next().expect("it goes on").expect("a line");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line["name"], "busy");
    }
    // It ends with the container, without an error.
    ida.post(&format!("{path}/busy/stop"), json!({})).await.expect(200);
    until_ended(&mut following, RIGHT_ENDS_WITHIN).await;
    assert!(following.wait().expect("it is ours").success());
    let refused = ida.get(&format!("{path}/busy/stats")).await.expect(409);
    assert_eq!(refused["kind"], "container_state");
    ida.release(ticket.rental_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_pipes_or_a_terminal_and_its_exit_code_and_ends_with_its_client_or_its_right() {
    let system = system(1).await;
    let (worker, ida) = (&system.workers()[0], system.user("ida").await);
    let (ticket, path) = rented(&system, &ida).await;
    let lease = ticket.rental_id.to_string();
    ida.post(&path, shell("web", "exec sleep 10000")).await.expect(201);
    let exec = |more: &[&str], command: &[&str]| {
        let mut line = vec!["exec"];
        line.extend(more);
        line.extend([lease.as_str(), "web", "--"]);
        line.extend(command);
        orion(&system, &ida, &line)
    };

    // In pipes: input to its end, both outputs apart, the exit code.
    let script = "wc -c; echo \"$WORD\" >&2; exit 7";
    let (status, out, err) =
        run_with(&mut exec(&["-i", "-e", "WORD=a b"], &["sh", "-c", script]), &[b'x'; 3_000_000]);
    assert_eq!((status, out.trim(), err.as_str()), (7, "3000000", "a b\n"));
    let (status, out, err) =
        run_with(&mut exec(&[], &["sh", "-c", "cat; head -c 5000000 /dev/zero"]), b"unread");
    assert_eq!((status, out.len()), (0, 5_000_000), "{err}");
    let (status, _, err) = run_with(&mut exec(&["-i"], &["head", "-c", "1"]), &[b'x'; 3_000_000]);
    assert_eq!((status, err.as_str()), (0, ""), "a command that does not read its input");
    let (status, out, err) = run_with(&mut exec(&[], &["/no/such"]), b"");
    assert!(
        [126, 127].contains(&status) && format!("{out}{err}").contains("/no/such"),
        "{status} {out}{err}"
    );
    let (status, _, err) = run_with(&mut exec(&["-t"], &["id"]), b"");
    assert!(status == 1 && err.contains("no terminal"), "{status} {err}");
    let (status, _, err) = run_with(&mut orion(&system, &ida, &["exec", &lease, "nothing", "--", "id"]), b"");
    assert!(status == 4 && err.contains("no container 'nothing'"), "{status} {err}");

    a_terminal_follows_its_size(&system, &ida, &lease);

    // A client that vanishes, and one that is asked to end.
    for signal in ["-KILL", "-TERM"] {
        let mut gone = exec(&["-i"], &["sleep", "7001"]).stdin(Stdio::piped()).spawn().expect("it starts");
        until_count(worker, "sleep 7001", 1, PATIENCE).await;
        Command::new("kill").args([signal, &gone.id().to_string()]).status().expect("kill");
        until_count(worker, "sleep 7001", 0, Duration::from_secs(10)).await;
        gone.wait().expect("it is ours");
    }

    // More than eight at once.
    let mut eight: Vec<Child> =
        (0..8).map(|_| exec(&[], &["sleep", "7002"]).spawn().expect("it starts")).collect();
    until_count(worker, "sleep 7002", 8, PATIENCE).await;
    let (status, _, err) = run_with(&mut exec(&[], &["id"]), b"");
    assert!(status == 5 && err.contains("the lease has 8 commands open"), "{status} {err}");

    // The right ends with a logout, the container with a stop.
    let ida = ida.logged_in("ida", &ida.password).await;
    ida.post("/api/auth/logout", json!({})).await.expect(200);
    let logged_out = Instant::now();
    for child in &mut eight {
        until_ended(child, RIGHT_ENDS_WITHIN).await;
    }
    assert!(logged_out.elapsed() < RIGHT_ENDS_WITHIN, "{:?}", logged_out.elapsed());
    until_count(worker, "sleep 7002", 0, Duration::from_secs(5)).await;
    let ida = ida.logged_in("ida", &ida.password).await;
    let mut last =
        orion(&system, &ida, &["exec", &lease, "web", "--", "sleep", "7003"]).spawn().expect("it starts");
    until_count(worker, "sleep 7003", 1, PATIENCE).await;
    ida.release(ticket.rental_id).await;
    until_ended(&mut last, RIGHT_ENDS_WITHIN).await;
    assert_eq!(count(worker, "sleep 7003"), 0);
}

/// `orion exec -it` in a terminal of `script`'s.
fn a_terminal_follows_its_size(system: &System, ida: &User, lease: &str) {
    let inside = "while [ -z \"$(stty size 2>/dev/null)\" ]; do :; done; stty size; echo ready; read word; stty size; echo got $word; exit 6";
    let line = format!(
        "stty rows 33 cols 91; (while ! [ -e $DONE ]; do sleep 0.1; done; stty rows 50 cols 100 </dev/tty) & \
         {} exec -it {lease} web -- sh -c '{inside}'; echo status=$?; stty -a | grep -o '[-]*icanon'",
        program("orion").display()
    );
    let directory = tempfile::tempdir().expect("a directory");
    let done = directory.path().join("done");
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("DONE", &done).env("SHELL", "/bin/sh");
    command.env("ORION_API", system.url()).env("ORION_TOKEN", &ida.token).env("TERM", "xterm");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script (Debian: bsdutils)");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut seen = String::new();
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    for line in lines.by_ref() {
        let line = line.expect("a line");
        seen.push_str(&line);
        if line.contains("ready") {
            break;
        }
    }
    assert!(seen.contains("33 91"), "{seen}");
    std::fs::write(&done, "").expect("a file");
    // The new size needs a moment to get there; it has no other sign.
    std::thread::sleep(Duration::from_secs(1));
    stdin.write_all(b"word\r").expect("it reads");
    for line in lines {
        seen.push_str(&line.expect("a line"));
    }
    child.wait().expect("it is ours");
    for wanted in ["50 100", "got word", "status=6"] {
        assert!(seen.contains(wanted), "{wanted}: {seen}");
    }
    assert!(
        seen.trim().ends_with("icanon") && !seen.contains("-icanon"),
        "the terminal is as before: {seen}"
    );
}

/// `orion forward`, and the local port that it listens at.
fn forwarding(system: &System, user: &User, lease: &str, remote: u16) -> (Child, u16) {
    let ports = format!("0:{remote}");
    let mut child = orion(system, user, &["forward", lease, "web", &ports]).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let line = lines.next().expect("it says where").expect("a line");
    let port = line.split_whitespace().next().and_then(|at| at.rsplit(':').next()).expect("an address");
    let port = port.parse().unwrap_or_else(|_| panic!("{line}"));
    // What it says later must find somebody who reads.
    std::thread::spawn(move || lines.for_each(drop));
    (child, port)
}

/// Sends `input` and its end; what comes back. Nothing where the connection is refused.
async fn exchanged(port: u16, input: &[u8]) -> Vec<u8> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let (mut read, mut write) = stream.into_split();
    let input = input.to_vec();
    let writing = tokio::spawn(async move {
        // Where nobody listens in the container it is reset.
        let _ = write.write_all(&input).await;
        let _ = write.shutdown().await;
        write
    });
    let mut all = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, read.read_to_end(&mut all)).await.expect("it ends");
    assert!(ended.is_ok() || all.is_empty(), "reset after {} bytes: {ended:?}", all.len());
    drop(writing.await.expect("it does not panic"));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_port_leads_to_the_container_of_its_lease_and_to_no_other() {
    let system = system(1).await;
    let (worker, ida) = (&system.workers()[0], system.user("ida").await);
    let (ticket, path) = rented(&system, &ida).await;
    let lease = ticket.rental_id.to_string();
    // Port 80 answers and closes, port 81 gives back what comes after its end.
    let script = "mkdir /www; head -c 3000000 /dev/zero >/www/big; echo hello >/www/index.html; httpd -p 80 -h /www; \
                  printf '#!/bin/sh\nmd5sum; cat /etc/image\n' >/answer; chmod +x /answer; exec nc -ll -p 81 -e /answer";
    ida.post(&path, shell("web", script)).await.expect(201);
    let web = format!("{path}/web/forward?port=80");
    // Without a handshake of a WebSocket, and somebody else's.
    assert_eq!(ida.get(&web).await.status, 400);
    for forwards in ["yes", "no"] {
        if forwards == "no" {
            worker.sh("echo 'AllowTcpForwarding no' >/etc/ssh/sshd_config.d/10-site.conf");
            worker.reload_sshd();
        }
        let (mut program, port) = forwarding(&system, &ida, &lease, 80);
        let asked =
            async |what: &str| exchanged(port, format!("GET {what} HTTP/1.0\r\n\r\n").as_bytes()).await;
        wait_until("the container answers", PATIENCE, async || {
            let reply = asked("/").await;
            let text = String::from_utf8_lossy(&reply).into_owned();
            if text.ends_with("\r\n\r\nhello\n") {
                Ok(())
            } else {
                Err(format!("forwarding {forwards}: {text}"))
            }
        })
        .await;
        let all = futures_util::future::join_all((0..10).map(|_| asked("/big"))).await;
        assert!(
            all.iter().all(|reply| reply.len() > 3_000_000),
            "{:?}",
            all.iter().map(Vec::len).collect::<Vec<_>>()
        );
        program.kill().expect("it is ours");
        program.wait().expect("it is ours");

        let (mut program, port) = forwarding(&system, &ida, &lease, 81);
        let reply = String::from_utf8(exchanged(port, &[b'x'; 2_000_000]).await).expect("a text");
        assert!(reply.contains("  -\nbb:1\n"), "an answer after the end of the question: {reply}");
        program.kill().expect("it is ours");
        program.wait().expect("it is ours");

        // Nobody listens there: the connection is closed, and the program goes on.
        let (mut program, port) = forwarding(&system, &ida, &lease, 82);
        assert_eq!(exchanged(port, b"").await, b"");
        assert!(program.try_wait().expect("it is ours").is_none());
        program.kill().expect("it is ours");
        program.wait().expect("it is ours");
    }

    let eve = system.user("eve").await;
    let (status, _, err) = run_with(&mut orion(&system, &eve, &["forward", &lease, "web", "80"]), b"");
    assert!(status == 4, "{status} {err}");

    // It ends with the container.
    let (mut program, port) = forwarding(&system, &ida, &lease, 81);
    let mut held = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    held.write_all(b"x").await.expect("it is taken");
    ida.post(&format!("{path}/web/stop"), json!({})).await.expect(200);
    until(&ida, &format!("{path}/web"), "exited").await;
    let ended = tokio::time::timeout(RIGHT_ENDS_WITHIN, held.read(&mut [0; 16])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    program.kill().expect("it is ours");
    program.wait().expect("it is ours");
    ida.release(ticket.rental_id).await;
}
