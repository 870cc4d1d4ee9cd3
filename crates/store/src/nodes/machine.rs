//! Machine ids: nodes that are one machine, and machines that were made of one image.
//!
//! Images are copied with their `/etc/machine-id`, so two nodes that have the same one are shown and refused nothing. Two that
//! have it and run the same kernel (boot id), or are at one address, are one machine with two identities: each would delete the
//! tenant of the other. Containers name no machine id.
//!
//! An agent's hello and its registration compare, and note in `nodes.machine_compare_due` that there is something to compare:
//! two that overlap do not see each other, and while the brake is on nothing follows from it. A task of the scheduler compares
//! again what is noted (`machines_to_compare`).

use super::Nodes;
use crate::{
    engine::{Cas, Fault, Result, StoreError, Tx, transaction, vals},
    nodes::boot_ids::read_boot_ids,
    nodes::conditions::SAME_MACHINE,
};
use orion_domain::{
    NodeId, Timestamp,
    node::{Node, QuarantineCause},
};
use std::collections::HashMap;

/// Nodes that have the same machine id: of a group the first, the last, and how many.
const GROUPS: &str = "SELECT machine_id_sha256 AS machine, MIN(id) AS lowest, MAX(id) AS highest, COUNT(*) AS many \
                      FROM nodes WHERE machine_id_sha256 IS NOT NULL GROUP BY machine_id_sha256 HAVING COUNT(*) > 1";

/// What a machine says that registers: what tells whether it is a node already.
pub(crate) struct Machine<'a> {
    /// SHA-256 of its machine id; none in a container, and from older agents.
    pub machine_id_sha256: Option<&'a str>,
    /// Boot id of its kernel.
    pub boot_id: Option<&'a str>,
    /// Address of its sshd.
    pub addr: &'a str,
}

/// Returns the sentence about a node that has the machine id of `other`, one of `many` nodes that have it.
pub(crate) fn shared_text(other: NodeId, many: i64) -> String {
    let more = if many > 2 { format!(" and {} more", many - 2) } else { String::new() };
    format!(
        "it has the machine id of node {other}{more}: as after an image was copied; give each machine its own \
         (rm /etc/machine-id; systemd-machine-id-setup)"
    )
}

/// Outcome of the comparison of a node's machine with the other nodes'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// No other node is the same machine, or the quarantine that follows from it is written already.
    Nothing,
    /// Node that is another one's second identity; it is in quarantine now.
    Quarantined(NodeId),
    /// Two nodes are one machine, and the brake is on: it is to be compared again.
    Braked,
}

impl Nodes<'_> {
    /// Returns nodes whose machine is to be compared with the other nodes', those that wait longest first.
    pub async fn machines_to_compare(self, limit: u32) -> std::result::Result<Vec<NodeId>, StoreError> {
        let sql = "SELECT id FROM nodes WHERE machine_compare_due IS NOT NULL ORDER BY machine_compare_due, id LIMIT ?";
        let rows = self.store.db.all::<(i64,)>(sql, vals![limit]).await?;
        Ok(rows.into_iter().map(|(id,)| NodeId(id)).collect())
    }

    /// Compares the machine of `node` with the other nodes', once for each news of it: a quarantine that an admin lifted
    /// is not written again. While the brake is on, what was found stays to be compared.
    pub async fn compare_machine(
        self,
        node: NodeId,
        now: Timestamp,
    ) -> std::result::Result<Compared, StoreError> {
        let maria = self.store.db.is_maria();
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "SELECT COALESCE(boot_ids, '[]'), machine_compare_due FROM nodes WHERE id = ?";
            let Some((boot_ids, Some(due))) = tx.one::<(String, Option<i64>)>(sql, vals![node]).await? else {
                return Ok(Compared::Nothing);
            };
            // What becomes news meanwhile stays to be compared.
            let sql = "UPDATE nodes SET machine_compare_due = NULL WHERE id = ? AND machine_compare_due = ?";
            tx.exec(sql, vals![node, due]).await?;
            let compared = match read_boot_ids(&boot_ids).first() {
                Some((boot_id, _)) => tx.quarantine_second_identity(maria, node, boot_id, now).await?,
                None => Compared::Nothing,
            };
            if compared == Compared::Braked {
                tx.abandon();
            }
            Ok(compared)
        })?)
    }

    /// Returns a sentence about each of the next `limit` nodes after `after` whose machine id other nodes have, too.
    pub async fn shared_machine_ids(
        self,
        after: NodeId,
        limit: u32,
    ) -> std::result::Result<HashMap<NodeId, String>, StoreError> {
        let sql = format!(
            "SELECT n.id, g.lowest, g.highest, g.many \
             FROM (SELECT id, machine_id_sha256 FROM nodes WHERE id > ? ORDER BY id LIMIT ?) n \
             JOIN ({GROUPS}) g ON g.machine = n.machine_id_sha256"
        );
        let rows = self.store.db.all::<(i64, i64, i64, i64)>(sqlx::AssertSqlSafe(sql), vals![after, limit]);
        let sentence = |(id, lowest, highest, many)| {
            let other = if lowest == id { highest } else { lowest };
            (NodeId(id), shared_text(NodeId(other), many))
        };
        Ok(rows.await?.into_iter().map(sentence).collect())
    }

    /// Returns of each group of nodes with the same machine id the first, the last and how many, at most `limit` groups.
    pub(crate) async fn machine_id_groups(
        self,
        limit: i64,
    ) -> std::result::Result<Vec<(i64, i64, i64)>, StoreError> {
        let sql = format!("SELECT lowest, highest, many FROM ({GROUPS}) g ORDER BY lowest LIMIT ?");
        Ok(self.store.db.all::<(i64, i64, i64)>(sqlx::AssertSqlSafe(sql), vals![limit]).await?)
    }
}

