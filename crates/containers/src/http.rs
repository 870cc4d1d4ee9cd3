//! Requests to an engine and bounded reading of its replies.

use crate::{
    EngineError,
    connection::{Connection, broken},
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, body::Incoming, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Longest reply that is read whole.
const REPLY_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Longest line of a stream of JSON lines.
const LINE_MAX_BYTES: usize = 1024 * 1024;
/// Longest message of an error that is kept.
const MESSAGE_MAX_CHARS: usize = 500;

/// A request to an engine, without the version in its path. `Debug` is not implemented: bodies hold secrets.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) body: Body,
    /// `X-Registry-Auth`.
    pub(crate) registry_auth: Option<String>,
    /// Limit for the reply's head, and for the whole reply where it is read whole.
    pub(crate) limit: Duration,
    /// Names the call in errors.
    pub(crate) what: &'static str,
}

pub(crate) enum Body {
    None,
    Json(Value),
    Tar(Bytes),
}

impl Call {
    /// Longest that an engine may take for a call that has no limit of its own.
    const LIMIT: Duration = Duration::from_secs(10);

    pub(crate) fn new(method: Method, path: impl Into<String>, what: &'static str) -> Self {
        Self { method, path: path.into(), body: Body::None, registry_auth: None, limit: Self::LIMIT, what }
    }

    pub(crate) fn get(path: impl Into<String>, what: &'static str) -> Self {
        Self::new(Method::GET, path, what)
    }

    pub(crate) fn post(path: impl Into<String>, what: &'static str) -> Self {
        Self::new(Method::POST, path, what)
    }

    pub(crate) fn delete(path: impl Into<String>, what: &'static str) -> Self {
        Self::new(Method::DELETE, path, what)
    }

    pub(crate) fn json(mut self, body: Value) -> Self {
        self.body = Body::Json(body);
        self
    }

    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Returns the request for a version of the API, `v1.41`; with an upgrade where the connection becomes a raw one.
    pub(crate) fn request(&self, version: &str, upgrades: bool) -> Result<Request<Full<Bytes>>, EngineError> {
        let prefix = if version.is_empty() { String::new() } else { format!("/{version}") };
        let mut builder = Request::builder()
            .method(self.method.clone())
            .uri(format!("{prefix}{}", self.path))
            .header(header::HOST, "orion");
        if upgrades {
            builder = builder.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "tcp");
        }
        if let Some(auth) = &self.registry_auth {
            builder = builder.header("X-Registry-Auth", auth);
        }
        let (kind, bytes) = match &self.body {
            Body::None => (None, Bytes::new()),
            Body::Json(value) => (Some("application/json"), Bytes::from(value.to_string())),
            Body::Tar(bytes) => (Some("application/x-tar"), bytes.clone()),
        };
        if let Some(kind) = kind {
            builder = builder.header(header::CONTENT_TYPE, kind);
        }
        builder.body(Full::new(bytes)).map_err(|error| EngineError::Local(format!("{}: {error}", self.what)))
    }
}

/// A path segment or a value of a query, escaped.
pub(crate) fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// Reads the rest of a reply, up to a bound.
pub(crate) async fn read_whole(
    response: Response<Incoming>,
    until: Instant,
    what: &'static str,
) -> Result<(u16, Bytes), EngineError> {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut whole = BytesMut::new();
    loop {
        match timeout_at(until, body.frame()).await {
            Err(_elapsed) => return Err(EngineError::TimedOut(what)),
            Ok(None) => return Ok((status, whole.freeze())),
            Ok(Some(Err(error))) => return Err(broken(&error)),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    if whole.len() + data.len() > REPLY_MAX_BYTES {
                        return Err(EngineError::Nonsense(format!(
                            "more than {REPLY_MAX_BYTES} bytes to '{what}'"
                        )));
                    }
                    whole.extend_from_slice(&data);
                }
            }
        }
    }
}

/// The error of a reply that is none of success.
pub(crate) fn error_of(status: u16, body: &[u8]) -> EngineError {
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    let message = serde_json::from_slice(body)
        .map_or_else(|_| String::from_utf8_lossy(body).into_owned(), |Message { message }| message);
    EngineError::of_reply(status, &shortened(&message))
}

/// A message as it may be shown: one line of printable characters, not too long.
pub(crate) fn shortened(message: &str) -> String {
    message.trim().chars().take(MESSAGE_MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(crate) fn parsed<T: DeserializeOwned>(body: &[u8], what: &'static str) -> Result<T, EngineError> {
    serde_json::from_slice(body).map_err(|error| EngineError::Nonsense(format!("to '{what}': {error}")))
}

/// A reply that is a stream of bytes.
pub(crate) struct ByteBody {
    body: Incoming,
    /// Keeps the connection's session for as long as the stream is read.
    _connection: Connection,
}

impl ByteBody {
    pub(crate) fn new(body: Incoming, connection: Connection) -> Self {
        Self { body, _connection: connection }
    }

    /// Returns the next bytes; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, EngineError>> {
        loop {
            match self.body.frame().await? {
                Err(error) => return Some(Err(broken(&error))),
                Ok(frame) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Some(Ok(data));
                    }
                }
            }
        }
    }
}

/// A reply that is a stream of JSON values, a line each.
pub(crate) struct JsonLines {
    body: ByteBody,
    buffer: BytesMut,
    what: &'static str,
}

impl JsonLines {
    pub(crate) fn new(body: ByteBody, what: &'static str) -> Self {
        Self { body, buffer: BytesMut::new(), what }
    }

    /// Returns the next value; none at the end.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Option<Result<T, EngineError>> {
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(at + 1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Some(parsed(&line, self.what));
            }
            if self.buffer.len() > LINE_MAX_BYTES {
                return Some(Err(EngineError::Nonsense(format!("a line without end to '{}'", self.what))));
            }
            match self.body.next().await {
                Some(Ok(data)) => self.buffer.extend_from_slice(&data),
                Some(Err(error)) => return Some(Err(error)),
                None if self.buffer.trim_ascii().is_empty() => return None,
                None => {
                    let rest = std::mem::take(&mut self.buffer);
                    return Some(parsed(&rest, self.what));
                }
            }
        }
    }
}
