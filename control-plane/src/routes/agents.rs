//! `/api/workers/register` and `/api/workers/link`: what agents call.

use super::Body;
use crate::{
    App,
    app::{
        agents::register::{CameFrom, RegisterBody},
        idempotency::raw_key,
    },
    auth::{ClientAddr, bearer},
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
/// Longest boot id, in bytes; the kernel's has 36.
const BOOT_ID_MAX: usize = 64;

/// Header with the boot id of the agent's kernel: tells a node from a copy of its machine.
const BOOT_ID: &str = "orion-boot-id";

fn boot_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(BOOT_ID)?.to_str().ok().filter(|id| !id.is_empty() && id.len() <= BOOT_ID_MAX)
}

/// Header with the SHA-256 (hex) of the machine id: tells whether a new worker is the machine of a node, or a copy of it.
const MACHINE_ID: &str = "orion-machine-id";

fn machine_id(headers: &HeaderMap) -> Option<&str> {
    let is_sha256 = |id: &&str| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    headers.get(MACHINE_ID)?.to_str().ok().filter(is_sha256)
}

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
    /// Fields of the body that this version does not know, and passed over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    ignored: Vec<String>,
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
        (status = 409, description = "`node_known`: another node has this key, name or address, or is this machine (one machine id, and one \
            boot id or address), or the node's link is up from another machine (`Retry-After`). \
            `host_key_changed`: the node is quarantined"),
    )
)]
pub async fn register(
    State(app): State<App>,
    ClientAddr(address): ClientAddr,
    headers: HeaderMap,
    body: Body<RegisterBody>,
) -> Result<(StatusCode, Json<Registration>), ApiError> {
    let canonical = body.canonical.to_string();
    let came = CameFrom {
        address,
        boot_id: boot_id(&headers).map(str::to_owned),
        machine_id_sha256: machine_id(&headers).map(str::to_ascii_lowercase),
    };
    let registered =
        app.agents().register(body.parsed, &canonical, bearer(&headers), raw_key(&headers)?, came).await?;
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
        ignored: body.passed_over,
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
        (status = 409, description = "`node_known`: the node's link is up from another machine (the header \
            `orion-boot-id` names another kernel)"),
    )
)]
pub async fn link(
    State(app): State<App>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let token = bearer(&headers).ok_or_else(|| ApiError::unauthorized("no node token"))?;
    let node = app.agents().node_of(&token).await?;
    let upgrade = upgrade.map_err(|error| ApiError::bad_request(error.body_text()))?;
    app.agents().may_link(&node, boot_id(&headers)).await?;
    Ok(upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| async move { app.agents().serve(node, socket).await }))
}
