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
use crate::idempotency::IdemNew;
use crate::idempotency::IdemRow;
use crate::nodes::NodeClaim;
use crate::{
    engine::{Db, Fault, Result, StoreError, Tx, Val, json, transaction, vals},
    events::new_ulid,
    idempotency::First,
    leases::HOLDING,
    leases::candidates::{Picked, READ_MIN, Selection, has_room, next_free_uid},
    leases::first_container::{FirstContainer, make_containers},
    leases::hold::{SliceSize, holding_columns},
    leases::rooms::PickedRoom,
    leases::row::{on_node_loss_word, state_columns},
    leases::slice::place_slices,
    leases::transition::lease_event,
    leases::uids::{UidRequest, read_uid},
    nodes::claim::node_claim,
    nodes::row::{NodeRecord, node_record_sql},
};
use orion_domain::{
    LeaseId, NodeId, Secret, Timestamp, UserId,
    lease::{Account, Lease, LeaseEvent, LeaseState},
    lease::{Holding, OnNodeLoss},
    names::UnixName,
    names::{LeaseName, Tag},
};
use rand::seq::SliceRandom;
use sqlx::AssertSqlSafe;
use std::time::{Duration, Instant};

/// The login of one lease to be.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// The crypt(3) hash.
    pub password_hash: Secret,
    /// One line of `authorized_keys`.
    pub public_key: Option<String>,
}

/// A wish for `count` nodes, now.
#[derive(Clone, Debug)]
pub struct PlaceRequest {
    /// The owner.
    pub user: UserId,
    /// The account's name on the nodes.
    pub username: UnixName,
    /// Number of leases; all of them are placed, or none.
    pub count: usize,
    /// Start of the leases.
    pub from: Timestamp,
    /// End of the leases.
    pub until: Timestamp,
    /// Name of the leases; for `count > 1` they are called `name-1`, `name-2` …
    pub name: Option<LeaseName>,
    /// One for each lease, in the order of the reply; none at all for leases that give no login.
    pub accounts: Vec<NewAccount>,
    /// Tags that every node must have.
    pub tags: Vec<Tag>,
    /// Part of its node that each lease holds.
    pub holding: Holding,
    /// One for each lease, which its node is to run from the beginning; or none.
    pub containers: Vec<FirstContainer>,
    /// Reaction to the loss of a node.
    pub on_node_loss: OnNodeLoss,
    /// Largest number of nodes that the owner may have at once; none for any number.
    pub nodes_max: Option<u32>,
    /// Groups the leases of one request; unique for it.
    pub request_key: String,
    /// The client's idempotency key, if it sent one: then the leases are finished after a crash.
    pub idem: Option<IdemNew>,
    /// How long the scheduler leaves the nodes to who provisions.
    pub first_turn: Duration,
    /// The first uid of Orion's range.
    pub first_uid: u32,
    /// The last uid of Orion's range.
    pub last_uid: u32,
    /// The time.
    pub now: Timestamp,
}

/// A lease on its node, which nobody has claimed for it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The lease.
    pub lease: Lease,
    node: NodeId,
    /// What the next claim on the node tells, if nothing happens to it before: without a token, and with the epoch
    /// before. None for a slice: to others of its node much happens, and to read all of them would hold up whoever places on
    /// the same node.
    pub(crate) ahead: Option<NodeClaim>,
}

impl Placement {
    /// A lease that has just got its node in this transaction, with the node as it is by now.
    pub(super) async fn read(tx: &mut Tx, lease: Lease, node: NodeId, now: Timestamp) -> Result<Self> {
        if !lease.holding.is_whole() {
            return Ok(Self { lease, node, ahead: None });
        }
        let Some(record) = tx.node_record(node).await? else {
            return Err(Fault::Retry("the node vanished".into()));
        };
        let (leases, holds) = (tx.leases_on(node).await?, tx.holds_on(node).await?);
        let ahead = Some(node_claim(record, String::new(), (&leases, holds), now)?);
        Ok(Self { lease, node, ahead })
    }

    /// Returns the node that it was placed on.
    pub const fn node(&self) -> NodeId {
        self.node
    }
}

