//! Placement: which free node a lease gets, all or none for several.
//!
//! On MariaDB free nodes are read and uids reserved first (so that placements need not queue behind each other);
//! then one transaction: the lease's row, and a compare-and-swap on the node, as it was read, that repeats every
//! condition. On SQLite, which has one writer, all of it is in the transaction. The UNIQUE on the whole-node hold has
//! the last word (I1, I7).
//!
//! Placing takes capacity and no claim: who provisions claims the node afterwards, as for any work
//! ([`crate::Nodes::claim_placed`]). A free node that is claimed is offered, too, after those that are not: its work is
//! waited for. Until `nodes.first_turn_until` the scheduler leaves the node to who provisions.
//!
//! Uids of one node only grow: a node is read before the uid is reserved, and the compare-and-swap fails if any
//! other lease was on it since. A uid that was reserved for a placement that came to nothing is lost; so nothing is
//! reserved for a request that is known to come to nothing.

use super::Leases;
use crate::{
    engine::{Db, Fault, Result, StoreError, Tx, Val, transaction, vals},
    idempotency::First,
    leases::candidates::{Picked, READ_MIN, Selection, has_room, next_free_uid},
    leases::first_container::make_containers,
    leases::hold::SliceSize,
    leases::insert::{GiveUp, insert_lease, lease_names, next_uid, stay_within_quota, tell_placed, too_few},
    leases::placement::{PlaceOutcome, PlaceRequest, Placement},
    leases::rooms::PickedRoom,
    leases::slice::place_slices,
    leases::uids::UidRequest,
    nodes::claimed::node_claim,
    nodes::conditions::OFFERABLE,
    nodes::row::{NodeRecord, node_record_sql},
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    lease::{Holding, LeaseState},
};
use rand::seq::SliceRandom;
use sqlx::AssertSqlSafe;
use std::time::{Duration, Instant};

/// A placement that waited this long for the database counts from when it is written.
const LATE: Duration = Duration::from_millis(250);
/// Times that a placement is tried again with other nodes.
const CHOICES_MAX: u32 = 20;
/// Times that the node of a slice is chosen before its transaction; then the transaction itself looks for one.
const ROOMS_PICKED_MAX: u32 = 3;

impl Tx {
    /// Gives a free node, or a slice of it, to a lease; with `seen` only if what a whole node is to hold has not
    /// changed
    /// since that version. False when it is free no more.
    pub(crate) async fn occupy(
        &mut self,
        (node, seen): (NodeId, Option<i64>),
        (lease, holding): (LeaseId, Holding),
        turn_until: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        if let Some(slice) = SliceSize::of(holding) {
            return self.take_slice((node, lease), slice, turn_until, now).await;
        }
        let as_seen = if seen.is_some() { "AND desired_version = ?" } else { "" };
        let sql = format!(
            "UPDATE nodes SET whole_lease = ?, desired_version = desired_version + 1, first_turn_until = ?, \
             version = version + 1, changed_at = ? WHERE id = ? AND {OFFERABLE} {as_seen}"
        );
        let mut values = vals![lease, turn_until, now, node];
        values.extend(seen.map(Val::from));
        Ok(self.exec(AssertSqlSafe(sql), values).await? == 1)
    }
}

/// The same request, made later by `waited`.
fn later(request: &PlaceRequest, waited: Duration) -> PlaceRequest {
    let mut request = request.clone();
    for at in [&mut request.now, &mut request.from, &mut request.until] {
        *at = at.plus(waited);
    }
    if let Some(key) = &mut request.idem {
        key.expires_at = key.expires_at.plus(waited);
    }
    request
}

/// State of a placement before its transaction.
enum Ready {
    /// Nodes, and the first of the uids for them, which none of their subordinate ranges hold.
    Nodes(Picked, u32),
    /// The node of one slice.
    Room(PickedRoom),
    TooFew(usize),
    UidsExhausted,
    NameTaken(String),
    /// The idempotency key was used before.
    Known,
    /// No prepared data: the transaction searches itself.
    Nothing,
}

