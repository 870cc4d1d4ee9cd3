//! `/api/rentals/{id}/containers/{name}/logs`, and how streams of JSON lines are replied.

use crate::{App, app::containers::streams::OpenStream, auth::Caller, error::ApiError, routes::Query};
use axum::{
    body::Body as Reply,
    extract::{Path, State},
    http::header,
    response::{IntoResponse as _, Response},
};
use futures_util::{future::BoxFuture, stream};
use orion_containers::{LogOptions, LogSource, LogStream};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

/// Largest number of lines that `tail` takes.
const TAIL_MAX: u32 = 10_000;

/// Query parameters of a log.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Whether to go on with what is written later.
    #[serde(default)]
    #[param(default = false)]
    follow: bool,
    /// So many of the last lines; all that is kept if left out.
    #[param(minimum = 0, maximum = 10000, example = 100)]
    tail: Option<u32>,
    /// Only what was written since then: seconds since 1970 in the node's time.
    #[param(minimum = 0, example = 1780000000)]
    since: Option<u64>,
}

/// The log of a container
///
/// A stream of JSON lines: `{"stream": "stdout", "text": "…"}`, or `stderr`. The engine keeps the last 20 MB.
#[utoipa::path(
    get, path = "/api/rentals/{id}/containers/{name}/logs", operation_id = "containerLogs", tag = "containers",
    params(("id" = String, Path, description = "The lease's number, or the name that you gave it", example = "17"),
        ("name" = String, Path, description = "The container's name", example = "web"), LogQuery),
    responses(
        (status = 200, description = "The log, as JSON lines", body = String, content_type = "application/x-ndjson"),
        (status = 404, description = "You have no such lease, or it has no such container"),
        (status = 409, description = "It was not made yet"),
        (status = 503, description = "Its node, or the engine there, does not answer"),
    )
)]
pub async fn logs(
    State(app): State<App>,
    who: Caller,
    Path((which, name)): Path<(String, String)>,
    Query(query): Query<LogQuery>,
) -> Result<Response, ApiError> {
    if query.tail.is_some_and(|tail| tail > TAIL_MAX) {
        return Err(ApiError::field("tail", format!("must be at most {TAIL_MAX}")));
    }
    let options = LogOptions {
        follow: query.follow,
        tail: query.tail,
        since: query.since.map(|since| since.to_string()),
        timestamps: false,
    };
    let (log, open) = app.containers().logs(&who, &which, &name, &options).await?;
    Ok(json_lines(open, log, next_line))
}

/// Line of a stream, and whether more may follow; none at its end.
pub(super) type Line = Option<(Value, bool)>;

/// Replies with the lines of a source until it ends, or the place is lost.
pub(super) fn json_lines<S: Send + 'static>(
    open: OpenStream,
    source: S,
    next: for<'a> fn(&'a mut S) -> BoxFuture<'a, Line>,
) -> Response {
    let lines = stream::unfold((Some(source), open), move |(source, open)| async move {
        let mut source = source?;
        let (line, goes_on) = tokio::select! {
            () = open.lost.cancelled() => return None,
            line = next(&mut source) => line?,
        };
        // After an error there is nothing to be read.
        let rest = goes_on.then_some(source);
        Some((Ok::<_, std::convert::Infallible>(format!("{line}\n")), (rest, open)))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Reply::from_stream(lines)).into_response()
}

fn next_line(log: &mut LogStream) -> BoxFuture<'_, Line> {
    Box::pin(async {
        Some(match log.next().await? {
            Ok(chunk) => {
                let stream = if chunk.source == LogSource::Stdout { "stdout" } else { "stderr" };
                (json!({ "stream": stream, "text": String::from_utf8_lossy(&chunk.bytes) }), true)
            }
            Err(error) => (json!({ "stream": "error", "text": error.to_string() }), false),
        })
    })
}
