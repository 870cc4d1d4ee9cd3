use orion_testkit::{Answer, Ended, FakeApi, Home, ended};
use serde_json::{Value, json};

fn reply() -> Value {
    json!([{"rental_id": 42, "host_ip": "10.0.0.3", "ssh_port": 22, "client_user": "alice", "client_pass": "gen-Pass",
        "leased_until": "2126-11-21T18:02:00Z", "ssh_command": "ssh alice@10.0.0.3",
        "known_hosts": "10.0.0.3 ssh-ed25519 AAAA"}])
}

#[test]
fn a_dropped_connection_is_retried_under_the_same_key_and_rents_once() {
    let api = FakeApi::start(|_, before| if before < 2 { Answer::Lost } else { Answer::Json(200, reply()) });
    let ended = Home::logged_in(&api).run(&["rent", "--hours", "4", "--name", "train"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let seen = api.seen();
    assert_eq!(seen.len(), 3);
    let key = seen[0].header("idempotency-key").expect("a key");
    assert!(key.len() >= 26, "{key}");
    assert!(seen.iter().all(|request| request.header("idempotency-key") == Some(key)));
    assert!(seen.iter().all(|request| request.body == seen[0].body));
    assert_eq!(
        ended.out,
        "NAME   ID  ADDRESS      USER   PASSWORD  UNTIL                 LOG IN\n\
         train  42  10.0.0.3:22  alice  gen-Pass  2126-11-21 18:02 UTC  orion ssh train\n"
    );
}

#[test]
fn an_api_that_stays_away_ends_the_attempts() {
    let api = FakeApi::start(|_, _| Answer::Lost);
    let ended = Home::logged_in(&api).run(&["rent", "--hours", "1"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(5), ""), "{ended:?}");
    assert_eq!(api.seen().len(), 4);
    assert!(ended.err.contains("hint: "), "{ended:?}");
}

#[test]
fn two_rentals_have_two_keys_and_one_ssh_key() {
    let api = FakeApi::always(200, reply());
    let home = Home::logged_in(&api);
    for _ in 0..2 {
        assert_eq!(home.run(&["rent", "--hours", "90m"]).code, Some(0));
    }
    let seen = api.seen();
    assert_ne!(seen[0].header("idempotency-key"), seen[1].header("idempotency-key"));
    assert_eq!(seen[0].json()["duration_hours"], 1.5);
    let key = seen[0].json()["ssh_public_key"].as_str().map(str::to_owned).expect("a public key");
    assert!(key.starts_with("ssh-ed25519 "), "{key}");
    assert_eq!(seen[1].json()["ssh_public_key"], key.as_str());
    assert!(home.config("id_ed25519").is_file());
}

#[test]
fn too_few_free_nodes_end_with_status_5_and_say_when() {
    let api = FakeApi::always(
        503,
        json!({"detail": "3 nodes wanted, too few are free", "found": 1, "retry_after_s": 720}),
    );
    let ended = Home::logged_in(&api).run(&["rent", "--hours", "1", "--count", "3"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(5), ""));
    assert_eq!(
        ended.err,
        "error: 3 nodes wanted, too few are free (found 1)\n\
         hint: the next lease ends in 12 min; orion rent … --wait waits for it\n"
    );
    assert_eq!(api.seen().len(), 1, "a refusal is an answer, not a lost connection");
}

#[test]
fn waiting_for_free_nodes_asks_again_under_the_same_key() {
    let api = FakeApi::start(|_, before| match before {
        0 | 1 => Answer::Json(503, json!({"detail": "none free", "found": 0, "retry_after_s": 0})),
        _ => Answer::Json(200, reply()),
    });
    let ended = Home::logged_in(&api).run(&["rent", "--hours", "1", "--wait=1m", "-o", "json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap(), reply());
    assert!(ended.err.contains("waiting for free nodes (0 now)"), "{ended:?}");
    let seen = api.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0].header("idempotency-key"), seen[2].header("idempotency-key"));
}

#[test]
fn an_api_that_cannot_rent_just_now_is_waited_for_without_a_word_of_leases() {
    let api = FakeApi::start(|_, before| match before {
        0 => Answer::Json(503, json!({"detail": "the database is away", "retry_after_s": 0})),
        _ => Answer::Json(200, reply()),
    });
    let home = Home::logged_in(&api);
    // Only a terminal is shown how long it may take.
    let line = format!("{} rent --hours 1 --wait=1m", env!("CARGO_BIN_EXE_orion"));
    let mut command = std::process::Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env_clear();
    command.envs(home.command(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ended = ended(command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("waiting for the API to be able to rent"), "{ended:?}");
    assert!(!ended.out.contains("next lease"), "{ended:?}");
}

#[test]
fn a_password_of_ones_own_goes_out_whole_and_is_not_shown_again() {
    let api = FakeApi::always(200, reply());
    let home = Home::logged_in(&api);
    let ended = home.run_with_input(&["rent", "--hours", "1", "--password-stdin"], " gen-Pass \n");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(api.seen()[0].json()["ssh_password"], " gen-Pass ");
    assert!(!ended.out.contains("gen-Pass") && ended.out.contains("(yours)"), "{ended:?}");
}

#[test]
fn a_private_key_given_for_a_public_one_is_not_sent() {
    let api = FakeApi::always(200, reply());
    let home = Home::logged_in(&api);
    home.program("key", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n");
    let path = home.path().join("bin/key");
    let ended = home.run(&["rent", "--hours", "1", "--public-key", &path.display().to_string()]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(api.seen().is_empty());
}

#[test]
fn a_machine_without_ssh_keygen_rents_by_password() {
    let api = FakeApi::always(200, reply());
    let home = Home::logged_in(&api);
    let mut command = home.command(&["rent", "--hours", "1"]);
    let ended = ended({
        command.env("PATH", "/nowhere");
        command
    });
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("warning: no SSH key, so a password only"), "{ended:?}");
    assert_eq!(api.seen()[0].json().get("ssh_public_key"), None);
}

#[test]
fn ctrl_c_while_waiting_leaves_nothing_behind() {
    for under_way in [false, true] {
        let api = FakeApi::start(move |request, before| {
            if request.line.starts_with("POST /api/release/") {
                return Answer::Json(200, json!({"message": "Lease released"}));
            }
            if before == 0 || !under_way {
                return Answer::Json(
                    503,
                    json!({"detail": "none free", "found": 0, "retry_after_s": u64::from(!under_way)}),
                );
            }
            // The signal comes while this is being answered.
            std::thread::sleep(std::time::Duration::from_millis(1500));
            Answer::Json(200, reply())
        });
        let home = Home::logged_in(&api);
        let child =
            home.command(&["rent", "--hours", "1", "--wait", "--timeout", "1m"]).spawn().expect("it starts");
        let asked = if under_way { 2 } else { 1 };
        let begun = std::time::Instant::now();
        while api.seen().len() < asked && begun.elapsed().as_secs() < 20 {
            std::thread::yield_now();
        }
        let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
        let ended = Ended::from(child.wait_with_output().expect("it ends"));
        assert_eq!((ended.code, ended.out.as_str()), (Some(130), ""), "{ended:?}");
        let released = api.lines().iter().filter(|line| *line == "POST /api/release/42").count();
        assert_eq!(released, usize::from(under_way), "{ended:?}");
        assert!(ended.err.contains("error: stopped\nhint: "), "{ended:?}");
    }
}

/// OpenSSH takes a public key as `IdentityFile` and asks the agent for it; without the agent that key is of no use.
#[test]
fn a_key_whose_private_half_is_in_an_agent_is_used_by_the_agent_and_else_it_is_said() {
    let rental = json!([{"rental_id": 42, "name": "train", "state": "active", "host_ip": "10.0.0.3", "ssh_port": 22,
        "client_user": "alice", "client_pass": "gen-Pass", "leased_until": "2126-11-21T18:02:00Z", "user_id": 1,
        "known_hosts": "10.0.0.3 ssh-ed25519 AAAA"}]);
    let api = FakeApi::always(200, rental);
    let home = Home::logged_in(&api);
    let key = home.path().join("k");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .status();
    assert!(made.expect("ssh-keygen").success());
    let socket = home.path().join("agent");
    // With -D it stays in the foreground, and ends with the test.
    let mut agent =
        std::process::Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).spawn().expect("ssh-agent");
    let begun = std::time::Instant::now();
    while !socket.exists() {
        assert!(begun.elapsed().as_secs() < 20, "ssh-agent does not start");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let added =
        std::process::Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket).status();
    assert!(added.expect("ssh-add").success());
    std::fs::remove_file(&key).expect("the private half");
    let public = key.with_extension("pub").display().to_string();
    let rent = |with_agent: bool| {
        let mut command = home.command(&["rent", "--hours", "1", "--public-key", &public]);
        if with_agent {
            command.env("SSH_AUTH_SOCK", &socket);
        }
        ended(command)
    };
    let (with, without) = (rent(true), rent(false));
    agent.kill().and_then(|()| agent.wait()).expect("it ends");
    assert_eq!((with.code, without.code), (Some(0), Some(0)), "{with:?} {without:?}");
    assert!(!with.err.contains("private half"), "{with:?}");
    assert!(without.err.contains(&public) && without.err.contains("no private half"), "{without:?}");
    let config = home.run(&["ssh-config"]);
    assert!(config.out.contains(&public) && config.out.contains("IdentitiesOnly yes"), "{config:?}");
}
