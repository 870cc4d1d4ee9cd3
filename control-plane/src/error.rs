//! Every error that a client can see, as `application/problem+json` (RFC 9457). Internal text goes to the
//! log, never to the client.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use orion_domain::{NodeId, Refused, Timestamp, agent::BEAT_EVERY};
use orion_store::{Cas, StoreError};
use serde_json::{Map, Value, json};

/// A refusal: its status, a stable word for programs, and sentences for people. Boxed, because most replies
/// are none.
#[derive(Debug, Clone)]
pub struct ApiError(Box<Problem>);

#[derive(Debug, Clone)]
struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    hint: Option<String>,
    retry_after_s: Option<u64>,
    extra: Map<String, Value>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            status,
            kind,
            title,
            detail: detail.into(),
            hint: None,
            retry_after_s: None,
            extra: Map::new(),
        }))
    }

    /// 400: the request itself is wrong.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "Bad request", detail)
    }

    /// 400: one field of the body is wrong.
    pub fn field(name: &str, what: impl std::fmt::Display) -> Self {
        let mut error = Self::bad_request(format!("{name}: {what}"));
        error.0.extra.insert("field".into(), name.into());
        error
    }

    /// Says that the field is one inside of another.
    #[must_use]
    pub fn inside(mut self, outer: &str) -> Self {
        if let Some(Value::String(name)) = self.0.extra.get("field") {
            let name = format!("{outer}.{name}");
            self.0.detail = format!("{outer}.{}", self.0.detail);
            self.0.extra.insert("field".into(), name.into());
        }
        self
    }

    /// 401: not logged in, or no longer.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail)
    }

    /// 403: logged in, but not allowed to.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    /// 403: the password is right, and the account is shut.
    pub fn disabled(username: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "account_disabled",
            "Account disabled",
            format!("the account '{username}' is disabled; ask an admin"),
        )
    }

    /// 403: sign-up is not open to everybody.
    pub fn sign_up_refused(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "signup_refused", "Sign-up refused", detail)
    }

    /// 403: one of the account's quotas is reached.
    pub fn quota(name: &'static str, limit: u32, detail: impl std::fmt::Display) -> Self {
        let mut error = Self::new(
            StatusCode::FORBIDDEN,
            "quota_exceeded",
            "Quota exceeded",
            format!("{detail}; your quota `{name}` is {limit}"),
        );
        error.0.extra.insert("quota".into(), name.into());
        error.0.extra.insert("limit".into(), limit.into());
        error.hint("GET /auth/me shows your quotas; an admin can set others for your account")
    }

    /// 404: no such thing, or none of the caller's.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
    }

    /// 405: the route has other methods.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "Method not allowed",
            "this route has another method; the header `Allow` says which",
        )
    }

    /// 413: the body is larger than this service reads.
    pub fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "Body too large",
            "the body is larger than this service reads",
        )
    }

    /// 409 with a word of its own.
    pub fn conflict(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, kind, "Conflict", detail)
    }

    /// 409: the link of the node beats, and is another machine's.
    pub fn second_machine(node: NodeId) -> Self {
        let mut error = Self::conflict(
            "node_known",
            format!("node {node} is another machine, whose link is up: two machines use its identity"),
        )
        .hint("a machine that moved or was booted is let in when its old link is lost, within half a minute");
        error.0.retry_after_s = Some(BEAT_EVERY.as_secs());
        error
    }

    /// 422: an idempotency key was used with another body.
    pub fn key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "Idempotency key reused",
            "this Idempotency-Key was used with another body; use a new key for a new request",
        )
    }

    /// 429: too many tries.
    pub fn too_many(detail: impl Into<String>, retry_after_s: u64) -> Self {
        let mut error =
            Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests", detail);
        error.0.retry_after_s = Some(retry_after_s);
        error
    }

    /// 503: something that Orion needs is away; nothing was changed.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let mut error =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Temporarily unavailable", detail);
        error.0.retry_after_s = Some(2);
        error
    }

    /// 503: fewer nodes are free than were asked for. `next_end` is when the next lease ends.
    pub fn too_few_free(wanted: u32, found: usize, next_end: Option<Timestamp>, now: Timestamp) -> Self {
        let mut error = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_few_free",
            "Too few nodes are free",
            match next_end {
                Some(at) => format!("{wanted} wanted, {found} free; the next lease ends at {at}"),
                None => format!("{wanted} wanted, {found} free, and no lease is due to end"),
            },
        );
        error.0.extra.insert("found".into(), found.into());
        if let Some(at) = next_end {
            // Whole seconds, rounded up: not a moment too early.
            error.0.retry_after_s = Some(at.since(now).as_secs() + 1);
            error.0.extra.insert("next_free_at".into(), at.to_string().into());
        }
        error.0.extra.insert("retry_after_s".into(), error.0.retry_after_s.map_or(Value::Null, Into::into));
        error
    }

    /// 500: our fault. `what` goes to the log.
    pub fn internal(what: impl std::fmt::Display) -> Self {
        tracing::error!(error = %what, "a request failed inside");
        Self::our_fault()
    }

    /// The same, for the document: nothing is logged.
    pub(crate) fn our_fault() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal error",
            "something went wrong on our side; the log of the control plane says what",
        )
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds a key to the body.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.extra.insert(key.into(), value.into());
        self
    }

    /// The body of the reply, as `application/problem+json`.
    pub fn body(&self) -> Value {
        let problem = &self.0;
        let mut body = json!({
            "type": format!("urn:orion:problem:{}", problem.kind),
            "title": problem.title,
            "status": problem.status.as_u16(),
            "detail": problem.detail,
            "error": problem.detail,
            "kind": problem.kind,
        });
        if let Value::Object(map) = &mut body {
            if let Some(hint) = &problem.hint {
                map.insert("hint".into(), hint.as_str().into());
            }
            map.extend(problem.extra.clone());
        }
        body
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.detail)
    }
}

