//! The container that a lease is placed with: its row is written with the lease's, and the node has to have an engine.

use super::placement::{PlaceRequest, Placement};
use crate::{
    containers::{NewContainer, create},
    engine::{Fault, Result, Tx, Val, vals},
    nodes::conditions::{HAS_ENGINE, SLICEABLE},
};
use orion_domain::Timestamp;

impl PlaceRequest {
    /// Returns the condition of a node that takes the containers, to be appended to another one, and its values. What a
    /// slice has was compared with its container already; a node that reported nothing is asked by its engine.
    pub(super) fn takes_containers(&self) -> (String, Vec<Val>) {
        let Some(first) = self.containers.first() else { return (String::new(), Vec::new()) };
        let (mut sql, mut values) = (format!(" AND {HAS_ENGINE}"), Vec::new());
        if !self.holding.is_whole() {
            return (sql, values);
        }
        if let Some(cpu_milli) = first.cpu_milli {
            sql.push_str(" AND (cpu_milli = 0 OR cpu_milli >= ?)");
            values.push(cpu_milli.into());
        }
        if let Some(memory_mb) = first.memory_mb {
            sql.push_str(" AND (memory_capacity_mb = 0 OR memory_capacity_mb >= ?)");
            values.push(memory_mb.into());
        }
        if first.gpus > 0 {
            sql.push_str(
                " AND (SELECT COUNT(*) FROM gpus WHERE gpus.node_id = nodes.id AND gpus.present = 1) >= ?",
            );
            values.push(first.gpus.into());
        }
        (sql, values)
    }
}

/// Writes the containers of leases that were just placed in this transaction.
pub(super) async fn make_containers(
    tx: &mut Tx,
    request: &PlaceRequest,
    placed: Vec<Placement>,
    now: Timestamp,
) -> Result<Vec<Placement>> {
    if request.containers.is_empty() {
        return Ok(placed);
    }
    let mut made = Vec::with_capacity(placed.len());
    for (placement, first) in placed.into_iter().zip(&request.containers) {
        let (lease, node) = (placement.lease.id, placement.node());
        let new = NewContainer {
            lease,
            name: first.name.clone(),
            spec: first.spec.clone(),
            uid: first.uid.clone(),
            spec_sealed: first.spec_sealed.clone(),
            at_once_max: u32::MAX,
            actor: Some(request.user),
        };
        create(tx, &new, now).await?;
        let Some(lease) = tx.lease(lease).await? else {
            return Err(Fault::Retry("the lease vanished".into()));
        };
        made.push(Placement::read(tx, lease, node, now).await?);
    }
    Ok(made)
}

/// The largest share of a node that there is, in each respect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Largest {
    /// Thousandths of a processor core.
    pub cpu_milli: i64,
    /// Memory in MiB.
    pub memory_mb: i64,
    /// GPU devices of one node.
    pub gpus: i64,
}

/// What a slice could have at most, of nodes with a container engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Number of nodes.
    pub nodes: i64,
    /// Whether one of them, were it empty, would have room for what was asked for.
    pub ever_fits: bool,
    /// Of empty nodes.
    pub total: Largest,
    /// Of what is free now.
    pub free: Largest,
}

impl super::Leases<'_> {
    /// Returns what slices on nodes that take containers could have at most; `asked` in thousandths of a core, MiB and
    /// GPUs.
    pub async fn room(self, asked: Largest) -> std::result::Result<Room, crate::engine::StoreError> {
        let db = &self.store.db;
        let gpus = |which: &str| {
            format!("(SELECT COUNT(*) FROM gpus g WHERE g.node_id = nodes.id AND g.present = 1 {which})")
        };
        let known = "admission = 'admitted' AND transport = 'ssh' AND engine IS NOT NULL";
        let (all, free) = (gpus(""), gpus("AND g.lease_id IS NULL"));
        let total = format!(
            "SELECT COUNT(*), COALESCE(MAX(cpu_milli), 0), COALESCE(MAX(memory_capacity_mb), 0), \
             COALESCE(MAX({all}), 0), COALESCE(MAX(CASE WHEN cpu_milli >= ? AND memory_capacity_mb >= ? \
             AND {all} >= ? THEN 1 ELSE 0 END), 0) FROM nodes WHERE {known}"
        );
        let values = vals![asked.cpu_milli, asked.memory_mb, asked.gpus];
        let row = db.one::<(i64, i64, i64, i64, i64)>(sqlx::AssertSqlSafe(total), values).await?;
        let (nodes, cpu_milli, memory_mb, gpus, fits) = row.unwrap_or_default();
        let total = Largest { cpu_milli, memory_mb, gpus };
        let sql = format!(
            "SELECT COALESCE(MAX(cpu_milli - cpu_held), 0), COALESCE(MAX(memory_capacity_mb - memory_held_mb), 0), \
             COALESCE(MAX({free}), 0) FROM nodes WHERE {SLICEABLE} AND {HAS_ENGINE}"
        );
        let row = db.one::<(i64, i64, i64)>(sqlx::AssertSqlSafe(sql), vals![]).await?;
        let (cpu_milli, memory_mb, gpus) = row.unwrap_or_default();
        let free = Largest { cpu_milli, memory_mb, gpus };
        Ok(Room { nodes, ever_fits: fits == 1, total, free })
    }
}
