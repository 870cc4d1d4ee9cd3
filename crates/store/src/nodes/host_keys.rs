//! Which host keys are accepted of which node, and that no two nodes have the same one.
//!
//! The pinned key comes from the first registration or an admin. Further ones are added only when the node's sshd proved
//! to have them over a session that showed an accepted key: what a node says of itself adds none.

use super::Nodes;
use crate::{
    engine::{Cas, Db, Fault, Result, StoreError, Tx, in_lists, json, transaction, vals},
    nodes::NodeChange,
    nodes::boot_ids::read_boot_ids,
};
use orion_domain::{
    NodeId, Timestamp,
    credentials::SshPublicKey,
    event::NodeEvent,
    node::{Node, QuarantineCause, Transport},
};

use sqlx::AssertSqlSafe;

/// Most host keys that are accepted of one node.
const ACCEPTED_MAX: usize = 16;

/// Outcome of recording further host keys that a node's sshd proved to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysTold {
    /// All of them are accepted already.
    Known,
    /// Keys were added to the accepted ones.
    Added,
    /// Other node that has one of the keys: the two are one machine. The one that registered later is
    /// quarantined, unless the brake is on.
    SameMachine(NodeId),
    /// Other node that has one of the keys while the agents of both are linked: two machines that were made
    /// of one image. That key stays with the other node.
    Copied(NodeId),
    /// The node is gone, or is dialled elsewhere by now: they say nothing.
    Stale,
}

impl Nodes<'_> {
    /// Takes in further host keys: over a session with `node` as given, which showed an accepted key, the
    /// node's sshd proved to have `keys`, too.
    pub async fn proved_host_keys(
        self,
        node: &Node,
        keys: &[SshPublicKey],
        now: Timestamp,
    ) -> std::result::Result<KeysTold, StoreError> {
        let maria = self.store.db.is_maria();
        let outcome = transaction!(&self.store.db, |tx| {
            match proved(tx, maria, node, keys, now).await {
                // A registration at the same time: the second run finds what it made.
                Err(Fault::Unique(text)) => Err(Fault::Retry(text)),
                result => result,
            }
        });
        Ok(outcome?)
    }
}

async fn proved(
    tx: &mut Tx,
    maria: bool,
    seen: &Node,
    keys: &[SshPublicKey],
    now: Timestamp,
) -> Result<KeysTold> {
    let id = seen.id;
    let Some(record) = tx.node_record(id).await? else { return Ok(KeysTold::Stale) };
    let version = record.row.version;
    let node = Node::try_from(record)?;
    let (Some(sshd), Some(seen)) = (node.sshd(), seen.sshd()) else { return Ok(KeysTold::Stale) };
    let shown_elsewhere = (&sshd.addr, sshd.port) != (&seen.addr, seen.port)
        || seen.host_keys.iter().any(|key| !sshd.host_keys.contains(key));
    if shown_elsewhere {
        return Ok(KeysTold::Stale);
    }
    let mut told = KeysTold::Known;
    let mut accepted = sshd.host_keys.clone();
    let mut added = Vec::new();
    for key in keys {
        let fingerprint = key.fingerprint();
        let holders = tx.holders(std::slice::from_ref(&fingerprint)).await?;
        match holders.into_iter().find(|holder| *holder != id) {
            Some(other) if tx.both_are_linked(&node, other).await? => told = KeysTold::Copied(other),
            Some(other) => return same_machine(tx, maria, node, other, now).await,
            None if accepted.iter().any(|known| known == key.as_str()) || accepted.len() >= ACCEPTED_MAX => {}
            None => {
                accepted.push(key.as_str().to_owned());
                added.push(fingerprint);
            }
        }
    }
    if added.is_empty() {
        return Ok(told);
    }
    tx.accept_host_keys(id, &accepted).await?;
    let change = NodeChange {
        sets: "host_keys = ?",
        values: vals![json(&accepted)?],
        guard: "AND version = ?",
        guard_values: vals![version],
        event: Some(NodeEvent::KeyAdded { fingerprints: added }),
        ..NodeChange::default()
    };
    match tx.change_node(id, change, now).await? {
        Cas::Done(_) => Ok(KeysTold::Added),
        Cas::Stale | Cas::Gone => Err(Fault::Retry("the node changed meanwhile".into())),
    }
}

/// One machine is two nodes: each would delete the tenant of the other.
async fn same_machine(
    tx: &mut Tx,
    maria: bool,
    node: Node,
    other: NodeId,
    now: Timestamp,
) -> Result<KeysTold> {
    let Some(other) = tx.node_record(other).await? else { return Ok(KeysTold::Stale) };
    let other = Node::try_from(other)?;
    let told = KeysTold::SameMachine(other.id);
    let (first, second) = if node.id < other.id { (node, other) } else { (other, node) };
    let sentence = format!("it is the same machine as node {} (", first.id);
    let is_told = second.quarantine.as_ref().is_some_and(|reason| reason.starts_with(&sentence));
    if is_told || tx.brake_is_on(maria, now).await? {
        return Ok(told);
    }
    let reason = format!(
        "{sentence}{}), or has a copy of its host key: one sshd proved to have the keys of both; forget one of the two \
         (`orion nodes forget`), or make the machine host keys of its own",
        first.sshd().map(|sshd| sshd.addr.as_str()).unwrap_or_default()
    );
    match tx.quarantine(second.id, QuarantineCause::Operator, &reason, now).await? {
        Cas::Done(_) | Cas::Stale => Ok(told),
        Cas::Gone => Err(Fault::Retry("the node was forgotten meanwhile".into())),
    }
}

