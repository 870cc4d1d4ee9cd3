//! What is sent to webhooks, one row an event and webhook: claimed by one sender at a time, ended under the claim.
//!
//! A claim is a try: it raises `attempts` and sets `next_try_at` to when the try counts as lost, so that a sender
//! that dies gives its delivery back by itself. Does not live here: sending.

use super::Webhooks;
use crate::{
    engine::{Result, StoreError, Val, clip, transaction, vals},
    events::row::{EventRecord, event_sql},
    events::{Event, new_ulid},
    webhooks::{Webhook, WebhookRecord, webhook_sql},
};
use orion_domain::{DeliveryId, Timestamp, WebhookId};
use sqlx::{AssertSqlSafe, FromRow};
use std::{collections::HashMap, time::Duration};

/// Rows deleted with one statement.
const AT_ONCE: u32 = 500;
/// Time for which successful deliveries are kept, for the list.
const DELIVERED_KEPT: Duration = Duration::from_secs(3 * 24 * 3600);
/// Time for which deliveries that were given up are shown.
const GIVEN_UP_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest wait of a delivery, whatever the number of tries: a receiver that hangs gets few tries a day,
/// and an event that is days old is of no use.
const WAITED_MAX: Duration = Duration::from_secs(30 * 3600);

/// State of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// Delivery that is to be tried, perhaps again.
    Pending,
    /// The target took it.
    Delivered,
    /// The target did not take it for so long that it is not tried any more.
    GivenUp,
}

impl DeliveryState {
    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
        }
    }
}

/// One event for one webhook, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Number of the delivery.
    pub id: DeliveryId,
    /// The event's kind.
    pub kind: String,
    /// State of the delivery.
    pub state: DeliveryState,
    /// Number of tries so far.
    pub attempts: u32,
    /// Time of the last try.
    pub last_try_at: Option<Timestamp>,
    /// Time of the next try, if the delivery is pending.
    pub next_try_at: Option<Timestamp>,
    /// The HTTP status of the last try, if there was a reply.
    pub status: Option<u16>,
    /// Error of the last try.
    pub error: Option<String>,
}

#[derive(FromRow)]
struct DeliveryRecord {
    id: i64,
    kind: Option<String>,
    state: String,
    attempts: i64,
    last_try_at: Option<i64>,
    next_try_at: i64,
    status: Option<i64>,
    error: Option<String>,
}

impl TryFrom<DeliveryRecord> for Delivery {
    type Error = StoreError;

    fn try_from(row: DeliveryRecord) -> Result<Self, StoreError> {
        let corrupt =
            |detail: String| StoreError::Corrupt { table: "webhook_deliveries", id: row.id, detail };
        let states = [DeliveryState::Pending, DeliveryState::Delivered, DeliveryState::GivenUp];
        let state = states.into_iter().find(|state| state.as_str() == row.state);
        let state = state.ok_or_else(|| corrupt(format!("state: '{}' is no word of it", row.state)))?;
        let status = row.status.map(u16::try_from).transpose();
        Ok(Self {
            id: DeliveryId(row.id),
            kind: row.kind.unwrap_or_default(),
            state,
            attempts: u32::try_from(row.attempts).map_err(|error| corrupt(format!("attempts: {error}")))?,
            last_try_at: row.last_try_at.map(Timestamp::from_micros),
            next_try_at: (state == DeliveryState::Pending).then(|| Timestamp::from_micros(row.next_try_at)),
            status: status.map_err(|error| corrupt(format!("status: {error}")))?,
            error: row.error,
        })
    }
}

fn delivery_sql(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!(
        "SELECT d.id, e.kind, d.state, d.attempts, d.last_try_at, d.next_try_at, d.status, d.error \
         FROM webhook_deliveries d LEFT JOIN events e ON e.id = d.event_id {rest}"
    ))
}

/// Counts of one webhook's deliveries, and the last of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookTally {
    /// Deliveries to be tried.
    pub pending: i64,
    /// Pending deliveries that failed before.
    pub failing: i64,
    /// Deliveries that were given up, of the last 30 days.
    pub given_up: i64,
    /// The delivery that was tried last.
    pub last: Option<Delivery>,
}

/// A delivery that this process tries now.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryClaim {
    /// The delivery.
    pub id: DeliveryId,
    /// The proof that it is claimed.
    pub token: String,
    /// The number of this try, from 1.
    pub attempt: u32,
    /// Webhook that receives the event.
    pub webhook: Webhook,
    /// Event to deliver.
    pub event: Event,
}

