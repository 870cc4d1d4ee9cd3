//! How a worker gets in, and stays in.

use crate::{
    agent::{Home, binary, free_port, run, wait_for},
    control_plane::{CA, ControlPlane, JOIN_TOKEN},
};
use serde_json::json;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::Command,
    sync::Arc,
};

#[test]
fn a_worker_registers_once_the_control_plane_appears() {
    let home = Home::new();
    let port = free_port();
    let agent = home.start(&format!("http://127.0.0.1:{port}"), JOIN_TOKEN);
    agent.logs("the registration failed, trying on", 1);
    let control_plane = ControlPlane::start_at(([127, 0, 0, 1], port).into());
    control_plane.wait_until("a link", |world| world.links_taken == 1);
    agent.logs("the registration works again", 1);

    let seen = control_plane.world().registrations[0].clone();
    assert_eq!((seen.bearer.as_str(), seen.status), (JOIN_TOKEN, 201));
    let body = seen.body;
    assert_eq!((&body["hostname"], &body["ip"]), (&json!("worker-1"), &json!("127.0.0.1")));
    assert_eq!((&body["ssh_port"], &body["tags"]), (&json!(home.sshd_port), &json!(["gpu", "rack-3"])));
    let key = fs::read_to_string(home.path("ssh/ssh_host_ed25519_key.pub")).unwrap();
    assert_eq!(body["host_keys"], json!([key.trim().strip_suffix(" root@test").unwrap()]));
    assert!(body["cpu_cores"].as_u64().unwrap() > 0 && body["memory_mb"].as_u64().unwrap() > 100);
    assert!(body["gpus"].is_array() && body["agent_version"].is_string());
    assert!(body["mac"].is_null() || body["mac"].as_str().unwrap().len() == 17);
    assert_eq!(home.identity()["node_token"], "node-token-1");
}

#[test]
fn the_failure_is_not_said_with_every_try() {
    let home = Home::new();
    let agent = home.start(&format!("http://127.0.0.1:{}", free_port()), JOIN_TOKEN);
    agent.logs("the registration still fails after", 1);
    let tries: u32 =
        agent.log().split("still fails after ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(tries >= 3, "{tries}");
    assert_eq!(agent.log().matches("the registration").count(), 2, "{}", agent.log());
}

#[test]
fn a_restarted_worker_presents_its_node_token() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let mut agent = home.start(&control_plane.url(), JOIN_TOKEN);
    control_plane.wait_until("a link", |world| world.links_taken == 1);
    assert!(agent.terminate().success());
    let _agent = home.spawn(&mut home.command(&control_plane.url()));
    control_plane.wait_until("a second link", |world| world.links_taken == 2);
    let seen = control_plane.world().registrations[1].clone();
    assert_eq!((seen.bearer.as_str(), seen.status), ("node-token-1", 200));
    assert_eq!(home.identity()["node_token"], "node-token-1");
}

#[test]
fn a_worker_that_the_control_plane_forgot_joins_anew() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let _agent = home.start(&control_plane.url(), JOIN_TOKEN);
    control_plane.wait_until("a link", |world| world.links_taken == 1);
    control_plane.forget();
    control_plane.wait_until("another link", |world| world.links_taken == 2);
    let bearers: Vec<_> =
        control_plane.world().registrations.iter().map(|seen| (seen.bearer.clone(), seen.status)).collect();
    assert_eq!(bearers, [(JOIN_TOKEN.into(), 201), ("node-token-1".into(), 401), (JOIN_TOKEN.into(), 201)]);
    assert_eq!(
        (&home.identity()["node_token"], &home.identity()["node_id"]),
        (&json!("node-token-2"), &json!(2))
    );
    let keys: Vec<_> = control_plane.world().registrations.iter().map(|seen| seen.key.clone()).collect();
    assert!(keys[0].is_some() && keys[1].is_none() && keys[2].is_some() && keys[0] != keys[2], "{keys:?}");
}

#[test]
fn a_link_that_is_refused_leads_to_a_new_registration() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let _agent = home.start(&control_plane.url(), JOIN_TOKEN);
    control_plane.wait_until("a link", |world| world.links_taken == 1);
    control_plane.forget_silently();
    control_plane.wait_until("another link", |world| world.links_taken == 2 && world.links_refused > 0);
    assert_eq!(home.identity()["node_token"], "node-token-2");
}

