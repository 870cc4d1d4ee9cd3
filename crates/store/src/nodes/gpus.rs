//! GPU devices of nodes: what a node reports, and which lease has which.
//!
//! A whole-node lease has all of them without a row of its own; a slice has those whose `lease_id` it is. One that vanishes
//! while it is leased stays with `present = 0`, until its lease gives it back.

use super::Nodes;
use crate::engine::{Fault, Result, StoreError, Tx, transaction, vals};
use orion_domain::{LeaseId, NodeId, node::Gpu};
use std::collections::HashMap;

impl Tx {
    /// Gives a lease so many free GPUs of a node, whose row this transaction holds.
    pub(crate) async fn take_gpus(&mut self, lease: LeaseId, node: NodeId, count: i64) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let sql = "SELECT uuid FROM gpus WHERE node_id = ? AND lease_id IS NULL AND present = 1 \
                   ORDER BY uuid LIMIT ?";
        let free = self.all::<(String,)>(sql, vals![node, count]).await?;
        let mut taken = 0;
        for (uuid,) in free {
            let sql = "UPDATE gpus SET lease_id = ? WHERE node_id = ? AND uuid = ? AND lease_id IS NULL \
                       AND present = 1";
            taken += self.exec(sql, vals![lease, node, uuid]).await?;
        }
        if i64::try_from(taken) == Ok(count) {
            return Ok(());
        }
        Err(Fault::Retry(format!("GPUs of node {node} were taken meanwhile")))
    }

    /// Frees the GPUs that a lease has of a node; those that have vanished are forgotten.
    pub(crate) async fn give_gpus_back(&mut self, lease: LeaseId, node: NodeId) -> Result<()> {
        let sql = "DELETE FROM gpus WHERE node_id = ? AND lease_id = ? AND present = 0";
        self.exec(sql, vals![node, lease]).await?;
        let sql = "UPDATE gpus SET lease_id = NULL WHERE node_id = ? AND lease_id = ?";
        self.exec(sql, vals![node, lease]).await.map(|_| ())
    }
}

/// A GPU of a node, and the slice that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuRow {
    /// The device.
    pub gpu: Gpu,
    /// Whether the node reported it last.
    pub is_present: bool,
    /// The slice that has it.
    pub lease: Option<LeaseId>,
}

/// Columns of `gpus`: uuid, number, model, memory, whether it is present, lease.
type Columns = (String, i64, String, i64, i64, Option<i64>);

impl From<Columns> for GpuRow {
    fn from((uuid, number, model, memory_mb, present, lease): Columns) -> Self {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let memory_mb = u64::try_from(memory_mb).unwrap_or(0);
        Self {
            gpu: Gpu { uuid, number, model, memory_mb },
            is_present: present != 0,
            lease: lease.map(LeaseId),
        }
    }
}

impl Nodes<'_> {
    /// Returns the GPUs of a node, in the order of their numbers.
    ///
    /// # Errors
    /// The database's.
    pub async fn gpus(self, node: NodeId) -> Result<Vec<GpuRow>, StoreError> {
        let sql = "SELECT uuid, number, model, memory_mb, present, lease_id FROM gpus WHERE node_id = ? \
                   ORDER BY number, uuid";
        let rows = self.store.db.all::<Columns>(sql, vals![node]).await?;
        Ok(rows.into_iter().map(GpuRow::from).collect())
    }

    /// Returns the GPUs of the next `limit` nodes after `after`, each node's in the order of their numbers.
    ///
    /// # Errors
    /// The database's.
    pub async fn gpus_of_page(
        self,
        after: NodeId,
        limit: u32,
    ) -> Result<HashMap<NodeId, Vec<GpuRow>>, StoreError> {
        let sql = "SELECT node_id, uuid, number, model, memory_mb, present, lease_id \
                   FROM (SELECT id FROM nodes WHERE id > ? ORDER BY id LIMIT ?) p \
                   JOIN gpus ON node_id = p.id ORDER BY node_id, number, uuid";
        type Row = (i64, String, i64, String, i64, i64, Option<i64>);
        let mut found: HashMap<NodeId, Vec<GpuRow>> = HashMap::new();
        for (node, uuid, number, model, memory_mb, present, lease) in
            self.store.db.all::<Row>(sql, vals![after, limit]).await?
        {
            let row = GpuRow::from((uuid, number, model, memory_mb, present, lease));
            found.entry(NodeId(node)).or_default().push(row);
        }
        Ok(found)
    }

    /// Takes over the GPUs that a node reports: new ones are free; those that are gone go, or stay with their lease as not
    /// present.
    ///
    /// # Errors
    /// The database's.
    pub async fn set_gpus(self, node: NodeId, reported: &[Gpu]) -> Result<(), StoreError> {
        let known = self.gpus(node).await?;
        let is_same = known.len() == reported.len()
            && known.iter().all(|row| row.is_present && reported.contains(&row.gpu));
        if is_same {
            return Ok(());
        }
        Ok(transaction!(&self.store.db, |tx| { write_gpus(tx, node, reported).await })?)
    }
}

async fn write_gpus(tx: &mut Tx, node: NodeId, reported: &[Gpu]) -> Result<()> {
    // Whoever takes GPUs holds the node's row, too.
    let sql = "UPDATE nodes SET calendar_version = calendar_version + 1 WHERE id = ?";
    if tx.exec(sql, vals![node]).await? == 0 {
        return Ok(());
    }
    // A lease that has the whole node has them, too.
    let sql = "DELETE FROM gpus WHERE node_id = ? AND lease_id IS NULL \
               AND EXISTS (SELECT 1 FROM nodes WHERE nodes.id = gpus.node_id AND nodes.whole_lease IS NULL)";
    tx.exec(sql, vals![node]).await?;
    tx.exec("UPDATE gpus SET present = 0 WHERE node_id = ?", vals![node]).await?;
    for gpu in reported {
        let memory_mb = i64::try_from(gpu.memory_mb).unwrap_or(i64::MAX);
        let sql = "UPDATE gpus SET present = 1, number = ?, model = ?, memory_mb = ? \
                   WHERE node_id = ? AND uuid = ?";
        let values = vals![gpu.number, &gpu.model, memory_mb, node, &gpu.uuid];
        if tx.exec(sql, values).await? > 0 {
            continue;
        }
        let sql =
            "INSERT INTO gpus (node_id, uuid, number, model, memory_mb, present) VALUES (?, ?, ?, ?, ?, 1)";
        tx.exec(sql, vals![node, &gpu.uuid, gpu.number, &gpu.model, memory_mb]).await?;
    }
    Ok(())
}