impl Leases<'_> {
    /// Places `count` leases on nodes that have the tags, or none at all: whole ones on `count` free nodes, slices on the
    /// fullest nodes that have room, also several on one.
    ///
    /// The caller claims each node ([`crate::Nodes::claim_placed`]), makes the account, and reports with
    /// [`crate::Nodes::finish_reconcile`].
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Config`] when there are accounts, but not one for each lease.
    pub async fn place(self, request: &PlaceRequest) -> Result<PlaceOutcome, StoreError> {
        request.check_accounts()?;
        let (asked, mut missed) = (Instant::now(), String::new());
        for choice in 0..CHOICES_MAX {
            let ready = self.get_ready(request, choice).await?;
            let outcome = transaction!(&self.store.db, |tx| {
                // A turn and a lease are counted from when they are written, not from when they were asked for.
                let waited = asked.elapsed();
                let late = (waited >= LATE).then(|| later(request, waited));
                match place(&self.store.db, tx, late.as_ref().unwrap_or(request), &ready).await {
                    Ok(placements) => Ok(Ok(PlaceOutcome::Placed(placements))),
                    Err(GiveUp::As(outcome)) => {
                        tx.abandon();
                        Ok(Ok(outcome))
                    }
                    Err(GiveUp::Missed(why)) => {
                        tx.abandon();
                        Ok(Err(why))
                    }
                    Err(GiveUp::Fault(fault)) => Err(fault),
                }
            });
            match outcome? {
                Ok(outcome) => return Ok(outcome),
                Err(why) => {
                    self.store.db.retries().count(&Fault::Retry(why.clone()));
                    missed = why;
                }
            }
            drop(ready);
            self.store.candidates.clear().await;
            self.store.rooms.clear().await;
        }
        Err(StoreError::Unavailable(missed))
    }

    /// Looks at what needs no transaction, where another placement can go on meanwhile; `choice`: how often it was in vain.
    async fn get_ready(self, request: &PlaceRequest, choice: u32) -> Result<Ready> {
        if !self.store.db.is_maria() {
            return Ok(Ready::Nothing);
        }
        if let Some(size) = SliceSize::of(request.holding) {
            if choice >= ROOMS_PICKED_MAX {
                return Ok(Ready::Nothing);
            }
            let room = self.store.rooms.pick(&self.store.db, request, size).await?;
            return Ok(room.map_or(Ready::Nothing, Ready::Room));
        }
        // A whole node with a container is chosen where it is taken.
        if request.containers.is_empty() { self.get_nodes_ready(request).await } else { Ok(Ready::Nothing) }
    }

    /// Looks for whole nodes, and reserves uids for them. Nothing is reserved that this can tell is in vain.
    async fn get_nodes_ready(self, request: &PlaceRequest) -> Result<Ready> {
        let now = request.now;
        if let Some(new) = &request.idem {
            let sql = "SELECT 1 FROM idempotency WHERE scope = ? AND key_sha256 = ? AND expires_at > ?";
            if self.store.db.one::<(i64,)>(sql, vals![&new.scope, &new.key_sha256, now]).await?.is_some() {
                return Ok(Ready::Known);
            }
        }
        for name in lease_names(request).unwrap_or_default().iter().flatten() {
            let sql = "SELECT 1 FROM leases WHERE user_id = ? AND live_name = ?";
            if self.store.db.one::<(i64,)>(sql, vals![request.user, name.as_str()]).await?.is_some() {
                return Ok(Ready::NameTaken(name.to_string()));
            }
        }
        let picked =
            match self.store.candidates.pick(&self.store.db, &request.tags, request.count, now).await? {
                Selection::Nodes(picked) => picked,
                Selection::TooFew(found) => return Ok(Ready::TooFew(found)),
            };
        let count = u32::try_from(request.accounts.len()).unwrap_or(u32::MAX);
        let mut at_least = request.first_uid;
        if count == 0 {
            return Ok(Ready::Nodes(picked, at_least));
        }
        loop {
            let wish = UidRequest { count, at_least, last: request.last_uid };
            let Some(first) = self.store.uids.reserve(&self.store.db, wish).await? else {
                return Ok(Ready::UidsExhausted);
            };
            // Others where a node has given one of these to its own users.
            let mut fit = true;
            for (node, uid) in picked.nodes.iter().zip(first..) {
                let free = next_free_uid(&node.subordinate()?, uid);
                fit &= free == uid;
                at_least = at_least.max(free);
            }
            if fit {
                return Ok(Ready::Nodes(picked, first));
            }
        }
    }
}

async fn place(
    db: &Db,
    tx: &mut Tx,
    request: &PlaceRequest,
    ready: &Ready,
) -> std::result::Result<Vec<Placement>, GiveUp> {
    let now = request.now;
    if let Some(new) = &request.idem
        && let First::No(row) = tx.take_key(new, now).await?
    {
        return Err(GiveUp::As(PlaceOutcome::Replayed(row)));
    }
    if let Some(slice) = SliceSize::of(request.holding) {
        let picked = if let Ready::Room(picked) = ready { Some(picked) } else { None };
        return place_slices(db, tx, request, slice, picked).await;
    }
    let names = lease_names(request)?;
    let (nodes, stored) = match ready {
        Ready::Nodes(picked, first) => (picked.nodes.clone(), *first),
        Ready::Room(_) | Ready::Nothing => {
            let (room, mut values) = has_room(&request.tags, request.holding);
            let (engine, engine_values) = request.takes_containers();
            values.extend(engine_values);
            values.push(i64::try_from(request.count.max(READ_MIN)).unwrap_or(i64::MAX).into());
            let sql = node_record_sql(&format!("WHERE {room}{engine} LIMIT ?"));
            let mut nodes = tx.all::<NodeRecord>(sql, values).await?;
            nodes.shuffle(&mut rand::rng());
            nodes.sort_by_key(|node| node.is_claimed(now));
            if nodes.len() < request.count {
                return Err(GiveUp::As(too_few(tx, nodes.len(), &request.tags, now).await?));
            }
            (nodes, next_uid(db, tx).await?)
        }
        Ready::TooFew(found) => return Err(GiveUp::As(too_few(tx, *found, &request.tags, now).await?)),
        Ready::UidsExhausted => return Err(GiveUp::As(PlaceOutcome::UidsExhausted)),
        Ready::NameTaken(name) => return Err(GiveUp::As(PlaceOutcome::NameTaken(name.clone()))),
        Ready::Known => return Err(GiveUp::Missed("the idempotency key was given up".into())),
    };
    // After what is known to come to nothing: that takes no lock.
    stay_within_quota(tx, request).await?;
    let turn_until = now.plus(request.first_turn);
    let mut next = stored.max(request.first_uid);
    let mut placed = Vec::with_capacity(request.count);
    for ((number, node), name) in nodes.into_iter().enumerate().zip(names) {
        let account = request.account(number, &node.subordinate()?, &mut next)?;
        let state = LeaseState::Provisioning { node: NodeId(node.id) };
        let lease = insert_lease(tx, request, state, account, name).await?;
        let seen = (NodeId(node.id), Some(node.desired_version));
        if !tx.occupy(seen, (lease.id, lease.holding), turn_until, now).await? {
            return Err(GiveUp::Missed(format!("node {} was taken meanwhile", node.id)));
        }
        let node = node.occupied(lease.id);
        let holds = vec![(lease.id, 1)];
        let ahead = node_claim(node, String::new(), (std::slice::from_ref(&lease), holds), now)?;
        placed.push(Placement { lease, node: ahead.node.id, ahead: Some(ahead) });
    }
    if !matches!(ready, Ready::Nodes(..)) && next != stored {
        tx.set_next_uid(stored, next).await?;
    }
    let told: Vec<_> = placed.iter().map(|placement| (&placement.lease, placement.node())).collect();
    tell_placed(tx, &told, now).await?;
    Ok(make_containers(tx, request, placed, now).await?)
}
