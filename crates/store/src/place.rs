//! Placement: which free node a lease gets, all or none for several.
//!
//! On MariaDB free nodes are read and uids reserved first (so that placements need not queue behind each other);
//! then one transaction: the lease's row, and a compare-and-swap on the node, as it was read, that repeats every
//! condition. On SQLite, which has one writer, all of it is in the transaction. The UNIQUE on
//! `leases.occupies_node` has the last word (I1, I7).
//!
//! Uids of one node only grow: a node is read before the uid is reserved, and the compare-and-swap fails if any
//! other lease was on it since. A uid that was reserved for a placement that came to nothing is lost; so nothing is
//! reserved for a request that is known to come to nothing.

use crate::{
    Store,
    attempts::{Tx, Witness, transaction},
    claims::{CLAIMABLE, node_claim},
    db::{Db, Val, vals},
    error::{Fault, Result, StoreError},
    events::new_ulid,
    idempotency::First,
    model::{NewAccount, PlaceOutcome, PlaceRequest, Placement},
    rows::{NodeRecord, json, node_record_sql, on_node_loss_word},
    stock::{Pick, Picked, free_nodes},
    transitions::lease_event,
    uids::{Wish, read_uid},
};
use orion_domain::{
    LeaseId, NodeId, Secret, Timestamp,
    lease::{Account, Lease, LeaseEvent, LeaseState},
    names::{LeaseName, Tag},
};
use rand::seq::SliceRandom;
use sqlx::AssertSqlSafe;
use std::time::Duration;

/// When a node may be offered; says the same as [`orion_domain::node::Node::is_offerable`]. To it comes
/// [`CLAIMABLE`]: a node that is worked on is not offered.
pub(crate) const OFFERABLE: &str = "admission = 'admitted' AND health = 'alive' AND quarantine IS NULL \
                         AND cordon IS NULL AND lease_id IS NULL AND applied_version = desired_version";

/// Candidates that are read at least, to choose from at random.
const CANDIDATES_MIN: usize = 64;
/// Times that a placement is tried again with other nodes.
const CHOICES_MAX: u32 = 20;

/// A node that may be offered.
pub(crate) struct Candidate {
    pub id: NodeId,
    subordinate: Vec<(u32, u32)>,
}

/// The first uid from `uid` on that none of these subordinate ranges of a node holds.
pub(crate) fn next_free_uid(subordinate: &[(u32, u32)], mut uid: u32) -> u32 {
    while let Some((start, count)) = subordinate.iter().find(|range| holds(**range, uid)) {
        uid = start.saturating_add(*count);
    }
    uid
}

impl Candidate {
    pub(crate) fn may_have_uid(&self, uid: u32) -> bool {
        !self.subordinate.iter().any(|range| holds(*range, uid))
    }
}

const fn holds((start, count): (u32, u32), uid: u32) -> bool {
    start <= uid && uid < start.saturating_add(count)
}

/// Who provisions, and how long its claims hold.
#[derive(Clone, Copy)]
pub(crate) struct Claimer<'a> {
    pub holder: &'a str,
    pub ttl: Duration,
}

impl Tx {
    /// Free nodes that have all `tags`, in random order; without those that are unfit for the lease `unfit`.
    pub(crate) async fn candidates(
        &mut self,
        tags: &[Tag],
        unfit: Option<LeaseId>,
        at_least: usize,
        now: Timestamp,
    ) -> Result<Vec<Candidate>> {
        let mut sql = format!("SELECT id, subordinate_uids FROM nodes WHERE {OFFERABLE} AND {CLAIMABLE}");
        let mut values = vals![now];
        for tag in tags {
            sql.push_str(" AND id IN (SELECT node_id FROM node_tags WHERE tag = ?)");
            values.push(tag.as_str().into());
        }
        if let Some(lease) = unfit {
            sql.push_str(" AND id NOT IN (SELECT node_id FROM lease_unfit WHERE lease_id = ?)");
            values.push(lease.into());
        }
        sql.push_str(" LIMIT ?");
        values.push(i64::try_from(at_least.max(CANDIDATES_MIN)).unwrap_or(i64::MAX).into());
        let rows = self.all::<(i64, String)>(AssertSqlSafe(sql), values).await?;
        let mut candidates = Vec::with_capacity(rows.len());
        for (id, ranges) in rows {
            let subordinate = serde_json::from_str(&ranges).map_err(|error| StoreError::Corrupt {
                table: "nodes",
                id,
                detail: format!("subordinate_uids: {error}"),
            })?;
            candidates.push(Candidate { id: NodeId(id), subordinate });
        }
        candidates.shuffle(&mut rand::rng());
        Ok(candidates)
    }

