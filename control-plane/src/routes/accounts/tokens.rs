//! `POST /api/tokens`: join tokens for workers.

use crate::{
    App,
    app::{accounts::tokens::JoinTokenRequest, idempotency::Idempotent},
    auth::Admin,
    error::ApiError,
    openapi::parameters::IdempotencyKey,
    routes::Body,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use orion_domain::{Timestamp, TokenId};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// Hours for which a join token is valid by default.
const TOKEN_HOURS: f64 = 168.0;
/// Longest time that a join token is good for, in hours.
const TOKEN_HOURS_MAX: f64 = 87_600.0;
/// Number of workers for which a join token is valid by default.
const TOKEN_USES: i64 = 100;

/// Properties of the join token to be made. All of them may be left out.
#[derive(Deserialize, ToSchema)]
pub struct TokenBody {
    /// Text for the operator's own use, at most 200 characters.
    #[schema(max_length = 200)]
    note: Option<String>,
    /// Hours for which the token is valid; 168 if left out.
    #[schema(exclusive_minimum = 0, maximum = 87600)]
    expires_hours: Option<f64>,
    /// Number of workers for which the token is valid; 100 if left out.
    #[schema(minimum = 1)]
    uses: Option<i64>,
    /// Whether what is left out has no limit.
    #[serde(default)]
    unlimited: bool,
}

impl TokenBody {
    fn check(self) -> Result<JoinTokenRequest, ApiError> {
        let Self { note, expires_hours, uses, unlimited } = self;
        let note = note.unwrap_or_default();
        if note.chars().count() > 200 {
            return Err(ApiError::field("note", "must have at most 200 characters"));
        }
        let lasts = match expires_hours.or((!unlimited).then_some(TOKEN_HOURS)) {
            None => None,
            Some(hours) if hours.is_finite() && hours > 0.0 && hours <= TOKEN_HOURS_MAX => {
                Some(Duration::from_secs_f64(hours * 3600.0))
            }
            Some(hours) => {
                return Err(ApiError::field(
                    "expires_hours",
                    format!("must be more than 0 and at most {TOKEN_HOURS_MAX}, not {hours}"),
                ));
            }
        };
        let uses = match uses.or((!unlimited).then_some(TOKEN_USES)) {
            None => None,
            Some(uses) => Some(
                u32::try_from(uses)
                    .ok()
                    .filter(|&uses| uses > 0)
                    .ok_or_else(|| ApiError::field("uses", format!("must be at least 1, not {uses}")))?,
            ),
        };
        Ok(JoinTokenRequest { note, lasts, uses })
    }
}

/// Secret with which machines register as nodes.
#[derive(Serialize, ToSchema)]
pub struct JoinToken {
    #[schema(value_type = i64)]
    id: TokenId,
    /// Value for the workers' `ORION_JOIN_TOKEN`; it is shown here only.
    token: String,
    #[schema(value_type = Option<String>, format = DateTime, required)]
    expires_at: Option<Timestamp>,
    #[schema(required)]
    uses: Option<u32>,
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
    let request = body.parsed.check()?;
    let uses = request.uses;
    let (token, made) = app.accounts().create_join_token(who.user, request, key).await?;
    let reply =
        JoinToken { id: made.id, token: token.expose().to_owned(), expires_at: made.expires_at, uses };
    Ok((StatusCode::CREATED, Json(reply)))
}
