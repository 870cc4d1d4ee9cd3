//! The brake, as an admin sees and lifts it.

use crate::{
    api::{Api, Reply},
    on_both_databases,
};
use orion_domain::brake::Brake;
use reqwest::Method;
use serde_json::json;

on_both_databases!(an_admin_sees_the_brake_and_lifts_it_and_that_is_told);

async fn an_admin_sees_the_brake_and_lifts_it_and_that_is_told(api: Api) {
    let (alice, boss) = (api.user("alice").await, api.admin("boss").await);
    let off = api.get("/api/admin/brake", &boss).await.expect(200);
    assert_eq!(off["engaged"], false);
    let store = &api.app.store;
    let pulled =
        store.cluster().engage_brake(&Brake::default(), "scheduler-1", "3 of 9 nodes", api.app.now()).await;
    assert!(pulled.expect("stored").done().is_some());

    let on = api.get("/api/admin/brake", &boss).await.expect(200);
    assert_eq!(
        (&on["engaged"], &on["reason"], &on["by"]),
        (&json!(true), &json!("3 of 9 nodes"), &json!("scheduler-1"))
    );
    let health = api.get("/api/health", "").await;
    let health: serde_json::Value = serde_json::from_str(&health.text).expect("JSON");
    assert_eq!((&health["brake"]["engaged"], &health["brake"]["since"]), (&json!(true), &on["since"]));

    api.get("/api/admin/brake", &alice).await.problem(403);
    api.post("/api/admin/brake/lift", &alice, &json!({})).await.problem(403);
    for wrong in [json!({ "reason": 7 }), json!({ "reason": "x".repeat(201) })] {
        let problem = api.post("/api/admin/brake/lift", &boss, &wrong).await.problem(400);
        assert_eq!(problem["field"], "reason", "{problem}");
    }
    assert!(store.cluster().brake().await.expect("stored").engaged.is_some(), "nobody lifted it yet");

    let lifted =
        api.post("/api/admin/brake/lift", &boss, &json!({ "reason": "rack 3 lost power" })).await.expect(200);
    assert_eq!((&lifted["message"], &lifted["brake"]["engaged"]), (&json!("Brake lifted"), &json!(false)));
    assert_eq!(store.cluster().brake().await.expect("stored").engaged, None);
    // Again, and without a body: nothing to do.
    let request = api.request(Method::POST, "/api/admin/brake/lift").bearer_auth(&boss);
    let again = Reply::of(request).await.expect(200);
    assert_eq!(again["message"], "The brake was not on");
    let events = store.events().visible_to(None, orion_domain::EventId(0), 100).await.expect("events");
    let told: Vec<_> =
        events.iter().filter(|event| event.kind == "brake.lifted").map(|event| &event.data).collect();
    let actor = api.user_id("boss").await;
    assert_eq!(told, [&json!({ "reason": "lifted by hand: rack 3 lost power", "actor": actor })]);
}
