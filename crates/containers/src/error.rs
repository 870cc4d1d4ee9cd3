//! What went wrong with a node's engine, and what that means.

use orion_ssh::SshError;

/// A failure of one call to an engine.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The node was not reached; see [`SshError::meaning`].
    #[error("the node was not reached")]
    Node(#[source] SshError),
    /// The node has neither Docker nor Podman.
    #[error("the node has no container engine")]
    NoEngine,
    /// The engine speaks an API that is older than [`EngineError::API_MIN`].
    #[error("the engine speaks version {api} of its API; Orion needs 1.41 (Docker 20.10) or newer")]
    TooOld {
        /// Newest version that the engine speaks.
        api: String,
    },
    /// Nobody answers at the engine's socket, or the engine closed the connection.
    #[error("the engine does not answer: {0}")]
    Down(String),
    /// The engine took the request and did not answer in time.
    #[error("the engine did not answer in time ({0})")]
    TimedOut(&'static str),
    /// The reply is not what the API says, or longer than it can be.
    #[error("the engine answered nonsense: {0}")]
    Nonsense(String),
    /// There is no such container, network, volume or image.
    #[error("not found: {0}")]
    NotFound(String),
    /// The state of the thing does not allow the call, or its name is in use.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The engine refuses the request, and would again.
    #[error("refused: {0}")]
    Invalid(String),
    /// A registry wants credentials, or has no such image for these.
    #[error("access denied: {0}")]
    Denied(String),
    /// The node's disk is full.
    #[error("no space on the node: {0}")]
    NoSpace(String),
    /// The engine tried, and failed.
    #[error("the engine failed: {0}")]
    Failed(String),
    /// A fault or a limit of this side.
    #[error("{0}")]
    Local(String),
}

/// What a failure means for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineMeaning {
    /// The node was not reached: says nothing about the engine.
    NodeUnreached,
    /// The engine is down, hangs or answers nonsense: try again later.
    EngineDown,
    /// The node cannot hold containers until its operator changes that.
    Unusable,
    /// There is no such thing.
    NotFound,
    /// The state does not allow it now: look again.
    Conflict,
    /// The same request is refused again.
    Invalid,
    /// The registry refuses.
    Denied,
    /// The disk is full.
    NoSpace,
    /// The engine tried and failed; the same may succeed elsewhere or later.
    Failed,
    /// A limit of this side.
    Nothing,
}

impl EngineError {
    /// Oldest version of the API that Orion speaks: that of Docker 20.10.
    pub const API_MIN: (u32, u32) = (1, 41);

    /// Returns what the failure means.
    pub const fn meaning(&self) -> EngineMeaning {
        match self {
            Self::Node(_) => EngineMeaning::NodeUnreached,
            Self::NoEngine | Self::TooOld { .. } => EngineMeaning::Unusable,
            Self::Down(_) | Self::TimedOut(_) | Self::Nonsense(_) => EngineMeaning::EngineDown,
            Self::NotFound(_) => EngineMeaning::NotFound,
            Self::Conflict(_) => EngineMeaning::Conflict,
            Self::Invalid(_) => EngineMeaning::Invalid,
            Self::Denied(_) => EngineMeaning::Denied,
            Self::NoSpace(_) => EngineMeaning::NoSpace,
            Self::Failed(_) => EngineMeaning::Failed,
            Self::Local(_) => EngineMeaning::Nothing,
        }
    }

    /// Returns whether the engine may have done what it was asked for: look by name or id before asking again.
    pub const fn may_have_run(&self) -> bool {
        matches!(self, Self::Down(_) | Self::TimedOut(_) | Self::Nonsense(_) | Self::Failed(_))
    }

    /// An error by the status and message of a reply.
    pub(crate) fn of_reply(status: u16, message: &str) -> Self {
        let text = message.to_owned();
        let says = |word: &str| message.to_ascii_lowercase().contains(word);
        if says("no space left on device") || says("disk quota exceeded") {
            return Self::NoSpace(text);
        }
        let is_denied = ["denied", "unauthorized", "authentication required", "no basic auth"];
        if matches!(status, 401 | 403 | 404 | 500)
            && is_denied.into_iter().any(says)
            && !says("permission denied")
        {
            return Self::Denied(text);
        }
        match status {
            // Podman says so with status 500.
            500 if says("name") && says("already in use") => Self::Conflict(text),
            404 => Self::NotFound(text),
            304 | 409 => Self::Conflict(text),
            400 | 403 | 405 | 406 | 413 | 415 | 422 => Self::Invalid(text),
            // Docker says so with status 500 of a registry.
            500 if says("manifest unknown") || says("not found: manifest") => Self::NotFound(text),
            500..=599 => Self::Failed(text),
            _ => Self::Nonsense(format!("status {status}: {text}")),
        }
    }
}

impl From<SshError> for EngineError {
    fn from(error: SshError) -> Self {
        Self::Node(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_of_an_engine_has_one_meaning() {
        for (status, message, meaning) in [
            (404, "No such container: x", EngineMeaning::NotFound),
            (404, "pull access denied for x, repository does not exist", EngineMeaning::Denied),
            (500, "Get \"http://r/v2/x\": unauthorized: authentication required", EngineMeaning::Denied),
            (500, "Get http://r/v2/x/manifests/y: manifest unknown", EngineMeaning::NotFound),
            (500, "write /var/lib/docker/tmp/x: no space left on device", EngineMeaning::NoSpace),
            (409, "Conflict. The container name \"/x\" is already in use", EngineMeaning::Conflict),
            (
                500,
                "creating container storage: the container name \"x\" is already in use by y",
                EngineMeaning::Conflict,
            ),
            (400, "invalid reference format", EngineMeaning::Invalid),
            (500, "OCI runtime create failed: exec: permission denied", EngineMeaning::Failed),
            (302, "moved", EngineMeaning::EngineDown),
        ] {
            assert_eq!(EngineError::of_reply(status, message).meaning(), meaning, "{status} {message}");
        }
    }
}
