//! What admins do to a node: its host key, its quarantine, declaring it dead, forgetting it.

use crate::{
    App,
    auth::Admin,
    error::ApiError,
    routes::{Body, parse_id},
};
use axum::{
    Json,
    extract::{Path, State},
};
use orion_domain::{LeaseId, NodeId};
use orion_store::ForgetRequest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest reason, in characters.
const REASON_MAX: usize = 200;

/// Sentence that says what was done to a node.
#[derive(Serialize, ToSchema)]
pub struct NodeMessage {
    /// Sentence that says what was done.
    pub message: &'static str,
    /// Node that was acted on.
    #[schema(value_type = i64)]
    pub node_id: NodeId,
}

/// Host key that is accepted.
#[derive(Deserialize, ToSchema)]
pub struct AcceptBody {
    /// Fingerprint as `ssh-keygen -lf` prints it on the machine, and as the node's `admin.seen_fingerprint`
    /// shows it.
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
    app.nodes().accept_key(id, &body.parsed.fingerprint).await?;
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
    app.nodes().lift_quarantine(id).await?;
    Ok(Json(NodeMessage { message: "Quarantine lifted", node_id: id }))
}

/// Reason for declaring a node dead.
#[derive(Deserialize, ToSchema)]
pub struct DeclareDeadBody {
    /// Reason, for people; 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
}

/// A node that was declared dead, and what that did.
#[derive(Serialize, ToSchema)]
pub struct NodeDeclaredDead {
    message: &'static str,
    #[schema(value_type = i64)]
    node_id: NodeId,
    /// Leases that move to another node, or wait for one, by their policy.
    #[schema(value_type = Vec<i64>)]
    moving: Vec<LeaseId>,
    /// Leases that are over.
    #[schema(value_type = Vec<i64>)]
    ended: Vec<LeaseId>,
}

/// Declare a node dead
///
/// For a machine that does not answer and will not soon: its lease moves, waits or ends by its `on_node_loss`, and one
/// that is being released is over; also while the brake is on. An agent that still has a link locks the accounts. If
/// the machine answers again it is cleaned before it is offered. A node that answers is drained instead.
#[utoipa::path(
    post, path = "/api/admin/nodes/{id}/declare-dead", operation_id = "declareNodeDead", tag = "admin",
    params(("id" = i64, Path, description = "The node's number", example = 3)),
    request_body = DeclareDeadBody,
    responses(
        (status = 200, description = "The node counts as dead", body = NodeDeclaredDead),
        (status = 404, description = "There is no such node"),
        (status = 409, description = "`node_alive`: the node answers. `node_dead`: it is dead already"),
    )
)]
pub async fn declare_node_dead(
    State(app): State<App>,
    Admin(who): Admin,
    Path(id): Path<String>,
    body: Body<DeclareDeadBody>,
) -> Result<Json<NodeDeclaredDead>, ApiError> {
    let id: NodeId = parse_id(&id, "node")?;
    let reason = body.parsed.reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_MAX {
        return Err(ApiError::field("reason", format!("must have 1 to {REASON_MAX} characters")));
    }
    let declared = app.nodes().declare_dead(id, reason, who.user).await?;
    Ok(Json(NodeDeclaredDead {
        message: "Node declared dead",
        node_id: id,
        moving: declared.moving,
        ended: declared.ended,
    }))
}

/// Options for forgetting a node. The whole body may be left out.
#[derive(Default, Deserialize, ToSchema)]
pub struct ForgetBody {
    /// Whether the node is forgotten even if an account may be left on it, or it is being worked on; its node
    /// token is worth nothing afterwards.
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
    let hostname = app.nodes().forget(id, ForgetRequest { force, actor: Some(who.user) }).await?;
    Ok(Json(NodeForgotten { message: "Node forgotten", node_id: id, hostname: hostname.to_string() }))
}
