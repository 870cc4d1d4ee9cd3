//! What is pushed down to the agents, and what of their words goes to the database in batches.

use super::{Agents, kept::Wanted};
use orion_domain::{
    NodeId, Timestamp,
    agent::{LeaseDeadline, ToAgent, seconds_to_deadline},
    lease::{Lease, Phase},
    node::Health,
};
use orion_fleet::REPLICA_BEAT_EVERY;
use orion_store::{Cas, ChangesCursor, Replica, StoreError};
use std::{sync::PoisonError, time::Duration};

/// Interval at which changes are pushed down when there is no nudge.
const PUSH_EVERY: Duration = Duration::from_secs(1);
/// Interval at which `last_seen` is written.
const SEEN_EVERY: Duration = Duration::from_secs(10);

impl Agents<'_> {
    /// Pushes what changed down to the agents, and writes when nodes were last seen, until shutdown.
    pub async fn tend_links(self) {
        let mut nudged = self.app.fleet.nudge.listen();
        let mut cursor = ChangesCursor::new();
        let mut seen_written = self.app.now();
        let mut compared = seen_written;
        let mut beat = Timestamp::from_micros(0);
        while !self.app.shutdown.is_cancelled() {
            let now = self.app.now();
            let since = cursor.since(now);
            match self.push_changes(since).await {
                Ok(()) => cursor.advance(since, now),
                Err(error) => tracing::debug!(%error, "changes could not be pushed to the agents"),
            }
            if self.app.links.any_to_lock() {
                match self.app.store.cluster().brake().await {
                    Ok(brake) => self.app.links.pass_locks_on(brake.engaged.is_some()),
                    Err(error) => tracing::debug!(%error, "the brake could not be read; nothing is locked"),
                }
            }
            if now.since(compared) >= PUSH_EVERY {
                compared = now;
                self.doubt_accounts().await;
            }
            if now.since(seen_written) >= SEEN_EVERY {
                seen_written = now;
                let seen: Vec<_> =
                    self.app.links.seen.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
                if let Err(error) = self.app.store.nodes().touch_seen(&seen).await {
                    tracing::debug!(%error, "last_seen could not be written");
                }
                if let Err(error) = self.end_links_of_gone_nodes().await {
                    tracing::debug!(%error, "which nodes are gone could not be read");
                }
            }
            if now.since(beat) >= REPLICA_BEAT_EVERY {
                beat = now;
                self.app.compare_clocks().await;
                if let Err(error) =
                    self.app.store.cluster().heartbeat(&self.app.fleet.config.holder, Replica::API, now).await
                {
                    tracing::debug!(%error, "this replica's beat could not be written");
                }
            }
            tokio::select! {
                () = self.app.shutdown.cancelled() => {}
                () = nudged.within(PUSH_EVERY) => {
                    // Many nudges in a row are one look.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        // If this is not heard, the row goes by its age.
        let _ = self.app.store.cluster().remove_replica(&self.app.fleet.config.holder, Replica::API).await;
    }

    /// Has nodes looked at whose agents say that they keep something else than they should.
    async fn doubt_accounts(self) {
        let slack = Duration::from_secs(self.app.fleet.config.deadline_grace_s);
        for (node, lease, why) in self.app.links.doubts(slack) {
            match self.app.store.agents().doubt_account(node, lease, &why, self.app.now()).await {
                Ok(Cas::Done(_)) => {
                    tracing::warn!(%node, %lease, why, "a node differs from what it should hold; it is looked at");
                    self.app.fleet.nudge.all();
                }
                Ok(Cas::Stale | Cas::Gone) => {}
                Err(error) => tracing::warn!(%node, %error, "what a node keeps could not be doubted"),
            }
        }
    }

    /// Ends the links of nodes that another replica has forgotten.
    async fn end_links_of_gone_nodes(self) -> Result<(), StoreError> {
        let held: Vec<NodeId> = self.app.links.locked().keys().copied().collect();
        for node in self.app.store.nodes().gone(&held).await? {
            self.app.links.register_again(node);
        }
        Ok(())
    }

    async fn push_changes(self, since: Option<Timestamp>) -> Result<(), StoreError> {
        let versions = self.app.store.nodes().versions(since).await?;
        let ids: Vec<NodeId> = {
            let links = self.app.links.locked();
            let is_news = |(id, version): &(NodeId, i64)| {
                links.get(id).is_some_and(|link| link.pushed_version != *version)
            };
            versions.into_iter().filter(is_news).map(|(id, _)| id).collect()
        };
        if ids.is_empty() {
            return Ok(());
        }
        let changed = self.app.store.nodes().by_ids(&ids).await?;
        let leases = self.app.store.leases().on_nodes(&ids).await?;
        for node in changed {
            let on_it = leases.get(&node.id).map(Vec::as_slice).unwrap_or_default();
            let is_wanted = |lease: &&Lease| lease.state.wants_account_on() == Some(node.id);
            let wanted: Vec<&Lease> = on_it.iter().filter(is_wanted).collect();
            self.app.links.push(
                node.id,
                ToAgent::Leases {
                    desired_version: node.desired_version,
                    leases: wanted.iter().filter_map(|lease| self.deadline(lease)).collect(),
                },
            );
            if let Some(link) = self.app.links.locked().get_mut(&node.id) {
                link.pushed_version = node.version;
                let is_settled = !node.is_dirty() && node.health == Health::Alive;
                let is_kept = |lease: &&Lease| is_settled && lease.state.phase() == Phase::Active;
                let grace = Duration::from_secs(self.app.fleet.config.deadline_grace_s);
                let keeps = wanted.into_iter().filter(is_kept).filter_map(|lease| Wanted::new(lease, grace));
                link.kept.want(keeps.collect());
                // One that was passed on is not repeated.
                link.lock = node.lock_order.filter(|order| link.locked != Some(*order));
            }
        }
        Ok(())
    }

    /// What the agent is told of a lease; none if it gives no login.
    fn deadline(self, lease: &Lease) -> Option<LeaseDeadline> {
        let account = lease.account.as_ref()?;
        Some(LeaseDeadline {
            lease_id: lease.id,
            user: account.user.to_string(),
            uid: account.uid,
            remaining_s: seconds_to_deadline(
                lease.until,
                self.app.fleet.config.deadline_grace_s,
                self.app.now(),
            ),
        })
    }
}
