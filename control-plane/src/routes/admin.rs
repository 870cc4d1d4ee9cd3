//! What admins do: join tokens, host keys, quarantine, forgetting a node, the brake, reset.

use super::{Body, parse_id};
use crate::{
    App,
    app::idempotency::Idempotent,
    auth::Admin,
    crypto::{new_token, sha256_hex},
    error::ApiError,
    openapi::parameters::IdempotencyKey,
};
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use orion_domain::{NodeId, Timestamp, TokenId, brake::Brake};
use orion_store::{Cas, ForgetRequest};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// What a join token is to be good for. All of it may be left out.
#[derive(Deserialize, ToSchema)]
pub struct TokenBody {
    /// For the operator's own memory, at most 200 characters.
    #[schema(max_length = 200)]
    note: Option<String>,
    /// How long it is good for; without an end if left out.
    #[schema(exclusive_minimum = 0, maximum = 87600)]
    expires_hours: Option<f64>,
    /// How many workers it is good for; any number if left out.
    #[schema(minimum = 1)]
    uses: Option<i64>,
}

/// A join token.
#[derive(Serialize, ToSchema)]
pub struct JoinToken {
    #[schema(value_type = i64)]
    id: TokenId,
    /// For the workers' `ORION_JOIN_TOKEN`; it is shown here only.
    token: String,
    #[schema(value_type = Option<String>, format = DateTime, required)]
    expires_at: Option<Timestamp>,
    #[schema(required)]
    uses: Option<u32>,
}

/// What was done to a node, in a sentence.
#[derive(Serialize, ToSchema)]
pub struct NodeMessage {
    /// What was done.
    pub message: &'static str,
    /// To which node.
    #[schema(value_type = i64)]
    pub node_id: NodeId,
}

/// Make a join token
#[utoipa::path(
    post, path = "/api/tokens", operation_id = "createJoinToken", tag = "admin",
    params(IdempotencyKey),
    request_body = TokenBody,
    responses((status = 201, description = "The token", body = JoinToken))
)]
pub async fn create_token(
    State(app): State<App>,
    Admin(who): Admin,
    headers: HeaderMap,
    body: Body<TokenBody>,
) -> Result<(StatusCode, Json<JoinToken>), ApiError> {
    let master = &app.config.master_key;
    let key = Idempotent::read(&headers, "join-token", Some(who.user), &body.canonical, master)?;
    let TokenBody { note, expires_hours, uses } = body.parsed;
    let note = note.unwrap_or_default();
    if note.chars().count() > 200 {
        return Err(ApiError::field("note", "must have at most 200 characters"));
    }
    let now = app.now();
    let expires_at = match expires_hours {
        None => None,
        Some(hours) if hours.is_finite() && hours > 0.0 && hours <= 87_600.0 => {
            Some(now.plus(Duration::from_secs_f64(hours * 3600.0)))
        }
        Some(hours) => {
            return Err(ApiError::field(
                "expires_hours",
                format!("must be more than 0 and at most 87600, not {hours}"),
            ));
        }
    };
    let uses = match uses {
        None => None,
        Some(uses) => Some(
            u32::try_from(uses)
                .ok()
                .filter(|&uses| uses > 0)
                .ok_or_else(|| ApiError::field("uses", format!("must be at least 1, not {uses}")))?,
        ),
    };
    let token = match &key {
        Some(key) => {
            if let Some(earlier) = app.store.idem_begin(&key.row(None, None, now), now).await? {
                key.check_body(&earlier)?;
            }
            // The token follows from the key: the same request makes the same one, also after a crash.
            let salt = format!("{} {}", key.scope(), key.sha256());
            master.derive_token("orion-join", "join-token", salt.as_bytes())
        }
        None => new_token("orion-join"),
    };
    let sha256 = sha256_hex(token.expose().as_bytes());
    let made = app.store.create_join_token(&sha256, &note, Some(who.user), expires_at, uses, now).await?;
    let reply =
        JoinToken { id: made.id, token: token.expose().to_owned(), expires_at: made.expires_at, uses };
    Ok((StatusCode::CREATED, Json(reply)))
}

/// Which host key is accepted.
#[derive(Deserialize, ToSchema)]
pub struct AcceptBody {
    /// As `ssh-keygen -lf` prints it on the machine, and as the node's `admin.seen_fingerprint` shows it.
    fingerprint: String,
}

