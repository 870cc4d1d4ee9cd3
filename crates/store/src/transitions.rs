//! The one way in which a lease's row changes: by a transition of the domain, with its event, its history
//! and its node's version, in the caller's transaction.
//!
//! Lives here: writing a transition. Does not live here: choosing one.

use crate::{
    attempts::Tx,
    db::vals,
    error::{Fault, Result},
    model::NewEvent,
    rows::{clip, state_columns},
};
use orion_domain::{
    NodeId, Timestamp, UserId,
    lease::{Lease, LeaseEvent, LeaseState, Phase},
};

/// What a transition gave.
pub(crate) type Next = (LeaseState, LeaseEvent);

/// The row of the event log that tells of a lease's transition.
pub(crate) fn lease_event(
    lease: &Lease,
    node: NodeId,
    event: &LeaseEvent,
    actor: Option<UserId>,
) -> NewEvent {
    let mut data = serde_json::to_value(event).unwrap_or_default();
    if let (Some(actor), Some(fields)) = (actor, data.as_object_mut()) {
        fields.insert("actor".into(), actor.0.into());
    }
    NewEvent { kind: event.kind(), lease: Some(lease.id), node: Some(node), user: Some(lease.user), data }
}

impl Tx {
    /// Writes `next` over `old` by compare-and-swap and appends the event. Of the nodes it touches only the
    /// one that the lease leaves or no longer wants its account on: that one becomes dirty. A node that the
    /// lease goes to must be its own already (placement, `take_back`). `old.deadline_applied` is written, too.
    pub(crate) async fn write_lease(
        &mut self,
        old: &Lease,
        (state, event): Next,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Lease> {
        let (was_on, is_on) = (old.state.occupies(), state.occupies());
        let wanted_on = old.state.wants_account_on();
        let no_longer_wanted = wanted_on.filter(|node| state.wants_account_on() != Some(*node));
        let left = was_on.filter(|node| is_on != Some(*node));
        if let Some(node) = left.or(no_longer_wanted) {
            let leaves = left.is_some();
            let sql = "UPDATE nodes SET lease_id = CASE WHEN ? = 1 THEN NULL ELSE lease_id END, \
                       desired_version = desired_version + ?, version = version + 1, changed_at = ? \
                       WHERE id = ? AND lease_id = ?";
            let bump = i64::from(no_longer_wanted.is_some());
            self.exec(sql, vals![leaves, bump, now, node, old.id]).await?;
        }
        let last = was_on.map_or(0, |node| node.0);
        let columns = state_columns(&state, last)?;
        let ended = state.phase() == Phase::Ended;
        let sql = "UPDATE leases SET state = ?, state_since = ?, state_reason = ?, node_id = ?, from_node = ?, \
                   occupies_node = ?, live_name = CASE WHEN ? = 1 THEN NULL ELSE live_name END, \
                   password_hash = CASE WHEN ? = 1 THEN '' ELSE password_hash END, \
                   ended_at = CASE WHEN ? = 1 THEN ? ELSE NULL END, deadline_applied = ?, version = version + 1 \
                   WHERE id = ? AND version = ?";
        let since = if state.phase() == old.state.phase() { old.since } else { now };
        let mut values = vals![state.phase().as_str(), since, columns.state_reason, columns.node_id];
        values.extend(vals![columns.from_node, columns.occupies_node]);
        // What the old node was told does not hold on another one.
        let deadline_applied = old.deadline_applied.filter(|_| was_on == is_on || ended);
        values.extend(vals![ended, ended, ended, now, deadline_applied, old.id, old.version]);
        if self.exec(sql, values).await? == 0 {
            return Err(Fault::Retry(format!("lease {} changed meanwhile", old.id)));
        }
        if was_on != is_on {
            let sql = "UPDATE lease_nodes SET left_at = ?, why = ? WHERE lease_id = ? AND left_at IS NULL";
            self.exec(sql, vals![now, clip(&why_left(&event)), old.id]).await?;
            if let Some(node) = is_on {
                let sql = "INSERT INTO lease_nodes (lease_id, node_id, at) VALUES (?, ?, ?)";
                self.exec(sql, vals![old.id, node, now]).await?;
            }
        }
        let about = is_on.or(was_on).unwrap_or(NodeId(last));
        self.tell(&[lease_event(old, about, &event, actor)], now).await?;
        let mut lease = Lease { state, since, deadline_applied, version: old.version + 1, ..old.clone() };
        if ended {
            lease.account.password_hash = orion_domain::Secret::new("");
        }
        Ok(lease)
    }

    /// Whether the node exists and no lease has it.
    pub(crate) async fn is_nobodys(&mut self, node: NodeId) -> Result<bool> {
        let sql = "SELECT COUNT(*) FROM nodes WHERE id = ? AND lease_id IS NULL";
        Ok(self.one::<(i64,)>(sql, vals![node]).await? == Some((1,)))
    }

    /// A lease goes back to `node`, which it left before. False: another lease has it, or it is gone.
    pub(crate) async fn take_back(&mut self, node: NodeId, lease: &Lease, now: Timestamp) -> Result<bool> {
        if !self.is_nobodys(node).await? {
            return Ok(false);
        }
        // First off the node it is on: a lease has one node.
        if let Some(current) = lease.state.occupies() {
            let sql = "UPDATE nodes SET lease_id = NULL, desired_version = desired_version + 1, \
                       version = version + 1, changed_at = ? WHERE id = ? AND lease_id = ?";
            self.exec(sql, vals![now, current, lease.id]).await?;
        }
        let sql = "UPDATE nodes SET lease_id = ?, desired_version = desired_version + 1, \
                   version = version + 1, changed_at = ? WHERE id = ? AND lease_id IS NULL";
        if self.exec(sql, vals![lease.id, now, node]).await? == 0 {
            return Err(Fault::Retry("another lease took the node meanwhile".into()));
        }
        Ok(true)
    }
}

fn why_left(event: &LeaseEvent) -> String {
    match event {
        LeaseEvent::Replaced { reason, .. }
        | LeaseEvent::NodeLost { reason, .. }
        | LeaseEvent::Waiting { reason } => reason.clone(),
        LeaseEvent::Moving { reason, .. } => {
            reason.clone().unwrap_or_else(|| "it moved to another node".into())
        }
        LeaseEvent::Releasing { reason } | LeaseEvent::Ended { reason } => reason.to_string(),
        LeaseEvent::Placed { .. }
        | LeaseEvent::Activated { .. }
        | LeaseEvent::Moved { .. }
        | LeaseEvent::Returned { .. }
        | LeaseEvent::Extended { .. }
        | LeaseEvent::NodeDraining { .. }
        | LeaseEvent::NodeUndrained { .. } => String::new(),
    }
}
