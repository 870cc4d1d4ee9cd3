//! The event log: appended to in the transaction of what it tells, read at least once.
//!
//! Numbers do not become visible in order (a transaction takes its number before it commits): whoever reads
//! only what is greater than the last number seen loses some. [`EventTail`] re-reads an overlap.

use crate::{
    Store,
    attempts::{Tx, Witness, transaction},
    db::{Val, vals},
    error::{Result, StoreError},
    model::{Event, NewEvent},
    rows::{EventRecord, each, event_sql, json},
};
use orion_domain::{EventId, LeaseId, NodeId, Timestamp, UserId};
use sqlx::AssertSqlSafe;
use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// Longer than any transaction lives (8 s, and 5 s for its COMMIT), with room for a skewed clock.
const OVERLAP: Duration = Duration::from_secs(20);
/// Events that one statement reads.
const PAGE: u32 = 2_000;

/// A new ULID: the time for people who read the table, and 80 random bits.
pub(crate) fn new_ulid(now: Timestamp) -> String {
    let millis = u64::try_from(now.as_micros() / 1000).unwrap_or(0);
    ulid::Ulid::from_parts(millis, rand::random::<u128>()).to_string()
}

impl Tx {
    /// Appends events with one statement.
    pub(crate) async fn tell(&mut self, events: &[NewEvent], now: Timestamp) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let places = vec!["(?, ?, ?, ?, ?, ?, ?)"; events.len()].join(", ");
        let mut values: Vec<Val> = Vec::with_capacity(events.len() * 7);
        for event in events {
            let uid = new_ulid(now);
            self.leave_witness(Witness::Event(uid.clone()));
            let data = json(&event.data)?;
            values.extend(vals![uid, now, event.kind, event.lease, event.node, event.user, data]);
        }
        let sql =
            format!("INSERT INTO events (uid, at, kind, lease_id, node_id, user_id, data) VALUES {places}");
        self.exec(AssertSqlSafe(sql), values).await?;
        Ok(())
    }

    /// Appends an event about a node.
    pub(crate) async fn tell_of_node(
        &mut self,
        kind: &'static str,
        node: NodeId,
        data: serde_json::Value,
        now: Timestamp,
    ) -> Result<()> {
        self.tell(&[NewEvent { kind, lease: None, node: Some(node), user: None, data }], now).await
    }
}

impl Store {
    /// Appends an event that no other change of the store tells.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn append_event(&self, event: &NewEvent, now: Timestamp) -> Result<(), StoreError> {
        Ok(transaction!(&self.db, |tx| { tx.tell(std::slice::from_ref(event), now).await })?)
    }

    /// Events with a greater number than `last`, in order. Loses events that become visible late: for
    /// pages; to follow the log use [`EventTail`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn events_after(&self, last: EventId, limit: u32) -> Result<Vec<Event>, StoreError> {
        let sql = event_sql("WHERE id > ? ORDER BY id LIMIT ?");
        each(self.db.all::<EventRecord>(sql, vals![last.0, limit]).await?)
    }

    /// The last `limit` events of a lease, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn events_of_lease(&self, id: LeaseId, limit: u32) -> Result<Vec<Event>, StoreError> {
        let sql = event_sql("WHERE lease_id = ? ORDER BY id DESC LIMIT ?");
        let mut events = each(self.db.all::<EventRecord>(sql, vals![id, limit]).await?)?;
        events.reverse();
        Ok(events)
    }

    /// The last `limit` events of a node, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn events_of_node(&self, id: NodeId, limit: u32) -> Result<Vec<Event>, StoreError> {
        let sql = event_sql("WHERE node_id = ? ORDER BY id DESC LIMIT ?");
        let mut events = each(self.db.all::<EventRecord>(sql, vals![id, limit]).await?)?;
        events.reverse();
        Ok(events)
    }

    /// Events with a greater number than `after` that `user` may see (their own; `None`: an admin, all).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn events_visible_to(
        &self,
        user: Option<UserId>,
        after: EventId,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let Some(user) = user else { return self.events_after(after, limit).await };
        let sql = event_sql("WHERE user_id = ? AND id > ? ORDER BY id LIMIT ?");
        each(self.db.all::<EventRecord>(sql, vals![user, after.0, limit]).await?)
    }
}

/// Follows the event log and gives each event once, also those that become visible late.
#[derive(Debug)]
pub struct EventTail {
    /// Where it began.
    from: i64,
    /// Everything up to here was visible long ago.
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

    /// From now on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn from_now(store: &Store) -> Result<Self, StoreError> {
        let last = store.db.one::<(Option<i64>,)>("SELECT MAX(id) FROM events", vec![]).await?;
        let last = last.and_then(|(id,)| id).unwrap_or(0);
        let mut tail = Self::resume(store, EventId(last)).await?;
        let sql = event_sql("WHERE id > ? AND id <= ?");
        let old: Vec<Event> = each(store.db.all::<EventRecord>(sql, vals![tail.floor, last]).await?)?;
        tail.given = old.iter().map(|event| event.id.0).collect();
        Ok(tail)
    }

    /// After `last` (a client's `Last-Event-ID`). At least once: events from shortly before `last` come
    /// again, because some of them may have become visible only after it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn resume(store: &Store, last: EventId) -> Result<Self, StoreError> {
        // An id from the time before an older backup was restored may be greater than any there is now.
        let sql = "SELECT id, at FROM events WHERE id <= ? ORDER BY id DESC LIMIT 1";
        let Some((from, at)) = store.db.one::<(i64, i64)>(sql, vals![last.0]).await? else {
            return Ok(Self::from_settled(EventId(0)));
        };
        // Not the last one that is older: an event that was written late, or by a machine whose clock is behind, has
        // an old time between young ones.
        let at = Timestamp::from_micros(at);
        let sql = "SELECT MIN(id) FROM events WHERE at BETWEEN ? AND ? AND id <= ?";
        let values = vals![at.minus(OVERLAP), at.plus(OVERLAP), from];
        let young = store.db.one::<(Option<i64>,)>(sql, values).await?.and_then(|(id,)| id).unwrap_or(from);
        // What took a number after that one may not be visible yet.
        let sql = "SELECT MAX(id) FROM events WHERE id < ?";
        let floor = store.db.one::<(Option<i64>,)>(sql, vals![young]).await?.and_then(|(id,)| id);
        Ok(Self { from, ..Self::from_settled(EventId(floor.unwrap_or(0))) })
    }

    /// After `settled`, of which is known that nothing up to it becomes visible any more.
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

    /// What is new, in the order of its numbers.
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
            let page = store.events_after(EventId(from), PAGE).await?;
            let full = page.len() >= PAGE as usize;
            from = page.last().map_or(from, |event| event.id.0);
            events.extend(page.into_iter().filter(|event| !self.given.contains(&event.id.0)));
            if !full || events.len() >= Self::POLL_MAX {
                break;
            }
        }
        self.given.extend(events.iter().map(|event| event.id.0));
        // What is not visible when the reading has begun may become so until long after it has ended.
        self.marks.push_back((clock(), from));
        while self.marks.get(1).is_some_and(|(at, _)| before.saturating_sub(*at) >= OVERLAP) {
            self.marks.pop_front();
        }
        if let Some((at, id)) = self.marks.front()
            && before.saturating_sub(*at) >= OVERLAP
        {
            self.floor = *id;
            self.given = self.given.split_off(&(self.floor + 1));
        }
        Ok(events)
    }
}