/// Accept a pending node's host key
#[utoipa::path(
    post, path = "/api/admin/nodes/{id}/accept-key", operation_id = "acceptHostKey", tag = "admin",
    params(("id" = i64, Path, description = "The node's number", example = 3)),
    request_body = AcceptBody,
    responses(
        (status = 200, description = "The key is pinned", body = NodeMessage),
        (status = 404, description = "There is no such node"),
        (status = 409, description = "Another fingerprint was seen at the node, or none yet"),
    )
)]
pub async fn accept_key(
    State(app): State<App>,
    Admin(_): Admin,
    Path(id): Path<String>,
    body: Body<AcceptBody>,
) -> Result<Json<NodeMessage>, ApiError> {
    let id: NodeId = parse_id(&id, "node")?;
    app.accept_key(id, &body.parsed.fingerprint).await?;
    Ok(Json(NodeMessage { message: "Host key accepted", node_id: id }))
}

/// Lift a node's quarantine
///
/// The node is reconciled, and then offered again.
#[utoipa::path(
    post, path = "/api/admin/nodes/{id}/quarantine/lift", operation_id = "liftQuarantine", tag = "admin",
    params(("id" = i64, Path, description = "The node's number", example = 3)),
    responses(
        (status = 200, description = "The quarantine is lifted", body = NodeMessage),
        (status = 404, description = "There is no such node"),
        (status = 409, description = "The node is not in quarantine"),
    )
)]
pub async fn lift_quarantine(
    State(app): State<App>,
    Admin(_): Admin,
    Path(id): Path<String>,
) -> Result<Json<NodeMessage>, ApiError> {
    let id: NodeId = parse_id(&id, "node")?;
    let lifted = app.store.lift_quarantine(id, app.now()).await?;
    app.fleet.nudge.all();
    match lifted {
        Cas::Done(_) => Ok(Json(NodeMessage { message: "Quarantine lifted", node_id: id })),
        Cas::Stale => Err(ApiError::conflict("not_quarantined", format!("node {id} is not in quarantine"))),
        Cas::Gone => Err(ApiError::not_found(format!("there is no node {id}"))),
    }
}

/// How a node is forgotten. The whole body may be left out.
#[derive(Default, Deserialize, ToSchema)]
pub struct ForgetBody {
    /// Also if an account may be left on the node, or it is being worked on; and its node token is worth nothing
    /// afterwards.
    #[serde(default)]
    force: bool,
}

/// A node that is no longer known.
#[derive(Serialize, ToSchema)]
pub struct NodeForgotten {
    message: &'static str,
    #[schema(value_type = i64)]
    node_id: NodeId,
    hostname: String,
}

/// Forget a node
///
/// For a machine that is gone, or was set up anew: its host key, name and address are free for a registration, which
/// makes a new node. A node that is clean, dead, quarantined, drained or was never admitted is forgotten at once; one
/// that may still hold an account only with `force`, and then nobody cleans it. A node with a lease never is: release
/// the lease, or drain the node.
///
/// An agent that still runs there has its link closed and registers again: with its join token, if it has one, else
/// with its node token, as long as its host key is the same. That makes a new node, which is cleaned before it is
/// offered. The node token of a node that was forgotten by force, quarantined or drained is worth nothing; to keep
/// the machine away, run `orion-agent uninstall` on it first.
#[utoipa::path(
    post, path = "/api/admin/nodes/{id}/forget", operation_id = "forgetNode", tag = "admin",
    params(("id" = i64, Path, description = "The node's number", example = 3)),
    request_body(content = Option<ForgetBody>),
    responses(
        (status = 200, description = "The node is forgotten", body = NodeForgotten),
        (status = 404, description = "There is no such node"),
        (status = 409, description = "`node_leased`: a lease is on it, or just leaves it. `node_dirty`: an account may \
            be left on it. `node_busy`: it is being worked on. The last two yield to `force`"),
    )
)]
pub async fn forget_node(
    State(app): State<App>,
    Admin(who): Admin,
    Path(id): Path<String>,
    body: Option<Body<ForgetBody>>,
) -> Result<Json<NodeForgotten>, ApiError> {
    let id: NodeId = parse_id(&id, "node")?;
    let ForgetBody { force } = body.map(|body| body.parsed).unwrap_or_default();
    let hostname = app.forget_node(id, ForgetRequest { force, actor: Some(who.user) }).await?;
    Ok(Json(NodeForgotten { message: "Node forgotten", node_id: id, hostname: hostname.to_string() }))
}

