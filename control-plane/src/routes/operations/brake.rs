//! `/api/admin/brake`.

use crate::{App, auth::Admin, error::ApiError, routes::Body};
use axum::{Json, extract::State};
use orion_domain::{Timestamp, brake::Brake};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The brake on migration.
#[derive(Serialize, ToSchema)]
pub struct BrakeView {
    /// Whether nothing is migrated now.
    engaged: bool,
    /// Time since which the brake is on or off; `null` if it was never on.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    since: Option<Timestamp>,
    /// Reason for the brake, while it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// The scheduler that engaged it, while it is on.
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
/// Whether it is on, since when, why, and which scheduler engaged it: so many nodes fell silent at once that the
/// fault is more likely on this side.
#[utoipa::path(
    get, path = "/api/admin/brake", operation_id = "showBrake", tag = "admin",
    responses((status = 200, description = "The brake", body = BrakeView))
)]
pub async fn show_brake(State(app): State<App>, Admin(_): Admin) -> Result<Json<BrakeView>, ApiError> {
    Ok(Json(BrakeView::from(&app.operations().brake().await?)))
}

/// Reason for lifting the brake. The whole body may be left out.
#[derive(Deserialize, ToSchema)]
pub struct LiftBody {
    /// Text for the event, at most 200 characters.
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
    let (was_on, brake) = app.operations().lift_brake(&reason, who.user).await?;
    let message = if was_on { "Brake lifted" } else { "The brake was not on" };
    Ok(Json(BrakeLifted { message, brake: BrakeView::from(&brake) }))
}
