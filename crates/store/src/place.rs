//! Placement: which free node a lease gets, all or none for several.
//!
//! One transaction: the uid counter (which also queues placements one behind the other), candidates, a
//! random choice, the lease's row, and a compare-and-swap on the node that repeats every condition. The
//! UNIQUE on `leases.occupies_node` has the last word (I1, I7).

use crate::{
    Store,
    attempts::{Tx, Witness, transaction},
    claims::{CLAIMABLE, node_claim},
    db::{Db, Val, vals},
    error::{Fault, Result, StoreError},
    events::new_ulid,
    idempotency::First,
    model::{NewAccount, PlaceOutcome, PlaceRequest, Placement},
    nodes::places,
    rows::{NodeRecord, json, node_sql, on_node_loss_word},
    transitions::lease_event,
};
use orion_domain::{
    LeaseId, NodeId, Secret, Timestamp,
    lease::{Account, Lease, LeaseEvent, LeaseState},
    names::{LeaseName, Tag},
};
use rand::seq::SliceRandom;
use sqlx::AssertSqlSafe;
use std::{collections::HashMap, time::Duration};

/// When a node may be offered; says the same as [`orion_domain::node::Node::is_offerable`]. To it comes
/// [`CLAIMABLE`]: a node that is worked on is not offered.
pub(crate) const OFFERABLE: &str = "admission = 'admitted' AND health = 'alive' AND quarantine IS NULL \
                         AND cordon IS NULL AND lease_id IS NULL AND applied_version = desired_version";

/// Candidates that are read at least, to choose from at random.
const CANDIDATES_MIN: usize = 64;

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

    /// Gives a free node to a lease and claims it; the caller runs everything again when it is free no more.
    pub(crate) async fn occupy(
        &mut self,
        node: NodeId,
        lease: LeaseId,
        claimer: Claimer<'_>,
        now: Timestamp,
    ) -> Result<String> {
        let token = new_ulid(now);
        let sql = format!(
            "UPDATE nodes SET lease_id = ?, desired_version = desired_version + 1, epoch = epoch + 1, \
             claimed_by = ?, claim_token = ?, claimed_until = ?, version = version + 1, changed_at = ? \
             WHERE id = ? AND {OFFERABLE} AND {CLAIMABLE}"
        );
        let values = vals![lease, claimer.holder, &token, now.plus(claimer.ttl), now, node, now];
        if self.exec(AssertSqlSafe(sql), values).await? == 0 {
            return Err(Fault::Retry(format!("node {node} was taken meanwhile")));
        }
        self.leave_witness(Witness::Claim(node.0, token.clone()));
        Ok(token)
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
        let outcome = transaction!(&self.db, |tx| {
            match place(&self.db, tx, request).await {
                Ok(placements) => Ok(PlaceOutcome::Placed(placements)),
                Err(GiveUp::As(outcome)) => {
                    tx.abandon();
                    Ok(outcome)
                }
                Err(GiveUp::Fault(fault)) => Err(fault),
            }
        });
        Ok(outcome?)
    }
}

async fn place(db: &Db, tx: &mut Tx, request: &PlaceRequest) -> std::result::Result<Vec<Placement>, GiveUp> {
    let now = request.now;
    if let Some(new) = &request.idem
        && let First::No(row) = tx.take_key(new, now).await?
    {
        return Err(GiveUp::As(PlaceOutcome::Replayed(row)));
    }
    let names = lease_names(request)?;
    let stored = next_uid(db, tx).await?;
    let candidates = tx.candidates(&request.tags, None, request.count, now).await?;
    if candidates.len() < request.count {
        let next_end = tx.next_end(now).await?;
        return Err(GiveUp::As(PlaceOutcome::TooFew { found: candidates.len(), next_end }));
    }
    let claimer = Claimer { holder: &request.holder, ttl: request.claim_ttl };
    let mut next = stored.max(request.first_uid);
    let mut placed = Vec::with_capacity(request.count);
    for ((node, account), name) in candidates.iter().zip(&request.accounts).zip(names) {
        let uid = next_free_uid(&node.subordinate, next);
        if uid > request.last_uid {
            return Err(GiveUp::As(PlaceOutcome::UidsExhausted));
        }
        next = uid + 1;
        let lease = insert_lease(tx, request, node.id, account, name, uid).await?;
        let token = tx.occupy(node.id, lease.id, claimer, now).await?;
        placed.push((lease, token));
    }
    tx.set_next_uid(stored, next).await?;
    tell_placed(tx, &placed, now).await?;
    Ok(with_claims(tx, placed, now).await?)
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

/// The next uid of the fleet. On MariaDB the row is locked: placements of one host queue here, so they do
/// not get into each other's way on the nodes. (Galera keeps locks local: there the write below decides.)
pub(crate) async fn next_uid(db: &Db, tx: &mut Tx) -> Result<u32> {
    let sql = db.sql(
        "SELECT value FROM settings WHERE name = 'next_uid' FOR UPDATE",
        "SELECT value FROM settings WHERE name = 'next_uid'",
    );
    let value = tx.one::<(String,)>(sql, vec![]).await?.map(|(value,)| value);
    let uid = value.as_deref().and_then(|value| value.parse().ok());
    Ok(uid.ok_or_else(|| StoreError::Corrupt {
        table: "settings",
        id: 0,
        detail: format!("next_uid: {value:?} is no uid"),
    })?)
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
        Err(Fault::Unique(text)) => Err(Fault::Retry(text).into()),
        Err(fault) => Err(fault.into()),
    }
}

async fn tell_placed(tx: &mut Tx, placed: &[(Lease, String)], now: Timestamp) -> Result<()> {
    let mut events = Vec::with_capacity(placed.len());
    let mut values: Vec<Val> = Vec::with_capacity(placed.len() * 3);
    for (lease, _) in placed {
        let Some(node) = lease.state.occupies() else { continue };
        events.push(lease_event(lease, node, &LeaseEvent::Placed { node }, None));
        values.extend(vals![lease.id, node, now]);
    }
    let rows = vec!["(?, ?, ?)"; placed.len()].join(", ");
    let sql = format!("INSERT INTO lease_nodes (lease_id, node_id, at) VALUES {rows}");
    tx.exec(AssertSqlSafe(sql), values).await?;
    tx.tell(&events, now).await
}

async fn with_claims(tx: &mut Tx, placed: Vec<(Lease, String)>, now: Timestamp) -> Result<Vec<Placement>> {
    let nodes: Vec<Val> =
        placed.iter().filter_map(|(lease, _)| lease.state.occupies()).map(Val::from).collect();
    let sql = node_sql(&format!("WHERE n.id IN ({})", places(nodes.len())));
    let records = tx.all::<NodeRecord>(sql, nodes).await?;
    let mut by_lease: HashMap<i64, NodeRecord> =
        records.into_iter().filter_map(|record| Some((record.lease_id?, record))).collect();
    let mut placements = Vec::with_capacity(placed.len());
    for (lease, token) in placed {
        let record = by_lease.remove(&lease.id.0);
        let record = record.ok_or_else(|| Fault::Retry(format!("lease {} lost its node", lease.id)))?;
        let claim = node_claim(record, token, Some(&lease), now)?;
        placements.push(Placement { lease, claim });
    }
    Ok(placements)
}
