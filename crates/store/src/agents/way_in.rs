//! A node's way in and its clock, as probes and agents report them.

use super::Agents;
use crate::{
    engine::{Cas, Fault, StoreError, Val, in_lists, transaction, vals},
    nodes::NodeChange,
    nodes::seen::{Sighting, seen_sql},
};
use orion_domain::{
    NodeId, Timestamp,
    event::NodeEvent,
    node::{LinkState, Node},
    way_in::{Way, WayInReport},
};

use sqlx::AssertSqlSafe;
use std::{collections::HashMap, time::Duration};

/// Origin of a probe of the way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prober {
    /// The node's agent, over the link of this epoch.
    Agent {
        /// The link's epoch.
        link_epoch: i64,
        /// Time since the end of the probe.
        age: Duration,
    },
    /// The scheduler, by playbook.
    Scheduler,
}

impl Agents<'_> {
    /// Records the result of a probe. `Stale` when that result is known, when the agent's link is older than
    /// the last one, or when the scheduler's result comes after the agent's.
    pub async fn set_way_in(
        self,
        id: NodeId,
        found: &WayInReport,
        by: Prober,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let (way, reason) = (found.way(), found.kept_reason());
        let seen = seen_sql(&self.store.db, 1);
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            let (link_epoch, version) = (record.link_epoch, record.version);
            let before = Node::try_from(record)?;
            let by_agent = match by {
                Prober::Agent { link_epoch: told, .. } => {
                    if told != link_epoch || before.link != LinkState::Up {
                        tx.abandon();
                        return Ok(Cas::Stale);
                    }
                    true
                }
                Prober::Scheduler if before.link == LinkState::Up && before.way_in.by_agent => {
                    tx.abandon();
                    return Ok(Cas::Stale);
                }
                Prober::Scheduler => false,
            };
            let known = &before.way_in;
            let same = known.way == way && known.reason == reason;
            if same && known.by_agent == by_agent {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            let event = match way {
                Way::Open => NodeEvent::WayInOpen { by_agent },
                Way::Shut | Way::Unknown => NodeEvent::WayInShut { reason: reason.clone(), by_agent },
            };
            let since = if known.way == way { known.since } else { now };
            let change = NodeChange {
                sets: "way_in = ?, way_in_reason = ?, way_in_since = ?, way_in_by_agent = ?",
                values: vals![way.as_str(), reason.as_deref(), since, by_agent],
                guard: "AND version = ?",
                guard_values: vals![version],
                event: (!same).then_some(event),
                ..NodeChange::default()
            };
            match tx.change_node(id, change, now).await? {
                Cas::Stale => Err(Fault::Retry(format!("node {id} changed meanwhile"))),
                done @ (Cas::Done(_) | Cas::Gone) => {
                    if way == Way::Open {
                        let open_at = match by {
                            Prober::Agent { age, .. } => now.minus(age),
                            Prober::Scheduler => now,
                        };
                        tx.exec(AssertSqlSafe(seen.clone()), vals![id, now, open_at]).await?;
                    }
                    Ok(done)
                }
            }
        });
        Ok(outcome?)
    }

    /// Records that no login was seen to work for so long that the way in no longer counts as open: the node
    /// is too busy to prove that it is. `Stale`: the way in does not count as open, or it is not for `by` to
    /// report this.
    pub async fn way_in_not_seen(
        self,
        id: NodeId,
        by: Prober,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let (guard, guard_values) = match by {
            Prober::Agent { link_epoch, .. } => {
                ("AND way_in = 'open' AND link = 'up' AND link_epoch = ?", vals![link_epoch])
            }
            Prober::Scheduler => {
                ("AND way_in = 'open' AND NOT (link = 'up' AND way_in_by_agent = 1)", Vec::new())
            }
        };
        self.store
            .nodes()
            .write(id, now, || NodeChange {
                sets: "way_in = 'unknown', way_in_reason = NULL, way_in_since = ?",
                values: vals![now],
                guard,
                guard_values: guard_values.clone(),
                event: Some(NodeEvent::WayInUnknown {}),
                ..NodeChange::default()
            })
            .await
    }

    /// Records by how many milliseconds a node's clock is ahead of the control plane's; none when that is not
    /// worth mentioning.
    pub async fn set_clock_off(
        self,
        id: NodeId,
        off_ms: Option<i64>,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let guard = if off_ms.is_some() {
            "AND (clock_off_ms IS NULL OR clock_off_ms <> ?)"
        } else {
            "AND clock_off_ms IS NOT NULL"
        };
        self.store
            .nodes()
            .write(id, now, || NodeChange {
                sets: "clock_off_ms = ?",
                values: vals![off_ms],
                guard,
                guard_values: off_ms.map(Val::from).into_iter().collect(),
                event: Some(NodeEvent::ClockOff { off_ms }),
                ..NodeChange::default()
            })
            .await
    }

    /// Returns why nodes that answer and that no lease holds are not offered, when their way in is the only
    /// obstacle: at most `limit` names with reasons.
    pub async fn ways_in_shut(self, limit: u32) -> Result<Vec<(String, String)>, StoreError> {
        let sql = "SELECT hostname, COALESCE(way_in_reason, '') FROM nodes WHERE way_in = 'shut' \
                   AND admission = 'admitted' AND health = 'alive' AND quarantine IS NULL AND cordon IS NULL \
                   AND whole_lease IS NULL ORDER BY way_in_since, id LIMIT ?";
        Ok(self.store.db.all::<(String, String)>(sql, vals![limit]).await?)
    }

    /// Returns when these nodes were last seen, as far as it was recorded.
    pub async fn sightings(self, ids: &[NodeId]) -> Result<HashMap<NodeId, Sighting>, StoreError> {
        let mut seen = HashMap::with_capacity(ids.len());
        for (list, values) in in_lists(ids) {
            let sql = format!("SELECT node_id, last_seen, open_at FROM node_seen WHERE node_id IN ({list})");
            let rows = self.store.db.all::<(i64, i64, Option<i64>)>(AssertSqlSafe(sql), values).await?;
            seen.extend(rows.into_iter().map(|(id, last_seen, open_at)| {
                let sighting = Sighting {
                    last_seen: Timestamp::from_micros(last_seen),
                    open_at: open_at.map(Timestamp::from_micros),
                };
                (NodeId(id), sighting)
            }));
        }
        Ok(seen)
    }
}
