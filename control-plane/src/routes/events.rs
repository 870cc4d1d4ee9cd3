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

/// Query parameters of the feed.
#[derive(Deserialize)]
pub struct FeedQuery {
    /// The same as the header `Last-Event-ID`, for a first request.
    after: Option<i64>,
    /// `false`: gives what there is, and ends.
    #[serde(default = "yes")]
    follow: bool,
}

const fn yes() -> bool {
    true
}

/// `GET /api/events`
pub async fn feed(
    State(app): State<App>,
    who: Caller,
    headers: HeaderMap,
    Query(query): Query<FeedQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let last = match headers.get("last-event-id") {
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
        app.event_feed(who, last).await?.left_stream()
    } else {
        app.events_so_far(who, last).await?.right_stream()
    };
    Ok(Sse::new(feed).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}
