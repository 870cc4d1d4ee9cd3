//! The way to a node's engine: which engine there is, at which socket, and whether sshd lets streams through.

use crate::{
    EngineError,
    connection::{Connection, SendFailure},
    http::{Call, error_of, parsed, read_whole},
};
use orion_ssh::{Endpoint, ExecRequest, Kind, NodeStream, Pool, SshError, Target};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

/// Kind of a container engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// Docker Engine, by its own API.
    Docker,
    /// Podman, by the API that it shares with Docker.
    Podman,
}

impl EngineKind {
    /// Returns the engine's name, as the database keeps it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    const fn socket(self) -> &'static str {
        match self {
            Self::Docker => "/var/run/docker.sock",
            Self::Podman => "/run/podman/podman.sock",
        }
    }

    /// Returns a command that passes its input and output on to the engine.
    const fn dial_command(self) -> &'static str {
        match self {
            Self::Docker => "exec docker --host unix:///var/run/docker.sock system dial-stdio",
            Self::Podman => "exec podman --url unix:///run/podman/podman.sock system dial-stdio",
        }
    }
}

/// Says which sockets and programs there are; what it prints is read by [`Found::read`].
const LOOK: &str = "[ -S /var/run/docker.sock ] && echo socket docker; [ -S /run/podman/podman.sock ] && echo socket podman; \
                    for name in docker podman; do command -v $name >/dev/null && echo client $name; done; \
                    command -v dockerd >/dev/null && echo engine docker; true";

/// A way to an engine that answered.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) endpoint: Endpoint,
    pub(crate) kind: EngineKind,
    /// Version of the engine itself.
    pub(crate) engine_version: String,
    /// Newest version of the API that the engine speaks.
    pub(crate) api_version: String,
    /// Version that Orion speaks with it, as in paths: `v1.41`.
    pub(crate) spoken: String,
}

/// Opens a stream: on the pooled session, or at the reader's pace on one of its own.
pub(crate) async fn open_stream(
    pool: &Pool,
    target: &Target,
    endpoint: &Endpoint,
    own: bool,
    until: Instant,
) -> Result<NodeStream, SshError> {
    let limit = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
    if own {
        pool.open_own_stream(target, endpoint, limit).await
    } else {
        pool.open_stream(target, endpoint, limit).await
    }
}

/// The error of a stream that was not opened.
pub(crate) fn of_open(error: SshError) -> EngineError {
    match error.kind {
        Kind::ChannelRefused(_) => EngineError::Down("nobody listens at its socket".into()),
        Kind::Busy => EngineError::Local("too many streams of this node are open".into()),
        Kind::NoSession
        | Kind::NoPinnedKey
        | Kind::NotResolved
        | Kind::Refused
        | Kind::Unreachable
        | Kind::TimedOut
        | Kind::Throttled
        | Kind::Closed
        | Kind::HostKeyMismatch { .. }
        | Kind::AuthRejected
        | Kind::OutcomeUnknown
        | Kind::Protocol(_)
        | Kind::Dropped
        | Kind::Local(_) => EngineError::Node(error),
    }
}

/// Finds the way: Docker's socket, Podman's, and where sshd opens neither, what is on the node.
pub(crate) async fn find(pool: &Pool, target: &Target, until: Instant) -> Result<Route, EngineError> {
    for kind in [EngineKind::Docker, EngineKind::Podman] {
        let endpoint = Endpoint::Socket(kind.socket().into());
        match open_stream(pool, target, &endpoint, false, until).await {
            Ok(stream) => return ask(stream, endpoint, kind, until).await,
            Err(error) if error.is_channel_refused() => {}
            Err(error) => return Err(of_open(error)),
        }
    }
    let mut request = ExecRequest::new(LOOK);
    request.timeout = until.saturating_duration_since(Instant::now());
    let output = pool.exec(target, request).await.map_err(EngineError::Node)?;
    let found = Found::read(&String::from_utf8_lossy(&output.stdout));
    let Some(kind) = found.dialled() else { return Err(found.error()) };
    // Either the site has shut forwarding, or nobody listens at the socket: the program finds that out, too.
    let endpoint = Endpoint::Command(kind.dial_command().into());
    let stream = open_stream(pool, target, &endpoint, true, until).await.map_err(of_open)?;
    ask(stream, endpoint, kind, until).await
}

