//! The handlers, one file a subject: parse, use case, render. No SQL, and no decision about a lease.

pub mod accounts;
pub mod admin;
pub mod docs;
pub mod drain;
pub mod events;
pub mod health;
pub mod metrics;
pub mod nodes;
pub mod rentals;
pub mod webhooks;
pub mod workers;

use crate::error::ApiError;
use axum::{
    body::HttpBody,
    extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request, rejection::JsonRejection},
    http::{StatusCode, header, request::Parts},
    response::{AppendHeaders, IntoResponse},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

/// About as long is an entry of a list.
const ENTRY_BYTES: usize = 1_024;

/// What was done, in a sentence.
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
    /// What the route wants.
    pub parsed: T,
    /// What came, keys sorted: the same for the same content.
    pub canonical: Value,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let axum::Json(canonical) =
            <axum::Json<Value> as FromRequest<S>>::from_request(request, state).await.map_err(refusal)?;
        if !canonical.is_object() {
            return Err(ApiError::bad_request("the body must be a JSON object"));
        }
        let parsed = serde_path_to_error::deserialize(&canonical).map_err(|error| {
            let path = error.path().to_string();
            let what = error.into_inner();
            if path == "." { ApiError::bad_request(what.to_string()) } else { ApiError::field(&path, what) }
        })?;
        Ok(Self { parsed, canonical })
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> OptionalFromRequest<S> for Body<T> {
    type Rejection = ApiError;

    /// None where the request has no body at all.
    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, ApiError> {
        if request.body().is_end_stream() {
            return Ok(None);
        }
        <Self as FromRequest<S>>::from_request(request, state).await.map(Some)
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
    /// How many entries to give at most.
    #[param(minimum = 1, maximum = 1000, default = 100, example = 100)]
    pub(crate) limit: Option<u32>,
    /// Where to go on: the id of the last entry that was given. The `Link` header of a full page has the whole
    /// address of the next one.
    #[param(minimum = 0, example = 17)]
    pub(crate) cursor: Option<i64>,
}

impl PageQuery {
    /// How many entries to give: 100 unless told, at most 1000.
    ///
    /// # Errors
    /// 400 for 0 or more than 1000.
    pub fn limit(&self) -> Result<u32, ApiError> {
        match self.limit.unwrap_or(100) {
            limit @ 1..=1000 => Ok(limit),
            limit => Err(ApiError::field("limit", format!("must lie between 1 and 1000, not {limit}"))),
        }
    }

    /// After which id to go on.
    pub fn cursor(&self) -> i64 {
        self.cursor.unwrap_or(0)
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
            .map_err(|error| ApiError::bad_request(format!("query: {}", error.body_text())))
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
    // Into a Vec: the buffer of [`axum::Json`] copies each of the many small pieces at a greater cost.
    let mut body = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    serde_json::to_writer(&mut body, entries).map_err(ApiError::internal)?;
    let next = AppendHeaders(next.map(|next| (header::LINK, next)));
    Ok((next, [(header::CONTENT_TYPE, "application/json")], body))
}
