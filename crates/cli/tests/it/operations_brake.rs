use orion_testkit::{Answer, FakeApi, Home};
use serde_json::json;

#[test]
fn the_brake_is_shown_with_its_reason_and_what_to_do() {
    let on = json!({"engaged": true, "since": "2026-11-21T14:48:00Z", "reason": "3 of 9 nodes went silent", "by": "s-1"});
    let api = FakeApi::always(200, on.clone());
    let ended = Home::logged_in(&api).run(&["brake"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.starts_with("the brake is on since "), "{ended:?}");
    assert!(ended.out.contains("3 of 9 nodes went silent; engaged by s-1"), "{ended:?}");
    assert!(ended.err.contains("orion brake lift"), "{ended:?}");
    assert_eq!(api.lines(), ["GET /api/admin/brake"]);
    let ended = Home::logged_in(&api).run(&["-o", "json", "brake"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&ended.out).ok(), Some(on), "{ended:?}");
}

#[test]
fn a_brake_that_is_off_is_shown_without_advice() {
    let api = FakeApi::always(200, json!({"engaged": false, "since": null}));
    let ended = Home::logged_in(&api).run(&["brake"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "the brake is off; dead nodes' leases move\n"));
    assert_eq!(ended.err, "");
}

#[test]
fn lifting_sends_the_reason_and_says_what_was_done() {
    let api = FakeApi::start(|_, _| {
        Answer::Json(200, json!({"message": "Brake lifted", "brake": {"engaged": false}}))
    });
    let home = Home::logged_in(&api);
    let ended = home.run(&["brake", "lift", "--reason", "rack 3 lost power"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "Brake lifted\n"), "{ended:?}");
    assert_eq!(home.run(&["brake", "lift"]).code, Some(0));
    let seen = api.seen();
    assert_eq!(api.lines(), ["POST /api/admin/brake/lift", "POST /api/admin/brake/lift"]);
    assert_eq!(seen[0].json(), json!({"reason": "rack 3 lost power"}));
    assert_eq!(seen[1].json(), json!({}));
}

#[test]
fn who_is_no_admin_is_told_so() {
    let api = FakeApi::always(403, json!({"detail": "this needs an admin"}));
    let ended = Home::logged_in(&api).run(&["brake", "lift"]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.err.starts_with("error: this needs an admin\n"), "{ended:?}");
}
