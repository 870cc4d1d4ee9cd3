//! Nodes that stop answering: what is noticed, how fast, and that nothing is left behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orion_ssh::{ControlCa, Kind, Meaning, Pool, PoolConfig, Stage, Target};

use crate::fakes::{Proxy, client_sockets_to, greeter};
use crate::sshd::{Sshd, command, processes_with, until};

fn impatient() -> PoolConfig {
    PoolConfig {
        connect_timeout_ms: 500,
        banner_timeout_ms: 200,
        kex_timeout_ms: 200,
        auth_timeout_ms: 500,
        ..PoolConfig::default()
    }
}

fn target(node_id: i64, port: u16) -> Target {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    Target { node_id, host: "127.0.0.1".into(), port, host_keys: vec![key.parse().unwrap()] }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_dials_that_time_out_in_the_key_exchange_leave_no_descriptor_and_no_task() {
    let server = greeter(b"SSH-2.0-Stalled\r\n", true).await;
    let pool = Pool::new(impatient(), Arc::new(ControlCa::generate()));
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let dials: Vec<_> = (0..50)
        .map(|node_id| {
            let (pool, target) = (pool.clone(), target(node_id, server.port));
            tokio::spawn(async move { pool.connect(&target).await })
        })
        .collect();
    for dial in dials {
        let error = dial.await.unwrap().unwrap_err();
        assert_eq!((error.stage, error.kind.clone()), (Stage::KeyExchange, Kind::TimedOut), "{error:?}");
        assert_eq!(error.meaning(), Meaning::Silent);
    }
    until("all client sockets are closed", Duration::from_secs(5), || client_sockets_to(server.port) == 0)
        .await;
    until("all tasks have ended", Duration::from_secs(5), || tasks() <= before).await;
    assert_eq!(pool.session_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_whose_caller_gives_up_still_ends_and_leaves_nothing() {
    let server = greeter(b"SSH-2.0-Stalled\r\n", true).await;
    let pool = Pool::new(impatient(), Arc::new(ControlCa::generate()));
    let node = target(1, server.port);
    let gave_up = tokio::time::timeout(Duration::from_millis(50), pool.fresh_handshake(&node)).await;
    assert!(gave_up.is_err());
    until("the fresh dial's socket is closed", Duration::from_secs(5), || {
        client_sockets_to(server.port) == 0
    })
    .await;
    let gave_up = tokio::time::timeout(Duration::from_millis(50), pool.connect(&node)).await;
    assert!(gave_up.is_err());
    pool.drop_session(1);
    until("the pooled dial's socket is closed", Duration::from_secs(5), || {
        client_sockets_to(server.port) == 0
    })
    .await;
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_times_out_at_the_banner() {
    let server = greeter(b"", true).await;
    let pool = Pool::new(impatient(), Arc::new(ControlCa::generate()));
    let error = pool.connect(&target(1, server.port)).await.unwrap_err();
    assert_eq!((error.stage, error.kind.clone()), (Stage::Banner, Kind::TimedOut));
    assert_eq!(error.meaning(), Meaning::Silent);
}

/// Uses a single place for each kind of dial, so that a second dial of the same kind finds it taken.
#[tokio::test(flavor = "multi_thread")]
async fn dials_to_nodes_that_hang_do_not_keep_those_to_others_waiting() {
    let (hanging, sshd) = (greeter(b"", true).await, Sshd::start(""));
    let pool = sshd.pool_with(PoolConfig {
        dials_max: 1,
        doubtful_dials_max: 1,
        dial_queue_timeout_ms: 100,
        banner_timeout_ms: 2000,
        ..PoolConfig::default()
    });
    let node = |node_id| target(node_id, hanging.port);
    let dial = |node_id| {
        let (pool, node) = (pool.clone(), node(node_id));
        tokio::spawn(async move { pool.connect(&node).await.unwrap_err().kind })
    };
    let waits = async |count| {
        until("the hanging node has accepted", Duration::from_secs(5), || {
            client_sockets_to(hanging.port) == count
        })
        .await;
    };
    let first = dial(8);
    waits(1).await;
    assert_eq!(
        pool.connect(&sshd.target()).await.unwrap_err().kind,
        Kind::Busy,
        "nobody knows yet that it hangs"
    );
    assert_eq!(first.await.unwrap(), Kind::TimedOut);
    let again = dial(8);
    waits(1).await;
    pool.connect(&sshd.target()).await.unwrap();
    pool.fresh_handshake(&sshd.target()).await.unwrap();
    assert!(!again.is_finished(), "the dial to the hanging node was to last longer than those to the other");
    assert_eq!(again.await.unwrap(), Kind::TimedOut);
}

#[tokio::test]
async fn a_stopped_sshd_times_out_at_the_banner_too() {
    let sshd = Sshd::start("");
    let pool = sshd.pool_with(impatient());
    pool.fresh_handshake(&sshd.target()).await.unwrap();
    Sshd::signal(sshd.pid(), "STOP");
    let error = pool.fresh_handshake(&sshd.target()).await.unwrap_err();
    Sshd::signal(sshd.pid(), "CONT");
    assert_eq!((error.stage, error.kind.clone()), (Stage::Banner, Kind::TimedOut));
    pool.fresh_handshake(&sshd.target()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_wait_for_the_same_dead_node_share_one_dial() {
    let server = greeter(b"SSH-2.0-Stalled\r\n", true).await;
    let pool = Pool::new(impatient(), Arc::new(ControlCa::generate()));
    let node = target(1, server.port);
    let started = Instant::now();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (pool, node) = (pool.clone(), node.clone());
            tokio::spawn(async move { pool.exec(&node, command("true", Duration::from_secs(5))).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap_err().kind, Kind::TimedOut);
    }
    assert!(started.elapsed() < Duration::from_millis(1000), "{:?}: dialled one by one", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_black_hole_the_keepalive_fails_in_its_time_and_never_says_healthy() {
    let sshd = Sshd::start("");
    let proxy = Proxy::to(sshd.port).await;
    let target = sshd.target_through(proxy.port);
    let pool = sshd.pool();
    pool.connect(&target).await.unwrap();
    pool.keepalive(&target, Duration::from_secs(2)).await.unwrap();
    proxy.swallow(true);
    let limit = Duration::from_millis(300);
    for _ in 0..5 {
        let started = Instant::now();
        let error = pool.keepalive(&target, limit).await.unwrap_err();
        assert_eq!((error.stage, error.kind.clone()), (Stage::Keepalive, Kind::TimedOut));
        assert_eq!(error.meaning(), Meaning::Silent);
        assert!(started.elapsed() < limit * 3, "{:?}", started.elapsed());
    }
    assert!(pool.is_connected(1), "silence alone must not drop the session: the scheduler decides");
    pool.drop_session(1);
    tokio::time::timeout(Duration::from_secs(1), pool.closed(1)).await.expect("the dropped session lives on");
    until("the socket is closed", Duration::from_secs(1), || client_sockets_to(proxy.port) == 0).await;
    assert_eq!(pool.keepalive(&target, limit).await.unwrap_err().kind, Kind::NoSession);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_cuts_heal_on_the_same_session() {
    let sshd = Sshd::start("");
    let proxy = Proxy::to(sshd.port).await;
    let target = sshd.target_through(proxy.port);
    let pool = sshd.pool();
    pool.connect(&target).await.unwrap();
    let session = sshd.sessions();
    // Twice six channels are asked for while the line is cut. They open late and must not stay open: twelve are
    // more than MaxSessions, and then sshd would refuse and another session would be dialled.
    for _ in 0..2 {
        proxy.swallow(true);
        pool.keepalive(&target, Duration::from_millis(100)).await.unwrap_err();
        let commands: Vec<_> = (0..6)
            .map(|_| {
                let (pool, target) = (pool.clone(), target.clone());
                tokio::spawn(
                    async move { pool.exec(&target, command("true", Duration::from_millis(100))).await },
                )
            })
            .collect();
        for running in commands {
            let error = running.await.unwrap().unwrap_err();
            assert_eq!((error.stage, error.kind.clone()), (Stage::Open, Kind::TimedOut));
            assert!(!error.may_have_run());
        }
        proxy.swallow(false);
        pool.keepalive(&target, Duration::from_secs(5)).await.unwrap();
        for _ in 0..3 {
            assert!(pool.exec(&target, command("true", Duration::from_secs(5))).await.unwrap().is_success());
        }
    }
    assert_eq!(sshd.sessions(), session, "another session was dialled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_session_process_is_noticed_at_once() {
    let sshd = Sshd::start("");
    let pool = sshd.pool();
    let target = sshd.target();
    pool.connect(&target).await.unwrap();
    assert!(pool.is_connected(1));
    let closed = tokio::spawn({
        let pool = pool.clone();
        async move { pool.closed(1).await }
    });
    let started = Instant::now();
    for pid in sshd.sessions() {
        Sshd::signal(pid, "KILL");
    }
    tokio::time::timeout(Duration::from_secs(1), closed).await.expect("not noticed within 1 s").unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(!pool.is_connected(1));
    assert_eq!(pool.session_count(), 0);
    // The next command dials by itself.
    assert!(pool.exec(&target, command("true", Duration::from_secs(5))).await.unwrap().is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_in_the_middle_of_a_command_is_an_unknown_outcome() {
    let sshd = Sshd::start("");
    let pool = sshd.pool();
    let target = sshd.target();
    let began = sshd.path().join("began");
    let text = format!("touch {}; exec timeout -k 1 10 sleep 10.111", began.display());
    let running = tokio::spawn({
        let (pool, target) = (pool.clone(), target.clone());
        async move { pool.exec(&target, command(text, Duration::from_secs(20))).await }
    });
    until("the command runs", Duration::from_secs(5), || began.exists()).await;
    for pid in sshd.sessions() {
        Sshd::signal(pid, "KILL");
    }
    let error = running.await.unwrap().unwrap_err();
    assert_eq!((error.stage, error.kind.clone()), (Stage::Exec, Kind::OutcomeUnknown));
    assert!(error.may_have_run());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_times_out_leaves_no_process_and_later_commands_work() {
    let sshd = Sshd::start("");
    let pool = sshd.pool();
    let target = sshd.target();
    // More than MaxSessions of them: a leaked channel or slot would show.
    for round in 0..12 {
        let marker = format!("7777.{round}{}", sshd.port);
        let text = format!("timeout -k 1 1 sh -c 'trap \"\" TERM; sleep {marker}'");
        let started = Instant::now();
        let error = pool.exec(&target, command(text, Duration::from_millis(150))).await.unwrap_err();
        assert_eq!((error.stage, error.kind.clone()), (Stage::Exec, Kind::TimedOut));
        assert!(error.may_have_run());
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert!(!pool.is_connected(1), "the command's session is used again");
        let output = pool.exec(&target, command("echo fine", Duration::from_secs(5))).await.unwrap();
        assert_eq!(output.stdout, b"fine\n");
    }
    let all = format!("{}", sshd.port);
    until("no process is left", Duration::from_secs(10), || {
        processes_with("7777.").iter().all(|line| !line.contains(&all))
    })
    .await;
    assert_eq!(pool.session_count(), 1);
    until("the retired sessions are gone", Duration::from_secs(5), || sshd.sessions().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timed_out_command_does_not_harm_its_neighbours() {
    let sshd = Sshd::start("");
    let pool = sshd.pool();
    let target = sshd.target();
    pool.connect(&target).await.unwrap();
    let neighbour = tokio::spawn({
        let (pool, target) = (pool.clone(), target.clone());
        async move { pool.exec(&target, command("sleep 1; echo done", Duration::from_secs(10))).await }
    });
    let slow = command("timeout -k 1 2 sleep 2.222", Duration::from_millis(200));
    assert_eq!(pool.exec(&target, slow).await.unwrap_err().kind, Kind::TimedOut);
    assert_eq!(neighbour.await.unwrap().unwrap().stdout, b"done\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_caller_gives_up_frees_its_place() {
    let sshd = Sshd::start("");
    let pool = sshd.pool();
    let target = sshd.target();
    for _ in 0..12 {
        let request = command("timeout -k 1 2 sleep 2.333", Duration::from_secs(30));
        let gave_up = tokio::time::timeout(Duration::from_millis(100), pool.exec(&target, request)).await;
        assert!(gave_up.is_err());
    }
    let output = pool.exec(&target, command("echo fine", Duration::from_secs(5))).await.unwrap();
    assert_eq!(output.stdout, b"fine\n");
}