/// Something that a client names by its number.
#[derive(Clone, Copy, Debug)]
pub struct Noun {
    word: &'static str,
    /// Which route lists them.
    listed_by: Option<&'static str>,
}

/// Noun of a refusal that is about a node.
pub const NODE: Noun = Noun { word: "node", listed_by: None };
/// Noun of a refusal that is about a webhook.
pub const WEBHOOK: Noun = Noun { word: "webhook", listed_by: Some("GET /api/admin/webhooks") };

impl Noun {
    /// 503: it was changed while it was being changed.
    pub fn changed(self, id: impl std::fmt::Display) -> ApiError {
        ApiError::unavailable(format!("{} {id} changed meanwhile; try again", self.word))
    }

    /// 404: there is none of that number.
    pub fn missing(self, id: impl std::fmt::Display) -> ApiError {
        ApiError::not_found(match self.listed_by {
            Some(route) => format!("there is no {} {id}; {route} lists them", self.word),
            None => format!("there is no {} {id}", self.word),
        })
    }
}

/// What a compare-and-swap came to, for a client.
pub trait OrProblem<T>: Sized {
    /// Gives what was written.
    ///
    /// # Errors
    /// 404 when there is no such row, 409 `kind` where its state does not allow the change, 503 when it was changed
    /// meanwhile.
    fn or_problem(self, noun: Noun, id: impl std::fmt::Display, kind: &'static str) -> Result<T, ApiError>;
}

impl<T> OrProblem<T> for Cas<T, Refused> {
    fn or_problem(self, noun: Noun, id: impl std::fmt::Display, kind: &'static str) -> Result<T, ApiError> {
        match self {
            Self::Done(written) => Ok(written),
            Self::Refused(refused) => Err(ApiError::conflict(kind, refused.of(id))),
            Self::Stale => Err(noun.changed(id)),
            Self::Gone => Err(noun.missing(id)),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_unavailable() {
            tracing::warn!(%error, "the database is away");
            Self::unavailable("the database does not answer; try again in a moment")
        } else {
            Self::internal(error)
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self::conflict("wrong_state", refused.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.body();
        let problem = *self.0;
        let mut response = (problem.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = problem.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if problem.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_status_and_word() {
        let now = Timestamp::from_micros(0);
        let table = [
            (ApiError::bad_request("x"), 400, "bad_request"),
            (ApiError::field("count", "x"), 400, "bad_request"),
            (ApiError::unauthorized("x"), 401, "unauthorized"),
            (ApiError::forbidden("x"), 403, "forbidden"),
            (ApiError::disabled("x"), 403, "account_disabled"),
            (ApiError::not_found("x"), 404, "not_found"),
            (ApiError::method_not_allowed(), 405, "method_not_allowed"),
            (ApiError::conflict("node_known", "x"), 409, "node_known"),
            (ApiError::too_large(), 413, "too_large"),
            (ApiError::key_reused(), 422, "idempotency_key_reused"),
            (ApiError::too_many("x", 3), 429, "too_many_requests"),
            (ApiError::internal("secret text"), 500, "internal"),
            (ApiError::unavailable("x"), 503, "unavailable"),
            (ApiError::too_few_free(2, 1, None, now), 503, "too_few_free"),
        ];
        for (error, status, kind) in table {
            assert_eq!((error.0.status.as_u16(), error.0.kind), (status, kind));
            assert!(!error.0.detail.contains("secret text"));
        }
    }

    #[test]
    fn too_few_free_says_when_to_come_back() {
        let now = Timestamp::from_micros(0);
        let error = ApiError::too_few_free(2, 1, Some(now.plus(std::time::Duration::from_millis(1500))), now);
        assert_eq!(error.0.extra["found"], 1);
        assert_eq!(error.0.extra["retry_after_s"], 2);
        assert_eq!(error.into_response().headers()[header::RETRY_AFTER], "2");
    }
}
