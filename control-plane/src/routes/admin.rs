//! What admins do: join tokens, host keys, reset.

use super::{Body, parse_id};
use crate::{
    App,
    auth::Admin,
    crypto::{new_token, sha256_hex},
    error::ApiError,
};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use orion_domain::NodeId;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// The body of `POST /api/tokens`.
#[derive(Deserialize)]
pub struct TokenBody {
    note: Option<String>,
    expires_hours: Option<f64>,
    uses: Option<i64>,
}

/// `POST /api/tokens`: a join token for workers.
pub async fn create_token(
    State(app): State<App>,
    Admin(who): Admin,
    body: Body<TokenBody>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
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
    let token = new_token("orion-join");
    let sha256 = sha256_hex(token.expose().as_bytes());
    let id = app.store.create_join_token(&sha256, &note, Some(who.user), expires_at, uses, now).await?;
    let reply = json!({ "id": id, "token": token.expose(), "expires_at": expires_at, "uses": uses });
    Ok((StatusCode::CREATED, Json(reply)))
}

/// The body of `POST /api/admin/nodes/{id}/accept-key`.
#[derive(Deserialize)]
pub struct AcceptBody {
    fingerprint: String,
}

/// `POST /api/admin/nodes/{id}/accept-key`
pub async fn accept_key(
    State(app): State<App>,
    Admin(_): Admin,
    Path(id): Path<String>,
    body: Body<AcceptBody>,
) -> Result<Json<Value>, ApiError> {
    let id: NodeId = parse_id(&id, "node")?;
    app.accept_key(id, &body.parsed.fingerprint).await?;
    Ok(Json(json!({ "message": "Host key accepted", "node_id": id })))
}

/// `POST /api/reset`
pub async fn reset(State(app): State<App>, Admin(who): Admin) -> Result<Json<Value>, ApiError> {
    let forgotten = app.reset(who.user).await?;
    let kept: Vec<Value> = forgotten
        .kept
        .iter()
        .map(|(node, hostname, why)| json!({ "node_id": node, "hostname": hostname, "why": why }))
        .collect();
    Ok(Json(json!({ "message": "DB reset OK", "forgotten": forgotten.forgotten.len(), "kept": kept })))
}
