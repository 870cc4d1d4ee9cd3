//! The machine's own container engine, at its socket.

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use orion_domain::container::ImageName;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{net::UnixStream, time::timeout};

/// Sockets of engines, in the order in which they are tried.
const SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];
/// Version of the API, that of Docker 20.10.
const API: &str = "/v1.41";
/// Longest wait for an ordinary call.
const CALL_MAX: Duration = Duration::from_secs(30);
/// Longest pull.
const PULL_MAX: Duration = Duration::from_secs(1800);
/// Largest reply.
const REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest message of an error.
const MESSAGE_CHARS_MAX: usize = 300;

/// Reason why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine refused, with this status.
    #[error("{1}")]
    Refused(u16, String),
    /// There is no engine, or it does not answer.
    #[error("the container engine: {0}")]
    Away(String),
}

impl EngineError {
    /// Status of the reply to who asked.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Refused(400 | 404 | 409, _) => 400,
            Self::Refused(..) | Self::Away(_) => 500,
        }
    }
}

/// The engine of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Engine;

fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().fold(String::new(), |escaped, byte| match is_plain(byte) {
        true => format!("{escaped}{}", char::from(byte)),
        false => format!("{escaped}%{byte:02X}"),
    })
}

fn path_of(image: &ImageName) -> String {
    image.familiar().split('/').map(escaped).collect::<Vec<_>>().join("/")
}

impl Engine {
    async fn connect() -> Result<UnixStream, EngineError> {
        let mut last = "there is none on this machine".to_owned();
        for socket in SOCKETS {
            match UnixStream::connect(socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => last = format!("{socket}: {error}"),
            }
        }
        Err(EngineError::Away(last))
    }

    /// Carries out a call; its reply whole.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Bytes, EngineError> {
        let away = |error: &dyn std::fmt::Display| EngineError::Away(error.to_string());
        let request = Request::builder()
            .method(method)
            .uri(format!("{API}{path}"))
            .header("Host", "orion-agent")
            .header("Content-Type", "application/json")
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
            .map_err(|error| away(&error))?;
        let exchange = async {
            let stream = Self::connect().await?;
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|error| away(&error))?;
            let driver = tokio::spawn(connection);
            let reply = sender.send_request(request).await.map_err(|error| away(&error))?;
            let status = reply.status().as_u16();
            let body = Limited::new(reply.into_body(), REPLY_BYTES_MAX).collect().await;
            driver.abort();
            match body {
                Ok(body) => Ok((status, body.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => {
                    Err(EngineError::Away("it says too much".into()))
                }
                Err(error) => Err(away(&error)),
            }
        };
        let late = |_| EngineError::Away(format!("it did not answer within {} s", limit.as_secs()));
        match timeout(limit, exchange).await.map_err(late)?? {
            (200..=299 | 304, body) => Ok(body),
            (status, body) => Err(EngineError::Refused(status, message(&body))),
        }
    }

    async fn ask(&self, path: &str) -> Result<Value, EngineError> {
        let body = self.call(Method::GET, path, None, CALL_MAX).await?;
        serde_json::from_slice(&body).map_err(|error| EngineError::Away(error.to_string()))
    }

    async fn order(&self, method: Method, path: &str) -> Result<(), EngineError> {
        self.call(method, path, None, CALL_MAX).await.map(drop)
    }

    /// Whether an image is on this machine.
    pub async fn has_image(&self, image: &ImageName) -> Result<bool, EngineError> {
        match self.ask(&format!("/images/{}/json", path_of(image))).await {
            Ok(_) => Ok(true),
            Err(EngineError::Refused(404, _)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks the registry for an image, without a pull.
    pub async fn ask_registry(&self, image: &ImageName) -> Result<(), EngineError> {
        self.ask(&format!("/distribution/{}/json", path_of(image))).await.map(drop)
    }

    /// Pulls an image.
    pub async fn pull(&self, image: &ImageName) -> Result<(), EngineError> {
        let (from, tag) = (escaped(&image.familiar_repository()), escaped(image.reference()));
        let path = format!("/images/create?fromImage={from}&tag={tag}");
        let said = self.call(Method::POST, &path, None, PULL_MAX).await?;
        // A pull that fails says so in its last line, and its status was 200 long before.
        let lines =
            said.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        match lines.filter_map(|line| line["error"].as_str().map(shortened)).next() {
            None => Ok(()),
            Some(error) => Err(EngineError::Refused(404, error)),
        }
    }

    /// Makes a container; its id.
    pub async fn create(&self, name: &str, body: &Value) -> Result<String, EngineError> {
        let path = format!("/containers/create?name={}", escaped(name));
        let reply = self.call(Method::POST, &path, Some(body), CALL_MAX).await?;
        let made: Value =
            serde_json::from_slice(&reply).map_err(|error| EngineError::Away(error.to_string()))?;
        made["Id"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| EngineError::Away("it named no container".into()))
    }

    /// Starts a container.
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        self.order(Method::POST, &format!("/containers/{}/start", escaped(id))).await
    }

    /// Stops a container.
    pub async fn stop(&self, id: &str, grace_s: u64) -> Result<(), EngineError> {
        self.order(Method::POST, &format!("/containers/{}/stop?t={grace_s}", escaped(id))).await
    }

    /// Removes a container with its volumes.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        self.order(Method::DELETE, &format!("/containers/{}?force=1&v=1", escaped(id))).await
    }

    /// Returns the labels of a container; none where there is no such container.
    pub async fn labels(&self, name: &str) -> Result<Option<Value>, EngineError> {
        match self.ask(&format!("/containers/{}/json", escaped(name))).await {
            Ok(found) => Ok(Some(found["Config"]["Labels"].clone())),
            Err(EngineError::Refused(404, _)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists the running containers that have a label.
    pub async fn running(&self, label: &str) -> Result<Vec<Value>, EngineError> {
        let filters = escaped(&json!({ "label": [label] }).to_string());
        let Value::Array(found) = self.ask(&format!("/containers/json?filters={filters}")).await? else {
            return Err(EngineError::Away("its list is none".into()));
        };
        Ok(found.iter().map(shown).collect())
    }
}

fn shown(found: &Value) -> Value {
    let id: String = found["Id"].as_str().unwrap_or_default().chars().take(12).collect();
    let name = found["Names"][0].as_str().unwrap_or_default().trim_start_matches('/');
    json!({ "id": id, "name": name, "status": found["State"], "labels": found["Labels"] })
}

fn shortened(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn message(body: &[u8]) -> String {
    let said =
        serde_json::from_slice::<Value>(body).ok().and_then(|body| body["message"].as_str().map(shortened));
    said.unwrap_or_else(|| shortened(&String::from_utf8_lossy(body)))
}
