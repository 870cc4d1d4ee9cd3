//! Images in registries: what there is, how large, and which registries may be asked.

use crate::api::{Api, Database};
use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::IntoResponse as _,
};
use orion_testkit::{Registry, free_port};
use serde_json::{Value, json};

/// An address on loopback that nobody else has.
fn address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// An API whose operator names these registries.
async fn api_for(registries: &str) -> Api {
    let registries = registries.parse().expect("a list of registries");
    Api::start_with(Database::Sqlite, |config| config.image_registries = registries).await
}

async fn test(api: &Api, token: &str, image: &str) -> Value {
    api.get(&format!("/api/images/test?image={image}"), token).await.expect(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_says_whether_it_has_an_image_and_how_large_it_is() {
    let registry = Registry::start(&address());
    let digest = registry.put_image("team/app", "1", &[1_000, 20_000]);
    let api = api_for(&format!("http://{}", registry.address())).await;
    let token = api.user("alice").await;
    let name = format!("{}/team/app", registry.address());
    let by_digest = format!("{name}@{digest}");
    for (image, whole) in [(format!("{name}:1"), format!("{name}:1")), (by_digest.clone(), by_digest)] {
        let found = test(&api, &token, &image).await;
        let expected = json!({
            "image": whole, "exists": true, "reason": null, "digest": digest, "platforms": ["linux/amd64"],
            "platform": "linux/amd64", "layers": 2, "size_bytes": 21_000, "on_node": null,
        });
        assert_eq!(found, expected);
    }
    for absent in [format!("{name}:2"), format!("{}/team/none:1", registry.address())] {
        let found = test(&api, &token, &absent).await;
        assert_eq!((&found["exists"], &found["size_bytes"]), (&json!(false), &Value::Null), "{found}");
        assert_eq!(found["reason"], "the registry has no such image", "{found}");
    }
    let found = test(&api, &token, &format!("{name}:1&platform=linux/arm64")).await;
    assert_eq!(found["reason"], "the image is not for linux/arm64; it is for linux/amd64", "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_not_named_is_refused_or_asked_at_a_public_address_alone() {
    let listed = Api::start(Database::Sqlite).await;
    let token = listed.user("alice").await;
    let registry = Registry::start(&address());
    registry.put_image("team/app", "1", &[10]);
    for place in [registry.address(), "169.254.169.254", "[::1]:5000", "10.0.0.1:5000"] {
        let found = test(&listed, &token, &format!("{place}/team/app:1")).await;
        assert_eq!(found["exists"], Value::Null, "{found}");
        let reason = found["reason"].as_str().expect("a reason");
        assert!(reason.contains("ORION_IMAGE_REGISTRIES"), "{found}");
    }
    let found = test(&listed, &token, "localhost/team/app:1").await;
    assert!(found["reason"].as_str().expect("a reason").contains("no public address"), "{found}");

    let closed = api_for("docker.io,ghcr.io/owner").await;
    let token = closed.user("alice").await;
    let path = format!("/api/images/test?image={}/team/app:1", registry.address());
    let refused = closed.get(&path, &token).await.problem(400);
    assert_eq!(refused["field"], "image");
    let detail = refused["detail"].as_str().expect("a detail");
    assert!(detail.ends_with("images come from these registries only: docker.io, ghcr.io/owner"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_of_an_image_from_another_registry_is_refused_at_the_request() {
    let api = api_for("docker.io").await;
    let token = api.user("alice").await;
    api.offered_node("node-1").await;
    assert!(api.place("alice", None).await);
    let lease = api.get("/api/rentals", &token).await.expect(200)[0]["rental_id"].clone();
    let body = json!({ "image": "ghcr.io/owner/app:1" });
    let refused = api.post(&format!("/api/rentals/{lease}/containers"), &token, &body).await.problem(400);
    let detail = refused["detail"].as_str().expect("a detail");
    assert!(detail.contains("docker.io") && refused["field"] == "image", "{refused}");
}

/// Answers as a registry that gives away tokens, and whose manifest is not what its digest says.
async fn token_registry(realm: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let own = address.clone();
    let router = Router::new().fallback(move |request: Request| {
        let realm = realm.replace("OWN", &own);
        async move {
            let path = request.uri().path().to_owned();
            let query = request.uri().query().unwrap_or_default().to_owned();
            let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            match (path.as_str(), token) {
                ("/token", _) => {
                    assert!(query.contains("scope=repository%3Ateam%2Fapp%3Apull"), "{query}");
                    assert!(query.contains("service=here"), "{query}");
                    (StatusCode::OK, r#"{"token":"t0k"}"#).into_response()
                }
                (_, Some("Bearer t0k")) => {
                    (StatusCode::OK, r#"{"layers":[{"digest":"sha256:a","size":5}]}"#).into_response()
                }
                (_, _) => {
                    let challenge = format!(r#"Bearer realm="{realm}",service="here",scope="x""#);
                    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response()
                }
            }
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_asked_for_where_the_registry_says_but_not_without_tls_elsewhere() {
    let registry = token_registry("http://OWN/token").await;
    let api = api_for(&format!("http://{registry}")).await;
    let token = api.user("alice").await;
    let found = test(&api, &token, &format!("{registry}/team/app:1")).await;
    assert_eq!((&found["exists"], &found["size_bytes"]), (&json!(true), &json!(5)), "{found}");
    let wrong = format!("{registry}/team/app@sha256:{}", "0".repeat(64));
    let found = test(&api, &token, &wrong).await;
    assert_eq!(found["reason"], "what the registry sent has another digest", "{found}");
    let nowhere = token_registry("file:///etc/passwd").await;
    let api = api_for(&format!("http://{nowhere}")).await;
    let token = api.user("alice").await;
    let found = test(&api, &token, &format!("{nowhere}/team/app:1")).await;
    assert_eq!(found["reason"], "the registry leads to an address without TLS", "{found}");
}
