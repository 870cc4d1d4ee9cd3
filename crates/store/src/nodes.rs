//! Nodes: reading them, and the writes that change one node alone.
//!
//! Registration, health, links, claims and forgetting have modules of their own.

use crate::{
    Store,
    attempts::{Tx, transaction},
    db::{Val, vals},
    error::{Cas, Fault, Result, StoreError},
    model::NodeGlance,
    rows::{NodeRecord, NodeRow, clip, each, json, node_record_sql, node_sql},
    values::in_lists,
};
use orion_domain::{
    NodeId, Timestamp,
    node::{Facts, Health, Node},
};
use serde_json::json;
use sqlx::AssertSqlSafe;
use std::collections::HashMap;

/// Rows of one statement in batches.
const BATCH: usize = 500;

/// A write on one node.
#[derive(Default)]
pub(crate) struct NodeChange {
    /// `column = ?, …`
    pub sets: &'static str,
    pub values: Vec<Val>,
    /// `AND …`: what must (still) be true.
    pub guard: &'static str,
    pub guard_values: Vec<Val>,
    pub event: Option<(&'static str, serde_json::Value)>,
}

impl Tx {
    pub(crate) async fn node_record(&mut self, id: NodeId) -> Result<Option<NodeRecord>> {
        self.one(node_record_sql("WHERE n.id = ?"), vals![id]).await
    }

    /// Writes one node by compare-and-swap and tells of it.
    pub(crate) async fn change_node(
        &mut self,
        id: NodeId,
        change: NodeChange,
        now: Timestamp,
    ) -> Result<Cas<Node>> {
        let NodeChange { sets, mut values, guard, guard_values, event } = change;
        let sql =
            format!("UPDATE nodes SET {sets}, version = version + 1, changed_at = ? WHERE id = ? {guard}");
        values.extend(vals![now, id]);
        values.extend(guard_values);
        let written = self.exec(AssertSqlSafe(sql), values).await? == 1;
        let Some(record) = self.node_record(id).await? else { return Ok(Cas::Gone) };
        if !written {
            return Ok(Cas::Stale);
        }
        if let Some((kind, data)) = event {
            self.tell_of_node(kind, id, data, now).await?;
        }
        Ok(Cas::Done(record.try_into()?))
    }
}

impl Store {
    pub(crate) async fn node_write(
        &self,
        id: NodeId,
        now: Timestamp,
        change: impl Fn() -> NodeChange,
    ) -> Result<Cas<Node>, StoreError> {
        Ok(transaction!(&self.db, |tx| { tx.change_node(id, change(), now).await })?)
    }

    /// A node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn node(&self, id: NodeId) -> Result<Option<Node>, StoreError> {
        let record = self.db.one::<NodeRow>(node_sql("WHERE n.id = ?"), vals![id]).await?;
        record.map(Node::try_from).transpose()
    }

