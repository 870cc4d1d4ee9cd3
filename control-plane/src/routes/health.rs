//! `/api/health`, `/api/live`, and the status page.

use crate::App;
use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse},
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use serde_json::{Value, json};
use std::time::Duration;

/// A scheduler that has not passed for so long is down.
const SCHEDULER_SILENT: Duration = Duration::from_secs(30);

/// `GET /api/live`: this process answers. Never touches the database.
pub async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

/// `GET /api/health`: the parts; 503 when one is down.
pub async fn health(State(app): State<App>) -> (StatusCode, Json<Value>) {
    let database = app.store.is_healthy().await;
    let now = app.now();
    let pass =
        match database {
            true => app.store.replicas().await.ok().and_then(|replicas| {
                replicas.iter().filter(|r| r.kind == "scheduler").map(|r| r.beat_at).max()
            }),
            false => None,
        };
    let scheduler = pass.is_some_and(|at| now.since(at) < SCHEDULER_SILENT);
    let word = |up| if up { "up" } else { "down" };
    let healthy = database && scheduler;
    let brake = if database { app.store.get_setting("brake").await.ok().flatten() } else { None };
    let body = json!({
        "status": if healthy { "healthy" } else { "unhealthy" },
        "parts": {
            "database": { "status": word(database) },
            "scheduler": { "status": word(scheduler), "last_pass": pass },
        },
        "brake": brake.and_then(|text| serde_json::from_str::<Value>(&text).ok()).unwrap_or(Value::Null),
        "version": env!("CARGO_PKG_VERSION"),
    });
    (if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}

const STATUS_PAGE: &str = include_str!("../../../web/status.html");

/// `GET /`: the status page, one file, under a strict content security policy.
pub async fn status_page() -> impl IntoResponse {
    let nonce = STANDARD_NO_PAD.encode(rand::random::<[u8; 16]>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, Html(STATUS_PAGE.replace("__NONCE__", &nonce)))
}
