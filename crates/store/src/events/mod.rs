//! The event log: appended to in the transaction of what it tells, read at least once.
//!
//! Numbers do not become visible in order (a transaction takes its number before it commits): whoever reads
//! only what is greater than the last number seen loses some. [`EventTail`] re-reads an overlap.

pub(crate) mod row;

use crate::{
    Store,
    engine::{CommitMarker, Result, StoreError, Tx, VISIBLE_WITHIN, Val, each, json, transaction, vals},
    events::row::{EventRecord, event_sql},
};
use orion_domain::{
    EventId, LeaseId, NodeId, Timestamp, UserId,
    event::{EventPayload, NodeEvent},
};
use serde::Serialize;
use sqlx::AssertSqlSafe;
use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// The event log.
#[derive(Clone, Copy, Debug)]
pub struct Events<'a> {
    store: &'a Store,
}

impl Store {
    /// Gives the event log.
    pub const fn events(&self) -> Events<'_> {
        Events { store: self }
    }
}

/// One row of the event log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Number of the event; grows, but does not become visible in order: see [`crate::EventTail`].
    pub id: EventId,
    /// ULID of the event.
    pub uid: String,
    /// Time of the event.
    pub at: Timestamp,
    /// Kind of the event (`lease.active`, `node.dead` …).
    pub kind: String,
    /// The lease it is about.
    pub lease: Option<LeaseId>,
    /// The node it is about.
    pub node: Option<NodeId>,
    /// The user it is about, who may see it.
    pub user: Option<UserId>,
    /// The details.
    pub data: serde_json::Value,
}

/// An event to append.
#[derive(Clone, Debug)]
pub struct NewEvent {
    payload: EventPayload,
    lease: Option<LeaseId>,
    node: Option<NodeId>,
    user: Option<UserId>,
    actor: Option<UserId>,
}

impl NewEvent {
    /// Creates an event that is about no lease, node or user yet.
    pub fn new(payload: impl Into<EventPayload>) -> Self {
        Self { payload: payload.into(), lease: None, node: None, user: None, actor: None }
    }

    /// Names the lease that the event is about.
    #[must_use]
    pub fn of_lease(self, lease: impl Into<Option<LeaseId>>) -> Self {
        Self { lease: lease.into(), ..self }
    }

    /// Names the node that the event is about.
    #[must_use]
    pub fn of_node(self, node: impl Into<Option<NodeId>>) -> Self {
        Self { node: node.into(), ..self }
    }

    /// Names the user that the event is about, who may see it.
    #[must_use]
    pub fn of_user(self, user: impl Into<Option<UserId>>) -> Self {
        Self { user: user.into(), ..self }
    }

    /// Names the user who asked for the change.
    #[must_use]
    pub fn by(self, actor: Option<UserId>) -> Self {
        Self { actor, ..self }
    }
}

/// Events that one statement names.
const NUMBERS_AT_ONCE: usize = 500;
/// Events that one statement reads.
const PAGE: u32 = 2_000;

/// A new ULID: the time for people who read the table, and 80 random bits.
pub(crate) fn new_ulid(now: Timestamp) -> String {
    let millis = u64::try_from(now.as_micros() / 1000).unwrap_or(0);
    ulid::Ulid::from_parts(millis, rand::random::<u128>()).to_string()
}

impl Tx {
    /// Appends events with one statement.
    pub(crate) async fn append_events(&mut self, events: &[NewEvent], now: Timestamp) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let places = vec!["(?, ?, ?, ?, ?, ?, ?)"; events.len()].join(", ");
        let mut values: Vec<Val> = Vec::with_capacity(events.len() * 7);
        for event in events {
            let uid = new_ulid(now);
            self.set_commit_marker(CommitMarker::Event(uid.clone()));
            let data = json(&event.payload.data(event.actor))?;
            values.extend(vals![uid, now, event.payload.kind(), event.lease, event.node, event.user, data]);
        }
        let sql =
            format!("INSERT INTO events (uid, at, kind, lease_id, node_id, user_id, data) VALUES {places}");
        self.exec(AssertSqlSafe(sql), values).await?;
        Ok(())
    }

    /// Appends an event about a node.
    pub(crate) async fn append_node_event(
        &mut self,
        event: NodeEvent,
        node: NodeId,
        now: Timestamp,
    ) -> Result<()> {
        self.append_events(&[NewEvent::new(event).of_node(node)], now).await
    }
}

