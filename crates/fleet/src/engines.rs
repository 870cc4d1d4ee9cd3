//! What a node's container engine is, and whether it answers: asked again and again, because engines are installed, upgraded
//! and stopped.

use crate::{Fleet, apply::with_source};
use orion_containers::{EngineInfo, EngineKind, EngineMeaning};
use orion_domain::NodeId;
use orion_store::{EngineSaid, StoreError};

/// Returns kind, version and API version of an engine, as they are kept.
pub(crate) fn told(info: &EngineInfo) -> String {
    let kind = match info.kind {
        EngineKind::Docker => "docker",
        EngineKind::Podman => "podman",
    };
    format!("{kind} {} (API {})", info.version, info.api_version)
}

impl Fleet {
    /// Asks a node's engine what it is, and writes the answer.
    ///
    /// # Errors
    /// The database's.
    pub async fn ask_engine(&self, node: NodeId) -> Result<(), StoreError> {
        let Ok(engine) = self.engine_of(node).await? else { return Ok(()) };
        let said = match engine.info().await {
            Ok(info) => EngineSaid::Is(told(&info)),
            Err(error) => match error.meaning() {
                EngineMeaning::NodeUnreached => EngineSaid::Unreached,
                EngineMeaning::Unusable => EngineSaid::Nothing,
                EngineMeaning::EngineDown
                | EngineMeaning::NotFound
                | EngineMeaning::Conflict
                | EngineMeaning::Invalid
                | EngineMeaning::Denied
                | EngineMeaning::NoSpace
                | EngineMeaning::Failed
                | EngineMeaning::Nothing => {
                    tracing::debug!(%node, error = %with_source(&error), "an engine does not answer");
                    EngineSaid::Down
                }
            },
        };
        if self.store.containers().engine_said(node, &said, self.now()).await? {
            tracing::info!(%node, ?said, "a node's container engine changed");
        }
        Ok(())
    }
}
