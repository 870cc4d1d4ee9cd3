use orion_testkit::{Answer, FakeApi, Home};
use serde_json::json;

const FIRST: &str = "retry: 10\n\nid: 7\nevent: lease.migrating\n\
    data: {\"id\":7,\"at\":\"2026-11-21T14:48:00Z\",\"kind\":\"lease.migrating\",\"lease_id\":42,\"data\":{\"why\":\"dead\"}}\n\n\
    id: 8\nevent: lease.act";
const SECOND: &str = "id: 8\nevent: lease.active\ndata: {\"id\":8,\"at\":\"2026-11-21T14:48:01Z\",\"kind\":\"lease.active\",\"lease_id\":42}\n\n";

#[test]
fn following_resumes_behind_the_last_whole_event_and_shows_each_once() {
    let api = FakeApi::start(|_, before| match before {
        0 => Answer::Events(FIRST),
        1 => Answer::Lost,
        2 => Answer::Json(503, json!({"detail": "restarting"})),
        3 => Answer::Events(SECOND),
        _ => Answer::Json(401, json!({"detail": "the token has expired"})),
    });
    let ended = Home::logged_in(&api).run(&["events", "-f"]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert_eq!(
        ended.out,
        "7  2026-11-21 14:48:00 UTC  lease.migrating       lease 42  why=dead\n\
         8  2026-11-21 14:48:01 UTC  lease.active          lease 42\n"
    );
    let asked: Vec<Option<String>> =
        api.seen().iter().map(|request| request.header("last-event-id").map(str::to_owned)).collect();
    let behind = |id: &str| Some(id.to_owned());
    assert_eq!(asked, [None, behind("7"), behind("7"), behind("7"), behind("8")]);
    assert!(
        ended.err.contains("connection lost; again in") && ended.err.contains("connected again"),
        "{ended:?}"
    );
}

#[test]
fn without_follow_the_latest_events_are_shown_and_that_is_all() {
    let api = FakeApi::start(|_, _| {
        Answer::Events(concat!(
            "id: 1\ndata: {\"id\":1,\"kind\":\"a\"}\n\n",
            "id: 2\ndata: {\"id\":2,\"kind\":\"b\"}\n\n",
            "id: 3\ndata: {\"id\":3,\"kind\":\"c\"}\n\n",
            ": that was all\n\n",
        ))
    });
    let ended = Home::logged_in(&api).run(&["events", "-n", "2", "-o", "json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.out, "{\"id\":2,\"kind\":\"b\"}\n{\"id\":3,\"kind\":\"c\"}\n");
    assert_eq!(api.seen()[0].header("last-event-id"), Some("0"));
}

#[test]
fn an_api_that_is_away_from_the_start_is_an_error() {
    let api = FakeApi::always(503, json!({"detail": "the database is away"}));
    let ended = Home::logged_in(&api).run(&["events", "-f"]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.err.starts_with("error: the database is away\n"), "{ended:?}");
}
