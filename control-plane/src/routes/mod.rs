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
pub mod pages;
pub mod webhooks;

use crate::{error::ApiError, known::Known};
use axum::{
    body::HttpBody,
    extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request, rejection::JsonRejection},
    http::{StatusCode, request::Parts},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

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
