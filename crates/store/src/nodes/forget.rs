//! Nodes that go from the database: all that are clean and free, for a reset, or the one that an admin names.
//! Those that may hold an account stay, so that their dirt is not lost sight of, unless the admin insists.

use super::Nodes;
use crate::events::NewEvent;
use crate::{
    engine::{Fault, Result, StoreError, Tx, in_lists, transaction, vals},
    nodes::row::NodeRecord,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp, UserId,
    event::NodeEvent,
    node::{Admission, Health, Node},
};

use sqlx::AssertSqlSafe;
use std::collections::HashSet;

/// Result of `forget_clean_nodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Nodes that are gone from the database; their agents may register again.
    pub forgotten: Vec<NodeId>,
    /// Nodes that stay: number, name and why.
    pub kept: Vec<(NodeId, String, String)>,
}

/// An admin's wish to forget one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForgetRequest {
    /// Whether to forget also a node that may hold an account or is being worked on; its node token is worth
    /// nothing afterwards.
    pub force: bool,
    /// User who requests that the node is forgotten.
    pub actor: Option<UserId>,
}

/// Outcome of [`crate::Nodes::forget`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForgetOutcome {
    /// Node that was forgotten, as it was before.
    Forgotten(Node),
    /// Lease that holds the node.
    Leased(LeaseId),
    /// Lease that is leaving the node for another one.
    Leaving(LeaseId),
    /// Outcome for a claimed node.
    Busy,
    /// Node that may hold an account.
    Dirty(Node),
    /// Outcome for a node that does not exist.
    Gone,
}

/// A lease that leaves this node for another one; binds the node twice.
const LEAVING: &str =
    "SELECT id FROM leases WHERE state = 'migrating' AND from_node = ? AND occupies_node <> ?";

impl Nodes<'_> {
    /// Forgets the nodes that are clean and free. Their token and host key are remembered, so that their
    /// agents may register again. The others stay, each with the reason; so do quarantined ones (their
    /// pinned key is the evidence) and those that are drained (they would be offered again).
    pub async fn forget_clean(self, now: Timestamp) -> Result<Forgotten, StoreError> {
        let mut result = Forgotten::default();
        for node in self.all().await? {
            let why = match why_kept(&node, now) {
                Some(why) => why,
                None if self.forget_if_same(&node, now).await? => {
                    result.forgotten.push(node.id);
                    continue;
                }
                None => "it changed just now".into(),
            };
            result.kept.push((node.id, node.hostname.to_string(), why));
        }
        Ok(result)
    }

    async fn forget_if_same(self, node: &Node, now: Timestamp) -> Result<bool, StoreError> {
        let outcome = transaction!(&self.store.db, |tx| {
            let Some(record) = tx.node_record(node.id).await? else { return Ok(false) };
            if record.version != node.version {
                return Ok(false);
            }
            let event = NodeEvent::Forgotten { hostname: node.hostname.to_string(), force: None };
            tx.remove_node(&record, true, NewEvent::new(event), now).await
        });
        Ok(outcome?)
    }

    /// Forgets one node: its host key, name and address are free for a registration. Never one that a lease has
    /// or is just leaving; one that may hold an account, or is being worked on, only by force. By force a lease in
    /// `Releasing` on it is over.
    ///
    /// Its node token registers its machine again if it was in use until now: not forced away, not quarantined
    /// and not drained.
    pub async fn forget(
        self,
        id: NodeId,
        request: ForgetRequest,
        now: Timestamp,
    ) -> Result<ForgetOutcome, StoreError> {
        Ok(transaction!(&self.store.db, |tx| { forget_node(tx, id, request, now).await })?)
    }

    /// Returns those of `ids` that belong to no node (any more).
    pub async fn gone(self, ids: &[NodeId]) -> Result<Vec<NodeId>, StoreError> {
        let mut there = HashSet::with_capacity(ids.len());
        for (list, values) in in_lists(ids) {
            let sql = format!("SELECT id FROM nodes WHERE id IN ({list})");
            let rows = self.store.db.all::<(i64,)>(AssertSqlSafe(sql), values).await?;
            there.extend(rows.into_iter().map(|(id,)| NodeId(id)));
        }
        Ok(ids.iter().copied().filter(|id| !there.contains(id)).collect())
    }
}

