//! `/api/rentals/{id}/containers/{name}/forward`: a WebSocket.

use super::exec::MESSAGE_BYTES_MAX;
use crate::{App, auth::Caller, error::ApiError, routes::Query};
use axum::{
    extract::{Path, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    response::Response,
};
use serde::Deserialize;
use utoipa::IntoParams;

/// Query parameters of a connection.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ForwardQuery {
    /// Port in the container; it need not be published.
    #[param(minimum = 1, maximum = 65535, example = 8080)]
    port: u16,
}

/// Connect to a port of a container
///
/// A WebSocket that carries one TCP connection; the token is sent as a header, as everywhere. Binary messages are its bytes,
/// in both directions. A text message `{"type": "eof"}` of either side says that it sends no more bytes; when both have said
/// so the socket is closed. `{"type": "error", "detail": "…"}` says why it is closed earlier.
///
/// The connection ends when the login, the lease or the container ends, within 15 s, when the client answers no ping for a
/// minute or does not read for 30 s, or nothing moves for an hour. A lease has at most 64 connections at once.
#[utoipa::path(
    get, path = "/api/rentals/{id}/containers/{name}/forward", operation_id = "forwardToContainer", tag = "containers",
    params(("id" = String, Path, description = "The lease's number, or the name that you gave it", example = "17"),
        ("name" = String, Path, description = "The container's name", example = "web"), ForwardQuery),
    responses(
        (status = 101, description = "The connection is open"),
        (status = 400, description = "This is no WebSocket's handshake"),
        (status = 404, description = "You have no such lease, or it has no such container"),
        (status = 409, description = "It does not run, or nobody listens at the port"),
        (status = 429, description = "Too many requests, or connections"),
        (status = 503, description = "Its node, or the engine there, does not answer, or the node connects nobody"),
    )
)]
pub async fn forward(
    State(app): State<App>,
    who: Caller,
    Path((which, name)): Path<(String, String)>,
    Query(query): Query<ForwardQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| ApiError::bad_request(error.body_text()))?;
    if query.port == 0 {
        return Err(ApiError::field("port", "must be at least 1"));
    }
    let connection = app.containers().connect(&who, &which, &name, query.port).await?;
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| connection.serve(socket)))
}
