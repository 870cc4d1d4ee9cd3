//! The handlers, one file a subject: parse, use case, render. No SQL, and no decision about a lease.

pub mod accounts;
pub mod agents;
pub mod apps;
pub mod containers;
pub mod docs;
pub mod events;
pub mod images;
pub mod leases;
pub mod nodes;
pub mod operations;
pub mod webhooks;

use crate::{error::ApiError, known::Known};
use axum::{
    body::HttpBody,
    extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request, rejection::JsonRejection},
    http::{StatusCode, header, request::Parts},
    response::{AppendHeaders, IntoResponse},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};

/// Approximate size of a list's entry.
const ENTRY_BYTES: usize = 1_280;

/// Entries of a long page that one thread writes.
const ENTRIES_OF_PART: usize = 500;

/// Sentence that says what was done.
#[derive(Serialize, ToSchema)]
pub struct Message {
    message: &'static str,
}

impl Message {
    /// A reply of one sentence.
    pub const fn new(message: &'static str) -> axum::Json<Self> {
        axum::Json(Self { message })
    }
}

/// A JSON body, parsed, with the raw value beside it.
pub struct Body<T> {
    /// Value that the route expects.
    pub parsed: T,
    /// Body as it came, keys sorted: the same for the same content.
    pub canonical: Value,
    /// Fields that the route does not know and passes over, as it does for agents only.
    pub passed_over: Vec<String>,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let known = request.extensions().get::<Arc<Known>>().cloned();
        let axum::Json(canonical) =
            <axum::Json<Value> as FromRequest<S>>::from_request(request, state).await.map_err(refusal)?;
        Self::read(canonical, known.as_deref())
    }
}

impl<T: DeserializeOwned> Body<T> {
    fn read(canonical: Value, known: Option<&Known>) -> Result<Self, ApiError> {
        let Value::Object(fields) = &canonical else {
            return Err(ApiError::bad_request("the body must be a JSON object"));
        };
        let passed_over = known.map(|known| known.passed_over(fields)).unwrap_or_default();
        known.map_or(Ok(()), |known| known.check_body(&canonical))?;
        let parsed = serde_path_to_error::deserialize(&canonical).map_err(|error| {
            let path = error.path().to_string();
            let what = error.into_inner();
            if path == "." { ApiError::bad_request(what.to_string()) } else { ApiError::field(&path, what) }
        })?;
        Ok(Self { parsed, canonical, passed_over })
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> OptionalFromRequest<S> for Body<T> {
    type Rejection = ApiError;

    /// Returns `None` where the request has no body at all, or `null`.
    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, ApiError> {
        if request.body().is_end_stream() {
            return Ok(None);
        }
        let known = request.extensions().get::<Arc<Known>>().cloned();
        let axum::Json(canonical) =
            <axum::Json<Value> as FromRequest<S>>::from_request(request, state).await.map_err(refusal)?;
        if canonical.is_null() {
            return Ok(None);
        }
        Self::read(canonical, known.as_deref()).map(Some)
    }
}

fn refusal(rejection: JsonRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::too_large();
    }
    if matches!(rejection, JsonRejection::MissingJsonContentType(_)) {
        return ApiError::bad_request("the body must be JSON; send `Content-Type: application/json`");
    }
    ApiError::bad_request(format!("the body is no JSON: {}", rejection.body_text()))
}

/// Query parameters of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Greatest number of entries in the reply.
    #[param(minimum = 1, maximum = 1000, default = 100, example = 100)]
    pub(crate) limit: Option<u32>,
    /// Position to go on from: the id of the last entry that was given. The `Link` header of a full page has
    /// the whole address of the next one.
    #[param(minimum = 0, example = 17)]
    pub(crate) cursor: Option<i64>,
}

impl PageQuery {
    /// Returns the greatest number of entries in the reply: 100 unless told, at most 1000.
    ///
    /// # Errors
    /// 400 for 0 or more than 1000.
    pub fn limit(&self) -> Result<u32, ApiError> {
        match self.limit.unwrap_or(100) {
            limit @ 1..=1000 => Ok(limit),
            limit => Err(ApiError::field("limit", format!("must lie between 1 and 1000, not {limit}"))),
        }
    }

    /// Returns the id after which to go on.
    ///
    /// # Errors
    /// 400 for a negative one.
    pub fn cursor(&self) -> Result<i64, ApiError> {
        match self.cursor.unwrap_or(0) {
            cursor @ 0.. => Ok(cursor),
            cursor => Err(ApiError::field("cursor", format!("must be at least 0, not {cursor}"))),
        }
    }
}