/// What [`LOOK`] said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    sockets: Vec<EngineKind>,
    programs: Vec<EngineKind>,
}

impl Found {
    fn read(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let kind = if line.ends_with(" docker") { EngineKind::Docker } else { EngineKind::Podman };
            match line.split(' ').next() {
                Some("socket") => found.sockets.push(kind),
                Some("client" | "engine") => found.programs.push(kind),
                Some(_) | None => {}
            }
        }
        found
    }

    /// The engine that its own program may reach.
    fn dialled(&self) -> Option<EngineKind> {
        self.sockets.iter().copied().find(|kind| self.programs.contains(kind))
    }

    fn error(&self) -> EngineError {
        if self.sockets.is_empty() && self.programs.is_empty() {
            return EngineError::NoEngine;
        }
        if self.sockets.is_empty() {
            return EngineError::Down("it has no socket: it does not run".into());
        }
        EngineError::Down("nobody listens at its socket, or sshd does not forward to it".into())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
    api_version: String,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: Option<String>,
    components: Option<Vec<Component>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: String,
}

/// Asks the engine for its version, on a connection that is closed after it.
async fn ask(
    stream: NodeStream,
    endpoint: Endpoint,
    kind: EngineKind,
    until: Instant,
) -> Result<Route, EngineError> {
    let call = Call::get("/version", "version");
    let mut connection = Connection::open(stream).await?;
    let response = match connection.send(call.request("", false)?, until, call.what).await {
        Ok(response) => response,
        Err(SendFailure::Unsent) => return Err(EngineError::Down("it closed the connection".into())),
        Err(SendFailure::Sent(error)) => return Err(error),
    };
    let (status, body) = read_whole(response, until, call.what).await?;
    if status != 200 {
        let error = error_of(status, &body);
        return Err(EngineError::Nonsense(format!("to 'version': {error}")));
    }
    let version: Version = parsed(&body, call.what)?;
    let is_podman = version.components.iter().flatten().any(|component| component.name.starts_with("Podman"));
    Ok(Route {
        endpoint,
        // Podman may listen at Docker's socket.
        kind: if is_podman { EngineKind::Podman } else { kind },
        engine_version: version.version,
        spoken: spoken(&version.api_version, version.min_api_version.as_deref())?,
        api_version: version.api_version,
    })
}

/// Returns the oldest version that both sides speak: what Orion reads is the same in all that are newer.
fn spoken(newest: &str, oldest: Option<&str>) -> Result<String, EngineError> {
    let number = |text: &str| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    let nonsense =
        || EngineError::Nonsense(format!("to 'version': {:?}", newest.chars().take(20).collect::<String>()));
    let most = number(newest).ok_or_else(nonsense)?;
    if most < EngineError::API_MIN {
        return Err(EngineError::TooOld { api: newest.into() });
    }
    let least = oldest.and_then(number).unwrap_or(EngineError::API_MIN);
    let (major, minor) = least.max(EngineError::API_MIN);
    Ok(format!("v{major}.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_common_version_is_spoken_and_an_old_engine_refused() {
        assert_eq!(spoken("1.41", Some("1.12")).unwrap(), "v1.41");
        assert_eq!(spoken("1.52", Some("1.44")).unwrap(), "v1.44");
        assert_eq!(spoken("2.0", None).unwrap(), "v1.41");
        assert!(matches!(spoken("1.40", None), Err(EngineError::TooOld { .. })));
        for nonsense in ["", "x", "1", "1.x", "1.2.3"] {
            assert!(matches!(spoken(nonsense, None), Err(EngineError::Nonsense(_))), "{nonsense}");
        }
    }

    #[test]
    fn what_is_on_a_node_says_why_no_engine_answers() {
        assert!(matches!(Found::read("").error(), EngineError::NoEngine));
        assert!(matches!(Found::read("client docker\nengine docker\n").error(), EngineError::Down(_)));
        assert!(matches!(Found::read("socket docker\n").error(), EngineError::Down(_)));
        assert_eq!(Found::read("socket docker\n").dialled(), None);
        assert_eq!(
            Found::read("socket podman\nclient docker\nclient podman\n").dialled(),
            Some(EngineKind::Podman)
        );
    }
}
