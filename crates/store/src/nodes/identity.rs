//! One node, one machine: who comes with a node's token while the link of that node beats is another machine.
//!
//! Such a machine is refused. A machine that moved or was booted is refused, too, until its own old link is lost, and
//! then let in; so only a link that beats on after the refusal shows that there are two.

use super::Nodes;
use crate::{
    engine::{Fault, Result, StoreError, Tx, transaction, vals},
    nodes::boot_ids::read_boot_ids,
};
use orion_domain::{
    NodeId, Timestamp,
    node::{LinkState, Node, QuarantineCause},
};
use std::time::Duration;

/// A link beats if something was heard over it so long ago or later: [`crate::Nodes::touch_seen`] is called every 10 s.
const HEARD_WITHIN: Duration = Duration::from_secs(25);
/// A link that was heard so long after a refusal is not that of the machine that was refused.
const BEATS_ON: Duration = Duration::from_secs(5);
/// Age from which a refusal is disregarded.
const REFUSAL_AGE_MAX: Duration = Duration::from_secs(120);

/// Identity that a machine with a node's token claims.
pub(crate) struct Claimant<'a> {
    /// Address of the machine, if it is known and differs from the node's.
    pub new_addr: Option<&'a str>,
    /// Boot id of the machine's kernel; none from older agents.
    pub boot_id: Option<&'a str>,
}

impl Nodes<'_> {
    /// Whether a link of the node may be opened by a machine with that boot id. Not while the node's link beats and
    /// names another kernel.
    pub async fn may_link(
        self,
        id: NodeId,
        boot_id: &str,
        now: Timestamp,
    ) -> std::result::Result<bool, StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let Some(record) = tx.node_record(id).await? else { return Ok(true) };
            let claimant = Claimant { new_addr: None, boot_id: Some(boot_id) };
            Ok(!is_second_machine(tx, &record.try_into()?, &claimant, now).await?)
        })?)
    }
}

/// Whether `claimant` is another machine than the one whose link is up. It is noted; a link that beats on after that
/// quarantines the node.
pub(crate) async fn is_second_machine(
    tx: &mut Tx,
    node: &Node,
    claimant: &Claimant<'_>,
    now: Timestamp,
) -> Result<bool> {
    let sql = "SELECT COALESCE(n.boot_ids, '[]'), n.second_machine_at, s.last_seen FROM nodes n \
               LEFT JOIN node_seen s ON s.node_id = n.id WHERE n.id = ?";
    let row = tx.one::<(String, Option<i64>, Option<i64>)>(sql, vals![node.id]).await?;
    let Some((boot_ids, refused_at, heard_at)) = row else { return Ok(false) };
    let heard_at = heard_at.map_or(node.link_since, Timestamp::from_micros).max(node.link_since);
    if node.link != LinkState::Up || heard_at.plus(HEARD_WITHIN) <= now {
        return Ok(false);
    }
    let boot_ids = read_boot_ids(&boot_ids);
    let other_kernel = match (boot_ids.first(), claimant.boot_id) {
        (Some((known, _)), Some(named)) => !named.is_empty() && known != named,
        (None, _) | (_, None) => false,
    };
    if claimant.new_addr.is_none() && !other_kernel {
        return Ok(false);
    }
    let refused_at =
        refused_at.map(Timestamp::from_micros).filter(|refused_at| refused_at.plus(REFUSAL_AGE_MAX) > now);
    let Some(refused_at) = refused_at else {
        tx.exec("UPDATE nodes SET second_machine_at = ? WHERE id = ?", vals![now, node.id]).await?;
        return Ok(true);
    };
    let sentence = format!("two machines use the identity of node {}", node.id);
    let is_known = node.quarantine.as_ref().is_some_and(|reason| reason.starts_with(&sentence));
    if heard_at > refused_at.plus(BEATS_ON) && !is_known {
        let addr = node.sshd().map(|sshd| sshd.addr.as_str()).unwrap_or_default();
        let reason = two_machines_at(node.id, Some((addr, claimant.new_addr.unwrap_or(addr))));
        let outcome = tx.quarantine(node.id, QuarantineCause::Operator, &reason, now).await?;
        if matches!(outcome, crate::engine::Cas::Gone) {
            return Err(Fault::Retry("the node was forgotten meanwhile".into()));
        }
    }
    Ok(true)
}

/// Returns the reason of the quarantine of a node whose identity two machines use.
pub fn two_machines(id: NodeId) -> String {
    two_machines_at(id, None)
}

fn two_machines_at(id: NodeId, addresses: Option<(&str, &str)>) -> String {
    let addresses = addresses.map(|(first, second)| format!(": {first} and {second}")).unwrap_or_default();
    format!(
        "two machines use the identity of node {id}{addresses}, as after a machine was cloned: run \
         `orion-agent uninstall` on the copy, give it host keys of its own and register it as a node of its own, then \
         lift the quarantine"
    )
}