impl Tx {
    /// Returns the node that `machine` is already, by its machine id and either its kernel or its address.
    pub(crate) async fn node_of_machine(
        &mut self,
        machine: &Machine<'_>,
    ) -> Result<Option<(&'static str, NodeId)>> {
        let Some(machine_id) = machine.machine_id_sha256 else { return Ok(None) };
        let boot_id = machine.boot_id.filter(|id| !id.is_empty());
        let sql = "SELECT id, addr, COALESCE(boot_ids, '[]') FROM nodes WHERE machine_id_sha256 = ? \
                   AND (addr = ? OR boot_ids LIKE ?) ORDER BY id";
        let like = format!("%{}%", boot_id.unwrap_or("none"));
        let rows =
            self.all::<(i64, Option<String>, String)>(sql, vals![machine_id, machine.addr, like]).await?;
        let same = rows.into_iter().find_map(|(id, addr, boot_ids)| {
            if boot_id.is_some_and(|boot_id| runs(&boot_ids, boot_id)) {
                return Some(("machine id and boot id", NodeId(id)));
            }
            (addr.as_deref() == Some(machine.addr)).then_some(("machine id and address", NodeId(id)))
        });
        Ok(same)
    }

    /// Records the machine id that the agent of `node` named, or that it names none: it runs in a container. Returns whether
    /// it is news that is to be compared.
    pub(crate) async fn record_machine_id(
        &mut self,
        node: NodeId,
        sha256: Option<&str>,
        now: Timestamp,
    ) -> Result<bool> {
        let Some(sha256) = sha256 else {
            let sql = "UPDATE nodes SET machine_id_sha256 = NULL, machine_compare_due = NULL \
                       WHERE id = ? AND machine_id_sha256 IS NOT NULL";
            self.exec(sql, vals![node]).await?;
            return Ok(false);
        };
        let sql = "UPDATE nodes SET machine_id_sha256 = ?, machine_compare_due = ? WHERE id = ? \
                   AND (machine_id_sha256 IS NULL OR machine_id_sha256 <> ?)";
        Ok(self.exec(sql, vals![sha256, now, node, sha256]).await? > 0)
    }

    /// Quarantines the node that registered later of two that have one machine id and run one kernel, unless the brake is
    /// on. `boot_id` is that of `node`.
    pub(crate) async fn quarantine_second_identity(
        &mut self,
        maria: bool,
        node: NodeId,
        boot_id: &str,
        now: Timestamp,
    ) -> Result<Compared> {
        let sql = "SELECT o.id, COALESCE(o.boot_ids, '[]') FROM nodes n \
                   JOIN nodes o ON o.machine_id_sha256 = n.machine_id_sha256 AND o.id <> n.id \
                   WHERE n.id = ? AND o.boot_ids LIKE ? ORDER BY o.id";
        let rows = self.all::<(i64, String)>(sql, vals![node, format!("%{boot_id}%")]).await?;
        let Some((other, _)) = rows.into_iter().find(|(_, boot_ids)| runs(boot_ids, boot_id)) else {
            return Ok(Compared::Nothing);
        };
        let (first, second) = (node.min(NodeId(other)), node.max(NodeId(other)));
        let Some(first) = self.node_record(first).await? else { return Ok(Compared::Nothing) };
        let first = Node::try_from(first)?;
        if self.brake_is_on(maria, now).await? {
            return Ok(Compared::Braked);
        }
        let reason = format!(
            "{SAME_MACHINE} {} ({}): both have one machine id and one boot id; forget one of the two \
             (`orion nodes forget`), and run one agent on the machine",
            first.id,
            first.sshd().map(|sshd| sshd.addr.as_str()).unwrap_or_default()
        );
        match self.quarantine(second, QuarantineCause::Operator, &reason, now).await? {
            Cas::Done(_) => Ok(Compared::Quarantined(second)),
            Cas::Stale => Ok(Compared::Nothing),
            Cas::Gone => Err(Fault::Retry("the node was forgotten meanwhile".into())),
        }
    }
}

/// Tells whether the kernel that ran last of those in the column `nodes.boot_ids` is `boot_id`.
fn runs(boot_ids: &str, boot_id: &str) -> bool {
    read_boot_ids(boot_ids).first().is_some_and(|(last, _)| last == boot_id)
}
