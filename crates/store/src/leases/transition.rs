//! The one way in which a lease's row changes: by a transition of the domain, with its event, its history
//! and its node's version, in the caller's transaction.
//!
//! Lives here: writing a transition. Does not live here: choosing one.

use crate::{
    engine::{Fault, Result, Tx, clip, vals},
    events::NewEvent,
    leases::hold::SliceSize,
    leases::row::state_columns,
};
use orion_domain::{
    NodeId, Timestamp, UserId,
    lease::{Lease, LeaseEvent, LeaseState, Phase},
};

/// State and event that result from a transition.
pub(crate) type Next = (LeaseState, LeaseEvent);

/// The row of the event log that tells of a lease's transition.
pub(crate) fn lease_event(
    lease: &Lease,
    node: impl Into<Option<NodeId>>,
    event: &LeaseEvent,
    actor: Option<UserId>,
) -> NewEvent {
    NewEvent::new(event.clone()).of_lease(lease.id).of_node(node).of_user(lease.user).by(actor)
}

impl Tx {
    /// Writes `next` over `old` by compare-and-swap and appends the event. Of the nodes it touches only the
    /// one that the lease leaves or no longer wants its account on: that one becomes dirty. A node that the
    /// lease goes to must be its own already (placement, `reclaim`). `old.deadline_applied` is written, too.
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
            let sql = "UPDATE nodes SET whole_lease = CASE WHEN ? = 1 AND whole_lease = ? THEN NULL ELSE whole_lease END, \
                       desired_version = desired_version + ?, first_turn_until = 0, version = version + 1, \
                       changed_at = ? WHERE id = ? AND (whole_lease = ? OR ? = 1)";
            let bump = i64::from(no_longer_wanted.is_some());
            let is_slice = !old.holding.is_whole();
            self.exec(sql, vals![leaves, old.id, bump, now, node, old.id, is_slice]).await?;
        }
        let columns = state_columns(&state)?;
        let ended = state.phase() == Phase::Ended;
        let sql = "UPDATE leases SET state = ?, state_since = ?, state_reason = ?, \
                   node_id = COALESCE(?, node_id), from_node = ?, \
                   occupies_node = ?, live_name = CASE WHEN ? = 1 THEN NULL ELSE live_name END, \
                   password_hash = CASE WHEN ? = 1 AND password_hash IS NOT NULL THEN '' ELSE password_hash END, \
                   ended_at = CASE WHEN ? = 1 THEN ? ELSE NULL END, deadline_applied = ?, version = version + 1 \
                   WHERE id = ? AND version = ?";
        let since = if state.phase() == old.state.phase() { old.since } else { now };
        let mut values = vals![state.phase().as_str(), since, columns.state_reason, columns.occupies_node];
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
        self.append_events(&[lease_event(old, is_on.or(was_on), &event, actor)], now).await?;
        let mut lease = Lease { state, since, deadline_applied, version: old.version + 1, ..old.clone() };
        let changed = no_longer_wanted.is_some() && left.is_none();
        self.write_holds(&old.state, &lease, changed).await?;
        if old.containers > 0 && ended {
            self.containers_over(&lease, now).await?;
        } else if old.containers > 0 && was_on != is_on {
            self.containers_moved(&old.state, &lease, now).await?;
        }
        if let (true, Some(account)) = (ended, &mut lease.account) {
            account.password_hash = orion_domain::Secret::new("");
        }
        Ok(lease)
    }

    /// Whether the node exists and no lease has it.
    pub(crate) async fn is_unoccupied(&mut self, node: NodeId) -> Result<bool> {
        let sql = "SELECT COUNT(*) FROM nodes WHERE id = ? AND whole_lease IS NULL AND cpu_held = 0 \
                   AND memory_held_mb = 0";
        Ok(self.one::<(i64,)>(sql, vals![node]).await? == Some((1,)))
    }

    /// A lease goes back to `node`, which it left before. False: another lease has it, or it is gone.
    pub(crate) async fn reclaim(&mut self, node: NodeId, lease: &Lease, now: Timestamp) -> Result<bool> {
        if let Some(size) = SliceSize::of(lease.holding) {
            return self.take_slice_back(node, (lease, size), now).await;
        }
        if !self.is_unoccupied(node).await? {
            return Ok(false);
        }
        // First off the node it is on: a lease has one node.
        if let Some(current) = lease.state.occupies() {
            let sql = "UPDATE nodes SET whole_lease = NULL, unclean = 1, desired_version = desired_version + 1, \
                       version = version + 1, changed_at = ? WHERE id = ? AND whole_lease = ?";
            self.exec(sql, vals![now, current, lease.id]).await?;
        }
        let sql = "UPDATE nodes SET whole_lease = ?, desired_version = desired_version + 1, \
                   version = version + 1, changed_at = ? WHERE id = ? AND whole_lease IS NULL AND cpu_held = 0 \
                   AND memory_held_mb = 0";
        if self.exec(sql, vals![lease.id, now, node]).await? == 0 {
            return Err(Fault::Retry("another lease took the node meanwhile".into()));
        }
        Ok(true)
    }

    /// The same for a slice: its room there is still held, or is taken again.
    async fn take_slice_back(
        &mut self,
        node: NodeId,
        (lease, size): (&Lease, SliceSize),
        now: Timestamp,
    ) -> Result<bool> {
        let sql = "SELECT node_id FROM holds WHERE lease_id = ? AND node_id = ?";
        if self.one::<(i64,)>(sql, vals![lease.id, node]).await?.is_none() {
            let (fits, fit_values) = size.fits();
            let sql = format!(
                "UPDATE nodes SET cpu_held = cpu_held + ?, memory_held_mb = memory_held_mb + ? \
                 WHERE id = ? AND whole_lease IS NULL AND {fits}"
            );
            let mut values = vals![size.cpu_milli, size.memory_mb, node];
            values.extend(fit_values);
            if self.exec(sqlx::AssertSqlSafe(sql), values).await? == 0 {
                return Ok(false);
            }
            self.take_gpus(lease.id, node, size.gpus).await?;
        }
        let nodes = [Some(node), lease.state.occupies()];
        for node in nodes.into_iter().flatten() {
            let sql = "UPDATE nodes SET desired_version = desired_version + 1, version = version + 1, \
                       changed_at = ? WHERE id = ?";
            self.exec(sql, vals![now, node]).await?;
        }
        Ok(true)
    }
}

fn why_left(event: &LeaseEvent) -> String {
    match event {
        LeaseEvent::Replaced { reason, .. }
        | LeaseEvent::NodeLost { reason, .. }
        | LeaseEvent::Waiting { reason }
        | LeaseEvent::Queued { reason } => reason.clone(),
        LeaseEvent::Moving { reason, .. } => {
            reason.clone().unwrap_or_else(|| "it moved to another node".into())
        }
        LeaseEvent::Releasing { reason } | LeaseEvent::Ended { reason } => reason.to_string(),
        LeaseEvent::Requested
        | LeaseEvent::Scheduled
        | LeaseEvent::Yielding { .. }
        | LeaseEvent::Placed { .. }
        | LeaseEvent::Activated { .. }
        | LeaseEvent::Moved { .. }
        | LeaseEvent::Returned { .. }
        | LeaseEvent::Extended { .. }
        | LeaseEvent::NodeDraining { .. }
        | LeaseEvent::NodeUndrained { .. }
        | LeaseEvent::NewAccount { .. }
        | LeaseEvent::NewUid { .. } => String::new(),
    }
}