impl Tx {
    /// Deletes the row of a node as it was read, and tells of it. `may_return`: its token is remembered with its
    /// key. False: somebody wrote the row since.
    async fn remove_node(
        &mut self,
        record: &NodeRecord,
        may_return: bool,
        event: NewEvent,
        now: Timestamp,
    ) -> Result<bool> {
        let id = NodeId(record.id);
        let sql = "DELETE FROM nodes WHERE id = ? AND version = ?";
        if self.exec(sql, vals![id, record.version]).await? == 0 {
            return Ok(false);
        }
        for sql in [
            "DELETE FROM node_tags WHERE node_id = ?",
            "DELETE FROM node_host_keys WHERE node_id = ?",
            "DELETE FROM node_seen WHERE node_id = ?",
            "DELETE FROM lease_unfit WHERE node_id = ?",
            "DELETE FROM holds WHERE node_id = ?",
            "DELETE FROM node_images WHERE node_id = ?",
            "DELETE FROM node_disks WHERE node_id = ?",
            "DELETE FROM image_rights WHERE node_id = ?",
            "DELETE FROM ports WHERE node_id = ?",
            "DELETE FROM networks WHERE node_id = ?",
        ] {
            self.exec(sql, vals![id]).await?;
        }
        if let Some(token) = &record.node_token_sha256 {
            // A registration under an idempotency key gives the same token again: it may have been forgotten before.
            let sql = "DELETE FROM forgotten_nodes WHERE node_token_sha256 = ?";
            self.exec(sql, vals![token]).await?;
            if let (true, Some(key)) = (may_return, &record.host_key_fp) {
                let sql = "INSERT INTO forgotten_nodes (node_token_sha256, host_key_fp, forgotten_at) \
                           VALUES (?, ?, ?)";
                self.exec(sql, vals![token, key, now]).await?;
            }
        }
        self.append_events(&[event.of_node(id)], now).await?;
        Ok(true)
    }
}

async fn forget_node(
    tx: &mut Tx,
    id: NodeId,
    request: ForgetRequest,
    now: Timestamp,
) -> Result<ForgetOutcome> {
    for lease in tx.leases_on(id).await? {
        // One that ends waits for nothing but the cleaning that nobody will do any more.
        let lease_id = lease.id;
        if !request.force || tx.finish_removal(lease, id, now).await?.is_none() {
            tx.abandon();
            return Ok(ForgetOutcome::Leased(lease_id));
        }
    }
    let Some(record) = tx.node_record(id).await? else { return Ok(ForgetOutcome::Gone) };
    let node = Node::try_from(record.clone())?;
    if let Some((lease,)) = tx.one::<(i64,)>(LEAVING, vals![id, id]).await? {
        return Ok(ForgetOutcome::Leaving(LeaseId(lease)));
    }
    let is_claimed = node.claimed_until.is_some_and(|until| until > now);
    if is_claimed && !request.force {
        return Ok(ForgetOutcome::Busy);
    }
    if may_hold_an_account(&node) && !request.force {
        return Ok(ForgetOutcome::Dirty(node));
    }
    let may_return = !request.force && node.quarantine.is_none() && node.drain.is_none();
    let event = NodeEvent::Forgotten { hostname: node.hostname.to_string(), force: Some(request.force) };
    let event = NewEvent::new(event).by(request.actor);
    if tx.remove_node(&record, may_return, event, now).await? {
        Ok(ForgetOutcome::Forgotten(node))
    } else {
        Err(Fault::Retry(format!("node {id} changed meanwhile")))
    }
}

/// Whether an account may be left on a node without a lease that is not given up. A node that does not answer and
/// was taken out of use is: whoever forgets it has looked at it.
fn may_hold_an_account(node: &Node) -> bool {
    // Only a clean node is ever given to a lease; one that moved waits for a dial again, and was clean before.
    let never_held_one = node.applied_version == 0 && node.admission != Admission::Admitted;
    let out_of_use =
        node.quarantine.is_some() || node.drain.as_ref().is_some_and(|drain| drain.drained_at.is_some());
    match node.health {
        Health::Dead => false,
        Health::Alive => node.is_dirty() && !never_held_one,
        Health::Unknown | Health::Suspect | Health::Unreachable => {
            node.is_dirty() && !never_held_one && !out_of_use
        }
    }
}

fn why_kept(node: &Node, now: Timestamp) -> Option<String> {
    if let Some(lease) = node.whole_lease {
        return Some(format!("lease {lease} is still on it"));
    }
    if node.is_held() {
        return Some("slices of it are leased".into());
    }
    if let Some(reason) = &node.quarantine {
        return Some(format!("it is quarantined: {reason}"));
    }
    if let Some(drain) = &node.drain {
        return Some(format!("it is being drained: {}", drain.reason));
    }
    if node.claimed_until.is_some_and(|until| until > now) {
        return Some("it is being worked on".into());
    }
    if node.is_dirty() {
        let admitted = node.admission == Admission::Admitted;
        let why = if admitted { node.health.as_str() } else { "not admitted yet" };
        return Some(format!("it could not be cleaned ({why})"));
    }
    None
}
