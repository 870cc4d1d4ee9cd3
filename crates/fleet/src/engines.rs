//! What a node's container engine is, and whether it answers: asked again and again, because engines are installed, upgraded
//! and stopped.

use crate::{
    Fleet,
    engine_words::{told, with_source},
};
use orion_containers::EngineMeaning;
use orion_domain::NodeId;
use orion_store::{EngineSaid, StoreError};

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
