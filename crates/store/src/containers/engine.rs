//! Container engines of nodes: what each was found to be, since when it does not answer, and when it is asked next.

use super::Containers;
use crate::engine::{StoreError, transaction, vals};
use orion_domain::{NodeId, Timestamp, event::NodeEvent};
use std::time::Duration;

/// Time between two questions to an engine that answers: it may have been upgraded.
const ASK_AGAIN: Duration = Duration::from_secs(3600);
/// Shortest time between two questions to a node whose engine does not answer, or that has none.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(5);
/// Longest time between two questions to an engine that has answered before.
const ASK_DOWN_MAX: Duration = Duration::from_secs(30);

/// Answer to the question what a node's engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineSaid {
    /// It is this.
    Is(String),
    /// The node has none that can be used.
    Nothing,
    /// It does not answer.
    Down,
    /// The node was not reached: nothing is known anew.
    Unreached,
}

impl Containers<'_> {
    /// Writes what a node's container engine is, at most 64 characters of ASCII; none where it has none any more: then it is
    /// asked for soon.
    pub async fn engine_seen(self, node: NodeId, engine: Option<&str>) -> Result<(), StoreError> {
        let engine = engine.map(short);
        Ok(transaction!(&self.store.db, |tx| {
            // A node without an engine has no disk of it that is full.
            let sql = "UPDATE nodes SET engine = ?, engine_down_since = NULL, \
                       disk_full = CASE WHEN ? = 1 THEN NULL ELSE disk_full END, \
                       engine_next_at = CASE WHEN ? = 1 THEN 0 ELSE engine_next_at END WHERE id = ?";
            let is_gone = engine.is_none();
            tx.exec(sql, vals![engine.clone(), is_gone, is_gone, node]).await.map(|_| ())
        })?)
    }

    /// Returns nodes whose engines are to be asked, the longest overdue first.
    pub async fn engines_to_ask(self, now: Timestamp, limit: u32) -> Result<Vec<NodeId>, StoreError> {
        let sql = "SELECT id FROM nodes WHERE engine_next_at <= ? AND health = 'alive' AND admission = 'admitted' \
                   AND transport = 'ssh' ORDER BY engine_next_at, id LIMIT ?";
        let rows = self.store.db.all::<(i64,)>(sql, vals![now, limit]).await?;
        Ok(rows.into_iter().map(|(id,)| NodeId(id)).collect())
    }

    /// Writes what a node's engine said, and when it is asked again: soon after the node began to answer, and ever less
    /// often where there is none. Whether the engine went down or came up.
    pub async fn engine_said(
        self,
        node: NodeId,
        said: &EngineSaid,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "SELECT engine, engine_down_since, health_since FROM nodes WHERE id = ?";
            let row = tx.one::<(Option<String>, Option<i64>, i64)>(sql, vals![node]).await?;
            let Some((known, down_since, alive_since)) = row else { return Ok(false) };
            let age = now.since(Timestamp::from_micros(alive_since));
            let since = || Some(down_since.map_or(now, Timestamp::from_micros));
            let (engine, down, pause) = match said {
                EngineSaid::Is(engine) => (Some(short(engine)), None, ASK_AGAIN),
                EngineSaid::Nothing => (None, None, (age / 2).clamp(ASK_AGAIN_MIN, ASK_AGAIN)),
                EngineSaid::Down => {
                    let longest = if known.is_some() { ASK_DOWN_MAX } else { ASK_AGAIN };
                    (known.clone(), since(), (age / 2).clamp(ASK_AGAIN_MIN, longest))
                }
                EngineSaid::Unreached => {
                    (known.clone(), down_since.map(Timestamp::from_micros), ASK_DOWN_MAX)
                }
            };
            let has_changed = known.is_some() != engine.is_some() || down_since.is_some() != down.is_some();
            // What an engine has that was away is not known: a node that has held a lease is looked at.
            let is_back = matches!(said, EngineSaid::Is(_)) && has_changed;
            let sql = "UPDATE nodes SET engine = ?, engine_down_since = ?, engine_next_at = ?, \
                       desired_version = desired_version + CASE WHEN ? = 1 AND EXISTS \
                       (SELECT 1 FROM lease_nodes held WHERE held.node_id = nodes.id) THEN 1 ELSE 0 END WHERE id = ?";
            tx.exec(sql, vals![engine, down, now.plus(pause), is_back, node]).await?;
            let event = match (down_since.is_some(), down.is_some()) {
                (false, true) => Some(NodeEvent::EngineSilent { reason: "it does not answer".into() }),
                (true, false) => Some(NodeEvent::EngineAnswers {}),
                (false, false) | (true, true) => None,
            };
            if let Some(event) = event {
                tx.append_node_event(event, node, now).await?;
            }
            Ok(has_changed)
        })?)
    }
}

fn short(engine: impl AsRef<str>) -> String {
    engine.as_ref().chars().filter(char::is_ascii).take(64).collect()
}
