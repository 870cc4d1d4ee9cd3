use orion_testkit::{Answer, Ended, FakeApi, Home, ended};
use serde_json::{Value, json};
use std::process::Stdio;

fn lease(id: i64, name: &str) -> Value {
    json!({"rental_id": id, "name": name, "state": "active", "state_since": "2026-01-01T00:00:00Z",
        "state_reason": "rented", "leased_from": "2026-01-01T00:00:00Z"})
}

/// Two leases, `train` (1) and `trial` (2), found by number and by whole name.
fn two_leases() -> FakeApi {
    FakeApi::start(|request, _| match request.line.as_str() {
        "GET /api/rentals" => Answer::Json(200, json!([lease(1, "train"), lease(2, "trial")])),
        "GET /api/rentals/1" | "GET /api/rentals/train" => Answer::Json(200, lease(1, "train")),
        "GET /api/rentals/2" | "GET /api/rentals/trial" => Answer::Json(200, lease(2, "trial")),
        "POST /api/extend/1" => {
            Answer::Json(200, json!({"lease_id": 1, "new_end_at": "2126-01-01T02:00:00Z", "applied": false}))
        }
        "POST /api/release/1" | "POST /api/release/2" => {
            Answer::Json(200, json!({"message": "Lease released"}))
        }
        _ => Answer::Json(404, json!({"detail": "no such lease"})),
    })
}

#[test]
fn a_list_is_read_to_its_last_page_at_the_same_api() {
    let api = FakeApi::start(|request, _| {
        if request.line.contains("cursor") {
            return Answer::Json(200, json!([lease(2, "b")]));
        }
        let link = "<http://127.0.0.1:1/elsewhere?limit=1&cursor=a%2Bb>; rel=\"next\"";
        Answer::JsonWith(200, json!([lease(1, "a")]), "Link", link.into())
    });
    let ended = Home::logged_in(&api).run(&["ls", "--all", "-o", "json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap(), json!([lease(1, "a"), lease(2, "b")]));
    assert_eq!(api.lines(), ["GET /api/rentals?all=true", "GET /api/rentals?all=true&cursor=a%2Bb"]);
}

#[test]
fn the_beginning_of_a_name_is_enough_when_it_means_one_lease() {
    let api = two_leases();
    let home = Home::logged_in(&api);
    let ended = home.run(&["show", "tra"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("train"), "{ended:?}");
    let ended = home.run(&["show", "tr"]);
    assert_eq!(ended.code, Some(4));
    assert_eq!(ended.err, "error: 'tr' could mean train, trial\nhint: give the whole name, or the number\n");
}

#[test]
fn an_unknown_lease_ends_with_status_4() {
    let api = two_leases();
    let home = Home::logged_in(&api);
    for unknown in ["7", "zug"] {
        let ended = home.run(&["show", unknown]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(4), ""), "{ended:?}");
        assert!(ended.err.contains("hint: see your leases: orion ls"), "{ended:?}");
    }
}

#[test]
fn an_extension_takes_a_name_and_says_when_the_node_does_not_know_yet() {
    let api = two_leases();
    let ended = Home::logged_in(&api).run(&["extend", "train", "2h"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(api.seen()[1].json(), json!({"additional_hours": 2.0}));
    assert!(ended.out.starts_with("until 2126-01-01 02:00 UTC (in "), "{ended:?}");
    assert!(ended.err.contains("does not know the new end yet"), "{ended:?}");
}

#[test]
fn an_extension_whose_reply_was_lost_is_not_repeated() {
    let api = FakeApi::start(|_, _| Answer::Lost);
    let ended = Home::logged_in(&api).run(&["extend", "1", "2h"]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert_eq!(api.seen().len(), 1);
    assert!(ended.err.contains("hint: the request may have been carried out"), "{ended:?}");
}

#[test]
fn several_releases_go_on_when_one_fails() {
    let api = two_leases();
    let ended = Home::logged_in(&api).run(&["release", "train", "9", "2", "-o", "json"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    let done: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(done[0]["rental_id"], 1);
    assert_eq!(done[1]["rental_id"], 2);
    assert!(ended.err.contains("9: error: no such lease"), "{ended:?}");
    assert!(ended.err.ends_with("error: 1 of 3 leases were not released\n"), "{ended:?}");
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let api = FakeApi::start(|_, _| Answer::Json(200, json!([lease(1, "train")])));
    let home = Home::logged_in(&api);
    let mut command = home.command(&["ls"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.err.as_str()), (Some(141), ""));
}

#[test]
fn an_api_that_is_not_there_is_named() {
    let free_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Home::new().command(&["nodes", "--api", &format!("http://{free_port}")]);
    let ended = ended({
        command.env("ORION_TOKEN", "t");
        command
    });
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.err.contains(&format!("cannot reach the API at http://{free_port}")), "{ended:?}");
    assert!(ended.err.contains("hint: is it running (orion up)?"), "{ended:?}");
}

#[test]
fn a_join_token_alone_goes_to_standard_output() {
    let api =
        FakeApi::always(201, json!({"token": "join-me", "id": 3, "expires_at": "2126-01-01T00:00:00Z"}));
    let home = Home::logged_in(&api);
    let ended = home.run(&["token", "create", "--note", "rack 3", "--expires", "1d", "--uses", "4"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "join-me\n"), "{ended:?}");
    assert!(!ended.err.contains("join-me"));
    assert_eq!(api.seen()[0].json(), json!({"note": "rack 3", "expires_hours": 24.0, "uses": 4}));
}
