//! Commands on the pooled session: results, bounds, many at once.

use std::time::Duration;

use orion_ssh::{Kind, Meaning, PoolConfig, Stage};

use crate::sshd::{Sshd, command, until};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_command_reports_its_status_and_both_outputs() {
    let sshd = Sshd::start("");
    let pool = sshd.pool();
    let output = pool.exec(&sshd.target(), command("echo out; echo err >&2; exit 7", LIMIT)).await.unwrap();
    assert_eq!((output.status, output.is_success()), (7, false));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert!(!output.stdout_truncated && !output.stderr_truncated && !output.output_left_open);
}

#[tokio::test]
async fn a_command_killed_by_a_signal_reports_it_like_a_shell() {
    let sshd = Sshd::start("");
    let output = sshd.pool().exec(&sshd.target(), command("kill -KILL $$", LIMIT)).await.unwrap();
    assert_eq!(output.status, 137);
}

#[tokio::test]
async fn input_is_sent_whole_and_then_ends() {
    let sshd = Sshd::start("");
    let mut request = command("sha256sum; wc -c < /dev/null", LIMIT);
    // More than the channel's window on both sides.
    request.stdin = vec![b'x'; 5 * 1024 * 1024];
    let output = sshd.pool().exec(&sshd.target(), request).await.unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let local = std::process::Command::new("sh")
        .args(["-c", "head -c 5242880 /dev/zero | tr '\\0' x | sha256sum"])
        .output()
        .unwrap();
    assert_eq!(
        shown.split_whitespace().next(),
        std::str::from_utf8(&local.stdout).unwrap().split_whitespace().next()
    );
}

#[tokio::test]
async fn a_command_that_echoes_a_large_input_does_not_block() {
    let sshd = Sshd::start("");
    let mut request = command("cat", LIMIT);
    request.stdin = vec![b'y'; 6 * 1024 * 1024];
    request.output_max_bytes = 8 * 1024 * 1024;
    let output = sshd.pool().exec(&sshd.target(), request).await.unwrap();
    assert_eq!(output.stdout.len(), 6 * 1024 * 1024);
    assert!(!output.stdout_truncated);
}

#[tokio::test]
async fn a_command_that_does_not_read_its_input_still_ends() {
    let sshd = Sshd::start("");
    let mut request = command("exit 3", LIMIT);
    request.stdin = vec![b'z'; 8 * 1024 * 1024];
    assert_eq!(sshd.pool().exec(&sshd.target(), request).await.unwrap().status, 3);
}

