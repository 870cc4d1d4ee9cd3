//! What a lease holds of its nodes: rows of `holds`, and the capacity that slices take.
//!
//! A hold goes when its removal was verified, or with the death of the node. While a lease leaves a node whose login
//! still works it has two holds: `leaving` and `arriving`.

use crate::{
    engine::{Fault, Result, Tx, Val, vals},
    nodes::conditions::SLICEABLE,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    lease::{Holding, Lease, LeaseState},
};

/// The size of a slice in the units of the columns; all zero for a whole node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SliceSize {
    /// Thousandths of a processor core.
    pub cpu_milli: i64,
    /// Memory in MiB.
    pub memory_mb: i64,
    /// Number of GPU devices.
    pub gpus: i64,
}

impl SliceSize {
    /// Returns the size of a slice; none of a whole node.
    pub(crate) const fn of(holding: Holding) -> Option<Self> {
        match holding {
            Holding::WholeNode => None,
            Holding::Slice { cpu_milli, memory_mb, gpus } => {
                Some(Self { cpu_milli: cpu_milli as i64, memory_mb: memory_mb as i64, gpus: gpus as i64 })
            }
        }
    }

    /// Returns the condition under which the slice fits beside what is held on a node of `nodes`, and its values.
    pub(crate) fn fits(self) -> (&'static str, Vec<Val>) {
        let mut values = vals![self.cpu_milli, self.memory_mb];
        if self.gpus == 0 {
            return (FITS, values);
        }
        values.push(self.gpus.into());
        (FITS_WITH_GPUS, values)
    }
}

/// The word for a holding in `leases.holding`, with what a slice takes.
pub(crate) fn holding_columns(holding: Holding) -> (&'static str, SliceSize) {
    match SliceSize::of(holding) {
        None => ("whole", SliceSize::default()),
        Some(size) => ("slice", size),
    }
}

const fn role(state: &LeaseState) -> &'static str {
    if matches!(state, LeaseState::Migrating { to: Some(_), .. }) { "arriving" } else { "current" }
}

impl Tx {
    /// Writes the first hold of a lease that was placed.
    pub(crate) async fn insert_hold(&mut self, lease: &Lease, node: NodeId) -> Result<()> {
        self.insert_holds(&[(lease, node)]).await
    }

    /// Writes the first holds of leases that were placed.
    pub(crate) async fn insert_holds(&mut self, holds: &[(&Lease, NodeId)]) -> Result<()> {
        if holds.is_empty() {
            return Ok(());
        }
        let rows = vec!["(?, ?, ?, ?, ?, ?, ?, 1, 0)"; holds.len()].join(", ");
        let sql = format!(
            "INSERT INTO holds (lease_id, node_id, role, whole, cpu_milli, memory_mb, gpus, desired, applied) \
             VALUES {rows}"
        );
        let mut values = Vec::with_capacity(holds.len() * 7);
        for (lease, node) in holds {
            let (word, size) = holding_columns(lease.holding);
            values.extend(vals![lease.id, *node, role(&lease.state), word == "whole"]);
            values.extend(vals![size.cpu_milli, size.memory_mb, size.gpus]);
        }
        self.exec(sqlx::AssertSqlSafe(sql), values).await.map(|_| ())
    }

    /// Brings the holds of a lease up to its new state; `changed`: what its node is to hold of it is another thing now.
    pub(crate) async fn write_holds(
        &mut self,
        before: &LeaseState,
        lease: &Lease,
        changed: bool,
    ) -> Result<()> {
        let is_on = lease.state.occupies();
        if !changed && before.occupies() == is_on && role(before) == role(&lease.state) {
            return Ok(());
        }
        let sql = "SELECT node_id, role FROM holds WHERE lease_id = ?";
        let rows = self.all::<(i64, String)>(sql, vals![lease.id]).await?;
        for (node, known) in &rows {
            let node = NodeId(*node);
            if is_on == Some(node) {
                continue;
            }
            let is_left = *before == LeaseState::Active { node }
                && matches!(&lease.state, LeaseState::Migrating { from, to: Some(_), .. } if *from == node);
            if is_left {
                for (earlier, _) in rows.iter().filter(|(_, role)| role == "leaving") {
                    self.drop_hold(lease.id, NodeId(*earlier)).await?;
                }
                let sql = "UPDATE holds SET role = 'leaving', desired = desired + 1 WHERE lease_id = ? AND node_id = ?";
                self.exec(sql, vals![lease.id, node]).await?;
            } else if known != "leaving" {
                self.drop_hold(lease.id, node).await?;
            }
        }
        let Some(node) = is_on else { return Ok(()) };
        if rows.iter().any(|(known, _)| *known == node.0) {
            let sql = "UPDATE holds SET role = ?, desired = desired + ? WHERE lease_id = ? AND node_id = ?";
            let values = vals![role(&lease.state), changed, lease.id, node];
            return self.exec(sql, values).await.map(|_| ());
        }
        self.insert_hold(lease, node).await
    }

