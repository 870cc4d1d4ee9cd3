use orion_testkit::{Answer, FakeApi, Home};
use serde_json::{Value, json};
use std::fs;

/// Prints its arguments, one a line, and ends as the last one says.
const FAKE_SSH: &str = "#!/bin/sh\nfor last in \"$@\"; do printf '%s\\n' \"$last\"; done\n\
    case $last in exit-*) exit \"${last#exit-}\";; esac\n";

fn lease(state: &str, ip: &str) -> Value {
    json!({"rental_id": 42, "name": "train", "state": state, "state_reason": "node-1 is dead", "host_ip": ip,
        "ssh_port": 2201, "client_user": "alice", "known_hosts": format!("[{ip}]:2201 ssh-ed25519 AAAA\n[{ip}]:2201 ssh-rsa BBBB\n")})
}

#[test]
fn ssh_is_held_to_the_leases_own_host_keys_and_asks_nothing() {
    let api = FakeApi::always(200, lease("active", "10.0.0.3"));
    let home = Home::logged_in(&api);
    home.program("ssh", FAKE_SSH);
    let ended = home.run(&["ssh", "train", "--", "ls", "-l", "two words"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    let arguments: Vec<&str> = ended.out.lines().collect();
    let known_hosts = arguments.iter().find_map(|a| a.strip_prefix("UserKnownHostsFile=")).expect("a file");
    let key = home.config("id_ed25519").display().to_string();
    assert_eq!(
        arguments,
        [
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            &format!("UserKnownHostsFile={known_hosts}"),
            "-o",
            "GlobalKnownHostsFile=/dev/null",
            "-o",
            "HostKeyAlias=orion-lease-42",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "KnownHostsCommand=none",
            "-o",
            "VerifyHostKeyDNS=no",
            "-o",
            "UpdateHostKeys=no",
            "-o",
            "ControlPath=none",
            "-o",
            "ConnectTimeout=10",
            "-o",
            "ServerAliveInterval=10",
            "-o",
            "ServerAliveCountMax=3",
            "-i",
            &key,
            "-p",
            "2201",
            "--",
            "alice@10.0.0.3",
            "ls",
            "-l",
            "two words",
        ]
    );
    assert!(known_hosts.starts_with(&home.config("known_hosts.d").display().to_string()), "{known_hosts}");
    assert_eq!(
        fs::read_to_string(known_hosts).unwrap(),
        "orion-lease-42 ssh-ed25519 AAAA\norion-lease-42 ssh-rsa BBBB\n"
    );
}

#[test]
fn the_real_ssh_accepts_the_options_and_the_files() {
    let api = FakeApi::always(200, lease("active", "127.0.0.1"));
    let home = Home::logged_in(&api);
    // `ssh -G` reads the whole command line as a login would, and prints what it made of it.
    home.program("ssh", "#!/bin/sh\nPATH=${PATH#*:}\nexec ssh -G \"$@\"\n");
    let ended = home.run(&["ssh", "train"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in
        ["user alice", "hostname 127.0.0.1", "port 2201", "hostkeyalias orion-lease-42", "identitiesonly yes"]
    {
        assert!(ended.out.lines().any(|found| found == line), "no '{line}' in {}", ended.out);
    }
    assert!(
        ended.out.contains("stricthostkeychecking true") || ended.out.contains("stricthostkeychecking yes")
    );
}

#[test]
fn the_exit_status_of_the_remote_command_passes_through() {
    let api = FakeApi::always(200, lease("active", "10.0.0.3"));
    let home = Home::logged_in(&api);
    home.program("ssh", FAKE_SSH);
    assert_eq!(home.run(&["ssh", "train", "exit-37"]).code, Some(37));
}

#[test]
fn a_lease_on_the_move_is_waited_for_and_found_at_its_new_address() {
    let api = FakeApi::start(|_, before| {
        Answer::Json(
            200,
            if before < 2 { lease("migrating", "10.0.0.3") } else { lease("active", "10.0.0.9") },
        )
    });
    let home = Home::logged_in(&api);
    home.program("ssh", FAKE_SSH);
    let ended = home.run(&["ssh", "train"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.ends_with("--\nalice@10.0.0.9\n"), "{ended:?}");
    assert_eq!(ended.err, "lease train is migrating (node-1 is dead); waiting up to 60 s\n");
}

#[test]
fn waiting_for_a_move_has_an_end() {
    let api = FakeApi::always(200, lease("migrating", "10.0.0.3"));
    let ended = Home::logged_in(&api).run(&["ssh", "--wait", "0", "train"]);
    assert_eq!(ended.code, Some(5));
    assert!(
        ended.err.starts_with("error: lease train is migrating for ?: node-1 is dead\nhint: "),
        "{ended:?}"
    );
}

#[test]
fn a_lease_that_is_over_is_not_logged_in_to() {
    let api = FakeApi::always(200, lease("ended", "10.0.0.3"));
    let home = Home::logged_in(&api);
    home.program("ssh", FAKE_SSH);
    let ended = home.run(&["ssh", "42"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(5), ""), "{ended:?}");
}

#[test]
fn a_lease_without_a_known_host_key_is_not_logged_in_to() {
    let mut unpinned = lease("active", "10.0.0.3");
    unpinned["known_hosts"] = json!("");
    let api = FakeApi::always(200, unpinned);
    let home = Home::logged_in(&api);
    home.program("ssh", FAKE_SSH);
    let ended = home.run(&["ssh", "train"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
}

#[test]
fn the_key_that_a_lease_was_rented_with_is_the_key_that_logs_in() {
    let rented = json!([{"rental_id": 42, "client_user": "alice"}]);
    let api = FakeApi::start(move |request, _| match request.line.as_str() {
        "POST /api/rent" => Answer::Json(200, rented.clone()),
        _ => Answer::Json(200, lease("active", "10.0.0.3")),
    });
    let home = Home::logged_in(&api);
    home.program("ssh", FAKE_SSH);
    let key = home.path().join("mine");
    fs::write(&key, "private").unwrap();
    fs::write(key.with_extension("pub"), "ssh-ed25519 AAAA me\n").unwrap();
    let public = key.with_extension("pub").display().to_string();
    assert_eq!(home.run(&["rent", "--hours", "1", "--public-key", &public]).code, Some(0));
    assert_eq!(api.seen()[0].json()["ssh_public_key"], "ssh-ed25519 AAAA me");
    let ended = home.run(&["ssh", "train"]);
    assert!(ended.out.contains(&format!("-i\n{}\n-p\n", key.display())), "{ended:?}");
}
