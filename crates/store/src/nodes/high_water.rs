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

use super::Nodes;
use crate::leases::transition::lease_event;
use crate::{
    cluster::RESTORED_AT,
    engine::{Cas, Db, Fault, Result, StoreError, Tx, transaction, vals},
    events::NewEvent,
    leases::candidates::next_free_uid,
    leases::insert::next_uid,
    nodes::NodeChange,
    nodes::claimed::NodeClaim,
    nodes::row::NodeRecord,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    event::LeaseEvent,
    event::NodeEvent,
    event::UidsEvent,
    lease::{Lease, LeaseState},
    names::UnixName,
};

use std::time::Duration;

/// A node may be so far ahead of the time-based epochs that new nodes start with.
const EPOCH_AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);
/// Uids that a node may be ahead of the database: more leases than any backup is old.
const UIDS_AHEAD_MAX: u32 = 1_000_000;
/// One node raises the next uid once in this time: one that lies must not use the range up.
const RAISED_ONCE_IN: Duration = Duration::from_secs(24 * 3600);

/// High-water marks that a node remembers. 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HighWaterMarks {
    /// The highest epoch that it has seen.
    pub epoch: u64,
    /// The highest uid that a lease has had there.
    pub highest_uid: u32,
}

/// The uids that Orion gives to accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidRange {
    /// Lowest uid of the range.
    pub first: u32,
    /// Highest uid of the range, which is given out, too.
    pub last: u32,
}

/// Outcome of the comparison of a node's memory with the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HighWaterCompared {
    /// The database knows all of it.
    Known,
    /// The database was older and is not any more.
    Raised {
        /// The node's new epoch, if that was too low; the node is dirty then.
        epoch: Option<u64>,
        /// The next uid of the fleet, if that was too low.
        next_uid: Option<u32>,
    },
    /// Reason why the memory cannot be true, with the remedy. Nothing was written.
    Impossible(String),
    /// Outcome for a node that does not exist.
    Gone,
}

/// Outcome of renewing a claim that a node refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimRenewed {
    /// The claim as it is now: with a higher epoch, or with another uid for its lease.
    Renewed(Box<NodeClaim>),
    /// The claim was lost, or its lease is on its way no more: nothing was written.
    Superseded,
    /// Reason why the node's memory cannot be true, with the remedy. Nothing was written.
    Impossible(String),
    /// Orion's uid range is used up.
    UidsExhausted,
}

/// Change that a number of the database needs.
enum Raise {
    NotNeeded,
    To(u32),
    Impossible(String),
}

impl Nodes<'_> {
    /// Compares what a node remembers with the database, and raises what is lower there: the node's epoch (the
    /// node is dirty then) and the next uid. In a database that was never restored it never is. One short read
    /// when there is nothing to raise.
    pub async fn reconcile_high_water(
        self,
        id: NodeId,
        memory: HighWaterMarks,
        uids: UidRange,
        now: Timestamp,
    ) -> Result<HighWaterCompared, StoreError> {
        let sql = "SELECT n.epoch, s.value FROM nodes n, settings s WHERE n.id = ? AND s.name = 'next_uid'";
        let known = self.store.db.one::<(i64, String)>(sql, vals![id]).await?;
        let Some((epoch, next)) = known else { return Ok(HighWaterCompared::Gone) };
        let next_uid = next.parse::<u32>().unwrap_or(0);
        if memory.epoch <= u64::try_from(epoch).unwrap_or(0)
            && (memory.highest_uid < uids.first || memory.highest_uid < next_uid)
        {
            return Ok(HighWaterCompared::Known);
        }
        Ok(transaction!(&self.store.db, |tx| {
            let compared = compare(&self.store.db, tx, id, memory, uids, now).await?;
            if matches!(compared, HighWaterCompared::Impossible(_)) {
                tx.abandon();
            }
            Ok(compared)
        })?)
    }

    /// A node refused a claim's epoch, because it has seen the epoch `seen`. If the claim still holds, nobody has
    /// taken the node over: the database is older than the node, or was until a moment ago. Then the claim gets an
    /// epoch above `seen`, and a node that the database had at a lower one is dirty.
    pub async fn renew_epoch(
        self,
        claim: &NodeClaim,
        seen: u64,
        now: Timestamp,
    ) -> Result<ClaimRenewed, StoreError> {
        Ok(transaction!(&self.store.db, |tx| { renew_epoch(tx, claim, seen, now).await })?)
    }

    /// A node refused the uid of the new lease `lease`, because it has seen the uid `highest`. The lease gets
    /// another uid, above all that this node has seen; so does every lease after it.
    pub async fn renew_uid(
        self,
        claim: &NodeClaim,
        lease: LeaseId,
        highest: u32,
        uids: UidRange,
        now: Timestamp,
    ) -> Result<ClaimRenewed, StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let renewed = renew_uid(&self.store.db, tx, (claim, lease), highest, uids, now).await?;
            if !matches!(renewed, ClaimRenewed::Renewed(_)) {
                tx.abandon();
            }
            Ok(renewed)
        })?)
    }

    /// A node gives rights of its own to the account name of the new lease `lease`. The account gets the name of its
    /// uid ([`UnixName::of_uid`]).
    pub async fn rename_account(
        self,
        claim: &NodeClaim,
        lease: LeaseId,
        reason: &str,
        now: Timestamp,
    ) -> Result<ClaimRenewed, StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let renamed = rename_account(tx, (claim, lease), reason, now).await?;
            if !matches!(renamed, ClaimRenewed::Renewed(_)) {
                tx.abandon();
            }
            Ok(renamed)
        })?)
    }
}

