//! `/api/rentals/{id}/containers/{name}/stats`.

use super::logs::{Line, json_lines};
use crate::{
    App,
    app::containers::{stats::Use, views::StatsView},
    auth::Caller,
    error::ApiError,
    routes::Query,
};
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

/// Query parameters of the use of a container.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatsQuery {
    /// Whether to go on: a line each second, until the container ends.
    #[serde(default)]
    #[param(default = false)]
    stream: bool,
}

/// What a container uses
///
/// Processor, memory, network and processes, as its engine counts them. With `stream` a stream of such bodies as JSON
/// lines, one each second; it ends with the container, and a line `{"error": "…"}` says why where it breaks.
#[utoipa::path(
    get, path = "/api/rentals/{id}/containers/{name}/stats", operation_id = "containerStats", tag = "containers",
    params(("id" = String, Path, description = "The lease's number, or the name that you gave it", example = "17"),
        ("name" = String, Path, description = "The container's name", example = "web"), StatsQuery),
    responses(
        (status = 200, description = "Its use", content(
            (StatsView = "application/json"), (String = "application/x-ndjson", example = "{\"cpus_used\":0.412,…}\n"))),
        (status = 404, description = "You have no such lease, or it has no such container"),
        (status = 409, description = "It does not run"),
        (status = 429, description = "Too many requests, or streams"),
        (status = 503, description = "Its node, or the engine there, does not answer"),
    )
)]
pub async fn stats(
    State(app): State<App>,
    who: Caller,
    Path((which, name)): Path<(String, String)>,
    Query(query): Query<StatsQuery>,
) -> Result<Response, ApiError> {
    if !query.stream {
        return Ok(Json(app.containers().stats(&who, &which, &name).await?).into_response());
    }
    let (of_container, open) = app.containers().follow_stats(&who, &which, &name).await?;
    Ok(json_lines(open, of_container, next_line))
}

fn next_line(of_container: &mut Use) -> BoxFuture<'_, Line> {
    Box::pin(async {
        Some(match of_container.next().await? {
            Ok(view) => (json!(view), true),
            Err(error) => (json!({ "error": error.to_string() }), false),
        })
    })
}