impl Tx {
    /// The nodes that have any of these host keys, each once.
    pub(crate) async fn holders(&mut self, fingerprints: &[String]) -> Result<Vec<NodeId>> {
        let mut holders = Vec::new();
        let fingerprints: Vec<&str> = fingerprints.iter().map(String::as_str).collect();
        for (list, values) in in_lists(&fingerprints) {
            // The pinned one also where a replica of an older version wrote it.
            let sql = format!(
                "SELECT node_id FROM node_host_keys WHERE fingerprint IN ({list}) \
                 UNION SELECT id FROM nodes WHERE host_key_fp IN ({list}) ORDER BY 1"
            );
            let values = [values.clone(), values].concat();
            let rows = self.all::<(i64,)>(AssertSqlSafe(sql), values).await?;
            holders.extend(rows.into_iter().map(|(id,)| NodeId(id)));
        }
        Ok(holders)
    }

    /// Whether the agents of two nodes are linked at once, from different kernels: then they are two machines.
    async fn both_are_linked(&mut self, node: &Node, other: NodeId) -> Result<bool> {
        let sql = "SELECT COALESCE(boot_ids, '[]') FROM nodes WHERE id IN (?, ?) AND link = 'up' ORDER BY id";
        let rows = self.all::<(String,)>(sql, vals![node.id, other]).await?;
        let kernels: Vec<Option<String>> =
            rows.iter().map(|(ids,)| read_boot_ids(ids).into_iter().next().map(|(id, _)| id)).collect();
        Ok(matches!(kernels.as_slice(), [Some(one), Some(two)] if one != two))
    }

    /// Replaces the accepted host keys of the node. Fails with `Unique` when another node has one of them.
    pub(crate) async fn accept_host_keys(&mut self, id: NodeId, lines: &[String]) -> Result<()> {
        self.exec("DELETE FROM node_host_keys WHERE node_id = ?", vals![id]).await?;
        for fingerprint in fingerprints_of(lines) {
            let sql = "INSERT INTO node_host_keys (fingerprint, node_id) VALUES (?, ?)";
            self.exec(sql, vals![fingerprint, id]).await?;
        }
        Ok(())
    }
}

fn fingerprints_of(lines: &[String]) -> Vec<String> {
    let keys = lines.iter().filter_map(|line| line.parse::<SshPublicKey>().ok());
    let mut fingerprints: Vec<String> = keys.map(|key| key.fingerprint()).collect();
    fingerprints.sort_unstable();
    fingerprints.dedup();
    fingerprints
}

/// Accepts only the pinned host key of each node that an older version registered, and none that the node
/// only named: sshd proves further ones over the next session. Runs at each start, since replicas of an
/// older version may run for a while.
pub(crate) async fn keep_proved_ones(db: &Db) -> std::result::Result<(), StoreError> {
    let missing = "INSERT INTO node_host_keys (fingerprint, node_id) SELECT host_key_fp, id FROM nodes n \
                   WHERE host_key_fp IS NOT NULL \
                   AND NOT EXISTS (SELECT 1 FROM node_host_keys k WHERE k.fingerprint = n.host_key_fp)";
    let recorded = transaction!(db, |tx| {
        match tx.exec(missing, vals![]).await {
            // Another replica starts at the same time.
            Err(Fault::Unique(text)) => Err(Fault::Retry(text)),
            result => result,
        }
    });
    recorded?;
    let sql = "SELECT n.id FROM nodes n WHERE n.host_keys LIKE '%\",%' AND \
               (SELECT COUNT(*) FROM node_host_keys k WHERE k.node_id = n.id) < 2 ORDER BY n.id";
    for (id,) in db.all::<(i64,)>(sql, vals![]).await? {
        transaction!(db, |tx| {
            let Some(record) = tx.node_record(NodeId(id)).await? else { return Ok(()) };
            let (pinned, version) = (record.host_key_fp.clone(), record.row.version);
            let is_pinned = |line: &String| {
                line.parse::<SshPublicKey>().is_ok_and(|key| Some(key.fingerprint()) == pinned)
            };
            let Transport::Ssh(sshd) = Node::try_from(record)?.transport else { return Ok(()) };
            let kept: Vec<String> = sshd.host_keys.into_iter().filter(is_pinned).collect();
            let sql = "UPDATE nodes SET host_keys = ? WHERE id = ? AND version = ?";
            tx.exec(sql, vals![json(&kept)?, id, version]).await?;
            Ok(())
        })?;
    }
    Ok(())
}