impl Events<'_> {
    /// Appends an event that no other change of the store tells.
    pub async fn append(self, event: &NewEvent, now: Timestamp) -> Result<(), StoreError> {
        Ok(transaction!(&self.store.db, |tx| { tx.append_events(std::slice::from_ref(event), now).await })?)
    }

    /// Events with a greater number than `last`, in order. Loses events that become visible late: for
    /// pages; to follow the log use [`EventTail`].
    pub async fn after(self, last: EventId, limit: u32) -> Result<Vec<Event>, StoreError> {
        let sql = event_sql("WHERE id > ? ORDER BY id LIMIT ?");
        each(self.store.db.all::<EventRecord>(sql, vals![last.0, limit]).await?)
    }

    /// Events with these numbers, in order. What is gone meanwhile is left out.
    async fn numbered(self, ids: &[i64]) -> Result<Vec<Event>, StoreError> {
        let mut events = Vec::with_capacity(ids.len());
        for ids in ids.chunks(NUMBERS_AT_ONCE) {
            let places = vec!["?"; ids.len()].join(", ");
            let sql = event_sql(&format!("WHERE id IN ({places}) ORDER BY id"));
            let values = ids.iter().map(|id| Val::from(*id)).collect();
            events.extend(each(self.store.db.all::<EventRecord>(sql, values).await?)?);
        }
        Ok(events)
    }

    /// The last `limit` events of a lease, oldest first.
    pub async fn of_lease(self, id: LeaseId, limit: u32) -> Result<Vec<Event>, StoreError> {
        let sql = event_sql("WHERE lease_id = ? ORDER BY id DESC LIMIT ?");
        let mut events = each(self.store.db.all::<EventRecord>(sql, vals![id, limit]).await?)?;
        events.reverse();
        Ok(events)
    }

    /// The last `limit` events of a node, oldest first.
    pub async fn of_node(self, id: NodeId, limit: u32) -> Result<Vec<Event>, StoreError> {
        let sql = event_sql("WHERE node_id = ? ORDER BY id DESC LIMIT ?");
        let mut events = each(self.store.db.all::<EventRecord>(sql, vals![id, limit]).await?)?;
        events.reverse();
        Ok(events)
    }

    /// Events with a greater number than `after` that `user` may see (their own; `None`: an admin, all).
    pub async fn visible_to(
        self,
        user: Option<UserId>,
        after: EventId,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let Some(user) = user else { return self.after(after, limit).await };
        let sql = event_sql("WHERE user_id = ? AND id > ? ORDER BY id LIMIT ?");
        each(self.store.db.all::<EventRecord>(sql, vals![user, after.0, limit]).await?)
    }
}

/// Follows the event log and gives each event once, also those that become visible late.
#[derive(Debug)]
pub struct EventTail {
    /// Number of the event after which the tail began.
    from: i64,
    /// Number up to which all events were visible long ago.
    floor: i64,
    /// Events above the floor that were given already.
    given: BTreeSet<i64>,
    /// The greatest number seen at some moments within the overlap, oldest first. The moments are counted from
    /// `began`: the clock on the wall may jump.
    marks: VecDeque<(Duration, i64)>,
    began: Instant,
}

impl EventTail {
    /// Events that one [`Self::poll`] gives at least before it leaves the rest for the next one.
    pub const POLL_MAX: usize = 2_000;

    /// Creates a tail that begins now.
    pub async fn from_now(store: &Store) -> Result<Self, StoreError> {
        let last = store.db.one::<(Option<i64>,)>("SELECT MAX(id) FROM events", vec![]).await?;
        let last = last.and_then(|(id,)| id).unwrap_or(0);
        let mut tail = Self::resume(store, EventId(last)).await?;
        let sql = "SELECT id FROM events WHERE id > ? AND id <= ?";
        let old = store.db.all::<(i64,)>(sql, vals![tail.floor, last]).await?;
        tail.given = old.into_iter().map(|(id,)| id).collect();
        Ok(tail)
    }

