//! What a node says of itself, compared with what the database says of it: the deadlines that it keeps, the kernel
//! that it runs, and an admin's word that it is dead.

use super::Agents;
use crate::{
    engine::{Cas, Fault, StoreError, clip, json, transaction, vals},
    nodes::NodeChange,
    nodes::boot_ids::read_boot_ids,
    nodes::identity::two_machines,
};
use orion_domain::{
    LeaseId, NodeId, Refused, Timestamp, UserId,
    event::NodeEvent,
    lease::LeaseState,
    node::{Health, Node, QuarantineCause},
};

use std::time::Duration;

/// Kernels of a node that are remembered.
const BOOT_IDS_MAX: usize = 8;
/// Longest boot id that is kept, in characters; the kernel's has 36.
const BOOT_ID_MAX: usize = 64;
/// A kernel that runs again so soon after another one had followed it is that of a second machine; later, the
/// machine may
/// have been set back to a snapshot of its memory.
const ALTERNATES_WITHIN: Duration = Duration::from_secs(600);

/// Conclusion from the boot id that a node reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootTold {
    /// Node that runs as before, or that reports for the first time.
    Same,
    /// Node that was booted since; it is dirty.
    Rebooted,
    /// A kernel runs again that another one had followed just before: two machines say that they are this node. It is
    /// quarantined, unless the brake is on.
    TwoMachines,
}

/// Effects of an admin's declaration that a node is dead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredDead {
    /// Leases that lost the node and move, or wait for a node.
    pub moving: Vec<LeaseId>,
    /// Leases that are over.
    pub ended: Vec<LeaseId>,
}

impl Agents<'_> {
    /// The node says of its account of `lease` what the database does not: it is dirty, so that it is looked at.
    /// `Stale`: the lease is not active there (any more), or its time is up, or the node is worked on, dirty or does
    /// not answer.
    pub async fn doubt_account(
        self,
        node: NodeId,
        lease: LeaseId,
        why: &str,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let why = clip(why);
        Ok(transaction!(&self.store.db, |tx| {
            let Some(held) = tx.lease(lease).await? else { return Ok(Cas::Gone) };
            if held.state != (LeaseState::Active { node }) || held.until <= now {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            let change = NodeChange {
                sets: "desired_version = desired_version + 1",
                guard: "AND EXISTS (SELECT 1 FROM holds h WHERE h.node_id = nodes.id AND h.lease_id = ? \
                        AND h.role <> 'leaving') AND health = 'alive' AND applied_version = desired_version \
                        AND (claimed_until IS NULL OR claimed_until <= ?)",
                guard_values: vals![lease, now],
                event: Some(NodeEvent::Differs { reason: why.clone(), lease_id: lease }),
                ..NodeChange::default()
            };
            tx.change_node(node, change, now).await
        })?)
    }

    /// The node says which kernel it runs. A new one is a reboot. One that another had followed within
    /// ten minutes is a second machine with the identity of this node: a kernel that was left does not run
    /// again. That quarantines, unless the brake is on; seen again, it is asked again.
    pub async fn record_boot_id(
        self,
        id: NodeId,
        boot_id: &str,
        now: Timestamp,
    ) -> Result<BootTold, StoreError> {
        let boot_id: String = boot_id.chars().take(BOOT_ID_MAX).collect();
        if boot_id.is_empty() {
            return Ok(BootTold::Same);
        }
        let maria = self.store.db.is_maria();
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "SELECT COALESCE(boot_ids, '[]'), version FROM nodes WHERE id = ?";
            let Some((known, version)) = tx.one::<(String, i64)>(sql, vals![id]).await? else {
                return Ok(BootTold::Same);
            };
            let mut known = read_boot_ids(&known);
            let told = match known.iter().position(|(known, _)| *known == boot_id) {
                Some(0) => {
                    tx.abandon();
                    return Ok(BootTold::Same);
                }
                // The one that had followed it is the last one, or between.
                Some(at) if known[at - 1].1.is_some_and(|since| now.since(since) <= ALTERNATES_WITHIN) => {
                    BootTold::TwoMachines
                }
                None if known.is_empty() => BootTold::Same,
                Some(_) | None => BootTold::Rebooted,
            };
            known.retain(|(known, _)| *known != boot_id);
            known.insert(0, (boot_id.clone(), Some(now)));
            known.truncate(BOOT_IDS_MAX);
            let rebooted = told == BootTold::Rebooted;
            let change = NodeChange {
                sets: "boot_ids = ?, desired_version = desired_version + ?, \
                       unclean = CASE WHEN ? = 1 THEN 1 ELSE unclean END, \
                       machine_compare_due = CASE WHEN machine_id_sha256 IS NULL THEN NULL ELSE ? END",
                values: vals![json(&known)?, i64::from(told != BootTold::Same), told != BootTold::Same, now],
                guard: "AND version = ?",
                guard_values: vals![version],
                event: rebooted.then(|| NodeEvent::Rebooted { boot_id: boot_id.clone() }),
                ..NodeChange::default()
            };
            if tx.change_node(id, change, now).await? == Cas::Stale {
                return Err(Fault::Retry(format!("node {id} changed meanwhile")));
            }
            if told == BootTold::TwoMachines && !tx.brake_is_on(maria, now).await? {
                tx.quarantine(id, QuarantineCause::Operator, &two_machines(id), now).await?;
            }
            tx.quarantine_second_identity(maria, id, &boot_id, now).await?;
            Ok(told)
        })?)
    }

    /// An admin says that a node is dead, whatever is seen of it: its lease moves or ends by its policy, also while the
    /// brake is on. `Refused`: it answers, or is dead already.
    pub async fn declare_dead(
        self,
        id: NodeId,
        reason: &str,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Cas<DeclaredDead, Refused>, StoreError> {
        let reason = clip(&format!("an admin declared it dead: {reason}"));
        Ok(transaction!(&self.store.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(Cas::Gone) };
            let before = Node::try_from(record)?;
            if let Err(refused) = before.may_be_declared_dead() {
                return Ok(Cas::Refused(refused));
            }
            let changed =
                match crate::nodes::health::change_health(tx, &before, Health::Dead, &reason, now).await? {
                    Cas::Done(changed) => changed,
                    Cas::Stale => return Err(Fault::Retry(format!("node {id} changed meanwhile"))),
                    Cas::Gone => return Ok(Cas::Gone),
                };
            // No observation takes an admin's word back: an agent that still hears locks the accounts.
            let change = NodeChange {
                sets: "lock_ordered_at = ?, lock_observed_at = NULL",
                values: vals![now],
                event: Some(NodeEvent::DeclaredDead { reason: reason.clone() }),
                actor,
                ..NodeChange::default()
            };
            tx.change_node(id, change, now).await?;
            let mut declared = DeclaredDead::default();
            for lease in changed.leases {
                let over = tx.lease(lease).await?.is_none_or(|lease| lease.state.occupies().is_none());
                if over { declared.ended.push(lease) } else { declared.moving.push(lease) }
            }
            Ok(Cas::Done(declared))
        })?)
    }
}