/// A query string, with our errors.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        axum::extract::Query::<T>::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(query)| Self(query))
            .map_err(|error| query_error(&error.body_text()))
    }
}

/// Names the parameter of a query string that could not be read. `text` is axum's: a fixed beginning, and then the parameter
/// with what is wrong with it.
fn query_error(text: &str) -> ApiError {
    let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(text);
    let twice = text.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`'));
    if let Some(name) = twice {
        return ApiError::field(name, "is given twice");
    }
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    match text.split_once(": ") {
        Some((name, problem)) if is_name(name) => ApiError::field(name, problem),
        Some(_) | None => ApiError::bad_request(format!("query: {text}")),
    }
}

/// The id in a path, with our errors.
pub fn parse_id<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| ApiError::not_found(format!("there is no {what} '{text}'")))
}

/// `Link: <…?cursor=N>; rel="next"` (RFC 8288) if the page was full.
pub fn next_link(path: &str, full: bool, last: Option<i64>, limit: u32, all: bool) -> Option<String> {
    let last = last.filter(|_| full)?;
    let all = if all { "&all=true" } else { "" };
    Some(format!("<{path}?limit={limit}&cursor={last}{all}>; rel=\"next\""))
}

/// The entries of one page as JSON, and where the next one is.
///
/// # Errors
/// 500 for what is no JSON.
pub fn page_reply<T: Serialize>(
    entries: &[T],
    next: Option<String>,
) -> Result<impl IntoResponse + use<T>, ApiError> {
    Ok(list_reply(list_of(entries, entries.len() * ENTRY_BYTES)?, next))
}

/// As [`page_reply`], for pages that may be long: several threads write one, none of which serves requests.
///
/// # Errors
/// 500 for what is no JSON.
pub async fn long_page_reply<T: Serialize + Send + 'static>(
    mut entries: Vec<T>,
    next: Option<String>,
) -> Result<impl IntoResponse + use<T>, ApiError> {
    let bytes = entries.len() * ENTRY_BYTES;
    let mut parts = Vec::new();
    while entries.len() > ENTRIES_OF_PART {
        parts.push(listed_elsewhere(entries.split_off(entries.len() - ENTRIES_OF_PART)));
    }
    let mut list = list_of(&entries, bytes)?;
    drop(entries);
    for part in parts.into_iter().rev() {
        let part = part.await.map_err(ApiError::internal)??;
        // One list: the end of the first and the beginning of the next become a comma.
        list.pop();
        list.push(b',');
        list.extend_from_slice(&part[1..]);
    }
    Ok(list_reply(list, next))
}

fn list_reply(list: Vec<u8>, next: Option<String>) -> impl IntoResponse {
    let next = AppendHeaders(next.map(|next| (header::LINK, next)));
    (next, [(header::CONTENT_TYPE, "application/json")], list)
}

/// The list of `entries` in a buffer of `bytes`.
fn list_of<T: Serialize>(entries: &[T], bytes: usize) -> Result<Vec<u8>, ApiError> {
    // Into a Vec: the buffer of [`axum::Json`] copies each of the many small pieces at a greater cost.
    let mut list = Vec::with_capacity(bytes);
    serde_json::to_writer(&mut list, entries).map_err(ApiError::internal)?;
    Ok(list)
}

/// Writes entries on a thread for work that blocks. They are dropped after the reply has what was written.
fn listed_elsewhere<T: Serialize + Send + 'static>(
    entries: Vec<T>,
) -> oneshot::Receiver<Result<Vec<u8>, ApiError>> {
    let (sender, receiver) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        // Whoever asked may be gone.
        let _ = sender.send(list_of(&entries, entries.len() * ENTRY_BYTES));
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_page_is_one_list_in_the_order_of_its_entries() {
        let part = u32::try_from(ENTRIES_OF_PART).unwrap();
        for count in [0, 1, part, part + 1, 3 * part + 7] {
            let entries: Vec<u32> = (0..count).collect();
            let reply = long_page_reply(entries.clone(), None).await.unwrap().into_response();
            let body = axum::body::to_bytes(reply.into_body(), usize::MAX).await.unwrap();
            assert_eq!(serde_json::from_slice::<Vec<u32>>(&body).unwrap(), entries, "{count} entries");
        }
    }
}