    /// Creates a tail that begins after `last` (a client's `Last-Event-ID`). Delivers at least once: events
    /// from shortly before `last` come again, because some of them may have become visible only after it.
    pub async fn resume(store: &Store, last: EventId) -> Result<Self, StoreError> {
        // An id from the time before an older backup was restored may be greater than any there is now.
        let sql = "SELECT id, at FROM events WHERE id <= ? ORDER BY id DESC LIMIT 1";
        let Some((from, at)) = store.db.one::<(i64, i64)>(sql, vals![last.0]).await? else {
            return Ok(Self::from_settled(EventId(0)));
        };
        // Not the last one that is older: an event that was written late, or by a machine whose clock is behind, has
        // an old time between young ones.
        let at = Timestamp::from_micros(at);
        // `+ 0`: SQLite would walk the whole log from its beginning for the least number, and not look for the time.
        let sql = "SELECT MIN(id + 0) FROM events WHERE at BETWEEN ? AND ? AND id <= ?";
        let values = vals![at.minus(VISIBLE_WITHIN), at.plus(VISIBLE_WITHIN), from];
        let young = store.db.one::<(Option<i64>,)>(sql, values).await?.and_then(|(id,)| id).unwrap_or(from);
        // What took a number after that one may not be visible yet.
        let sql = "SELECT MAX(id) FROM events WHERE id < ?";
        let floor = store.db.one::<(Option<i64>,)>(sql, vals![young]).await?.and_then(|(id,)| id);
        Ok(Self { from, ..Self::from_settled(EventId(floor.unwrap_or(0))) })
    }

    /// Creates a tail that begins after `settled`; no event up to that number becomes visible any more.
    pub fn from_settled(settled: EventId) -> Self {
        let marks = VecDeque::from([(Duration::ZERO, settled.0)]);
        let began = Instant::now();
        Self { from: settled.0, floor: settled.0, given: BTreeSet::new(), marks, began }
    }

    /// Every event up to here has been given; none of them comes any more.
    pub const fn settled(&self) -> EventId {
        EventId(self.floor)
    }

    /// The greatest number given so far (or where the tail began).
    pub fn position(&self) -> EventId {
        EventId(self.given.last().copied().unwrap_or(self.floor).max(self.floor).max(self.from))
    }

    /// Returns the new events in the order of their numbers.
    ///
    /// # Errors
    /// [`StoreError`]; the next call continues where this one was.
    pub async fn poll(&mut self, store: &Store) -> Result<Vec<Event>, StoreError> {
        let began = self.began;
        self.poll_by(store, || began.elapsed()).await
    }

    /// The same by another steady clock, which tells how long ago the tail began.
    ///
    /// # Errors
    /// [`StoreError`]; the next call continues where this one was.
    pub async fn poll_by(
        &mut self,
        store: &Store,
        clock: impl Fn() -> Duration,
    ) -> Result<Vec<Event>, StoreError> {
        let (before, mut events, mut from) = (clock(), Vec::new(), self.floor);
        loop {
            // Numbers first: what was given already, all of the overlap, is neither sent nor parsed again.
            let sql = "SELECT id FROM events WHERE id > ? ORDER BY id LIMIT ?";
            let page = store.db.all::<(i64,)>(sql, vals![from, PAGE]).await?;
            let full = page.len() >= PAGE as usize;
            from = page.last().map_or(from, |(id,)| *id);
            let new: Vec<i64> =
                page.into_iter().map(|(id,)| id).filter(|id| !self.given.contains(id)).collect();
            events.extend(store.events().numbered(&new).await?);
            if !full || events.len() >= Self::POLL_MAX {
                break;
            }
        }
        self.given.extend(events.iter().map(|event| event.id.0));
        // What is not visible when the reading has begun may become so until long after it has ended.
        self.marks.push_back((clock(), from));
        while self.marks.get(1).is_some_and(|(at, _)| before.saturating_sub(*at) >= VISIBLE_WITHIN) {
            self.marks.pop_front();
        }
        if let Some((at, id)) = self.marks.front()
            && before.saturating_sub(*at) >= VISIBLE_WITHIN
        {
            self.floor = *id;
            self.given = self.given.split_off(&(self.floor + 1));
        }
        Ok(events)
    }
}
