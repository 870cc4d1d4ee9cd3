//! What nodes remember better than a database that was restored from a backup: the highest epoch that they have
//! seen, and the highest uid that a lease has had there.
//!
//! Lives here: raising the database's own above what a node has seen, and going on with a claim or a lease that a
//! node refused for it. Does not live here: how a node remembers (`playbooks/lib/uids.sh`), and the one step for
//! the whole database after it was restored (`restore`).
//!
//! A node writes down only what a committed transaction gave out, so in a database that is not older than its
//! nodes nothing here changes anything. Each write repeats that comparison: a claim's holder who wakes late finds
//! an epoch in the database that is not below the node's, and raises nothing.

use crate::{
    Store,
    attempts::{Tx, transaction},
    db::{Db, vals},
    error::{Cas, Fault, Result, StoreError},
    model::{NewEvent, NodeClaim},
    nodes::NodeChange,
    place::{next_free_uid, next_uid},
    rows::NodeRecord,
    settings::RESTORED_AT,
};
use orion_domain::{LeaseId, NodeId, Timestamp, lease::LeaseState};
use serde_json::json;
use std::time::Duration;

/// A node may be so far ahead of the time-based epochs that new nodes start with.
const EPOCH_AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);
/// Uids that a node may be ahead of the database: more leases than any backup is old.
const UIDS_AHEAD_MAX: u32 = 1_000_000;
/// One node raises the next uid once in this time: one that lies must not use the range up.
const RAISED_ONCE_IN: Duration = Duration::from_secs(24 * 3600);

/// What a node remembers. 0: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeMemory {
    /// The highest epoch that it has seen.
    pub epoch: u64,
    /// The highest uid that a lease has had there.
    pub highest_uid: u32,
}

/// The uids that Orion gives to accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidRange {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

/// What came of comparing a node's memory with the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryCompared {
    /// The database knows all of it.
    Known,
    /// The database was older and is not any more.
    Raised {
        /// The node's new epoch, if that was too low; the node is dirty then.
        epoch: Option<u64>,
        /// The next uid of the fleet, if that was too low.
        next_uid: Option<u32>,
    },
    /// It cannot be true; the text says why, and what to do. Nothing was written.
    Impossible(String),
    /// There is no such node.
    Gone,
}

/// What came of going on with a claim that a node refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimRenewed {
    /// The claim as it is now: with a higher epoch, or with another uid for its lease.
    Renewed(Box<NodeClaim>),
    /// The claim was lost, or its lease is on its way no more: nothing was written.
    Superseded,
    /// What the node remembers cannot be true; the text says why, and what to do. Nothing was written.
    Impossible(String),
    /// Orion's uid range is used up.
    UidsExhausted,
}

/// How a number of the database is raised.
enum Raise {
    NotNeeded,
    To(u32),
    Impossible(String),
}

impl Store {
    /// Compares what a node remembers with the database, and raises what is lower there: the node's epoch (the
    /// node is dirty then) and the next uid. In a database that was never restored it never is. One short read
    /// when there is nothing to raise.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn compare_memory(
        &self,
        id: NodeId,
        memory: NodeMemory,
        uids: UidRange,
        now: Timestamp,
    ) -> Result<MemoryCompared, StoreError> {
        let sql = "SELECT n.epoch, s.value FROM nodes n, settings s WHERE n.id = ? AND s.name = 'next_uid'";
        let known = self.db.one::<(i64, String)>(sql, vals![id]).await?;
        let Some((epoch, next)) = known else { return Ok(MemoryCompared::Gone) };
        let next_uid = next.parse::<u32>().unwrap_or(0);
        if memory.epoch <= u64::try_from(epoch).unwrap_or(0)
            && (memory.highest_uid < uids.first || memory.highest_uid < next_uid)
        {
            return Ok(MemoryCompared::Known);
        }
        Ok(transaction!(&self.db, |tx| {
            let compared = compare(&self.db, tx, id, memory, uids, now).await?;
            if matches!(compared, MemoryCompared::Impossible(_)) {
                tx.abandon();
            }
            Ok(compared)
        })?)
    }

    /// A node refused a claim's epoch, because it has seen the epoch `seen`. If the claim still holds, nobody has
    /// taken the node over: the database is older than the node, or was until a moment ago. Then the claim gets an
    /// epoch above `seen`, and a node that the database had at a lower one is dirty.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renew_epoch(
        &self,
        claim: &NodeClaim,
        seen: u64,
        now: Timestamp,
    ) -> Result<ClaimRenewed, StoreError> {
        Ok(transaction!(&self.db, |tx| { renew_epoch(tx, claim, seen, now).await })?)
    }

    /// A node refused the uid of the new lease `lease`, because it has seen the uid `highest`. The lease gets
    /// another uid, above all that this node has seen; so does every lease after it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renew_uid(
        &self,
        claim: &NodeClaim,
        lease: LeaseId,
        highest: u32,
        uids: UidRange,
        now: Timestamp,
    ) -> Result<ClaimRenewed, StoreError> {
        Ok(transaction!(&self.db, |tx| {
            let renewed = renew_uid(&self.db, tx, (claim, lease), highest, uids, now).await?;
            if !matches!(renewed, ClaimRenewed::Renewed(_)) {
                tx.abandon();
            }
            Ok(renewed)
        })?)
    }
}