async fn rename_account(
    tx: &mut Tx,
    (claim, id): (&NodeClaim, LeaseId),
    reason: &str,
    now: Timestamp,
) -> Result<ClaimRenewed> {
    let node = claim.node.id;
    let Some(lease) = provisioned_under(tx, claim, id).await? else { return Ok(ClaimRenewed::Superseded) };
    let Some(account) = &lease.account else { return Ok(ClaimRenewed::Superseded) };
    let (from, to) = (&account.user, UnixName::of_uid(account.uid));
    let sql = "UPDATE leases SET client_user = ?, version = version + 1 WHERE id = ? AND version = ?";
    if tx.exec(sql, vals![to.as_str(), lease.id, lease.version]).await? == 0 {
        return Err(Fault::Retry(format!("lease {id} changed meanwhile")));
    }
    // Which rights a node gives to whom is for its admins.
    tracing::info!(lease = %id, %node, %from, %to, reason, "the account gets another name");
    let event = LeaseEvent::NewAccount { from: from.clone(), to };
    tx.append_events(&[lease_event(&lease, node, &event, None)], now).await?;
    renewed(tx, claim, now).await
}

/// The lease, if it is being provisioned on the claim's node and the claim still holds.
async fn provisioned_under(tx: &mut Tx, claim: &NodeClaim, id: LeaseId) -> Result<Option<Lease>> {
    let node = claim.node.id;
    let token = tx.node_record(node).await?.and_then(|record| record.claim_token);
    let lease = tx.lease(id).await?.filter(|lease| lease.state == LeaseState::Provisioning { node });
    Ok(lease.filter(|_| token.as_deref() == Some(claim.token.as_str())))
}

async fn compare(
    db: &Db,
    tx: &mut Tx,
    id: NodeId,
    memory: HighWaterMarks,
    uids: UidRange,
    now: Timestamp,
) -> Result<HighWaterCompared> {
    // In the order of a placement: first the uids, then the node.
    let next_uid = match raise_uids(db, tx, id, memory.highest_uid, uids, now).await? {
        Raise::NotNeeded => None,
        Raise::To(next) => Some(next),
        Raise::Impossible(why) => return Ok(HighWaterCompared::Impossible(why)),
    };
    let Some(record) = tx.node_record(id).await? else { return Ok(HighWaterCompared::Gone) };
    let known = u64::try_from(record.epoch).unwrap_or(0);
    let mut epoch = None;
    if known < memory.epoch {
        if let Some(why) = impossible_epoch(memory.epoch, now) {
            return Ok(HighWaterCompared::Impossible(why));
        }
        epoch = raise_epoch(tx, &record, memory.epoch, now).await?;
    }
    if epoch.is_none() && next_uid.is_none() {
        return Ok(HighWaterCompared::Known);
    }
    Ok(HighWaterCompared::Raised { epoch, next_uid })
}

/// Raises the node's epoch above `seen`. A database that had it lower is older than the node, so what it says of
/// the node need not be so: the node is dirty then, and it is told. None: the node is gone.
async fn raise_epoch(tx: &mut Tx, record: &NodeRecord, seen: u64, now: Timestamp) -> Result<Option<u64>> {
    let known = u64::try_from(record.epoch).unwrap_or(0);
    let raised = known.max(seen) + 1;
    let is_older = known < seen;
    let change = NodeChange {
        sets: "epoch = ?, desired_version = desired_version + ?, unclean = CASE WHEN ? = 1 THEN 1 ELSE unclean END, \
               retry_at = CASE WHEN ? = 1 THEN 0 ELSE retry_at END",
        values: vals![number(raised), i64::from(is_older), is_older, is_older],
        guard: "AND version = ?",
        guard_values: vals![record.version],
        event: is_older.then_some(NodeEvent::EpochRaised { from: known, to: raised, seen_by_node: seen }),
        ..NodeChange::default()
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
    let event = UidsEvent::Raised { from: next, to: highest + 1, seen_by_node: highest };
    tx.append_events(&[NewEvent::new(event).of_node(id)], now).await?;
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
    let Some(lease) = provisioned_under(tx, claim, id).await? else { return Ok(ClaimRenewed::Superseded) };
    let Some(account) = &lease.account else { return Ok(ClaimRenewed::Superseded) };
    let uid = next_free_uid(&claim.node.subordinate_uids, stored.max(uids.first));
    if uid > uids.last {
        return Ok(ClaimRenewed::UidsExhausted);
    }
    tx.set_next_uid(stored, uid + 1).await?;
    let sql = "UPDATE leases SET account_uid = ?, version = version + 1 WHERE id = ? AND version = ?";
    if tx.exec(sql, vals![uid, lease.id, lease.version]).await? == 0 {
        return Err(Fault::Retry(format!("lease {id} changed meanwhile")));
    }
    let event = LeaseEvent::NewUid { from: account.uid, to: uid, seen_by_node: highest };
    tx.append_events(&[lease_event(&lease, node, &event, None)], now).await?;
    renewed(tx, claim, now).await
}