    /// Gives a free node to a lease and claims it; with `seen` only if nobody had it since that epoch. None when it is
    /// free no more.
    pub(crate) async fn occupy(
        &mut self,
        (node, seen): (NodeId, Option<i64>),
        lease: LeaseId,
        claimer: Claimer<'_>,
        now: Timestamp,
    ) -> Result<Option<String>> {
        let token = new_ulid(now);
        let as_seen = if seen.is_some() { "AND epoch = ?" } else { "" };
        let sql = format!(
            "UPDATE nodes SET lease_id = ?, desired_version = desired_version + 1, epoch = epoch + 1, \
             claimed_by = ?, claim_token = ?, claimed_until = ?, version = version + 1, changed_at = ? \
             WHERE id = ? AND {OFFERABLE} AND {CLAIMABLE} {as_seen}"
        );
        let mut values = vals![lease, claimer.holder, &token, now.plus(claimer.ttl), now, node, now];
        values.extend(seen.map(Val::from));
        if self.exec(AssertSqlSafe(sql), values).await? == 0 {
            return Ok(None);
        }
        self.leave_witness(Witness::Claim(node.0, token.clone()));
        Ok(Some(token))
    }

    /// The uids from `stored` to before `next` are given out; the caller runs everything again when others took them.
    pub(crate) async fn set_next_uid(&mut self, stored: u32, next: u32) -> Result<()> {
        let sql = "UPDATE settings SET value = ? WHERE name = 'next_uid' AND value = ?";
        if self.exec(sql, vals![next.to_string(), stored.to_string()]).await? == 0 {
            return Err(Fault::Retry("another placement took these uids".into()));
        }
        Ok(())
    }

    /// When the next lease ends.
    pub(crate) async fn next_end(&mut self, now: Timestamp) -> Result<Option<Timestamp>> {
        let row = self.one::<(Option<i64>,)>(NEXT_END, vals![now]).await?;
        Ok(row.and_then(|(at,)| at).map(Timestamp::from_micros))
    }
}

/// The earliest end after `?` of leases that run.
const NEXT_END: &str = "SELECT MIN(leased_until) FROM leases \
    WHERE state IN ('provisioning', 'active', 'migrating', 'releasing') AND leased_until > ?";

/// Why a placement was given up: everything is rolled back.
enum GiveUp {
    As(PlaceOutcome),
    /// A node was not free any more, or the uid not unused: it is tried again with others.
    Missed(String),
    Fault(Fault),
}