#[test]
fn a_wrong_join_token_is_said_with_the_reason_and_tried_on() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let mut agent = home.start(&control_plane.url(), "wrong-token");
    control_plane.wait_until("three tries", |world| world.registrations.len() >= 3);
    agent.logs("the control plane refuses this node (401): the token is wrong", 1);
    assert!(agent.is_running());
    assert!(!agent.log().contains("wrong-token"), "{}", agent.log());
    assert!(!home.path("agent/node.json").exists());
}

#[test]
fn a_corrected_join_token_file_is_taken_without_a_restart() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let file = home.path("join-token");
    fs::write(&file, "wrong\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let _agent = home.spawn(home.command(&control_plane.url()).arg("--join-token-file").arg(&file));
    control_plane.wait_until("a refusal", |world| world.registrations.iter().any(|seen| seen.status == 401));
    fs::write(&file, format!("{JOIN_TOKEN}\n")).unwrap();
    control_plane.wait_until("a link", |world| world.links_taken == 1);
}

#[test]
fn a_reply_that_was_lost_is_asked_for_again_under_the_same_key() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    control_plane.world().lost_replies = 1;
    let mut agent = home.start(&control_plane.url(), JOIN_TOKEN);
    control_plane.wait_until("the first try", |world| !world.registrations.is_empty());
    // Not even a crash between the two may change the key.
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    let _agent = home.start(&control_plane.url(), JOIN_TOKEN);
    control_plane.wait_until("a link", |world| world.links_taken == 1);
    let keys: Vec<_> =
        control_plane.world().registrations.iter().map(|seen| seen.key.clone().unwrap()).collect();
    assert!(keys.len() >= 2 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(home.identity()["node_token"], "node-token-1");
}

#[test]
fn a_node_that_is_known_there_but_has_no_token_here_says_what_to_do() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    control_plane.world().instead = vec![(200, json!({"message": "known already"}))];
    let agent = home.start(&control_plane.url(), JOIN_TOKEN);
    agent.logs("gives its token only once", 1);
    control_plane.wait_until("a link in the end", |world| world.links_taken == 1);
}

/// A backup was restored there that has another token for this node.
#[test]
fn a_node_token_that_was_refused_is_not_kept_for_want_of_another() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let agent = home.start(&control_plane.url(), JOIN_TOKEN);
    control_plane.wait_until("a link", |world| world.links_taken == 1);
    let known = json!({"message": "known already", "node_id": 1});
    control_plane.world().instead = vec![(200, known), (401, json!({"detail": "no such token"}))];
    control_plane.forget();
    agent.logs("gives its token only once", 1);
    control_plane.wait_until("a link in the end", |world| world.links_taken == 2);
    assert_eq!(home.identity()["node_token"], "node-token-2");
}

#[test]
fn a_control_plane_whose_database_is_away_is_tried_again() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let unwell = || (503, json!({"detail": "the database is away"}));
    control_plane.world().instead = vec![unwell(), unwell()];
    let agent = home.start(&control_plane.url(), JOIN_TOKEN);
    control_plane.wait_until("a link", |world| world.links_taken == 1);
    agent.logs("not well (503): the database is away", 1);
}

#[test]
fn a_429_is_waited_out_for_as_long_as_it_asks_for() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    control_plane.world().instead = vec![(429, json!({"detail": "slowly"}))];
    let agent = home.start(&control_plane.url(), JOIN_TOKEN);
    agent.logs("too many requests for the control plane (429): slowly", 1);
    let asked = std::time::Instant::now();
    control_plane.wait_until("a link", |world| world.links_taken == 1);
    assert!(asked.elapsed() > std::time::Duration::from_secs(3), "{:?}", asked.elapsed());
}

#[test]
fn plain_http_to_another_machine_is_refused_without_leave() {
    let home = Home::new();
    let done = home.command("http://192.0.2.7").env("ORION_JOIN_TOKEN", JOIN_TOKEN).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && said.contains("plain http") && said.contains("hint:"), "{said}");
    assert!(!home.path("agent").exists());
}

#[test]
fn an_agent_with_no_route_says_so_and_keeps_trying() {
    let home = Home::new();
    let command = home.command("http://192.0.2.7");
    let mut lonely = Command::new("unshare");
    lonely.arg("--net").arg(binary()).args(command.get_args()).arg("--insecure-http");
    let mut agent = home.spawn(lonely.env("ORION_JOIN_TOKEN", JOIN_TOKEN).env("RUST_LOG", "info"));
    agent.logs("Network is unreachable", 1);
    assert!(agent.is_running());
}

