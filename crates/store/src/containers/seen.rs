//! What was seen of containers on their nodes.

use super::{
    Containers, container_event,
    row::{ContainerRow, Wanted},
};
use crate::engine::{Cas, Fault, Result, StoreError, Tx, clip, transaction, vals};
use orion_domain::{
    ContainerId, NodeId, Timestamp,
    container::{ContainerEvent, ContainerExit, ContainerPhase},
};

/// What was seen of a container on the node that is to hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerNews {
    /// The container.
    pub id: ContainerId,
    /// Its incarnation: what was seen of an older one is no news.
    pub incarnation: u64,
    /// Number of the node.
    pub node: NodeId,
    /// The engine's id of it.
    pub engine_id: Option<String>,
    /// Its phase.
    pub phase: ContainerPhase,
    /// Reason of the phase, for people.
    pub reason: Option<String>,
    /// How it ended.
    pub exit: Option<ContainerExit>,
    /// When it was started, as its engine says.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// How far the pull of an image has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// The present step, for people.
    pub step: String,
    /// Bytes that are there.
    pub done: u64,
    /// Bytes in all, as far as known.
    pub total: Option<u64>,
}

impl Containers<'_> {
    /// Writes what was seen of a container, with an event when its phase changes. `Stale`: it was removed, or is to be made
    /// anew since, or nothing is new.
    pub async fn observed(
        self,
        news: &ContainerNews,
        now: Timestamp,
    ) -> Result<Cas<ContainerRow>, StoreError> {
        Ok(transaction!(&self.store.db, |tx| { observed(tx, news, now).await })?)
    }

    /// Writes how far the pull of a container's image has come. Whether the container still waits for it.
    pub async fn pulling(
        self,
        (id, incarnation): (ContainerId, u64),
        pulled: &Pulled,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let step: String = pulled.step.chars().take(64).collect();
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "UPDATE containers SET state_since = CASE WHEN state = 'pulling' THEN state_since ELSE ? END, \
                       state = 'pulling', reason = NULL, step = ?, bytes_done = ?, bytes_total = ?, seen_at = ?, \
                       version = version + 1 WHERE id = ? AND incarnation = ? AND state IN ('pending', 'pulling') \
                       AND wanted <> 'removed'";
            let mut values = vals![now, &step, bytes(pulled.done), pulled.total.map(bytes), now, id.0];
            values.push(bytes(incarnation).into());
            Ok(tx.exec(sql, values).await? == 1)
        })?)
    }
}

async fn observed(tx: &mut Tx, news: &ContainerNews, now: Timestamp) -> Result<Cas<ContainerRow>> {
    let Some(row) = tx.container(news.id).await? else { return Ok(Cas::Gone) };
    let Some(lease) = tx.lease(row.lease).await? else { return Ok(Cas::Gone) };
    let is_there = lease.state.occupies() == Some(news.node) && row.incarnation == news.incarnation;
    if !is_there || row.phase == ContainerPhase::Removed {
        return Ok(Cas::Stale);
    }
    let reason = news.reason.as_deref().map(clip);
    let runs = news.phase == ContainerPhase::Running;
    let is_restarted = row.wanted == Wanted::Restarted
        && runs
        && (row.restart_of.is_none() || row.restart_of != news.started_at);
    let is_same = !is_restarted
        && row.phase == news.phase
        && row.engine_id == news.engine_id
        && row.reason == reason
        && row.exit.as_ref().map(|exit| exit.code) == news.exit.as_ref().map(|exit| exit.code)
        && row.started_at == news.started_at
        && row.finished_at == news.finished_at;
    if is_same {
        tx.abandon();
        return Ok(Cas::Stale);
    }
    // A restart that was asked for has happened once it runs.
    let sql = "UPDATE containers SET state = ?, state_since = ?, reason = ?, node_id = ?, engine_id = ?, exit_code = ?, \
               oom_killed = ?, started_at = ?, finished_at = ?, step = NULL, bytes_done = NULL, bytes_total = NULL, seen_at = ?, \
               wanted = CASE WHEN wanted = 'restarted' AND ? = 1 THEN 'started' ELSE wanted END, \
               version = version + 1 WHERE id = ? AND version = ?";
    let since = if row.phase == news.phase { row.since } else { now };
    let mut values = vals![news.phase.as_str(), since, reason, news.node, news.engine_id.as_deref()];
    values.extend(vals![news.exit.as_ref().map(|exit| exit.code)]);
    values.extend(vals![
        news.exit.as_ref().is_some_and(|exit| exit.oom_killed),
        news.started_at,
        news.finished_at,
        now
    ]);
    values.extend(vals![is_restarted, row.id.0, row.version]);
    if tx.exec(sql, values).await? == 0 {
        return Err(Fault::Retry(format!("container {} changed meanwhile", row.name)));
    }
    let container = row.name;
    let reason = news.reason.clone().unwrap_or_default();
    let event = match news.phase {
        ContainerPhase::Running => Some(ContainerEvent::Running { container }),
        ContainerPhase::Exited => {
            let code = news.exit.as_ref().map(|exit| exit.code);
            Some(ContainerEvent::Exited { container, reason, code })
        }
        ContainerPhase::Failed => Some(ContainerEvent::Failed { container, reason }),
        ContainerPhase::Pending | ContainerPhase::Pulling | ContainerPhase::Removed => None,
    };
    if let Some(event) = event.filter(|_| row.phase != news.phase) {
        tx.append_events(&[container_event(&lease, news.node, event, None)], now).await?;
    }
    Ok(match tx.container(news.id).await? {
        Some(row) => Cas::Done(row),
        None => Cas::Gone,
    })
}
