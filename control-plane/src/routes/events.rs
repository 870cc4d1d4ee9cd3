//! `GET /api/events`: server-sent events.

use super::Query;
use crate::{App, auth::Caller, error::ApiError};
use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse,
        sse::{KeepAlive, Sse},
    },
};
use futures_util::StreamExt;
use orion_domain::EventId;
use serde::Deserialize;
use std::time::Duration;
use utoipa::IntoParams;

/// Query parameters of the feed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FeedQuery {
    /// The same as the header `Last-Event-ID`, for a first request; 0 is the beginning.
    #[param(minimum = 0, example = 0)]
    after: Option<i64>,
    /// `false`: gives what there is, a thousand events at most, and ends.
    #[serde(default = "yes")]
    #[param(default = true)]
    follow: bool,
}

const fn yes() -> bool {
    true
}

/// Follow events as they happen
///
/// Server-sent events: of your own leases, for admins of everything. Each frame has `id` (for
/// `Last-Event-ID`), `event` (its kind, like `lease.active`) and `data` (an `Event` as JSON); the first
/// frame has an `id` alone and says where the stream begins. Every 15 s a comment keeps the connection
/// open. A reader that does not read for 30 s is cut off. After a break, also one of this server, send
/// the last `id` as `Last-Event-ID` to any replica: every event comes at least once, in order, none is
/// left out.
#[utoipa::path(
    get, path = "/api/events", operation_id = "followEvents", tag = "leases",
    params(
        FeedQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "The `id` of the last event that was read; \
            wins over `after`", example = 41),
    ),
    responses((status = 200, description = "A stream that does not end", body = String,
        content_type = "text/event-stream"))
)]
pub async fn feed(
    State(app): State<App>,
    who: Caller,
    headers: HeaderMap,
    Query(query): Query<FeedQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let last = match headers.get("last-event-id") {
        None if query.after.is_some_and(|after| after < 0) => {
            return Err(ApiError::field("after", "must be at least 0"));
        }
        None => query.after.map(EventId),
        Some(value) => Some(
            value
                .to_str()
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| ApiError::bad_request("Last-Event-ID: is the id of an event, a number"))?,
        ),
    };
    let feed = if query.follow {
        app.events().feed(who, last).await?.left_stream()
    } else {
        app.events().so_far(who, last).await?.right_stream()
    };
    Ok(Sse::new(feed).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}
