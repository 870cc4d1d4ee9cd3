//! Quarantine: a node is out of use for a cause, since a time, and until what ends it.
//!
//! Lives here: every write of a quarantine. Does not live here: what a playbook's outcome means (orion-fleet).
//!
//! A quarantine with a cause that passes ends in the transaction of the next reconcile that succeeds, and not before
//! `quarantine_until`: making an account failed, and a cleaning that succeeds does not show that it would not fail
//! again. That pause doubles with each refusal in a row. One for an operator ends when an admin lifts it, and is
//! never replaced by one that passes.

use super::Nodes;
use crate::{
    engine::{Cas, Result, StoreError, Tx, clip, transaction, vals},
    nodes::conditions::QUARANTINE_IS_DUE,
    nodes::{NodeChange, must_be_current},
};
use orion_domain::{
    LeaseId, NodeId, Refused, Timestamp,
    event::NodeEvent,
    node::{Node, QuarantineCause},
};

use std::time::Duration;

/// Shortest pause before a node that refused an account is tried again.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// Longest.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Assignments that clear the quarantine.
const NO_QUARANTINE: &str =
    "quarantine = NULL, quarantine_cause = NULL, quarantine_since = NULL, quarantine_until = NULL";

/// Returns the pause before a node that has already refused `before` accounts in a row is tried again.
fn pause(before: i64) -> Duration {
    let doublings = u32::try_from(before.clamp(0, 16)).unwrap_or(0);
    PAUSE_MIN.saturating_mul(1 << doublings).min(PAUSE_MAX)
}

/// The write of a quarantine: nothing unless it is news, and unless it may replace the one that is there.
fn change(cause: QuarantineCause, reason: &str, lease_id: Option<LeaseId>, now: Timestamp) -> NodeChange {
    NodeChange {
        // MariaDB reads what was set further left: `quarantine` comes after what asks for it.
        sets: "quarantine_since = CASE WHEN quarantine IS NULL THEN ? ELSE COALESCE(quarantine_since, ?) END, \
               quarantine = ?, quarantine_cause = ?",
        values: vals![now, now, reason, cause.as_str()],
        guard: "AND (quarantine IS NULL OR quarantine <> ? OR COALESCE(quarantine_cause, 'operator') <> ?) \
                AND (quarantine IS NULL OR ? = 'operator' OR COALESCE(quarantine_cause, 'operator') <> 'operator')",
        guard_values: vals![reason, cause.as_str(), cause.as_str()],
        event: Some(NodeEvent::Quarantined { reason: reason.to_owned(), cause, lease_id }),
        ..NodeChange::default()
    }
}

impl Tx {
    /// Puts a node into quarantine. `Stale`: it is so already, or in one that is for an admin to judge.
    pub(crate) async fn quarantine(
        &mut self,
        node: NodeId,
        cause: QuarantineCause,
        reason: &str,
        now: Timestamp,
    ) -> Result<Cas<Node>> {
        self.change_node(node, change(cause, reason, None, now), now).await
    }

    /// Puts a node into quarantine because it refused to make an account. It is tried again after a pause that grows
    /// with each such refusal. Whether it is news.
    pub(crate) async fn quarantine_refusing(
        &mut self,
        node: NodeId,
        (cause, reason): (QuarantineCause, &str),
        lease: LeaseId,
        now: Timestamp,
    ) -> Result<bool> {
        let sql = "SELECT refusals FROM nodes WHERE id = ?";
        let before = self.one::<(i64,)>(sql, vals![node]).await?.map_or(0, |(before,)| before);
        let until = now.plus(pause(before));
        let sql = "UPDATE nodes SET refusals = refusals + 1, quarantine_until = ? WHERE id = ?";
        self.exec(sql, vals![until, node]).await?;
        let changed = self.change_node(node, change(cause, reason, Some(lease), now), now).await?;
        Ok(matches!(changed, Cas::Done(_)))
    }

    /// The work succeeded on a node that was in quarantine when it was begun: a quarantine whose cause passes is over.
    pub(crate) async fn end_quarantine(&mut self, node: &Node, now: Timestamp) -> Result<()> {
        let Some(reason) = &node.quarantine else { return Ok(()) };
        let sql = format!(
            "UPDATE nodes SET {NO_QUARANTINE}, version = version + 1, changed_at = ? \
             WHERE id = ? AND quarantine = ? AND {QUARANTINE_IS_DUE}"
        );
        if self.exec(sqlx::AssertSqlSafe(sql), vals![now, node.id, reason, now]).await? == 0 {
            return Ok(());
        }
        let (cause, since) = (node.quarantine_cause, node.quarantine_since);
        let event = NodeEvent::QuarantineEnded { reason: reason.clone(), cause, since };
        self.append_node_event(event, node.id, now).await
    }
}

impl Nodes<'_> {
    /// Takes a node out of use until an admin lifts it. A second reason replaces the first; `Stale` when it is
    /// the same.
    pub async fn quarantine(self, id: NodeId, reason: &str, now: Timestamp) -> Result<Cas<Node>, StoreError> {
        let reason = clip(reason);
        self.write(id, now, || change(QuarantineCause::Operator, &reason, None, now)).await
    }

    /// Takes a node out of use as [`crate::Nodes::quarantine`] does, for what was seen of it from outside (another
    /// host key
    /// answers at its address). `Stale` also while the brake is on: seen of many nodes at once it is more likely the
    /// network's doing than theirs.
    pub async fn quarantine_as_seen(
        self,
        id: NodeId,
        reason: &str,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let (maria, reason) = (self.store.db.is_maria(), clip(reason));
        Ok(transaction!(&self.store.db, |tx| {
            if tx.brake_is_on(maria, now).await? {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            tx.quarantine(id, QuarantineCause::Operator, &reason, now).await
        })?)
    }

    /// Puts a node back into use: dirty, so it is cleaned first. `Refused`: it is not quarantined.
    pub async fn lift_quarantine(self, id: NodeId, now: Timestamp) -> Result<Cas<Node, Refused>, StoreError> {
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            let version = record.version;
            if let Err(refused) = Node::try_from(record)?.may_leave_quarantine() {
                return Ok(Cas::Refused(refused));
            }
            let change = NodeChange {
                sets: "quarantine = NULL, quarantine_cause = NULL, quarantine_since = NULL, quarantine_until = NULL, \
                       refusals = 0, unclean = 1, desired_version = desired_version + 1, reconcile_failures = 0, \
                       retry_at = 0",
                guard: "AND version = ?",
                guard_values: vals![version],
                event: Some(NodeEvent::QuarantineLifted {}),
                ..NodeChange::default()
            };
            Ok(must_be_current(tx.change_node(id, change, now).await?, id)?.refusable())
        });
        Ok(outcome?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_with_each_refusal_up_to_a_minute() {
        let pauses: Vec<u64> = (0..8).map(|before| pause(before).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!((pause(-1).as_secs(), pause(i64::MAX).as_secs()), (2, 60));
    }
}
