//! Container engines that do not answer: since when, whose leases that concerns.

use super::Containers;
use crate::{
    engine::{Cas, StoreError, transaction, vals},
    nodes::NodeChange,
};
use orion_domain::{LeaseId, NodeId, Timestamp, event::NodeEvent, lease::Phase};

/// A node that is alive, and whose container engine does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilentEngine {
    /// Number of the node.
    pub node: NodeId,
    /// Start of the silence.
    pub since: Timestamp,
    /// The leases on the node that are containers alone, and active.
    pub leases: Vec<LeaseId>,
}

impl Containers<'_> {
    /// Writes that a node's engine does not answer, with an event. Whether that is news.
    pub async fn engine_silent(self, node: NodeId, reason: &str, now: Timestamp) -> Result<bool, StoreError> {
        let change = || NodeChange {
            sets: "engine_down_since = ?",
            values: vals![now],
            guard: "AND engine_down_since IS NULL",
            event: Some(NodeEvent::EngineSilent { reason: reason.to_owned() }),
            ..NodeChange::default()
        };
        let written = transaction!(&self.store.db, |tx| { tx.change_node(node, change(), now).await })?;
        Ok(matches!(written, Cas::Done(_)))
    }

    /// Writes that a node's engine answers again, with an event. Whether that is news.
    pub async fn engine_answers(self, node: NodeId, now: Timestamp) -> Result<bool, StoreError> {
        let change = || NodeChange {
            sets: "engine_down_since = NULL",
            guard: "AND engine_down_since IS NOT NULL",
            event: Some(NodeEvent::EngineAnswers {}),
            ..NodeChange::default()
        };
        let written = transaction!(&self.store.db, |tx| { tx.change_node(node, change(), now).await })?;
        Ok(matches!(written, Cas::Done(_)))
    }

    /// Returns the living nodes whose engine does not answer, and the number of living nodes that have one.
    pub async fn silent_engines(self) -> Result<(Vec<SilentEngine>, usize), StoreError> {
        let sql = "SELECT n.id, n.engine_down_since, l.id FROM nodes n LEFT JOIN leases l ON l.occupies_node = n.id \
                   AND l.state = ? AND l.holding = 'slice' AND l.containers > 0 \
                   WHERE n.engine_down_since IS NOT NULL AND n.engine IS NOT NULL AND n.health = 'alive' ORDER BY n.id, l.id";
        let values = vals![Phase::Active.as_str()];
        let rows = self.store.db.all::<(i64, i64, Option<i64>)>(sql, values).await?;
        let mut silent: Vec<SilentEngine> = Vec::new();
        for (node, since, lease) in rows {
            let node = NodeId(node);
            if silent.last().is_none_or(|last| last.node != node) {
                silent.push(SilentEngine { node, since: Timestamp::from_micros(since), leases: Vec::new() });
            }
            if let (Some(last), Some(lease)) = (silent.last_mut(), lease) {
                last.leases.push(LeaseId(lease));
            }
        }
        if silent.is_empty() {
            return Ok((silent, 0));
        }
        let sql = "SELECT COUNT(*) FROM nodes WHERE engine IS NOT NULL AND health = 'alive'";
        let with_engine = self.store.db.one::<(i64,)>(sql, vals![]).await?.map_or(0, |(count,)| count);
        Ok((silent, usize::try_from(with_engine).unwrap_or(0)))
    }
}
