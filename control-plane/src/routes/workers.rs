//! `/api/workers/register` and `/api/workers/link`: what agents call.

use super::Body;
use crate::{
    App,
    app::{idempotency::raw_key, registration::RegisterBody},
    auth::bearer,
    crypto::sha256_hex,
    error::ApiError,
};
use axum::{
    Json,
    extract::{State, WebSocketUpgrade},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde_json::{Value, json};

/// Largest message on a link, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// `POST /api/workers/register`
pub async fn register(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body<RegisterBody>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let canonical = body.canonical.to_string();
    let registered =
        app.register_worker(body.parsed, &canonical, bearer(&headers), raw_key(&headers)?).await?;
    let (status, message) = if registered.created {
        (StatusCode::CREATED, "Worker registered")
    } else {
        (StatusCode::OK, "Worker already registered")
    };
    let mut reply = json!({ "message": message, "node_id": registered.node, "ssh_ca": app.ssh_ca });
    if let (Value::Object(map), Some(token)) = (&mut reply, registered.node_token) {
        map.insert("node_token".into(), token.expose().into());
    }
    Ok((status, Json(reply)))
}

/// `GET /api/workers/link`
pub async fn link(
    State(app): State<App>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let token = bearer(&headers).ok_or_else(|| ApiError::unauthorized("no node token"))?;
    let node =
        app.store.node_by_token_sha256(&sha256_hex(token.expose().as_bytes())).await?.ok_or_else(|| {
            ApiError::unauthorized("no node has this node token (any more); register again")
                .with("forgotten", true)
        })?;
    let upgrade = upgrade.map_err(|error| ApiError::bad_request(error.body_text()))?;
    if !app.links.has_room() {
        return Err(ApiError::unavailable("this replica holds as many links as it may"));
    }
    Ok(upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| async move { app.serve_link(node, socket).await }))
}
