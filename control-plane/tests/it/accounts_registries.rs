//! Logins of accounts at registries: kept sealed, shown without their passwords, used for their owner alone.

use crate::{
    api::{Api, Database},
    on_both_databases,
};
use orion_testkit::{Registry, free_port};
use reqwest::Method;
use serde_json::{Value, json};

on_both_databases!(a_login_is_its_owner_s_and_its_password_is_shown_nowhere);

const PATH: &str = "/api/account/registries";

async fn put(api: &Api, token: &str, registry: &str, body: &Value) -> crate::api::Reply {
    let request = api.request(Method::PUT, &format!("{PATH}/{registry}")).bearer_auth(token).json(body);
    crate::api::Reply::of(request).await
}

async fn delete(api: &Api, token: &str, registry: &str) -> crate::api::Reply {
    crate::api::Reply::of(api.request(Method::DELETE, &format!("{PATH}/{registry}")).bearer_auth(token)).await
}

async fn a_login_is_its_owner_s_and_its_password_is_shown_nowhere(api: Api) {
    let (alice, bob) = (api.user("alice").await, api.user("bob").await);
    let body = json!({ "username": "ada", "password": "hush-hush" });
    let kept = put(&api, &alice, "index.docker.io", &body).await.expect(200);
    assert_eq!((&kept["registry"], &kept["username"]), (&json!("docker.io"), &json!("ada")));
    put(&api, &alice, "ghcr.io", &body).await.expect(200);
    let listed = api.get(PATH, &alice).await.expect(200);
    let registries: Vec<&Value> =
        listed.as_array().expect("a list").iter().map(|login| &login["registry"]).collect();
    assert_eq!(registries, ["docker.io", "ghcr.io"]);
    assert!(!listed.to_string().contains("hush-hush"));
    let shown = api.get(&format!("{PATH}/docker.io"), &alice).await.expect(200);
    assert_eq!(shown, kept);
    let alice_id = api.app.store.accounts().by_name("alice").await.expect("a user").expect("signed up").id;
    let row = api.app.store.images().login(alice_id, "docker.io").await.expect("a row").expect("kept");
    assert!(!row.password_sealed.windows(9).any(|part| part == b"hush-hush"));
    let opened = api.app.fleet.registry_credentials(alice_id, "docker.io").await.expect("a row");
    assert_eq!(opened.expect("it opens").expect("kept").password.expose(), "hush-hush");

    assert_eq!(api.get(PATH, &bob).await.expect(200), json!([]));
    api.get(&format!("{PATH}/docker.io"), &bob).await.problem(404);
    delete(&api, &bob, "docker.io").await.problem(404);
    delete(&api, &alice, "docker.io").await.expect(200);
    api.get(&format!("{PATH}/docker.io"), &alice).await.problem(404);

    for (registry, field, wrong) in [
        ("Ghcr.io", "registry", body.clone()),
        ("ghcr.io%2Fowner", "registry", body.clone()),
        ("ghcr.io", "username", json!({ "username": "a:b", "password": "p" })),
        ("ghcr.io", "username", json!({ "username": "", "password": "p" })),
        ("ghcr.io", "password", json!({ "username": "a", "password": "p\nq" })),
        ("ghcr.io", "password", json!({ "username": "a", "password": "p".repeat(9_000) })),
    ] {
        assert_eq!(
            put(&api, &alice, registry, &wrong).await.problem(400)["field"],
            field,
            "{registry} {field}"
        );
    }
    for number in 1..50 {
        put(&api, &alice, &format!("r{number}.example"), &body).await.expect(200);
    }
    assert_eq!(put(&api, &alice, "r50.example", &body).await.problem(409)["kind"], "too_many_logins");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_a_private_registry_is_found_with_the_login_of_who_asks() {
    let registry = Registry::start_private(&format!("127.0.0.1:{}", free_port()));
    registry.put_image("team/app", "1", &[5]);
    let list = format!("http://{}", registry.address()).parse().expect("a list");
    let api = Api::start_with(Database::Sqlite, |config| config.image_registries = list).await;
    let (alice, bob) = (api.user("alice").await, api.user("bob").await);
    let login = |password: &str| json!({ "username": Registry::USER, "password": password });
    put(&api, &alice, registry.address(), &login(Registry::PASSWORD)).await.expect(200);
    put(&api, &bob, registry.address(), &login("wrong")).await.expect(200);
    let path = format!("/api/images/test?image={}/team/app:1", registry.address());
    let found = api.get(&path, &alice).await.expect(200);
    assert_eq!((&found["exists"], &found["size_bytes"]), (&json!(true), &json!(5)), "{found}");
    let found = api.get(&path, &bob).await.expect(200);
    assert_eq!(found["reason"], "the registry has no such image, or not for your credentials", "{found}");
    delete(&api, &bob, registry.address()).await.expect(200);
    let found = api.get(&path, &bob).await.expect(200);
    let reason = found["reason"].as_str().expect("a reason");
    assert!(reason.contains(&format!("orion image login {}", registry.address())), "{found}");
}