async fn compare(
    db: &Db,
    tx: &mut Tx,
    id: NodeId,
    memory: NodeMemory,
    uids: UidRange,
    now: Timestamp,
) -> Result<MemoryCompared> {
    // In the order of a placement: first the uids, then the node.
    let next_uid = match raise_uids(db, tx, id, memory.highest_uid, uids, now).await? {
        Raise::NotNeeded => None,
        Raise::To(next) => Some(next),
        Raise::Impossible(why) => return Ok(MemoryCompared::Impossible(why)),
    };
    let Some(record) = tx.node_record(id).await? else { return Ok(MemoryCompared::Gone) };
    let known = u64::try_from(record.epoch).unwrap_or(0);
    let mut epoch = None;
    if known < memory.epoch {
        if let Some(why) = impossible_epoch(memory.epoch, now) {
            return Ok(MemoryCompared::Impossible(why));
        }
        epoch = raise_epoch(tx, &record, memory.epoch, now).await?;
    }
    if epoch.is_none() && next_uid.is_none() {
        return Ok(MemoryCompared::Known);
    }
    Ok(MemoryCompared::Raised { epoch, next_uid })
}

/// Raises the node's epoch above `seen`. A database that had it lower is older than the node, so what it says of
/// the node need not be so: the node is dirty then, and it is told. None: the node is gone.
async fn raise_epoch(tx: &mut Tx, record: &NodeRecord, seen: u64, now: Timestamp) -> Result<Option<u64>> {
    let known = u64::try_from(record.epoch).unwrap_or(0);
    let raised = known.max(seen) + 1;
    let is_older = known < seen;
    let change = NodeChange {
        sets: "epoch = ?, desired_version = desired_version + ?, \
               retry_at = CASE WHEN ? = 1 THEN 0 ELSE retry_at END",
        values: vals![number(raised), i64::from(is_older), is_older],
        guard: "AND version = ?",
        guard_values: vals![record.version],
        event: is_older
            .then(|| ("node.epoch_raised", json!({ "from": known, "to": raised, "seen_by_node": seen }))),
    };
    match tx.change_node(NodeId(record.id), change, now).await? {
        Cas::Done(_) => Ok(Some(raised)),
        Cas::Stale => Err(Fault::Retry(format!("node {} changed meanwhile", record.id))),
        Cas::Gone => Ok(None),
    }
}

fn number(epoch: u64) -> i64 {
    i64::try_from(epoch).unwrap_or(i64::MAX)
}

fn impossible_epoch(seen: u64, now: Timestamp) -> Option<String> {
    let latest = u64::try_from(now.plus(EPOCH_AHEAD_MAX).as_micros() / 1000).unwrap_or(0);
    (seen > latest).then(|| {
        format!(
            "its epoch {seen} is more than a day ahead of the time: nobody of this system has given it. Remove \
             /var/lib/orion/epoch on the node if nothing else works there, and lift the quarantine"
        )
    })
}

/// Raises the next uid of the fleet above `highest`, which the node has seen.
async fn raise_uids(
    db: &Db,
    tx: &mut Tx,
    id: NodeId,
    highest: u32,
    uids: UidRange,
    now: Timestamp,
) -> Result<Raise> {
    if highest < uids.first {
        return Ok(Raise::NotNeeded);
    }
    let stored = next_uid(db, tx).await?;
    let next = stored.max(uids.first);
    if highest < next {
        return Ok(Raise::NotNeeded);
    }
    let mend = "If a backup was restored that is older than that, run `orion admin after-restore`; if not, somebody \
                has written /var/lib/orion/highest_uid on the node by hand: correct it. Then lift the quarantine";
    if highest >= uids.last {
        return Ok(Raise::Impossible(format!(
            "it remembers the uid {highest}, and no lease can have one above {}. {mend}",
            uids.last
        )));
    }
    if highest - next >= UIDS_AHEAD_MAX {
        return Ok(Raise::Impossible(format!(
            "it remembers the uid {highest}, and the database has given out none from {next} on. {mend}"
        )));
    }
    if raised_lately(tx, id, now).await? {
        return Ok(Raise::Impossible(format!(
            "for the second time within a day it remembers a uid that the database has not given out ({highest}, \
             the next is {next}). {mend}"
        )));
    }
    tx.set_next_uid(stored, highest + 1).await?;
    let data = json!({ "from": next, "to": highest + 1, "seen_by_node": highest });
    tx.tell_of_node("uids.raised", id, data, now).await?;
    Ok(Raise::To(highest + 1))
}