#[tokio::test]
async fn a_large_output_is_cut_at_its_bound_and_drained() {
    let sshd = Sshd::start("");
    let mut request = command("head -c 20000000 /dev/zero; head -c 3000000 /dev/zero >&2; exit 4", LIMIT);
    request.output_max_bytes = 1000;
    let output = sshd.pool().exec(&sshd.target(), request).await.unwrap();
    assert_eq!((output.status, output.stdout.len(), output.stderr.len()), (4, 1000, 1000));
    assert!(output.stdout_truncated && output.stderr_truncated);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_output_does_not_stall_the_sessions_keepalive() {
    let sshd = Sshd::start("");
    let (pool, target) = (sshd.pool(), sshd.target());
    pool.connect(&target).await.unwrap();
    // The future is polled once and then left alone: nobody reads, from the caller's point of view.
    let mut flood =
        Box::pin(pool.exec(&target, command("exec timeout -k 1 20 yes", Duration::from_secs(20))));
    let polled = tokio::time::timeout(Duration::from_millis(300), &mut flood).await;
    assert!(polled.is_err(), "it ended early: {polled:?}");
    for _ in 0..10 {
        pool.keepalive(&target, Duration::from_secs(2)).await.unwrap();
    }
    let output = pool.exec(&target, command("echo fine", LIMIT)).await.unwrap();
    assert_eq!(output.stdout, b"fine\n");
    drop(flood);
    until("the flood's session is gone", LIMIT, || sshd.sessions().len() <= 1).await;
}

#[tokio::test]
async fn a_background_process_that_holds_the_output_does_not_hold_the_command() {
    let sshd = Sshd::start("");
    let pool = sshd.pool();
    let started = std::time::Instant::now();
    let request = command("timeout -k 1 8 sleep 8.444 & echo started", Duration::from_secs(30));
    let output = pool.exec(&sshd.target(), request).await.unwrap();
    assert_eq!(output.stdout, b"started\n");
    assert!(output.output_left_open);
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_commands_at_once_share_one_session() {
    let sshd = Sshd::start("");
    let (pool, target) = (sshd.pool(), sshd.target());
    let commands: Vec<_> = (0..32)
        .map(|number| {
            let (pool, target) = (pool.clone(), target.clone());
            tokio::spawn(async move { pool.exec(&target, command(format!("echo {number}"), LIMIT)).await })
        })
        .collect();
    for (number, running) in commands.into_iter().enumerate() {
        let output = running.await.unwrap().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{number}\n"));
    }
    assert_eq!((pool.session_count(), sshd.sessions().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_commands_run_at_once_on_a_node_than_the_limit() {
    let sshd = Sshd::start("");
    let config = PoolConfig { channels_per_node_max: 2, ..PoolConfig::default() };
    let (pool, target) = (sshd.pool_with(config), sshd.target());
    let began = [sshd.path().join("first"), sshd.path().join("second")];
    let long = |began: &std::path::Path| {
        let (pool, target) = (pool.clone(), target.clone());
        let text = format!("touch {}; sleep 2", began.display());
        tokio::spawn(async move { pool.exec(&target, command(text, LIMIT)).await })
    };
    let (first, second) = (long(&began[0]), long(&began[1]));
    until("both run", LIMIT, || began.iter().all(|file| file.exists())).await;
    let error = pool.exec(&target, command("true", Duration::from_millis(200))).await.unwrap_err();
    assert_eq!((error.stage, error.kind.clone()), (Stage::Open, Kind::Busy));
    assert_eq!(error.meaning(), Meaning::Nothing);
    assert!(first.await.unwrap().unwrap().is_success());
    assert!(second.await.unwrap().unwrap().is_success());
    assert!(pool.exec(&target, command("true", LIMIT)).await.unwrap().is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_channel_leads_to_one_more_dial_and_no_second_run() {
    let sshd = Sshd::start("MaxSessions 1");
    let (pool, target) = (sshd.pool(), sshd.target());
    let (began, count) = (sshd.path().join("began"), sshd.path().join("count"));
    let holder = tokio::spawn({
        let (pool, target) = (pool.clone(), target.clone());
        let text = format!("touch {}; sleep 1; echo held", began.display());
        async move { pool.exec(&target, command(text, LIMIT)).await }
    });
    until("the first command runs", LIMIT, || began.exists()).await;
    let text = format!("echo x >> {}", count.display());
    assert!(pool.exec(&target, command(text, LIMIT)).await.unwrap().is_success());
    assert_eq!(std::fs::read_to_string(count).unwrap(), "x\n");
    assert_eq!(holder.await.unwrap().unwrap().stdout, b"held\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_died_unnoticed_is_dialled_again_for_the_next_command() {
    let sshd = Sshd::start("");
    let (pool, target) = (sshd.pool(), sshd.target());
    for round in 0..20 {
        pool.connect(&target).await.unwrap();
        for pid in sshd.sessions() {
            Sshd::signal(pid, "KILL");
        }
        let output = pool.exec(&target, command(format!("echo {round}"), LIMIT)).await;
        // The kill may come late enough to hit the command itself; it is then never sent twice.
        match output {
            Ok(output) => assert_eq!(output.stdout, format!("{round}\n").into_bytes()),
            Err(error) => assert_eq!(error.kind, Kind::OutcomeUnknown, "{error:?}"),
        }
    }
}

#[tokio::test]
async fn another_address_for_the_same_node_drops_the_old_session() {
    let (old, new) = (Sshd::start(""), Sshd::start(""));
    // Both know the same authority: that of the old one.
    std::fs::write(new.path().join("ca.pub"), old.ca.public_line() + "\n").unwrap();
    let pool = old.pool();
    pool.connect(&old.target()).await.unwrap();
    pool.connect(&new.target()).await.unwrap();
    assert_eq!(pool.session_count(), 1);
    until("the old session is gone", LIMIT, || old.sessions().is_empty()).await;
    let error = pool.keepalive(&old.target(), LIMIT).await.unwrap_err();
    assert_eq!(error.kind, Kind::NoSession);
    pool.keepalive(&new.target(), LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_fresh_handshake_leaves_the_pooled_session_alone() {
    let sshd = Sshd::start("");
    let (pool, target) = (sshd.pool(), sshd.target());
    pool.fresh_handshake(&target).await.unwrap();
    assert_eq!(pool.session_count(), 0);
    pool.connect(&target).await.unwrap();
    let session = sshd.sessions();
    pool.fresh_handshake(&target).await.unwrap();
    until("the fresh session is gone", LIMIT, || sshd.sessions() == session).await;
    pool.keepalive(&target, LIMIT).await.unwrap();
}

#[tokio::test]
async fn dropping_the_pool_ends_its_sessions() {
    let sshd = Sshd::start("");
    let pool = sshd.pool();
    pool.connect(&sshd.target()).await.unwrap();
    assert_eq!(sshd.sessions().len(), 1);
    drop(pool);
    until("sshd's session is gone", LIMIT, || sshd.sessions().is_empty()).await;
}

#[tokio::test]
async fn without_a_session_closed_returns_at_once_and_keepalive_does_not_dial() {
    let sshd = Sshd::start("");
    let pool = sshd.pool();
    tokio::time::timeout(Duration::from_secs(1), pool.closed(1)).await.expect("it waits for nothing");
    let error = pool.keepalive(&sshd.target(), LIMIT).await.unwrap_err();
    assert_eq!((error.stage, error.kind), (Stage::Keepalive, Kind::NoSession));
    assert!(!sshd.log().contains("Connection from"), "it dialled:\n{}", sshd.log());
}