/// The brake on migration.
#[derive(Serialize, ToSchema)]
pub struct BrakeView {
    /// Whether nothing is migrated now.
    engaged: bool,
    /// Since when it is as it is; `null` if it was never on.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    since: Option<Timestamp>,
    /// Why, while it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// The scheduler that pulled it, while it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by: Option<String>,
}

impl From<&Brake> for BrakeView {
    fn from(brake: &Brake) -> Self {
        match &brake.engaged {
            Some(engaged) => Self {
                engaged: true,
                since: Some(engaged.since),
                reason: Some(engaged.reason.clone()),
                by: Some(engaged.by.clone()),
            },
            None => Self { engaged: false, since: brake.lifted_at, reason: None, by: None },
        }
    }
}

/// The brake
///
/// Whether it is on, since when, why, and which scheduler pulled it: so many nodes fell silent at once that the
/// fault is more likely on this side.
#[utoipa::path(
    get, path = "/api/admin/brake", operation_id = "showBrake", tag = "admin",
    responses((status = 200, description = "The brake", body = BrakeView))
)]
pub async fn show_brake(State(app): State<App>, Admin(_): Admin) -> Result<Json<BrakeView>, ApiError> {
    Ok(Json(BrakeView::from(&app.store.brake().await?)))
}

/// Why the brake is lifted. The whole body may be left out.
#[derive(Deserialize, ToSchema)]
pub struct LiftBody {
    /// For the event, at most 200 characters.
    #[schema(max_length = 200)]
    reason: Option<String>,
}

/// The brake after it was to be lifted.
#[derive(Serialize, ToSchema)]
pub struct BrakeLifted {
    message: &'static str,
    brake: BrakeView,
}

/// Lift the brake
///
/// Migration goes on; what went silent before pulls the brake no more. Where it is not on, that is said, and
/// nothing is changed.
#[utoipa::path(
    post, path = "/api/admin/brake/lift", operation_id = "liftBrake", tag = "admin",
    request_body(content = Option<LiftBody>),
    responses((status = 200, description = "The brake is off", body = BrakeLifted))
)]
pub async fn lift_brake(
    State(app): State<App>,
    Admin(who): Admin,
    body: Option<Body<LiftBody>>,
) -> Result<Json<BrakeLifted>, ApiError> {
    let reason = body.and_then(|body| body.parsed.reason).unwrap_or_default();
    let reason = reason.trim();
    if reason.chars().count() > 200 {
        return Err(ApiError::field("reason", "must have at most 200 characters"));
    }
    let reason =
        if reason.is_empty() { "lifted by hand".into() } else { format!("lifted by hand: {reason}") };
    let lifted = app.store.lift_brake(None, &reason, Some(who.user), app.now()).await?;
    app.fleet.nudge.all();
    let (message, brake) = match lifted {
        Cas::Done(brake) => ("Brake lifted", brake),
        Cas::Stale | Cas::Gone => ("The brake was not on", app.store.brake().await?),
    };
    Ok(Json(BrakeLifted { message, brake: BrakeView::from(&brake) }))
}

/// What a reset came to.
#[derive(Serialize, ToSchema)]
pub struct ResetReport {
    message: &'static str,
    /// How many nodes were forgotten; their agents register again.
    forgotten: usize,
    /// The nodes that could not be cleaned, and are kept until they are.
    kept: Vec<KeptNode>,
}

/// A node that a reset kept.
#[derive(Serialize, ToSchema)]
pub struct KeptNode {
    #[schema(value_type = i64)]
    node_id: NodeId,
    hostname: String,
    why: String,
}

/// End every lease and forget the clean nodes
///
/// Every lease goes through the normal release.
#[utoipa::path(
    post, path = "/api/reset", operation_id = "reset", tag = "admin",
    responses((status = 200, description = "Done", body = ResetReport))
)]
pub async fn reset(State(app): State<App>, Admin(who): Admin) -> Result<Json<ResetReport>, ApiError> {
    let report = app.reset(who.user).await?;
    let kept = report.kept.into_iter();
    Ok(Json(ResetReport {
        message: "DB reset OK",
        forgotten: report.forgotten.len(),
        kept: kept.map(|(node_id, hostname, why)| KeptNode { node_id, hostname, why }).collect(),
    }))
}
