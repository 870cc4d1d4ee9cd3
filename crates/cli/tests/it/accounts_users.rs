//! `orion users`, `orion invite` and `orion password`: what is asked of the API, and what is said.

use orion_testkit::{Answer, FakeApi, Home};
use serde_json::{Value, json};

fn account(disabled: bool) -> Value {
    json!({ "user_id": 8, "username": "bob", "role": "user", "disabled": disabled,
        "disabled_at": disabled.then_some("2026-01-01T00:00:00Z"), "created_at": "2026-01-01T00:00:00Z", "leases": 1 })
}

#[test]
fn accounts_are_listed() {
    let api = FakeApi::always(200, json!([account(false)]));
    let ended = Home::logged_in(&api).run(&["users", "list"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("bob") && ended.out.contains("enabled"), "{ended:?}");
    assert_eq!(api.lines(), ["GET /api/admin/users?limit=1000"]);
}

#[test]
fn disabling_says_which_leases_go_on_and_how_to_end_them() {
    let lease = |state: &str| json!({ "rental_id": 17, "name": "train", "state": state, "leased_until": "2126-01-01T00:00:00Z" });
    let reply = move |state: &str| {
        Answer::Json(
            200,
            json!({ "message": "Account disabled", "user": account(true), "leases": [lease(state)] }),
        )
    };
    let api = FakeApi::start(move |_, before| reply(if before == 0 { "active" } else { "ended" }));
    let home = Home::logged_in(&api);
    let kept = home.run(&["users", "disable", "bob"]);
    assert_eq!(kept.code, Some(0), "{kept:?}");
    assert!(kept.err.contains("lease 17 (train) is active") && kept.err.contains("--end-leases"), "{kept:?}");
    let ended = home.run(&["users", "disable", "bob", "--end-leases"]);
    assert!(ended.err.contains("lease 17 (train) is ended") && !ended.err.contains("end them"), "{ended:?}");
    let seen = api.seen();
    assert_eq!(seen[0].line, "POST /api/admin/users/bob/disable");
    assert_eq!(
        (seen[0].json()["leases"].clone(), seen[1].json()["leases"].clone()),
        (json!("keep"), json!("end"))
    );
}

#[test]
fn each_change_of_an_account_is_one_command() {
    let api = FakeApi::always(200, json!({ "message": "Done", "user": account(false) }));
    let home = Home::logged_in(&api);
    for verb in ["enable", "promote", "demote"] {
        assert_eq!(home.run(&["users", verb, "bob"]).code, Some(0), "{verb}");
    }
    let set = home.run_with_input(&["users", "password", "bob", "--password-stdin"], "a long one 12\n");
    assert_eq!(set.code, Some(0), "{set:?}");
    assert_eq!(home.run(&["users", "quota", "bob", "--nodes", "3"]).code, Some(0));
    assert_eq!(
        api.lines(),
        [
            "POST /api/admin/users/bob/enable",
            "POST /api/admin/users/bob/promote",
            "POST /api/admin/users/bob/demote",
            "POST /api/admin/users/bob/password",
            "POST /api/admin/users/bob/quotas",
        ]
    );
    assert_eq!(api.seen()[3].json(), json!({ "password": "a long one 12" }));
    assert_eq!(api.seen()[4].json(), json!({ "nodes": 3 }));
}

#[test]
fn who_changes_the_password_stays_logged_in() {
    let api = FakeApi::start(|request, _| match request.line.as_str() {
        "POST /api/auth/password" => Answer::Json(200, json!({ "token": "n3w" })),
        _ => Answer::Json(200, json!([])),
    });
    let home = Home::logged_in(&api);
    let changed = home.run_with_input(&["password", "--password-stdin"], "the old one\nthe new one\n");
    assert_eq!(changed.code, Some(0), "{changed:?}");
    assert_eq!(api.seen()[0].json(), json!({ "old_password": "the old one", "new_password": "the new one" }));
    drop(home.run(&["whoami"]));
    assert_eq!(api.seen()[1].header("authorization"), Some("Bearer n3w"));
    let one_line = home.run_with_input(&["password", "--password-stdin"], "the old one\n");
    assert_eq!(one_line.code, Some(2), "{one_line:?}");
}

#[test]
fn an_invitation_is_printed_alone_and_used_at_the_sign_up() {
    let api = FakeApi::start(|request, _| match request.line.as_str() {
        "POST /api/admin/invites" => Answer::Json(
            201,
            json!({ "id": 1, "invite": "orion-invite_x", "expires_at": "2126-01-01T00:00:00Z", "uses": 1 }),
        ),
        _ => Answer::Json(201, json!({ "message": "Account created" })),
    });
    let home = Home::logged_in(&api);
    let made = home.run(&["invite", "create", "--note", "Bob", "--expires", "2d"]);
    assert_eq!((made.code, made.out.as_str()), (Some(0), "orion-invite_x\n"), "{made:?}");
    assert_eq!(api.seen()[0].json(), json!({ "note": "Bob", "expires_hours": 48.0 }));
    let line = ["signup", "bob", "--invite", "orion-invite_x", "--no-login", "--password-stdin"];
    assert_eq!(home.run_with_input(&line, "a long one 12\n").code, Some(0));
    assert_eq!(api.seen()[1].json()["invite"], "orion-invite_x");
}