impl From<Fault> for GiveUp {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StoreError> for GiveUp {
    fn from(error: StoreError) -> Self {
        Self::Fault(error.into())
    }
}

/// What a placement knows before its transaction.
enum Ready {
    /// Nodes, and the first of the uids for them, which none of their subordinate ranges hold.
    Nodes(Picked, u32),
    TooFew(usize),
    UidsExhausted,
    NameTaken(String),
    /// The idempotency key was used before.
    Known,
    /// Nothing yet: the transaction looks for itself.
    Nothing,
}

impl Store {
    /// Places `count` leases on `count` free nodes that have the tags, or none at all.
    ///
    /// Every node is claimed for the caller, who makes the accounts and reports with
    /// [`Store::finish_reconcile`].
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Config`] when `accounts` has another length than `count`.
    pub async fn place(&self, request: &PlaceRequest) -> Result<PlaceOutcome, StoreError> {
        if request.accounts.len() != request.count {
            return Err(StoreError::Config("a placement needs one account for each lease".into()));
        }
        let mut missed = String::new();
        for _ in 0..CHOICES_MAX {
            let ready = if self.db.is_maria() { self.get_ready(request).await? } else { Ready::Nothing };
            let outcome = transaction!(&self.db, |tx| {
                match place(&self.db, tx, request, &ready).await {
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
                    self.db.retries().count(&Fault::Retry(why.clone()));
                    missed = why;
                }
            }
            drop(ready);
            self.stock.clear().await;
        }
        Err(StoreError::Unavailable(missed))
    }

    /// Looks at what needs no transaction. Nothing is reserved that this can tell is in vain.
    async fn get_ready(&self, request: &PlaceRequest) -> Result<Ready> {
        let now = request.now;
        if let Some(new) = &request.idem {
            let sql = "SELECT 1 FROM idempotency WHERE scope = ? AND key_sha256 = ? AND expires_at > ?";
            if self.db.one::<(i64,)>(sql, vals![&new.scope, &new.key_sha256, now]).await?.is_some() {
                return Ok(Ready::Known);
            }
        }
        for name in lease_names(request).unwrap_or_default().iter().flatten() {
            let sql = "SELECT 1 FROM leases WHERE user_id = ? AND live_name = ?";
            if self.db.one::<(i64,)>(sql, vals![request.user, name.as_str()]).await?.is_some() {
                return Ok(Ready::NameTaken(name.to_string()));
            }
        }
        let picked = match self.stock.pick(&self.db, &request.tags, request.count, now).await? {
            Pick::Nodes(picked) => picked,
            Pick::TooFew(found) => return Ok(Ready::TooFew(found)),
        };
        let count = u32::try_from(request.count).unwrap_or(u32::MAX);
        let mut at_least = request.first_uid;
        loop {
            let wish = Wish { count, at_least, last: request.last_uid };
            let Some(first) = self.uids.reserve(&self.db, wish).await? else {
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
    let names = lease_names(request)?;
    let (nodes, stored) = match ready {
        Ready::Nodes(picked, first) => (picked.nodes.clone(), *first),
        Ready::Nothing => {
            let (rest, values) = free_nodes(&request.tags, request.count.max(CANDIDATES_MIN), now);
            let mut nodes = tx.all::<NodeRecord>(node_record_sql(&rest), values).await?;
            nodes.shuffle(&mut rand::rng());
            if nodes.len() < request.count {
                return Err(GiveUp::As(too_few(tx, nodes.len(), now).await?));
            }
            (nodes, next_uid(db, tx).await?)
        }
        Ready::TooFew(found) => return Err(GiveUp::As(too_few(tx, *found, now).await?)),
        Ready::UidsExhausted => return Err(GiveUp::As(PlaceOutcome::UidsExhausted)),
        Ready::NameTaken(name) => return Err(GiveUp::As(PlaceOutcome::NameTaken(name.clone()))),
        Ready::Known => return Err(GiveUp::Missed("the idempotency key was given up".into())),
    };
    let claimer = Claimer { holder: &request.holder, ttl: request.claim_ttl };
    let mut next = stored.max(request.first_uid);
    let mut placed = Vec::with_capacity(request.count);
    for ((node, account), name) in nodes.into_iter().zip(&request.accounts).zip(names) {
        let uid = next_free_uid(&node.subordinate()?, next);
        if uid > request.last_uid {
            return Err(GiveUp::As(PlaceOutcome::UidsExhausted));
        }
        next = uid + 1;
        let lease = insert_lease(tx, request, NodeId(node.id), account, name, uid).await?;
        let seen = (NodeId(node.id), Some(node.epoch));
        let Some(token) = tx.occupy(seen, lease.id, claimer, now).await? else {
            return Err(GiveUp::Missed(format!("node {} was taken meanwhile", node.id)));
        };
        let node = node.occupied(lease.id, &token, now.plus(claimer.ttl));
        let claim = node_claim(node, token, Some(&lease), now)?;
        placed.push(Placement { lease, claim });
    }
    if matches!(ready, Ready::Nothing) {
        tx.set_next_uid(stored, next).await?;
    }
    tell_placed(tx, &placed, now).await?;
    Ok(placed)
}

async fn too_few(tx: &mut Tx, found: usize, now: Timestamp) -> Result<PlaceOutcome> {
    Ok(PlaceOutcome::TooFew { found, next_end: tx.next_end(now).await? })
}

fn lease_names(request: &PlaceRequest) -> std::result::Result<Vec<Option<LeaseName>>, GiveUp> {
    let Some(name) = &request.name else { return Ok(vec![None; request.count]) };
    if request.count == 1 {
        return Ok(vec![Some(name.clone())]);
    }
    let numbered = (1..=request.count).map(|number| {
        let name = format!("{name}-{number}");
        name.parse::<LeaseName>().map(Some).map_err(|_| GiveUp::As(PlaceOutcome::NameTaken(name)))
    });
    numbered.collect()
}

/// The next uid of the fleet. On MariaDB the row is locked. (Galera keeps locks local: there the write of
/// [`Tx::set_next_uid`] decides.)
pub(crate) async fn next_uid(db: &Db, tx: &mut Tx) -> Result<u32> {
    let sql = db.sql(
        "SELECT value FROM settings WHERE name = 'next_uid' FOR UPDATE",
        "SELECT value FROM settings WHERE name = 'next_uid'",
    );
    read_uid(tx.one::<(String,)>(sql, vec![]).await?.map(|(value,)| value))
}

async fn insert_lease(
    tx: &mut Tx,
    request: &PlaceRequest,
    node: NodeId,
    account: &NewAccount,
    name: Option<LeaseName>,
    uid: u32,
) -> std::result::Result<Lease, GiveUp> {
    let now = request.now;
    let mut lease = Lease {
        id: LeaseId(0),
        ulid: new_ulid(now),
        user: request.user,
        name,
        account: Account {
            user: request.username.clone(),
            uid,
            password_hash: Secret::new(account.password_hash.expose()),
            public_key: account.public_key.clone(),
        },
        from: request.from,
        until: request.until,
        on_node_loss: request.on_node_loss,
        tags: request.tags.clone(),
        request_key: request.request_key.clone(),
        finish_after_crash: request.idem.is_some(),
        state: LeaseState::Provisioning { node },
        since: now,
        deadline_applied: None,
        version: 1,
    };
    let name = lease.name.as_ref().map(LeaseName::as_str);
    let sql = "INSERT INTO leases (uid, user_id, name, live_name, client_user, account_uid, password_hash, \
               public_key, state, state_since, node_id, occupies_node, leased_from, leased_until, \
               on_node_loss, tags, request_key, finish_after_crash) \
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let mut values = vals![&lease.ulid, lease.user, name, name, lease.account.user.as_str(), uid];
    values.extend(vals![account.password_hash.expose(), account.public_key.as_deref()]);
    values.extend(vals![lease.state.phase().as_str(), now, node, node, lease.from, lease.until]);
    values.extend(vals![
        on_node_loss_word(lease.on_node_loss),
        json(&lease.tags)?,
        &lease.request_key,
        lease.finish_after_crash
    ]);
    match tx.insert(sql, values).await {
        Ok(id) => {
            lease.id = LeaseId(id);
            Ok(lease)
        }
        Err(Fault::Unique(text)) if text.contains("live_name") => {
            Err(GiveUp::As(PlaceOutcome::NameTaken(name.unwrap_or_default().into())))
        }
        // Somebody else has the node or the uid: choose again.
        Err(Fault::Unique(text)) => Err(GiveUp::Missed(text)),
        Err(fault) => Err(fault.into()),
    }
}

async fn tell_placed(tx: &mut Tx, placed: &[Placement], now: Timestamp) -> Result<()> {
    let mut events = Vec::with_capacity(placed.len());
    let mut values: Vec<Val> = Vec::with_capacity(placed.len() * 3);
    for Placement { lease, .. } in placed {
        let Some(node) = lease.state.occupies() else { continue };
        events.push(lease_event(lease, node, &LeaseEvent::Placed { node }, None));
        values.extend(vals![lease.id, node, now]);
    }
    let rows = vec!["(?, ?, ?)"; placed.len()].join(", ");
    let sql = format!("INSERT INTO lease_nodes (lease_id, node_id, at) VALUES {rows}");
    tx.exec(AssertSqlSafe(sql), values).await?;
    tx.tell(&events, now).await
}
