use orion_testkit::{Answer, FakeApi, Home};
use serde_json::{Value, json};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

#[test]
fn a_new_webhook_prints_its_secret_alone_on_standard_output() {
    let made = json!({"id": 2, "url": "https://hooks.example/", "kinds": ["lease.*", "node.dead"], "secret": SECRET});
    let api = FakeApi::always(201, made);
    let home = Home::logged_in(&api);
    let ended = home.run(&[
        "webhooks",
        "create",
        "https://hooks.example/",
        "--kind",
        "lease.*",
        "--kind",
        "node.dead",
    ]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), format!("{SECRET}\n").as_str()), "{ended:?}");
    assert!(ended.err.contains("shown only now") && ended.err.contains("orion webhooks test 2"), "{ended:?}");
    let sent = &api.seen()[0];
    assert_eq!(sent.line, "POST /api/admin/webhooks");
    assert_eq!(sent.json(), json!({"url": "https://hooks.example/", "kinds": ["lease.*", "node.dead"]}));
    assert!(sent.header("idempotency-key").is_some_and(|key| key.len() == 32));

    let file = home.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).expect("a file");
    let file = file.to_str().expect("text");
    drop(home.run(&["webhooks", "create", "https://hooks.example/", "--secret-file", file]));
    assert_eq!(api.seen()[1].json(), json!({"url": "https://hooks.example/", "secret": SECRET}));
    let ended =
        home.run(&["webhooks", "create", "https://hooks.example/", "--secret-file", "/does/not/exist"]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.err.contains("/does/not/exist"), "{ended:?}");
    assert_eq!(api.seen().len(), 2, "nothing was sent");
}

#[test]
fn webhooks_are_listed_with_what_is_wrong_with_them() {
    let list = json!([{"id": 2, "url": "https://hooks.example/", "kinds": ["*"], "created_by": 1,
        "created_at": "2026-01-01T00:00:00Z", "pending": 3, "failing": 1, "given_up": 0,
        "last_delivery": {"id": 9, "kind": "node.dead", "state": "pending", "attempts": 2,
            "last_try_at": "2026-01-01T00:00:00Z", "next_try_at": "2126-01-01T00:00:00Z", "status": 500,
            "error": "it answered 500 Internal Server Error"}}]);
    let api = FakeApi::always(200, list.clone());
    let ended = Home::logged_in(&api).run(&["webhooks", "ls"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("try 2 failed: it answered 500 Internal Server Error; again "), "{ended:?}");
    let ended = Home::logged_in(&api).run(&["webhooks", "ls", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&ended.out).ok(), Some(list), "{ended:?}");
    let ended = Home::logged_in(&FakeApi::always(200, json!([]))).run(&["webhooks", "list"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""));
    assert!(ended.err.contains("orion webhooks create URL"), "{ended:?}");
}

#[test]
fn a_test_that_failed_ends_with_status_1_and_the_reason() {
    let tested = |state: &str, error: Value| {
        json!({"message": "The receiver did not take it; it is tried again",
            "delivery": {"id": 9, "kind": "webhook.test", "state": state, "attempts": 1,
                "last_try_at": "2026-01-01T00:00:00Z", "next_try_at": null, "status": 204, "error": error}})
    };
    let failed = tested("pending", json!("no reply within 10 s"));
    let well = tested("delivered", Value::Null);
    let api = FakeApi::start(move |_, before| {
        Answer::Json(200, if before == 0 { failed.clone() } else { well.clone() })
    });
    let home = Home::logged_in(&api);
    let ended = home.run(&["webhooks", "test", "2"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert_eq!(
        ended.err,
        "error: The receiver did not take it; it is tried again: no reply within 10 s\n\
         hint: see how it goes on: orion webhooks ls\n"
    );
    let ended = home.run(&["webhooks", "test", "2"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "delivered (204)\n"), "{ended:?}");
    assert_eq!(api.lines(), ["POST /api/admin/webhooks/2/test", "POST /api/admin/webhooks/2/test"]);
}

#[test]
fn a_webhook_is_deleted_by_its_number() {
    let api = FakeApi::always(200, json!({"message": "Webhook deleted"}));
    let ended = Home::logged_in(&api).run(&["webhooks", "delete", "2"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.err.contains("webhook 2 is deleted"), "{ended:?}");
    assert_eq!(api.lines(), ["POST /api/admin/webhooks/2/delete"]);
    assert_eq!(Home::logged_in(&api).run(&["webhooks", "delete", "https://x"]).code, Some(2));
}
