//! `GET /metrics`: what Prometheus scrapes. Counts only, no names.

use crate::App;
use axum::{extract::State, http::header, response::IntoResponse};
use orion_fleet::metrics::OPEN_METRICS;

/// Metrics for Prometheus
///
/// Counts and times without names: no user, node or lease is told apart.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "operations",
    responses((status = 200, description = "OpenMetrics text", body = String,
        content_type = "application/openmetrics-text"))
)]
pub async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], app.operations().metrics_text().await)
}
