//! `/api/rentals/{id}/containers`: containers on leased nodes.

mod exec;
mod forward;
mod logs;
mod stats;

pub use exec::*;
pub use forward::*;
pub use logs::*;
pub use stats::*;

use super::Body;
use crate::{
    App,
    app::{
        containers::{request::ContainerBody, views::ContainerView},
        idempotency::Idempotent,
    },
    auth::Caller,
    error::ApiError,
    openapi::parameters::IdempotencyKey,
};
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use orion_store::Wanted;

/// Run a container
///
/// On the node of the lease, with the limits that it asks for; it ends with the lease. Its image is taken from the node,
/// or pulled. With an `Idempotency-Key` the same request gives the same container.
#[utoipa::path(
    post, path = "/api/rentals/{id}/containers", operation_id = "runContainer", tag = "containers",
    params(("id" = String, Path, description = "The lease's number, or the name that you gave it", example = "17"),
        IdempotencyKey),
    request_body = ContainerBody,
    responses(
        (status = 201, description = "It was begun: it runs, has ended already, or could not be started (`state`)",
            body = ContainerView),
        (status = 202, description = "It takes longer than a minute; `step` says what is being done, and `Location` where \
            to look", body = ContainerView),
        (status = 404, description = "You have no such lease"),
        (status = 409, description = "The name is taken, the lease is over, or it has as many as it may have"),
    )
)]
pub async fn run(
    State(app): State<App>,
    who: Caller,
    Path(which): Path<String>,
    headers: HeaderMap,
    body: Body<ContainerBody>,
) -> Result<Response, ApiError> {
    let scope = format!("containers of {which}");
    let key = Idempotent::read(&headers, &scope, Some(who.user), &body.canonical, &app.config.master_key)?;
    let row =
        app.containers().run(&who, &which, body.parsed.check(&app.config.image_registries)?, key).await?;
    let view = app.containers().view(&row, None);
    let place = format!("/api/rentals/{}/containers/{}", row.lease, row.name);
    let status = if ContainerView::is_settled(&row) { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    Ok((status, [(header::LOCATION, place)], Json(view)).into_response())
}

/// The containers of a lease
#[utoipa::path(
    get, path = "/api/rentals/{id}/containers", operation_id = "listContainers", tag = "containers",
    params(("id" = String, Path, description = "The lease's number, or the name that you gave it", example = "17")),
    responses(
        (status = 200, description = "Those that were not removed, oldest first", body = Vec<ContainerView>),
        (status = 404, description = "You have no such lease"),
    )
)]
pub async fn list(
    State(app): State<App>,
    who: Caller,
    Path(which): Path<String>,
) -> Result<Json<Vec<ContainerView>>, ApiError> {
    let (rows, node) = app.containers().list(&who, &which).await?;
    Ok(Json(rows.iter().map(|row| app.containers().view(row, node.as_ref())).collect()))
}

/// One container
#[utoipa::path(
    get, path = "/api/rentals/{id}/containers/{name}", operation_id = "showContainer", tag = "containers",
    params(("id" = String, Path, description = "The lease's number, or the name that you gave it", example = "17"),
        ("name" = String, Path, description = "The container's name", example = "web")),
    responses(
        (status = 200, description = "The container", body = ContainerView),
        (status = 404, description = "You have no such lease, or it has no such container"),
    )
)]
pub async fn show(
    State(app): State<App>,
    who: Caller,
    Path((which, name)): Path<(String, String)>,
) -> Result<Json<ContainerView>, ApiError> {
    let (row, node) = app.containers().show(&who, &which, &name).await?;
    Ok(Json(app.containers().view(&row, node.as_ref())))
}

/// Remove a container
///
/// Running or not, with what it wrote and its log.
#[utoipa::path(
    delete, path = "/api/rentals/{id}/containers/{name}", operation_id = "removeContainer", tag = "containers",
    params(("id" = String, Path, description = "The lease's number, or the name that you gave it", example = "17"),
        ("name" = String, Path, description = "The container's name", example = "web")),
    responses(
        (status = 200, description = "It is removed, or will be as soon as its node answers", body = ContainerView),
        (status = 404, description = "You have no such lease, or it has no such container"),
        (status = 409, description = "The lease is over"),
    )
)]
pub async fn remove(
    State(app): State<App>,
    who: Caller,
    Path((which, name)): Path<(String, String)>,
) -> Result<Json<ContainerView>, ApiError> {
    let row = app.containers().want(&who, &which, &name, Wanted::Removed).await?;
    Ok(Json(app.containers().view(&row, None)))
}

/// Stop a container
///
/// SIGTERM, and SIGKILL five seconds later. It is kept, with its log.
#[utoipa::path(
    post, path = "/api/rentals/{id}/containers/{name}/stop", operation_id = "stopContainer", tag = "containers",
    params(("id" = String, Path, description = "The lease's number, or the name that you gave it", example = "17"),
        ("name" = String, Path, description = "The container's name", example = "web")),
    responses(
        (status = 200, description = "The container", body = ContainerView),
        (status = 404, description = "You have no such lease, or it has no such container"),
        (status = 409, description = "The lease is over"),
    )
)]
pub async fn stop(
    State(app): State<App>,
    who: Caller,
    Path((which, name)): Path<(String, String)>,
) -> Result<Json<ContainerView>, ApiError> {
    let row = app.containers().want(&who, &which, &name, Wanted::Stopped).await?;
    Ok(Json(app.containers().view(&row, None)))
}

/// Restart a container
///
/// Stops it, if it runs, and starts it again.
#[utoipa::path(
    post, path = "/api/rentals/{id}/containers/{name}/restart", operation_id = "restartContainer", tag = "containers",
    params(("id" = String, Path, description = "The lease's number, or the name that you gave it", example = "17"),
        ("name" = String, Path, description = "The container's name", example = "web")),
    responses(
        (status = 200, description = "The container", body = ContainerView),
        (status = 404, description = "You have no such lease, or it has no such container"),
        (status = 409, description = "The lease is over"),
    )
)]
pub async fn restart(
    State(app): State<App>,
    who: Caller,
    Path((which, name)): Path<(String, String)>,
) -> Result<Json<ContainerView>, ApiError> {
    let row = app.containers().want(&who, &which, &name, Wanted::Restarted).await?;
    Ok(Json(app.containers().view(&row, None)))
}
