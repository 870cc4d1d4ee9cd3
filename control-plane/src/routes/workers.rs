//! `/api/workers/register` and `/api/workers/link`: what agents call.

use super::Body;
use crate::{
    App,
    app::{idempotency::raw_key, registration::RegisterBody},
    auth::bearer,
    crypto::sha256_hex,
    error::ApiError,
    openapi::parameters::IdempotencyKey,
};
use axum::{
    Json,
    extract::{State, WebSocketUpgrade},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use orion_domain::NodeId;
use serde::Serialize;
use utoipa::ToSchema;

/// Largest message on a link, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A worker that is a node now.
#[derive(Serialize, ToSchema)]
pub struct Registration {
    message: &'static str,
    #[schema(value_type = i64)]
    node_id: NodeId,
    /// The control plane's CA, as a line for `TrustedUserCAKeys` of the node's sshd (sshd_config(5)).
    ssh_ca: String,
    /// The node's own token, for a new node only: it is written nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    node_token: Option<String>,
}

/// Become a node
///
/// With a join token, or, to change what is known, with the node's own. Without `host_keys` (plain curl) the node
/// is `pending` until an admin accepts the fingerprint that was seen at it. With an `Idempotency-Key` a worker
/// that lost the reply gets the same `node_token` again.
#[utoipa::path(
    post, path = "/api/workers/register", operation_id = "registerWorker", tag = "workers",
    security(("join_token" = []), ("node_token" = [])),
    params(IdempotencyKey),
    request_body = RegisterBody,
    responses(
        (status = 201, description = "The node is new", body = Registration),
        (status = 200, description = "The node is known", body = Registration),
        (status = 401, description = "The join token is wrong, used up or expired; or no node has this node \
            token any more (`forgotten`): register with a join token"),
        (status = 409, description = "`node_known`: another node has this key, name or address. \
            `host_key_changed`: the node is quarantined"),
    )
)]
pub async fn register(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body<RegisterBody>,
) -> Result<(StatusCode, Json<Registration>), ApiError> {
    let canonical = body.canonical.to_string();
    let registered =
        app.register_worker(body.parsed, &canonical, bearer(&headers), raw_key(&headers)?).await?;
    let (status, message) = if registered.created {
        (StatusCode::CREATED, "Worker registered")
    } else {
        (StatusCode::OK, "Worker already registered")
    };
    let reply = Registration {
        message,
        node_id: registered.node,
        ssh_ca: app.ssh_ca.clone(),
        node_token: registered.node_token.map(|token| token.expose().to_owned()),
    };
    Ok((status, Json(reply)))
}

/// The agent's link
///
/// A WebSocket of JSON text messages, each with a `type`. The agent says `hello`, `beat` (every 5 s), `inventory`
/// and `deadlines`; the control plane says `ack`, `leases` (with the seconds that remain of each), `register_again`
/// and `lock_accounts`. Both pass over what they do not know.
#[utoipa::path(
    get, path = "/api/workers/link", operation_id = "linkAgent", tag = "workers",
    security(("node_token" = [])),
    responses(
        (status = 101, description = "The link is open"),
        (status = 400, description = "This is no WebSocket's handshake"),
        (status = 401, description = "No node has this token (any more): register again"),
    )
)]
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
