//! `/api/health`, `/api/live`, and the status page.

use super::admin::BrakeView;
use crate::App;
use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse},
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use orion_domain::Timestamp;
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// A scheduler that has not passed for so long is down.
const SCHEDULER_SILENT: Duration = Duration::from_secs(30);

/// This process answers.
#[derive(Serialize, ToSchema)]
pub struct Liveness {
    /// `live`
    status: &'static str,
}

/// How Orion is.
#[derive(Serialize, ToSchema)]
pub struct HealthReport {
    /// `healthy`, or `unhealthy` when a part is down.
    status: &'static str,
    parts: HealthParts,
    /// Whether migration is stopped; `null` while the database does not say.
    #[schema(required)]
    brake: Option<BrakeView>,
    /// Of this replica.
    version: &'static str,
}

/// Each part of Orion.
#[derive(Serialize, ToSchema)]
pub struct HealthParts {
    database: DatabaseHealth,
    scheduler: SchedulerHealth,
}

/// The database, as this replica sees it.
#[derive(Serialize, ToSchema)]
pub struct DatabaseHealth {
    /// `up` or `down`.
    status: &'static str,
}

/// The schedulers together.
#[derive(Serialize, ToSchema)]
pub struct SchedulerHealth {
    /// `up`, or `down` when none has passed for 30 s.
    status: &'static str,
    /// When one passed last.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_pass: Option<Timestamp>,
}

/// Whether this process answers
///
/// Never touches the database: for a supervisor that restarts what hangs.
#[utoipa::path(
    get, path = "/api/live", operation_id = "live", tag = "operations",
    responses((status = 200, description = "It does", body = Liveness))
)]
pub async fn live() -> Json<Liveness> {
    Json(Liveness { status: "live" })
}

/// Whether all parts work
#[utoipa::path(
    get, path = "/api/health", operation_id = "health", tag = "operations",
    responses(
        (status = 200, description = "All parts are up", body = HealthReport),
        (status = 503, description = "A part is down", body = HealthReport),
    )
)]
pub async fn health(State(app): State<App>) -> (StatusCode, Json<HealthReport>) {
    let seen = app.look_at_health().await;
    let scheduler = seen.last_pass.is_some_and(|at| app.now().since(at) < SCHEDULER_SILENT);
    let word = |up| if up { "up" } else { "down" };
    let healthy = seen.database && scheduler;
    let body = HealthReport {
        status: if healthy { "healthy" } else { "unhealthy" },
        parts: HealthParts {
            database: DatabaseHealth { status: word(seen.database) },
            scheduler: SchedulerHealth { status: word(scheduler), last_pass: seen.last_pass },
        },
        brake: seen.brake.as_ref().map(BrakeView::from),
        version: env!("CARGO_PKG_VERSION"),
    };
    (if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}

const STATUS_PAGE: &str = include_str!("../../../web/status.html");

/// The status page
///
/// For people: one file, under a strict content security policy.
#[utoipa::path(
    get, path = "/", operation_id = "statusPage", tag = "pages",
    responses((status = 200, description = "HTML", body = String, content_type = "text/html"))
)]
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