#[test]
fn the_join_token_is_in_no_command_line_and_not_with_children() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let agent = home.start(&control_plane.url(), JOIN_TOKEN);
    let holds_token = |name: &str| {
        let found = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            fs::read(entry.path().join(name))
                .is_ok_and(|text| text.windows(JOIN_TOKEN.len()).any(|part| part == JOIN_TOKEN.as_bytes()))
        });
        found.map(|entry| entry.file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let own = format!("/proc/{}/cmdline", agent.child.id());
    wait_for("the agent has started", || fs::read_to_string(&own).ok().filter(|line| line.contains("--api")));
    while control_plane.world().links_taken == 0 {
        assert_eq!(holds_token("cmdline"), [] as [String; 0]);
    }
    assert_eq!(holds_token("cmdline"), [] as [String; 0]);
}

#[test]
fn the_facts_are_printed_as_they_would_be_sent() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let _agent = home.start(&control_plane.url(), JOIN_TOKEN);
    control_plane.wait_until("a registration", |world| !world.registrations.is_empty());
    let done = home.command(&control_plane.url()).arg("facts").output().unwrap();
    let printed: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(printed, control_plane.world().registrations[0].body);
}

#[test]
fn a_check_says_what_is_missing_and_changes_nothing() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let done = home.command(&control_plane.url()).arg("check").output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(!done.status.success());
    assert!(text.contains("MISSING  join token") && text.contains("MISSING  sshd: no answer"), "{text}");
    assert!(!home.path("agent").exists() && !home.path("ssh/orion").exists());
    let _sshd = home.start_sshd();
    let done =
        home.command(&control_plane.url()).arg("check").env("ORION_JOIN_TOKEN", JOIN_TOKEN).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success() && !text.contains("MISSING"), "{text}");
    assert!(control_plane.world().registrations.is_empty());
}

#[test]
fn sshd_trusts_the_authority_and_is_told_so() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let _sshd = home.start_sshd();
    let agent = home.start(&control_plane.url(), JOIN_TOKEN);
    agent.logs("sshd trusts the control plane's authority", 1);
    assert_eq!(fs::read_to_string(home.path("ssh/orion/user_ca.pub")).unwrap(), format!("{CA}\n"));
    let log = || fs::read_to_string(home.path("sshd.log")).unwrap();
    wait_for("sshd was told", || log().contains("Received SIGHUP").then_some(()));
    wait_for("sshd is up again", || (log().matches("Server listening").count() == 2).then_some(()));
    control_plane.wait_until("a link", |world| world.links_taken == 1);
    assert!(!agent.log().contains("will not be able to log in"), "{}", agent.log());
}

/// Puts TLS in front of `to`.
fn tls_proxy(to: std::net::SocketAddr, certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(certificate.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tx.send(listener.local_addr().unwrap().port()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut outer) = acceptor.accept(stream).await else { return };
                    let mut inner = tokio::net::TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                });
            }
        });
    });
    rx.recv().unwrap()
}

#[test]
fn https_and_wss_work_with_a_named_authority_and_with_no_other() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = home.path("api-ca.pem");
    fs::write(&file, stranger.cert.pem()).unwrap();
    let url = format!("https://localhost:{}", tls_proxy(control_plane.addr, &certificate));
    let mut command = home.command(&url);
    let agent = home.spawn(command.arg("--api-ca").arg(&file).env("ORION_JOIN_TOKEN", JOIN_TOKEN));
    agent.logs("no trusted TLS connection to localhost", 1);
    assert!(control_plane.world().registrations.is_empty());
    fs::write(&file, certificate.cert.pem()).unwrap();
    control_plane.wait_until("a link with beats", |world| world.messages.len() >= 4);
    eprintln!("resident over TLS: {} KiB", agent.resident_kb());
    assert!(agent.resident_kb() < 16 * 1024);
    drop(agent);

    let system = home.spawn(home.command(&url).env("RUST_LOG", "info"));
    system.logs("no trusted TLS connection to localhost", 2);
}

#[test]
fn a_server_that_speaks_no_http_is_survived() {
    let home = Home::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(b"220 smtp.example ESMTP\r\n");
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    let mut agent = home.start(&url, JOIN_TOKEN);
    agent.logs("did not answer", 1);
    assert!(agent.is_running());
    assert!(
        run("ps", &["-o", "nlwp=", "-p", &agent.child.id().to_string()]).trim().parse::<u32>().unwrap() < 8
    );
}