/// Whether this node has raised the uids within a day, and since the database was last restored.
async fn raised_lately(tx: &mut Tx, id: NodeId, now: Timestamp) -> Result<bool> {
    let sql = "SELECT value FROM settings WHERE name = ?";
    let restored = tx.one::<(String,)>(sql, vals![RESTORED_AT]).await?;
    let restored = restored.and_then(|(at,)| at.parse::<i64>().ok()).unwrap_or(0);
    let since = now.minus(RAISED_ONCE_IN).as_micros().max(restored);
    let sql = "SELECT COUNT(*) FROM events WHERE node_id = ? AND kind = 'uids.raised' AND at >= ?";
    Ok(tx.one::<(i64,)>(sql, vals![id, since]).await?.is_some_and(|(count,)| count > 0))
}

async fn renew_epoch(tx: &mut Tx, claim: &NodeClaim, seen: u64, now: Timestamp) -> Result<ClaimRenewed> {
    let id = claim.node.id;
    let Some(record) = tx.node_record(id).await? else { return Ok(ClaimRenewed::Superseded) };
    // Who takes a claim over writes a token of their own. With that, this is the normal race, and not ours to mend.
    if record.claim_token.as_deref() != Some(claim.token.as_str()) || seen <= claim.epoch {
        return Ok(ClaimRenewed::Superseded);
    }
    let known = u64::try_from(record.epoch).unwrap_or(0);
    if known < seen
        && let Some(why) = impossible_epoch(seen, now)
    {
        return Ok(ClaimRenewed::Impossible(why));
    }
    match raise_epoch(tx, &record, seen, now).await? {
        Some(_) => renewed(tx, claim, now).await,
        None => Ok(ClaimRenewed::Superseded),
    }
}

async fn renewed(tx: &mut Tx, claim: &NodeClaim, now: Timestamp) -> Result<ClaimRenewed> {
    let read = tx.read_claim(claim.node.id, &claim.token, now).await?;
    Ok(read.map_or(ClaimRenewed::Superseded, |claim| ClaimRenewed::Renewed(Box::new(claim))))
}

async fn renew_uid(
    db: &Db,
    tx: &mut Tx,
    (claim, id): (&NodeClaim, LeaseId),
    highest: u32,
    uids: UidRange,
    now: Timestamp,
) -> Result<ClaimRenewed> {
    let node = claim.node.id;
    if let Raise::Impossible(why) = raise_uids(db, tx, node, highest, uids, now).await? {
        return Ok(ClaimRenewed::Impossible(why));
    }
    let stored = next_uid(db, tx).await?;
    let token = tx.node_record(node).await?.and_then(|record| record.claim_token);
    let lease = tx.lease(id).await?;
    let Some(lease) = lease.filter(|lease| lease.state == LeaseState::Provisioning { node }) else {
        return Ok(ClaimRenewed::Superseded);
    };
    if token.as_deref() != Some(claim.token.as_str()) {
        return Ok(ClaimRenewed::Superseded);
    }
    let uid = next_free_uid(&claim.node.subordinate_uids, stored.max(uids.first));
    if uid > uids.last {
        return Ok(ClaimRenewed::UidsExhausted);
    }
    tx.set_next_uid(stored, uid + 1).await?;
    let sql = "UPDATE leases SET account_uid = ?, version = version + 1 WHERE id = ? AND version = ?";
    if tx.exec(sql, vals![uid, lease.id, lease.version]).await? == 0 {
        return Err(Fault::Retry(format!("lease {id} changed meanwhile")));
    }
    let data = json!({ "from": lease.account.uid, "to": uid, "seen_by_node": highest });
    let event =
        NewEvent { kind: "lease.new_uid", lease: Some(id), node: Some(node), user: Some(lease.user), data };
    tx.tell(&[event], now).await?;
    renewed(tx, claim, now).await
}
