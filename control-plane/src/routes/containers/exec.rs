//! `/api/rentals/{id}/containers/{name}/exec`: a WebSocket.

use crate::{App, auth::Caller, error::ApiError};
use axum::{
    extract::{Path, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    response::Response,
};

/// Largest message of a client, in bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Run a command in a container
///
/// A WebSocket; the token is sent as a header, as everywhere. Text messages are JSON with a `type`. The client's first one,
/// within 10 s, says what to run: `{"type": "start", "command": ["sh"], "tty": true, "rows": 24, "cols": 80, "term": "xterm",
/// "stdin": true, "env": {"NAME": "value"}}`; all but `command` may be left out. Then its binary messages are the command's
/// input, `{"type": "resize", "rows": 50, "cols": 100}` gives the terminal another size, and `{"type": "eof"}` ends the input.
///
/// Binary messages of the server are output: with a terminal (`tty`) as it is; without, the first byte of each says whether
/// it is from standard output (1) or standard error (2). The last message is `{"type": "exit", "exit_code": 0}`, or
/// `{"type": "error", "detail": "…"}`.
///
/// When the client closes, answers no ping for a minute, does not read for 30 s, or nothing moves for an hour, the command
/// and what it began in its session are ended; so they are when the login, the lease or the container ends, within 15 s. A
/// lease has at most 8 commands at once.
#[utoipa::path(
    get, path = "/api/rentals/{id}/containers/{name}/exec", operation_id = "execInContainer", tag = "containers",
    params(("id" = String, Path, description = "The lease's number, or the name that you gave it", example = "17"),
        ("name" = String, Path, description = "The container's name", example = "web")),
    responses(
        (status = 101, description = "The socket is open"),
        (status = 400, description = "This is no WebSocket's handshake"),
        (status = 404, description = "You have no such lease, or it has no such container"),
        (status = 409, description = "It does not run"),
        (status = 429, description = "Too many requests, or commands"),
    )
)]
pub async fn exec(
    State(app): State<App>,
    who: Caller,
    Path((which, name)): Path<(String, String)>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let ready = app.containers().ready_to_exec(&who, &which, &name).await?;
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| ready.serve(socket)))
}
