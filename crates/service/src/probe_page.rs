//! `/metrics`, `/api/live` and `/api/health` of a process that has no API.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use orion_fleet::{Fleet, metrics::OPEN_METRICS};
use serde_json::json;
use std::sync::atomic::Ordering;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves the page on `listener` until `shutdown`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, fleet: Fleet, shutdown: CancellationToken) -> std::io::Result<()> {
    let router = Router::new()
        .route("/api/live", get(|| async { Json(json!({ "status": "alive" })) }))
        .route("/api/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(fleet);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn health(State(fleet): State<Fleet>) -> Response {
    let database = fleet.store.is_healthy().await;
    let clock = !fleet.clock_is_off.load(Ordering::Relaxed);
    let word = |is: bool| if is { "up" } else { "down" };
    let (status, code) = if database && clock {
        ("healthy", StatusCode::OK)
    } else {
        ("unhealthy", StatusCode::SERVICE_UNAVAILABLE)
    };
    let body = json!({ "status": status, "database": word(database), "clock": word(clock) });
    (code, Json(body)).into_response()
}

async fn metrics(State(fleet): State<Fleet>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], fleet.metrics_text().await)
}
