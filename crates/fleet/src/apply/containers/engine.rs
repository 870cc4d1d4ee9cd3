//! What the work on a node writes of its engine, there or not.

use super::{LeasesLookedAt, Outcome, Stop, deadlines::KeptLease, unreached};
use crate::{
    Applied, Fleet,
    engine_words::{told, with_source},
};
use orion_containers::{Engine, EngineError, EngineMeaning};
use orion_ssh::Target;
use orion_store::{ContainerRow, NodeClaim, StoreError};

impl Fleet {
    /// Has a node looked at once more whose claim was lost during work on it: a container that was made last may be there though
    /// nobody knows of it.
    pub(in crate::apply) async fn look_again_after(
        &self,
        claim: &NodeClaim,
        applied: &Result<Applied, StoreError>,
    ) -> Result<(), StoreError> {
        if claim.has_containers && matches!(applied, Ok(Applied::Superseded)) {
            self.store.nodes().look_again(claim.node.id, self.now()).await?;
            self.nudge.all();
        }
        Ok(())
    }

    /// Writes down once which engine the node has: a lease with containers moves to nodes that have one.
    pub(super) async fn write_engine(&self, claim: &NodeClaim, engine: &Engine) -> Result<(), Stop> {
        if claim.node.engine.is_none()
            && let Ok(info) = engine.info().await
        {
            self.store.containers().engine_seen(claim.node.id, Some(&told(&info))).await?;
        }
        Ok(())
    }

    /// The engine does not answer, or there is none.
    pub(super) async fn without_engine(
        &self,
        target: &Target,
        (claim, kept): (&NodeClaim, &[KeptLease]),
        rows: &[ContainerRow],
        error: &EngineError,
        outcome: &mut Outcome,
    ) -> Result<LeasesLookedAt, Stop> {
        if error.meaning() == EngineMeaning::Unusable {
            if claim.node.engine.is_some() {
                self.store.containers().engine_seen(claim.node.id, None).await?;
            }
            for row in rows.iter().filter(|row| !row.phase.is_settled()) {
                self.container_failed(row, claim, None, &error.to_string()).await?;
            }
            // The node says whether something of an engine that was removed still runs.
            let wanted: Vec<&str> = claim.desired.iter().map(|desired| &*desired.ulid).collect();
            self.forget_deadlines(target, claim, (kept, &wanted)).await?;
            return Ok(LeasesLookedAt::default());
        }
        if !rows.is_empty() || !kept.is_empty() {
            return Err(unreached(error));
        }
        outcome.findings.push(format!("its containers were not looked at: {}", with_source(error)));
        Ok(LeasesLookedAt::default())
    }
}