/// Outcome of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The HTTP status, if there was a reply.
    pub status: Option<u16>,
    /// Reason of the failure; none if the target took the event.
    pub error: Option<String>,
    /// Time of the next try; none for a delivery that was taken or is given up.
    pub again_at: Option<Timestamp>,
}

impl Webhooks<'_> {
    /// Webhooks with deliveries that are due.
    pub async fn with_due(self, now: Timestamp) -> Result<Vec<WebhookId>, StoreError> {
        let sql = "SELECT webhook_id, MIN(next_try_at) FROM webhook_deliveries WHERE state = 'pending' \
                   GROUP BY webhook_id ORDER BY webhook_id";
        let rows = self.store.db.all::<(i64, i64)>(sql, vals![]).await?;
        let due = rows.into_iter().filter(|(_, at)| *at <= now.as_micros());
        Ok(due.map(|(id, _)| WebhookId(id)).collect())
    }

    /// Deliveries of a webhook that are due, the longest first.
    pub async fn due_deliveries(
        self,
        webhook: WebhookId,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        let sql = "SELECT id FROM webhook_deliveries WHERE state = 'pending' AND webhook_id = ? \
                   AND next_try_at <= ? ORDER BY next_try_at, id LIMIT ?";
        let rows = self.store.db.all::<(i64,)>(sql, vals![webhook, now, limit]).await?;
        Ok(rows.into_iter().map(|(id,)| DeliveryId(id)).collect())
    }

    /// Claims a delivery that is due, for one try that ends within `ttl`. `None`: somebody else has it, it is over,
    /// or its webhook or its event is gone.
    pub async fn claim_delivery(
        self,
        id: DeliveryId,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Option<DeliveryClaim>, StoreError> {
        let token = new_ulid(now);
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "UPDATE webhook_deliveries SET claim_token = ?, attempts = attempts + 1, last_try_at = ?, \
                       next_try_at = ? WHERE id = ? AND state = 'pending' AND next_try_at <= ?";
            if tx.exec(sql, vals![&token, now, now.plus(ttl), id, now]).await? == 0 {
                return Ok(None);
            }
            let sql = "SELECT webhook_id, event_id, attempts FROM webhook_deliveries WHERE id = ?";
            let row = tx.one::<(i64, i64, i64)>(sql, vals![id]).await?;
            let Some((webhook, event, attempts)) = row else { return Ok(None) };
            let webhook = tx.one::<WebhookRecord>(webhook_sql("WHERE id = ?"), vals![webhook]).await?;
            let event = tx.one::<EventRecord>(event_sql("WHERE e.id = ?"), vals![event]).await?;
            let (Some(webhook), Some(event)) = (webhook, event) else { return Ok(None) };
            Ok(Some(DeliveryClaim {
                id,
                token: token.clone(),
                attempt: u32::try_from(attempts).unwrap_or(u32::MAX),
                webhook: webhook.try_into()?,
                event: event.try_into()?,
            }))
        })?)
    }

    /// Writes what came of a try. False: the claim was lost meanwhile, and somebody else tries.
    pub async fn finish_delivery(
        self,
        claim: &DeliveryClaim,
        tried: &Tried,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let state = match (&tried.error, tried.again_at) {
            (None, _) => DeliveryState::Delivered,
            (Some(_), Some(_)) => DeliveryState::Pending,
            (Some(_), None) => DeliveryState::GivenUp,
        };
        let done_at = (state != DeliveryState::Pending).then_some(now);
        let status = tried.status.map(i64::from);
        let error = tried.error.as_deref().map(clip);
        let again_at = tried.again_at.unwrap_or(now);
        let sql = "UPDATE webhook_deliveries SET state = ?, status = ?, error = ?, next_try_at = ?, done_at = ?, \
                   claim_token = NULL WHERE id = ? AND claim_token = ?";
        let values = vals![state.as_str(), status, error, again_at, done_at, claim.id, &claim.token];
        Ok(transaction!(&self.store.db, |tx| { Ok(tx.exec(sql, values.clone()).await? == 1) })?)
    }

    /// Returns the delivery with this number; none if there is none.
    pub async fn delivery(self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let row = self.store.db.one::<DeliveryRecord>(delivery_sql("WHERE d.id = ?"), vals![id]).await?;
        row.map(Delivery::try_from).transpose()
    }

    /// Returns the counts and the last delivery of each of these webhooks.
    pub async fn counts(self, ids: &[WebhookId]) -> Result<HashMap<WebhookId, WebhookTally>, StoreError> {
        let mut tallies: HashMap<WebhookId, WebhookTally> =
            ids.iter().map(|id| (*id, WebhookTally::default())).collect();
        let sql = "SELECT webhook_id, state, attempts > 0, COUNT(*) FROM webhook_deliveries \
                   WHERE state IN ('pending', 'given_up') GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
        for (id, state, failed, count) in self.store.db.all::<(i64, String, i64, i64)>(sql, vals![]).await? {
            let Some(tally) = tallies.get_mut(&WebhookId(id)) else { continue };
            if state == DeliveryState::GivenUp.as_str() {
                tally.given_up += count;
            } else {
                tally.pending += count;
                tally.failing += if failed != 0 { count } else { 0 };
            }
        }
        for (id, tally) in &mut tallies {
            let rest = "WHERE d.webhook_id = ? AND d.last_try_at IS NOT NULL ORDER BY d.last_try_at DESC, d.id DESC LIMIT 1";
            let last = self.store.db.one::<DeliveryRecord>(delivery_sql(rest), vals![*id]).await?;
            tally.last = last.map(Delivery::try_from).transpose()?;
        }
        Ok(tallies)
    }

    /// Forgets deliveries that were over long ago, and those of webhooks that are gone; gives up what has waited for
    /// too long.
    pub async fn sweep_deliveries(self, now: Timestamp) -> Result<(), StoreError> {
        let (delivered, given_up) = (now.minus(DELIVERED_KEPT), now.minus(GIVEN_UP_KEPT));
        let old = "(state = 'delivered' AND done_at < ?)";
        while self.delete_deliveries(old, vals![delivered]).await? > 0 {}
        let old = "(state = 'given_up' AND done_at < ?)";
        while self.delete_deliveries(old, vals![given_up]).await? > 0 {}
        let orphaned = "state = 'pending' AND webhook_id NOT IN (SELECT id FROM webhooks)";
        while self.delete_deliveries(orphaned, vals![]).await? > 0 {}
        while self.give_up_waiting(now).await? > 0 {}
        Ok(())
    }

    /// Gives up some of the deliveries that have waited for too long, and says how many.
    async fn give_up_waiting(self, now: Timestamp) -> Result<usize, StoreError> {
        let sql = format!(
            "SELECT id FROM webhook_deliveries \
             WHERE state = 'pending' AND claim_token IS NULL AND created_at < ? LIMIT {AT_ONCE}"
        );
        let rows = self.store.db.all::<(i64,)>(AssertSqlSafe(sql), vals![now.minus(WAITED_MAX)]).await?;
        transaction!(&self.store.db, |tx| {
            for (id,) in &rows {
                let sql = "UPDATE webhook_deliveries SET state = 'given_up', done_at = ?, \
                           error = COALESCE(error, 'its turn did not come for too long') \
                           WHERE id = ? AND state = 'pending' AND claim_token IS NULL";
                tx.exec(sql, vals![now, *id]).await?;
            }
            Ok(())
        })?;
        Ok(rows.len())
    }

    /// Deletes some of the deliveries that `which` means, and says how many.
    pub(crate) async fn delete_deliveries(
        self,
        which: &'static str,
        values: Vec<Val>,
    ) -> Result<usize, StoreError> {
        // Read first: a DELETE that looks at every row would wait for those that are being sent now.
        let sql = format!("SELECT id FROM webhook_deliveries WHERE {which} LIMIT {AT_ONCE}");
        let ids: Vec<i64> = self
            .store
            .db
            .all::<(i64,)>(AssertSqlSafe(sql), values)
            .await?
            .into_iter()
            .map(|(id,)| id)
            .collect();
        if ids.is_empty() {
            return Ok(0);
        }
        let places = vec!["?"; ids.len()].join(", ");
        let sql = format!("DELETE FROM webhook_deliveries WHERE id IN ({places})");
        let values: Vec<Val> = ids.iter().map(|id| Val::from(*id)).collect();
        transaction!(&self.store.db, |tx| {
            tx.exec(AssertSqlSafe(sql.clone()), values.clone()).await.map(|_| ())
        })?;
        Ok(ids.len())
    }
}
