use orion_testkit::{FakeApi, Home};
use serde_json::{Value, json};

fn health(status: &str, scheduler: &str) -> Value {
    json!({
        "status": status,
        "parts": {
            "database": { "status": "up" },
            "scheduler": { "status": scheduler, "last_pass": "2026-11-21T14:49:59Z" },
        },
        "brake": { "engaged": false, "since": null },
        "tasks": [
            { "name": "drain", "state": "ok", "failures": 0 },
            { "name": "expire", "state": "failing", "failures": 2, "error": "no route", "last_run": null },
        ],
    })
}

#[test]
fn a_task_that_fails_is_shown_also_to_one_who_is_not_logged_in() {
    let api = FakeApi::always(200, health("healthy", "up"));
    let logged_in = Home::logged_in(&api).run(&["status"]);
    let anyone = Home::new().run(&["--api", &api.url(), "status"]);
    for ended in [logged_in, anyone] {
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.out.starts_with("database: up\nscheduler: up, last heard of "), "{ended:?}");
        assert!(ended.out.ends_with("task expire: failing, 2 runs in a row, the last never: no route\n"));
    }
    let ended = Home::logged_in(&api).run(&["-o", "json", "status"]);
    assert_eq!(serde_json::from_str::<Value>(&ended.out).ok(), Some(health("healthy", "up")), "{ended:?}");
}

#[test]
fn a_part_that_is_down_is_shown_and_is_a_failure() {
    let api = FakeApi::always(503, health("unhealthy", "down"));
    let ended = Home::logged_in(&api).run(&["status"]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.out.contains("scheduler: down, last heard of "), "{ended:?}");
    assert!(ended.err.starts_with("error: a part of Orion is down\n"), "{ended:?}");
}
