//! The reads and writes that all placements have in common, whether of whole nodes, of slices, or for later: the owner's
//! quota, the next uid, the lease's row, and what is told.

use crate::{
    engine::{Db, Fault, Result, StoreError, Tx, Val, json, vals},
    events::new_ulid,
    leases::HOLDING,
    leases::candidates::next_free_uid,
    leases::hold::holding_columns,
    leases::placement::{PlaceOutcome, PlaceRequest},
    leases::row::{on_node_loss_word, state_columns},
    leases::transition::lease_event,
    leases::uids::read_uid,
};
use orion_domain::{
    LeaseId, NodeId, Secret, Timestamp, UserId,
    lease::{Account, Lease, LeaseEvent, LeaseState},
    names::{LeaseName, Tag},
};
use sqlx::AssertSqlSafe;

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

impl Tx {
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
