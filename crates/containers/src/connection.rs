//! One HTTP connection to an engine.

use crate::EngineError;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use orion_ssh::NodeStream;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};

/// An open connection. Dropping it closes it.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
    upgraded: bool,
    pub(crate) idle_since: Instant,
}

/// Why a request has no reply.
pub(crate) enum SendFailure {
    /// The request was not sent.
    Unsent,
    /// It was sent, at least in part.
    Sent(EngineError),
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A connection that was upgraded passes its stream on, and its task ends by itself.
        if !self.upgraded {
            self.task.abort();
        }
    }
}

impl Connection {
    pub(crate) async fn open(stream: NodeStream) -> Result<Self, EngineError> {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let task = tokio::spawn(async move {
            // What breaks shows in the request, too.
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a container engine ended");
            }
        });
        Ok(Self { sender, task, upgraded: false, idle_since: Instant::now() })
    }

    /// Returns whether it may take a request, as far as this side knows.
    pub(crate) fn is_usable(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Hands the stream of an upgraded reply on.
    pub(crate) fn upgrade(mut self) {
        self.upgraded = true;
    }

    /// Sends a request; returns the reply's head.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        until: Instant,
        what: &'static str,
    ) -> Result<Response<Incoming>, SendFailure> {
        let sending = async {
            // The task takes a moment to see the end of the reply before.
            if self.sender.ready().await.is_err() {
                return Err(SendFailure::Unsent);
            }
            self.sender.try_send_request(request).await.map_err(|mut failure| match failure.take_message() {
                Some(_unsent) => SendFailure::Unsent,
                None => SendFailure::Sent(broken(failure.error())),
            })
        };
        timeout_at(until, sending).await.unwrap_or(Err(SendFailure::Sent(EngineError::TimedOut(what))))
    }
}

/// The error of a connection that broke.
pub(crate) fn broken(error: &hyper::Error) -> EngineError {
    if error.is_parse() {
        return EngineError::Nonsense(error.to_string());
    }
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {source}");
    }
    EngineError::Down(text)
}