/// Outcome of a [`PlaceRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceOutcome {
    /// All of them.
    Placed(Vec<Placement>),
    /// No placements: only `found` nodes are free, and the next running lease ends at `next_end`.
    TooFew {
        /// Number of leases that would have fitted.
        found: usize,
        /// End of the lease that ends next.
        next_end: Option<Timestamp>,
    },
    /// The owner has a live lease of that name (or `name-N` is no lease name).
    NameTaken(String),
    /// The idempotency key was used before; nothing was written.
    Replayed(IdemRow),
    /// Orion's uid range is used up.
    UidsExhausted,
    /// The owner has so many nodes already, and may not have as many more.
    QuotaOfNodes {
        /// Leases that have not ended.
        have: u32,
    },
    /// The owner's account is disabled, or gone.
    Disabled,
}

/// When a node may be offered; says the same as [`orion_domain::node::Node::is_offerable`].
pub(crate) const OFFERABLE: &str = "admission = 'admitted' AND health = 'alive' AND quarantine IS NULL \
                         AND cordon IS NULL AND whole_lease IS NULL AND applied_version = desired_version \
                         AND way_in = 'open' AND cpu_held = 0 AND memory_held_mb = 0 AND transport = 'ssh'";

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

    /// The uids from `stored` to before `next` are given out; the caller runs everything again when others took them.
    pub(crate) async fn set_next_uid(&mut self, stored: u32, next: u32) -> Result<()> {
        let sql = "UPDATE settings SET value = ? WHERE name = 'next_uid' AND value = ?";
        if self.exec(sql, vals![next.to_string(), stored.to_string()]).await? == 0 {
            return Err(Fault::Retry("another placement took these uids".into()));
        }
        Ok(())
    }

    /// Returns when the next lease ends on a node that has all `tags`.
    pub(crate) async fn next_end(&mut self, tags: &[Tag], now: Timestamp) -> Result<Option<Timestamp>> {
        let mut sql =
            format!("SELECT MIN(leased_until) FROM leases WHERE state IN {HOLDING} AND leased_until > ?");
        let mut values = vals![now];
        for tag in tags {
            sql.push_str(" AND occupies_node IN (SELECT node_id FROM node_tags WHERE tag = ?)");
            values.push(tag.as_str().into());
        }
        let row = self.one::<(Option<i64>,)>(AssertSqlSafe(sql), values).await?;
        Ok(row.and_then(|(at,)| at).map(Timestamp::from_micros))
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

/// Reason why a placement was given up: everything is rolled back.
pub(super) enum GiveUp {
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

/// Holds the owner's account until the end of the transaction: its placements come one after the other, so that two of
/// them do not pass the quota side by side, and none passes a disabling.
pub(super) async fn stay_within_quota(
    tx: &mut Tx,
    request: &PlaceRequest,
) -> std::result::Result<(), GiveUp> {
    let sql = "UPDATE users SET placements = placements + 1 WHERE id = ? AND disabled_at IS NULL";
    if tx.exec(sql, vals![request.user]).await? == 0 {
        return Err(GiveUp::As(PlaceOutcome::Disabled));
    }
    let Some(most) = request.nodes_max else { return Ok(()) };
    let have = live_leases(tx, request.user).await?;
    if have.saturating_add(u32::try_from(request.count).unwrap_or(u32::MAX)) > most {
        return Err(GiveUp::As(PlaceOutcome::QuotaOfNodes { have }));
    }
    Ok(())
}

/// A query for how many leases of a user hold nodes. By the state, so that it costs what is alive: without the `+` SQLite
/// would go by the user, through all that the user ever had.
pub(crate) fn leases_holding_nodes() -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT COUNT(*) FROM leases WHERE state IN {HOLDING} AND +user_id = ?"))
}

async fn live_leases(tx: &mut Tx, user: UserId) -> Result<u32> {
    let row = tx.one::<(i64,)>(leases_holding_nodes(), vals![user]).await?;
    Ok(row.and_then(|(count,)| u32::try_from(count).ok()).unwrap_or(0))
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

pub(super) async fn too_few(tx: &mut Tx, found: usize, tags: &[Tag], now: Timestamp) -> Result<PlaceOutcome> {
    Ok(PlaceOutcome::TooFew { found, next_end: tx.next_end(tags, now).await? })
}

pub(super) fn lease_names(request: &PlaceRequest) -> std::result::Result<Vec<Option<LeaseName>>, GiveUp> {
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

impl PlaceRequest {
    pub(super) fn check_accounts(&self) -> Result<(), StoreError> {
        let is_of_all = |number: usize| number == 0 || number == self.count;
        if is_of_all(self.accounts.len()) && is_of_all(self.containers.len()) {
            return Ok(());
        }
        Err(StoreError::Config(
            "a placement needs one account and one container for each lease, or none".into(),
        ))
    }

    /// Returns the account of the lease with this number in the request, with the first uid from `next` on that is not
    /// among a node's subordinate ones; none if the leases have none.
    pub(super) fn account(
        &self,
        number: usize,
        subordinate: &[(u32, u32)],
        next: &mut u32,
    ) -> std::result::Result<Option<Account>, GiveUp> {
        let Some(account) = self.accounts.get(number) else { return Ok(None) };
        let uid = next_free_uid(subordinate, *next);
        if uid > self.last_uid {
            return Err(GiveUp::As(PlaceOutcome::UidsExhausted));
        }
        *next = uid + 1;
        Ok(Some(Account {
            user: self.username.clone(),
            uid,
            password_hash: Secret::new(account.password_hash.expose()),
            public_key: account.public_key.clone(),
        }))
    }
}

pub(super) async fn insert_lease(
    tx: &mut Tx,
    request: &PlaceRequest,
    state: LeaseState,
    account: Option<Account>,
    name: Option<LeaseName>,
) -> std::result::Result<Lease, GiveUp> {
    let now = request.now;
    // Nobody waits for the reply of one that begins later, and without a login no password is lost with a reply.
    let is_left = state.occupies().is_none() || account.is_none();
    let mut lease = Lease {
        id: LeaseId(0),
        ulid: new_ulid(now),
        user: request.user,
        name,
        account,
        from: request.from,
        until: request.until,
        on_node_loss: request.on_node_loss,
        tags: request.tags.clone(),
        request_key: request.request_key.clone(),
        holding: request.holding,
        finish_after_crash: request.idem.is_some() || is_left,
        state,
        since: now,
        deadline_applied: None,
        containers: 0,
        version: 1,
    };
    let name = lease.name.as_ref().map(LeaseName::as_str);
    let sql = "INSERT INTO leases (uid, user_id, name, live_name, client_user, account_uid, password_hash, \
               public_key, state, state_since, state_reason, node_id, occupies_node, leased_from, leased_until, \
               on_node_loss, tags, request_key, finish_after_crash, holding, cpu_milli, memory_mb, gpus) \
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let account = lease.account.as_ref();
    let mut values = vals![&lease.ulid, lease.user, name, name, account.map(|account| account.user.as_str())];
    values.extend(vals![
        account.map(|account| account.uid),
        account.map(|account| account.password_hash.expose()),
        account.and_then(|account| account.public_key.as_deref())
    ]);
    let columns = state_columns(&lease.state)?;
    values.extend(vals![lease.state.phase().as_str(), now, columns.state_reason]);
    values.extend(vals![columns.occupies_node, columns.occupies_node, lease.from, lease.until]);
    values.extend(vals![
        on_node_loss_word(lease.on_node_loss),
        json(&lease.tags)?,
        &lease.request_key,
        lease.finish_after_crash
    ]);
    let (holding, slice) = holding_columns(lease.holding);
    values.extend(vals![holding, slice.cpu_milli, slice.memory_mb, slice.gpus]);
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

/// Writes the holds, the histories and the events of leases that got their nodes.
pub(super) async fn tell_placed(tx: &mut Tx, placed: &[(&Lease, NodeId)], now: Timestamp) -> Result<()> {
    let mut events = Vec::with_capacity(placed.len());
    let mut values: Vec<Val> = Vec::with_capacity(placed.len() * 3);
    for &(lease, node) in placed {
        events.push(lease_event(lease, node, &LeaseEvent::Placed { node }, None));
        values.extend(vals![lease.id, node, now]);
    }
    let rows = vec!["(?, ?, ?)"; placed.len()].join(", ");
    let sql = format!("INSERT INTO lease_nodes (lease_id, node_id, at) VALUES {rows}");
    tx.exec(AssertSqlSafe(sql), values).await?;
    tx.insert_holds(placed).await?;
    tx.append_events(&events, now).await
}
