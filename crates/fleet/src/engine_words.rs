//! What engines and their errors are called where it is kept.

use orion_containers::{EngineError, EngineInfo, EngineKind};

/// Returns kind, version and API version of an engine, as they are kept.
pub(crate) fn told(info: &EngineInfo) -> String {
    let kind = match info.kind {
        EngineKind::Docker => "docker",
        EngineKind::Podman => "podman",
    };
    format!("{kind} {} (API {})", info.version, info.api_version)
}

/// The error with what it rests on.
pub(crate) fn with_source(error: &EngineError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