    /// Counts a change to what the node is to hold of the lease.
    pub(crate) async fn change_hold(&mut self, lease: LeaseId, node: NodeId) -> Result<()> {
        let sql = "UPDATE holds SET desired = desired + 1 WHERE lease_id = ? AND node_id = ?";
        self.exec(sql, vals![lease, node]).await.map(|_| ())
    }

    /// Returns the holds on a node: lease and version.
    pub(crate) async fn holds_on(&mut self, node: NodeId) -> Result<Vec<(LeaseId, i64)>> {
        let sql = "SELECT lease_id, desired FROM holds WHERE node_id = ? ORDER BY lease_id";
        let rows = self.all::<(i64, i64)>(sql, vals![node]).await?;
        Ok(rows.into_iter().map(|(lease, version)| (LeaseId(lease), version)).collect())
    }

    /// Writes that the node holds this version of what the lease wants there.
    pub(crate) async fn apply_hold(&mut self, lease: LeaseId, node: NodeId, version: i64) -> Result<()> {
        let sql = "UPDATE holds SET applied = ? WHERE lease_id = ? AND node_id = ? AND applied < ? AND desired >= ?";
        self.exec(sql, vals![version, lease, node, version, version]).await.map(|_| ())
    }

    /// Ends the holds of leases that left the node: it is clean, or dead.
    pub(crate) async fn drop_leaving(&mut self, node: NodeId) -> Result<()> {
        let sql = "SELECT lease_id FROM holds WHERE node_id = ? AND role = 'leaving'";
        for (lease,) in self.all::<(i64,)>(sql, vals![node]).await? {
            self.drop_hold(LeaseId(lease), node).await?;
        }
        Ok(())
    }

    /// Ends a hold, and gives the capacity of a slice back.
    pub(crate) async fn drop_hold(&mut self, lease: LeaseId, node: NodeId) -> Result<()> {
        let sql = "SELECT cpu_milli, memory_mb, gpus FROM holds WHERE lease_id = ? AND node_id = ?";
        let Some((cpu_milli, memory_mb, gpus)) = self.one::<(i64, i64, i64)>(sql, vals![lease, node]).await?
        else {
            return Ok(());
        };
        let sql = "DELETE FROM holds WHERE lease_id = ? AND node_id = ?";
        if self.exec(sql, vals![lease, node]).await? == 0 {
            return Err(Fault::Retry(format!("lease {lease} left node {node} meanwhile")));
        }
        if cpu_milli > 0 {
            // A node that became smaller than what was held follows. What is held is written last: MariaDB goes on with
            // what the statement has written.
            let sql = "UPDATE nodes SET \
                       cpu_milli = CASE WHEN cpu_reported > cpu_held - ? THEN cpu_reported ELSE cpu_held - ? END, \
                       memory_capacity_mb = CASE WHEN memory_reported_mb > memory_held_mb - ? \
                       THEN memory_reported_mb ELSE memory_held_mb - ? END, \
                       cpu_held = cpu_held - ?, memory_held_mb = memory_held_mb - ?, \
                       calendar_version = calendar_version + 1 WHERE id = ?";
            let mut values = vals![cpu_milli, cpu_milli, memory_mb, memory_mb];
            values.extend(vals![cpu_milli, memory_mb, node]);
            self.exec(sql, values).await?;
        }
        if gpus > 0 {
            self.give_gpus_back(lease, node).await?;
        }
        self.give_subnet_back(lease, node).await?;
        self.give_ports_back(lease, node).await?;
        Ok(())
    }

    /// Takes a slice of a node for a lease: one compare-and-swap, whose guard and CHECK are I1 for slices. Until
    /// `turn_until` the scheduler leaves the node to who provisions. False: it does not fit (any more), or the node may
    /// not be offered.
    pub(crate) async fn take_slice(
        &mut self,
        (node, lease): (NodeId, LeaseId),
        size: SliceSize,
        turn_until: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        let (fits, fit_values) = size.fits();
        let sql = format!(
            "UPDATE nodes SET cpu_held = cpu_held + ?, memory_held_mb = memory_held_mb + ?, \
             calendar_version = calendar_version + 1, desired_version = desired_version + 1, \
             first_turn_until = CASE WHEN first_turn_until < ? THEN ? ELSE first_turn_until END, \
             version = version + 1, changed_at = ? WHERE id = ? AND {SLICEABLE} AND {fits}"
        );
        let mut values = vals![size.cpu_milli, size.memory_mb, turn_until, turn_until, now, node];
        values.extend(fit_values);
        if self.exec(sqlx::AssertSqlSafe(sql), values).await? == 0 {
            return Ok(false);
        }
        self.take_gpus(lease, node, size.gpus).await.map(|()| true)
    }
}

/// Whether a slice fits beside what is held; binds cpu and memory.
const FITS: &str = "cpu_held + ? <= cpu_milli AND memory_held_mb + ? <= memory_capacity_mb";

/// The same with GPUs; binds cpu, memory and their number.
const FITS_WITH_GPUS: &str = "cpu_held + ? <= cpu_milli AND memory_held_mb + ? <= memory_capacity_mb \
    AND (SELECT COUNT(*) FROM gpus WHERE gpus.node_id = nodes.id AND gpus.lease_id IS NULL AND gpus.present = 1) >= ?";
