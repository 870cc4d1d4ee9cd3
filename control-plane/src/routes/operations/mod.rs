//! `/api/health`, `/api/live`, and the status page.

pub mod brake;
pub mod metrics;
pub mod reset;

use self::brake::BrakeView;
use crate::{App, app::operations::health::SCHEDULER_SILENT, auth::Admin, error::ApiError};
use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse},
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use orion_domain::Timestamp;
use orion_store::TaskStatus;
use serde::Serialize;
use utoipa::ToSchema;

/// Reply of a process that answers.
#[derive(Serialize, ToSchema)]
pub struct Liveness {
    /// `live`
    status: &'static str,
}

/// State of Orion and of its parts.
#[derive(Serialize, ToSchema)]
pub struct HealthReport {
    /// `healthy`, or `unhealthy` when a part is down.
    status: &'static str,
    parts: HealthParts,
    /// Whether migration is stopped; `null` while the database does not say.
    #[schema(required)]
    brake: Option<BrakeView>,
    /// The schedulers' background tasks, by name; of several schedulers each task in its worst state. Empty while no
    /// scheduler is up.
    tasks: Vec<TaskView>,
    /// Version of this replica.
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
    /// Time of a scheduler's last pass.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_pass: Option<Timestamp>,
}

/// A background task of the schedulers, with its last run.
#[derive(Serialize, ToSchema)]
pub struct TaskView {
    /// Name of the task, such as `expire`.
    name: String,
    /// `ok`, `failing` when its last run failed, `hanging` when its present run takes much too long.
    #[schema(value_type = String)]
    state: &'static str,
    /// Start of the last run that ended; `null` before the first.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_run: Option<Timestamp>,
    /// Duration of the last run that ended, in milliseconds.
    #[schema(required)]
    took_ms: Option<u64>,
    /// Start of the run in progress.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    running_since: Option<Timestamp>,
    /// Runs that failed in a row.
    failures: u32,
    /// Pieces of work that the last run found, if it succeeded.
    #[schema(required)]
    found: Option<usize>,
    /// Pieces of work that the last run did or started.
    #[schema(required)]
    started: Option<usize>,
    /// Reason for the failure of the last run; only for admins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<String>,
}

impl TaskView {
    fn new(status: TaskStatus, for_admin: bool) -> Self {
        let TaskStatus { name, state, last_run, took_ms, running_since, failures, found, started, error } =
            status;
        let error = error.filter(|_| for_admin);
        let state = state.as_str();
        Self { name, state, last_run, took_ms, running_since, failures, found, started, error }
    }
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
///
/// A background task that fails or hangs is shown as that task, and makes no part down.
#[utoipa::path(
    get, path = "/api/health", operation_id = "health", tag = "operations",
    responses(
        (status = 200, description = "All parts are up", body = HealthReport),
        (status = 503, description = "A part is down", body = HealthReport),
    )
)]
pub async fn health(
    State(app): State<App>,
    admin: Result<Admin, ApiError>,
) -> (StatusCode, Json<HealthReport>) {
    let seen = app.operations().look_at_health().await;
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
        tasks: seen.tasks.into_iter().map(|status| TaskView::new(status, admin.is_ok())).collect(),
        version: env!("CARGO_PKG_VERSION"),
    };
    (if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}

const STATUS_PAGE: &str = include_str!("../../../../web/status.html");

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
