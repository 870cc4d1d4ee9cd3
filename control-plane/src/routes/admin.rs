//! What admins do: join tokens, host keys, reset.

use super::{Body, parse_id};
use crate::{
    App,
    app::idempotency::Idempotent,
    auth::Admin,
    crypto::{new_token, sha256_hex},
    error::ApiError,
};
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use orion_domain::NodeId;
use orion_store::Cas;
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
    headers: HeaderMap,
    body: Body<TokenBody>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
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
        json!({ "id": made.id, "token": token.expose(), "expires_at": made.expires_at, "uses": uses });
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

/// `POST /api/admin/nodes/{id}/quarantine/lift`: the node is reconciled, and then offered again.
pub async fn lift_quarantine(
    State(app): State<App>,
    Admin(_): Admin,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let id: NodeId = parse_id(&id, "node")?;
    let lifted = app.store.lift_quarantine(id, app.now()).await?;
    app.fleet.nudge.all();
    match lifted {
        Cas::Done(_) => Ok(Json(json!({ "message": "Quarantine lifted", "node_id": id }))),
        Cas::Stale => Err(ApiError::conflict("not_quarantined", format!("node {id} is not in quarantine"))),
        Cas::Gone => Err(ApiError::not_found(format!("there is no node {id}"))),
    }
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
