//! Nodes: reading them, and the writes that change one node alone.
//!
//! Registration, health, links, claims and forgetting have modules of their own.

pub(crate) mod boot_ids;
mod changes;
pub(crate) mod claim;
pub(crate) mod claimed;
pub(crate) mod conditions;
pub(crate) mod drain;
pub(crate) mod forget;
pub(crate) mod gpus;
pub(crate) mod health;
pub(crate) mod high_water;
pub(crate) mod host_keys;
pub(crate) mod identity;
mod listed;
pub(crate) mod machine;
pub(crate) mod quarantine;
pub(crate) mod reconcile;
pub(crate) mod register;
pub(crate) mod row;
pub(crate) mod seen;

pub use changes::ChangesCursor;
pub use claimed::NodeClaim;
pub use drain::DrainRequest;
pub use forget::{ForgetOutcome, ForgetRequest, Forgotten};
pub use gpus::GpuRow;
pub use health::HealthChanged;
pub use high_water::{ClaimRenewed, HighWaterCompared, HighWaterMarks, UidRange};
pub use host_keys::KeysTold;
pub(crate) use host_keys::keep_proved_ones;
pub use identity::two_machines;
pub use listed::{LeaseGlance, ListedNode, NodeSummary, SshdSummary};
pub use machine::Compared;
pub use reconcile::{FinishReconcile, Finished, Unfinished};
pub use register::{RegisterNode, RegisterOutcome};

use crate::events::NewEvent;
use crate::{
    Store,
    engine::{Cas, Fault, Result, StoreError, Tx, Val, each, in_lists, json, transaction, vals},
    nodes::row::{NodeRecord, NodeRow, node_record_sql, node_sql},
    nodes::seen::{Sighting, seen_sql},
};
use orion_domain::{
    NodeId, Refused, Timestamp, UserId,
    event::NodeEvent,
    node::{Facts, Health, Node},
};

use sqlx::AssertSqlSafe;

/// Queries and transactions on nodes.
#[derive(Clone, Copy, Debug)]
pub struct Nodes<'a> {
    store: &'a Store,
}

impl Store {
    /// Gives the nodes.
    pub const fn nodes(&self) -> Nodes<'_> {
        Nodes { store: self }
    }
}

/// A node as the brake looks at it: whether it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeHealthSummary {
    /// The node.
    pub id: NodeId,
    /// Health of the node.
    pub health: Health,
    /// Time at which the node took on this health.
    pub health_since: Timestamp,
}

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
    pub event: Option<NodeEvent>,
    /// The user who asked for it.
    pub actor: Option<UserId>,
}

/// A write on the version that this very transaction has read.
pub(crate) fn must_be_current(written: Cas<Node>, id: NodeId) -> Result<Cas<Node>> {
    match written {
        Cas::Stale => Err(Fault::Retry(format!("node {id} changed meanwhile"))),
        Cas::Done(_) | Cas::Gone => Ok(written),
    }
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
        let NodeChange { sets, mut values, guard, guard_values, event, actor } = change;
        let sql =
            format!("UPDATE nodes SET {sets}, version = version + 1, changed_at = ? WHERE id = ? {guard}");
        values.extend(vals![now, id]);
        values.extend(guard_values);
        let written = self.exec(AssertSqlSafe(sql), values).await? == 1;
        let Some(record) = self.node_record(id).await? else { return Ok(Cas::Gone) };
        if !written {
            return Ok(Cas::Stale);
        }
        if let Some(event) = event {
            self.append_events(&[NewEvent::new(event).of_node(id).by(actor)], now).await?;
        }
        Ok(Cas::Done(record.try_into()?))
    }
}