    /// The node that has this node token (SHA-256, hex).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn node_by_token_sha256(&self, sha256: &str) -> Result<Option<Node>, StoreError> {
        let sql = node_sql("WHERE n.node_token_sha256 = ?");
        self.db.one::<NodeRow>(sql, vals![sha256]).await?.map(Node::try_from).transpose()
    }

    /// The next `limit` nodes after `after`, by number.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn nodes_page(&self, after: NodeId, limit: u32) -> Result<Vec<Node>, StoreError> {
        let sql = node_sql("WHERE n.id > ? ORDER BY n.id LIMIT ?");
        each(self.db.all::<NodeRow>(sql, vals![after, limit]).await?)
    }

    /// Nodes written at `since` or later. A write becomes visible a moment after its time: overlap.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn nodes_changed_since(&self, since: Timestamp) -> Result<Vec<Node>, StoreError> {
        let sql = node_sql("WHERE n.changed_at >= ? ORDER BY n.id");
        each(self.db.all::<NodeRow>(sql, vals![since]).await?)
    }

    /// The versions of all nodes; with `since` of those written then or later (see
    /// [`Store::nodes_changed_since`]).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn node_versions(&self, since: Option<Timestamp>) -> Result<Vec<(NodeId, i64)>, StoreError> {
        let (sql, values) = match since {
            Some(since) => ("SELECT id, version FROM nodes WHERE changed_at >= ? ORDER BY id", vals![since]),
            None => ("SELECT id, version FROM nodes ORDER BY id", vals![]),
        };
        let rows = self.db.all::<(i64, i64)>(sql, values).await?;
        Ok(rows.into_iter().map(|(id, version)| (NodeId(id), version)).collect())
    }

    /// Every node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn nodes_all(&self) -> Result<Vec<Node>, StoreError> {
        each(self.db.all::<NodeRow>(node_sql("ORDER BY n.id"), vec![]).await?)
    }

    /// Admitted nodes that became `Suspect` or `Dead` at `since` or later: what may pull the brake.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn nodes_silent_since(&self, since: Timestamp) -> Result<Vec<NodeGlance>, StoreError> {
        let sql = "SELECT id, health, health_since FROM nodes \
                   WHERE admission = 'admitted' AND health IN ('suspect', 'dead') AND health_since >= ?";
        let rows = self.db.all::<(i64, String, i64)>(sql, vals![since]).await?;
        let glance = |(id, health, at): (i64, String, i64)| NodeGlance {
            id: NodeId(id),
            health: if health == Health::Dead.as_str() { Health::Dead } else { Health::Suspect },
            health_since: Timestamp::from_micros(at),
        };
        Ok(rows.into_iter().map(glance).collect())
    }

    /// These nodes; those that do not exist are left out.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn nodes_of(&self, ids: &[NodeId]) -> Result<Vec<Node>, StoreError> {
        let mut nodes = Vec::with_capacity(ids.len());
        for (list, values) in in_lists(ids) {
            let sql = node_sql(&format!("WHERE n.id IN ({list})"));
            nodes.extend(each::<_, Node>(self.db.all::<NodeRow>(sql, values).await?)?);
        }
        Ok(nodes)
    }

    /// When these nodes last answered, as far as it was written down.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn last_seen(&self, ids: &[NodeId]) -> Result<HashMap<NodeId, Timestamp>, StoreError> {
        let mut seen = HashMap::with_capacity(ids.len());
        for (list, values) in in_lists(ids) {
            let sql = format!("SELECT node_id, last_seen FROM node_seen WHERE node_id IN ({list})");
            let rows = self.db.all::<(i64, i64)>(AssertSqlSafe(sql), values).await?;
            seen.extend(rows.into_iter().map(|(id, at)| (NodeId(id), Timestamp::from_micros(at))));
        }
        Ok(seen)
    }

    /// Writes down when nodes last answered, in batches (in a table of its own: on `nodes` it would collide
    /// with placements).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn touch_seen(&self, seen: &[(NodeId, Timestamp)]) -> Result<(), StoreError> {
        let mut sorted = seen.to_vec();
        sorted.sort_unstable_by_key(|(id, _)| *id);
        for batch in sorted.chunks(BATCH) {
            let rows = vec!["(?, ?)"; batch.len()].join(", ");
            let tail = self.db.sql(
                "ON DUPLICATE KEY UPDATE last_seen = VALUES(last_seen)",
                "ON CONFLICT (node_id) DO UPDATE SET last_seen = excluded.last_seen",
            );
            let sql = format!("INSERT INTO node_seen (node_id, last_seen) VALUES {rows} {tail}");
            let values: Vec<Val> = batch.iter().flat_map(|(id, at)| vals![*id, *at]).collect();
            transaction!(&self.db, |tx| {
                tx.exec(AssertSqlSafe(sql.clone()), values.clone()).await.map(|_| ())
            })?;
        }
        Ok(())
    }

    /// A dial found the node's host key at its address: it may be offered once it is clean.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn admit(
        &self,
        id: NodeId,
        expected_version: i64,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        self.node_write(id, now, || NodeChange {
            sets: "admission = 'admitted'",
            guard: "AND version = ? AND admission = 'reported'",
            guard_values: vals![expected_version],
            event: Some(("node.admitted", json!({}))),
            ..NodeChange::default()
        })
        .await
    }

    /// A dial saw this key (`type base64`) at a node that reported none. `Stale` when the node is not
    /// `pending`, or the same key was seen before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn saw_host_key(
        &self,
        id: NodeId,
        key_line: &str,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        self.node_write(id, now, || NodeChange {
            sets: "seen_key = ?, seen_fingerprint = ?",
            values: vals![key_line, fingerprint],
            guard: "AND admission = 'pending' AND (seen_fingerprint IS NULL OR seen_fingerprint <> ?)",
            guard_values: vals![fingerprint],
            event: Some(("node.key_seen", json!({ "fingerprint": fingerprint }))),
        })
        .await
    }

    /// An admin accepts the key that was seen at a pending node: it is pinned and the node admitted. `Stale`
    /// when the node is not `pending`, another fingerprint was seen there, or another node has that key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn accept_key(
        &self,
        id: NodeId,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let outcome = transaction!(&self.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            let Some(key) = record.seen_key else { return Ok(Cas::Stale) };
            let change = NodeChange {
                sets: "host_keys = ?, host_key_fp = ?, admission = 'admitted'",
                values: vals![json(&[key])?, fingerprint],
                guard: "AND version = ? AND admission = 'pending' AND seen_fingerprint = ?",
                guard_values: vals![record.row.version, fingerprint],
                event: Some(("node.admitted", json!({ "fingerprint": fingerprint }))),
            };
            tx.change_node(id, change, now).await
        });
        match outcome {
            Err(Fault::Unique(_)) => Ok(Cas::Stale),
            other => Ok(other?),
        }
    }

    /// Takes a node out of use until an admin lifts it. A second reason replaces the first; `Stale` when it is
    /// the same.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn quarantine(
        &self,
        id: NodeId,
        reason: &str,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let reason = clip(reason);
        self.node_write(id, now, || NodeChange {
            sets: "quarantine = ?",
            values: vals![&reason],
            guard: "AND (quarantine IS NULL OR quarantine <> ?)",
            guard_values: vals![&reason],
            event: Some(("node.quarantined", json!({ "reason": reason }))),
        })
        .await
    }

    /// Puts a node back into use: dirty, so it is cleaned first. `Stale` when it is not quarantined.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lift_quarantine(&self, id: NodeId, now: Timestamp) -> Result<Cas<Node>, StoreError> {
        self.node_write(id, now, || NodeChange {
            sets: "quarantine = NULL, desired_version = desired_version + 1, reconcile_failures = 0, retry_at = 0",
            guard: "AND quarantine IS NOT NULL",
            event: Some(("node.quarantine_lifted", json!({}))),
            ..NodeChange::default()
        })
        .await
    }

    /// The inventory of a node changed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn update_facts(
        &self,
        id: NodeId,
        facts: &Facts,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let values = facts_values(facts)?;
        self.node_write(id, now, || NodeChange {
            sets: "cpu_cores = ?, memory_mb = ?, gpus = ?, mac = ?, agent_version = ?",
            values: values.clone(),
            event: Some(("node.inventory", json!({ "facts": facts }))),
            ..NodeChange::default()
        })
        .await
    }
}

/// The five columns of the inventory.
pub(crate) fn facts_values(facts: &Facts) -> Result<Vec<Val>, StoreError> {
    let short = |text: &Option<String>| text.as_ref().map(|text| text.chars().take(255).collect::<String>());
    let memory = facts.memory_mb.map(|size| i64::try_from(size).unwrap_or(i64::MAX));
    Ok(vals![facts.cpu_cores, memory, json(&facts.gpus)?, short(&facts.mac), short(&facts.agent_version)])
}
