use orion_testkit::{Answer, FakeApi, Home, ended};
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt};

fn accounts() -> FakeApi {
    FakeApi::start(|request, _| match request.line.as_str() {
        "POST /auth/signup" => Answer::Json(201, json!({"message": "User created"})),
        "POST /auth/login" => Answer::Json(200, json!({"token": "the-t0ken"})),
        _ => Answer::Json(200, json!([])),
    })
}

#[test]
fn a_login_keeps_a_session_that_only_the_user_can_read() {
    let (api, home) = (accounts(), Home::new());
    let ended =
        home.run_with_input(&["--api", &api.url(), "login", "alice", "--password-stdin"], "s3cret pass\n");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(api.seen()[0].json(), json!({"username": "alice", "password": "s3cret pass"}));
    let mode = |name: &str| fs::metadata(home.config(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("session.json"), mode("")), (0o600, 0o700));
    assert!(!ended.out.contains("the-t0ken") && !ended.err.contains("the-t0ken"), "{ended:?}");
    assert!(!fs::read_to_string(home.config("session.json")).unwrap().contains("s3cret"));
}

#[test]
fn a_signup_logs_in_and_the_next_command_needs_no_address() {
    let (api, home) = (accounts(), Home::new());
    let mut signup = home.command(&["--api", &api.url(), "signup", "alice"]);
    let ended = ended({
        signup.env("ORION_PASSWORD", "s3cret");
        signup
    });
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
    let ended = home.run(&["whoami"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.out, format!("alice at {}\n", api.url()));
    assert_eq!(api.lines(), ["POST /auth/signup", "POST /auth/login", "GET /api/rentals?limit=1"]);
    assert_eq!(api.seen()[2].header("authorization"), Some("Bearer the-t0ken"));
}

#[test]
fn a_wrong_password_says_so_and_keeps_no_session() {
    let api = FakeApi::always(401, json!({"detail": "wrong user name or password", "status": 401}));
    let home = Home::new();
    let ended = home.run_with_input(&["--api", &api.url(), "login", "alice", "--password-stdin"], "x");
    assert_eq!(ended.code, Some(3));
    assert_eq!(ended.err, "error: wrong user name or password\nhint: no account yet? orion signup alice\n");
    assert!(!home.config("session.json").exists());
}

#[test]
fn without_a_terminal_the_password_has_to_come_some_other_way() {
    let (api, home) = (accounts(), Home::new());
    let mut command = home.command(&["--api", &api.url(), "login", "alice"]);
    // A session of its own has no controlling terminal that could be asked.
    let own_session = std::process::Command::new("setsid").arg("--version").output().is_ok();
    assert!(own_session, "util-linux's setsid is part of every Debian");
    let mut detached = std::process::Command::new("setsid");
    detached.arg("--wait").arg(command.get_program()).args(command.get_args()).env_clear();
    detached.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    detached.stdin(std::process::Stdio::null());
    let refused = ended(detached);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("hint: give it with --password-stdin or in ORION_PASSWORD"), "{refused:?}");
    assert!(api.seen().is_empty());
    command.env("ORION_PASSWORD", "s3cret");
    assert_eq!(ended(command).code, Some(0));
}

#[test]
fn an_expired_session_names_the_way_back_in() {
    let api = FakeApi::always(401, json!({"detail": "the token has expired"}));
    let ended = Home::logged_in(&api).run(&["ls"]);
    assert_eq!(ended.code, Some(3));
    assert_eq!(ended.err, "error: the token has expired\nhint: log in again: orion login alice\n");
}

#[test]
fn without_a_session_nothing_is_asked() {
    let api = FakeApi::always(200, json!([]));
    let ended = Home::new().run(&["--api", &api.url(), "ls"]);
    assert_eq!(ended.code, Some(3));
    assert!(ended.err.contains("hint: orion login NAME"), "{ended:?}");
    assert!(api.seen().is_empty());
}

#[test]
fn a_token_goes_to_the_api_that_issued_it_and_nowhere_else() {
    let (own, other) = (FakeApi::always(200, json!([])), FakeApi::always(200, json!([])));
    let home = Home::logged_in(&own);
    assert_eq!(home.run(&["--api", &other.url(), "ls"]).code, Some(3));
    assert!(other.seen().is_empty());
}

#[test]
fn a_redirect_is_not_followed_with_the_token() {
    let other = FakeApi::always(200, json!([]));
    let to = format!("{}/api/rentals", other.url());
    let api = FakeApi::start(move |_, _| Answer::JsonWith(302, json!({}), "Location", to.clone()));
    let ended = Home::logged_in(&api).run(&["ls"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(other.seen().is_empty());
}

#[test]
fn a_logout_ends_the_session_here_even_when_the_api_is_away() {
    let api = FakeApi::start(|_, _| Answer::Lost);
    let home = Home::logged_in(&api);
    let ended = home.run(&["logout"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(api.lines(), ["POST /api/auth/logout"]);
    assert!(!home.config("session.json").exists());
}