impl Nodes<'_> {
    pub(crate) async fn write(
        self,
        id: NodeId,
        now: Timestamp,
        change: impl Fn() -> NodeChange,
    ) -> Result<Cas<Node>, StoreError> {
        Ok(transaction!(&self.store.db, |tx| { tx.change_node(id, change(), now).await })?)
    }

    /// A node.
    pub async fn get(self, id: NodeId) -> Result<Option<Node>, StoreError> {
        let record = self.store.db.one::<NodeRow>(node_sql("WHERE n.id = ?"), vals![id]).await?;
        record.map(Node::try_from).transpose()
    }

    /// The node that has this node token (SHA-256, hex).
    pub async fn by_token_sha256(self, sha256: &str) -> Result<Option<Node>, StoreError> {
        let sql = node_sql("WHERE n.node_token_sha256 = ?");
        self.store.db.one::<NodeRow>(sql, vals![sha256]).await?.map(Node::try_from).transpose()
    }

    /// The versions of all nodes; with `since` of those written then or later. A write becomes visible a moment
    /// after its
    /// time: [`crate::ChangesCursor`].
    pub async fn versions(self, since: Option<Timestamp>) -> Result<Vec<(NodeId, i64)>, StoreError> {
        let (sql, values) = match since {
            Some(since) => ("SELECT id, version FROM nodes WHERE changed_at >= ? ORDER BY id", vals![since]),
            None => ("SELECT id, version FROM nodes ORDER BY id", vals![]),
        };
        let rows = self.store.db.all::<(i64, i64)>(sql, values).await?;
        Ok(rows.into_iter().map(|(id, version)| (NodeId(id), version)).collect())
    }

    /// Every node.
    pub async fn all(self) -> Result<Vec<Node>, StoreError> {
        each(self.store.db.all::<NodeRow>(node_sql("ORDER BY n.id"), vec![]).await?)
    }

    /// Returns the addresses of all nodes that are dialled, each once.
    pub async fn addresses(self) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT DISTINCT addr FROM nodes WHERE addr IS NOT NULL ORDER BY addr";
        let rows = self.store.db.all::<(String,)>(sql, vals![]).await?;
        Ok(rows.into_iter().map(|(addr,)| addr).collect())
    }

    /// Admitted nodes that became `Suspect` or `Dead` at `since` or later: what may pull the brake.
    pub async fn silent_since(self, since: Timestamp) -> Result<Vec<NodeHealthSummary>, StoreError> {
        let sql = "SELECT id, health, health_since FROM nodes \
                   WHERE admission = 'admitted' AND health IN ('suspect', 'dead') AND health_since >= ?";
        let rows = self.store.db.all::<(i64, String, i64)>(sql, vals![since]).await?;
        let glance = |(id, health, at): (i64, String, i64)| NodeHealthSummary {
            id: NodeId(id),
            health: if health == Health::Dead.as_str() { Health::Dead } else { Health::Suspect },
            health_since: Timestamp::from_micros(at),
        };
        Ok(rows.into_iter().map(glance).collect())
    }

    /// Returns these nodes; those that do not exist are left out.
    pub async fn by_ids(self, ids: &[NodeId]) -> Result<Vec<Node>, StoreError> {
        let mut nodes = Vec::with_capacity(ids.len());
        for (list, values) in in_lists(ids) {
            let sql = node_sql(&format!("WHERE n.id IN ({list})"));
            nodes.extend(each::<_, Node>(self.store.db.all::<NodeRow>(sql, values).await?)?);
        }
        Ok(nodes)
    }

    /// Writes down when nodes last answered, in batches (in a table of its own: on `nodes` it would collide
    /// with placements).
    pub async fn touch_seen(self, seen: &[(NodeId, Sighting)]) -> Result<(), StoreError> {
        let mut sorted = seen.to_vec();
        sorted.sort_unstable_by_key(|(id, _)| *id);
        for batch in sorted.chunks(BATCH) {
            let sql = seen_sql(&self.store.db, batch.len());
            let values: Vec<Val> =
                batch.iter().flat_map(|(id, seen)| vals![*id, seen.last_seen, seen.open_at]).collect();
            transaction!(&self.store.db, |tx| {
                tx.exec(AssertSqlSafe(sql.clone()), values.clone()).await.map(|_| ())
            })?;
        }
        Ok(())
    }

    /// A dial found the node's host key at its address: it may be offered once it is clean.
    pub async fn admit(
        self,
        id: NodeId,
        expected_version: i64,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        self.write(id, now, || NodeChange {
            sets: "admission = 'admitted'",
            guard: "AND version = ? AND admission = 'reported'",
            guard_values: vals![expected_version],
            event: Some(NodeEvent::Admitted { fingerprint: None }),
            ..NodeChange::default()
        })
        .await
    }

    /// A dial saw this key (`type base64`) at a node that reported none. `Stale` when the node is not
    /// `pending`, or the same key was seen before.
    pub async fn record_host_key(
        self,
        id: NodeId,
        key_line: &str,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        self.write(id, now, || NodeChange {
            sets: "seen_key = ?, seen_fingerprint = ?",
            values: vals![key_line, fingerprint],
            guard: "AND admission = 'pending' AND (seen_fingerprint IS NULL OR seen_fingerprint <> ?)",
            guard_values: vals![fingerprint],
            event: Some(NodeEvent::KeySeen { fingerprint: fingerprint.to_owned() }),
            ..NodeChange::default()
        })
        .await
    }

    /// An admin accepts the key that was seen at a pending node: it is pinned and the node admitted. `Refused`: the
    /// node is not `pending`, or no key was seen there. `Stale`: another fingerprint was seen there, or another node
    /// has that key.
    pub async fn accept_host_key(
        self,
        id: NodeId,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<Cas<Node, Refused>, StoreError> {
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            if let Err(refused) = Node::try_from(record.clone())?.may_be_admitted_by_key() {
                return Ok(Cas::Refused(refused));
            }
            let Some(key) = record.seen_key else { return Ok(Cas::Stale) };
            let change = NodeChange {
                sets: "host_keys = ?, host_key_fp = ?, admission = 'admitted'",
                values: vals![json(&[&key])?, fingerprint],
                guard: "AND version = ? AND admission = 'pending' AND seen_fingerprint = ?",
                guard_values: vals![record.row.version, fingerprint],
                event: Some(NodeEvent::Admitted { fingerprint: Some(fingerprint.to_owned()) }),
                ..NodeChange::default()
            };
            let accepted = tx.change_node(id, change, now).await?;
            if matches!(accepted, Cas::Done(_)) {
                tx.accept_host_keys(id, &[key]).await?;
            }
            Ok(accepted.refusable())
        });
        match outcome {
            Err(Fault::Unique(_)) => Ok(Cas::Stale),
            other => Ok(other?),
        }
    }

    /// Applies what is kept of each node for itself to what all have reported.
    pub async fn apply_reserved(self) -> Result<(), StoreError> {
        let (cpu, memory) = (self.store.reserved.cpu_milli, self.store.reserved.memory_mb);
        let of = |column: &str, factor: u32| {
            format!(
                "CASE WHEN COALESCE({column}, 0) * {factor} > ? THEN COALESCE({column}, 0) * {factor} - ? ELSE 0 END"
            )
        };
        let (cpu_sql, memory_sql) = (of("cpu_cores", 1000), of("memory_mb", 1));
        // Twice: MariaDB uses what the statement has just written, SQLite what was there before.
        let report = format!(
            "UPDATE nodes SET cpu_reported = {cpu_sql}, memory_reported_mb = {memory_sql} \
             WHERE cpu_reported <> {cpu_sql} OR memory_reported_mb <> {memory_sql}"
        );
        let offer = "UPDATE nodes SET \
                     cpu_milli = CASE WHEN cpu_reported > cpu_held THEN cpu_reported ELSE cpu_held END, \
                     memory_capacity_mb = CASE WHEN memory_reported_mb > memory_held_mb THEN memory_reported_mb \
                     ELSE memory_held_mb END \
                     WHERE cpu_milli <> cpu_reported OR memory_capacity_mb <> memory_reported_mb";
        Ok(transaction!(&self.store.db, |tx| {
            let mut values = Vec::new();
            for _ in 0..2 {
                values.extend(vals![cpu, cpu, memory, memory]);
            }
            tx.exec(AssertSqlSafe(report.clone()), values).await?;
            tx.exec(offer, vals![]).await.map(|_| ())
        })?)
    }

    /// The inventory of a node changed.
    pub async fn update_facts(
        self,
        id: NodeId,
        facts: &Facts,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let mut values = facts_values(facts)?;
        values.extend(capacity_values(facts.for_leases(self.store.reserved)));
        Ok(transaction!(&self.store.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            if Node::try_from(record)?.facts == *facts {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            let change = NodeChange {
                sets: "cpu_cores = ?, memory_mb = ?, gpus = ?, mac = ?, agent_version = ?, \
                       cpu_reported = ?, memory_reported_mb = ?, \
                       cpu_milli = CASE WHEN ? > cpu_held THEN ? ELSE cpu_held END, \
                       memory_capacity_mb = CASE WHEN ? > memory_held_mb THEN ? ELSE memory_held_mb END",
                values: values.clone(),
                event: Some(NodeEvent::Inventory { facts: facts.clone() }),
                ..NodeChange::default()
            };
            tx.change_node(id, change, now).await
        })?)
    }
}

/// The values of a report of so many thousandths of a core and MiB: twice, and then each twice for its comparison with
/// what is held.
pub(crate) fn capacity_values((cpu_milli, memory_mb): (i64, i64)) -> Vec<Val> {
    vals![cpu_milli, memory_mb, cpu_milli, cpu_milli, memory_mb, memory_mb]
}

/// The five columns of the inventory.
pub(crate) fn facts_values(facts: &Facts) -> Result<Vec<Val>, StoreError> {
    let short = |text: &Option<String>| text.as_ref().map(|text| text.chars().take(255).collect::<String>());
    let memory = facts.memory_mb.map(|size| i64::try_from(size).unwrap_or(i64::MAX));
    Ok(vals![facts.cpu_cores, memory, json(&facts.gpus)?, short(&facts.mac), short(&facts.agent_version)])
}
