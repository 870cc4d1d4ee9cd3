//! Logins by OpenSSH's client: password, key, certificate, and what refuses them.

use std::time::{Duration, Instant};

use orion_testkit::{KeyPair, LoginError, SshAddress, SshClient, Worker, Workers};

#[tokio::test]
async fn the_right_password_logs_in_and_a_wrong_one_is_refused() {
    let set = Workers::start(1);
    add_user(&set[0], "alice", "right password");
    let right = SshClient::with_password(set[0].ssh_address(), "alice", "right password");
    assert_eq!(right.run("id -un; hostname").await, Ok(format!("alice\n{}\n", set[0].name())));
    let wrong = SshClient::with_password(set[0].ssh_address(), "alice", "wrong");
    assert!(matches!(wrong.run("true").await, Err(LoginError::Refused(_))));
    let nobody = SshClient::with_password(set[0].ssh_address(), "bob", "right password");
    assert!(matches!(nobody.run("true").await, Err(LoginError::Refused(_))));
}

#[tokio::test]
async fn a_failing_command_shows_its_status_and_its_words() {
    let set = Workers::start(1);
    add_user(&set[0], "alice", "secret");
    let client = SshClient::with_password(set[0].ssh_address(), "alice", "secret");
    let failed = client.run("echo out; echo err >&2; exit 7").await;
    assert_eq!(failed, Err(LoginError::Command { status: 7, output: "out\nerr\n".into() }));
}

#[tokio::test]
async fn signals_work_in_a_session_as_on_a_real_machine() {
    let set = Workers::start(1);
    let key = KeyPair::generate();
    set[0].write_root_key(key.public_line());
    let client = SshClient::with_private_key(set[0].ssh_address(), "root", &key.private_path());
    for signal in ["INT", "QUIT", "PIPE", "TERM"] {
        let answer = client.run(&format!("sh -c 'kill -{signal} $$; echo survived'; true")).await;
        assert_eq!(answer, Ok(String::new()), "SIG{signal} is ignored");
    }
}

#[tokio::test]
async fn another_host_key_than_the_pinned_one_is_told_apart_from_a_refusal() {
    let set = Workers::start(1);
    add_user(&set[0], "alice", "secret");
    let other = SshAddress::new(set[0].ssh_socket(), KeyPair::generate().public_line());
    let by_password = SshClient::with_password(other.clone(), "alice", "secret");
    assert!(matches!(by_password.run("true").await, Err(LoginError::HostKeyChanged(_))));
    let key = KeyPair::generate();
    set[0].write_root_key(key.public_line());
    let by_key = SshClient::with_private_key(other, "root", &key.private_path());
    let answer = by_key.run("true").await;
    assert!(matches!(answer, Err(LoginError::HostKeyChanged(_))), "{answer:?}");
}

#[tokio::test]
async fn a_key_logs_in_and_an_unknown_key_is_refused() {
    let set = Workers::start(1);
    let key = KeyPair::generate();
    set[0].write_root_key(key.public_line());
    let client = SshClient::with_private_key(set[0].ssh_address(), "root", &key.private_path());
    assert_eq!(client.run("id -u").await, Ok("0\n".into()));
    let failed = client.run("exit 3").await;
    assert_eq!(failed, Err(LoginError::Command { status: 3, output: String::new() }));
    let stranger = KeyPair::generate();
    let client = SshClient::with_private_key(set[0].ssh_address(), "root", &stranger.private_path());
    let answer = client.run("id -u").await;
    assert!(matches!(answer, Err(LoginError::Refused(_))), "{answer:?}");
}

#[tokio::test]
async fn a_certificate_of_the_installed_authority_logs_in_and_one_of_another_does_not() {
    let set = Workers::start(1);
    let [authority, impostor] = [KeyPair::generate(), KeyPair::generate()];
    set[0].install_ca(authority.public_line());
    let login = async |signed_by: &KeyPair, principal: &str, validity: &str| {
        let key = KeyPair::generate();
        key.certify(signed_by, principal, validity, 1);
        SshClient::with_private_key(set[0].ssh_address(), "root", &key.private_path()).run("id -u").await
    };
    assert_eq!(login(&authority, "root", "-1m:+5m").await, Ok("0\n".into()));
    assert!(matches!(login(&impostor, "root", "-1m:+5m").await, Err(LoginError::Refused(_))));
    assert!(matches!(login(&authority, "alice", "-1m:+5m").await, Err(LoginError::Refused(_))));
    assert!(matches!(login(&authority, "root", "-5m:-1m").await, Err(LoginError::Refused(_))));
}

#[tokio::test]
async fn a_dead_and_a_frozen_worker_are_unreachable_within_the_time_limit() {
    let set = Workers::start(2);
    let limit = Duration::from_secs(1);
    let key = KeyPair::generate();
    set[0].kill();
    set[1].freeze();
    for worker in set.all() {
        let started = Instant::now();
        let client = SshClient::with_password(worker.ssh_address(), "alice", "x").connect_timeout(limit);
        let answer = client.run("true").await;
        assert!(matches!(answer, Err(LoginError::Unreachable(_))), "{answer:?}");
        let client = SshClient::with_private_key(worker.ssh_address(), "root", &key.private_path());
        let answer = client.connect_timeout(limit).run("true").await;
        assert!(matches!(answer, Err(LoginError::Unreachable(_))), "{answer:?}");
        assert!(started.elapsed() < limit * 5, "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn the_password_is_in_no_argument_and_no_environment() {
    let set = Workers::start(1);
    let secret = orion_testkit::random_word();
    add_user(&set[0], "alice", &secret);
    let client = SshClient::with_password(set[0].ssh_address(), "alice", &secret);
    let look = async {
        let mut looks = 0;
        while looks < 200 {
            looks += 1;
            assert!(!processes_show(&secret), "the password is visible in /proc");
            tokio::task::yield_now().await;
        }
    };
    let (answer, ()) = tokio::join!(client.run("true"), look);
    assert_eq!(answer, Ok(String::new()));
}

fn add_user(worker: &Worker, user: &str, password: &str) {
    worker.sh(&format!("useradd -m -s /bin/bash {user} && chpasswd <<END\n{user}:{password}\nEND"));
}

fn processes_show(secret: &str) -> bool {
    let processes =
        std::fs::read_dir("/proc").expect("/proc").map_while(Result::ok).map(|entry| entry.path());
    let files = processes.flat_map(|process| [process.join("cmdline"), process.join("environ")]);
    files
        .filter_map(|file| std::fs::read(file).ok())
        .any(|text| String::from_utf8_lossy(&text).contains(secret))
}
