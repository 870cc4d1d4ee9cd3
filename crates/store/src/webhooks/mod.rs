//! Webhooks: where events go, and which event goes to which of them.
//!
//! Lives here: the webhooks' rows, and the rows of what is to be sent ([`crate::Webhooks::fan_out`]). Does not live here:
//! claiming and ending a delivery (`deliveries`), and which events a webhook wants (`orion_domain::webhook`).

pub(crate) mod deliveries;

pub use deliveries::{Delivery, DeliveryClaim, DeliveryState, Tried, WebhookTally};

use crate::{
    Store,
    engine::{Cas, Fault, Result, StoreError, Tx, Val, json, transaction, vals},
    events::NewEvent,
};
use orion_domain::{DeliveryId, EventId, Timestamp, UserId, WebhookId, event::WebhookEvent};

use sqlx::{AssertSqlSafe, FromRow};

/// Webhooks and their deliveries.
#[derive(Clone, Copy, Debug)]
pub struct Webhooks<'a> {
    store: &'a Store,
}

impl Store {
    /// Gives the webhooks.
    pub const fn webhooks(&self) -> Webhooks<'_> {
        Webhooks { store: self }
    }
}

/// Rows written with one statement.
const AT_ONCE: usize = 200;

/// A webhook to be.
#[derive(Clone, Debug)]
pub struct NewWebhook {
    /// 26 characters that no other has; the secret is sealed with them.
    pub uid: String,
    /// URL that events are sent to.
    pub url: String,
    /// Events to send: patterns of [`orion_domain::webhook::KindPattern`].
    pub kinds: Vec<String>,
    /// The signing secret, sealed by the caller.
    pub secret_sealed: Vec<u8>,
    /// User who makes the webhook.
    pub created_by: Option<UserId>,
}

/// URL that is told of events, and how far it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Number of the webhook.
    pub id: WebhookId,
    /// Value of [`NewWebhook::uid`].
    pub uid: String,
    /// URL that events are sent to.
    pub url: String,
    /// Events to send: patterns of [`orion_domain::webhook::KindPattern`].
    pub kinds: Vec<String>,
    /// The signing secret, sealed.
    pub secret_sealed: Vec<u8>,
    /// Every event up to here was looked at for it; those from before it was made are not for it.
    pub position: EventId,
    /// User who made the webhook.
    pub created_by: Option<UserId>,
    /// Time at which the webhook was made.
    pub created_at: Timestamp,
}

#[derive(FromRow)]
pub(crate) struct WebhookRecord {
    id: i64,
    uid: String,
    url: String,
    kinds: String,
    secret_sealed: Vec<u8>,
    position: i64,
    created_by: Option<i64>,
    created_at: i64,
}

impl TryFrom<WebhookRecord> for Webhook {
    type Error = StoreError;

    fn try_from(row: WebhookRecord) -> Result<Self, StoreError> {
        let kinds = serde_json::from_str(&row.kinds).map_err(|error| StoreError::Corrupt {
            table: "webhooks",
            id: row.id,
            detail: format!("kinds: {error}"),
        })?;
        Ok(Self {
            id: WebhookId(row.id),
            uid: row.uid,
            url: row.url,
            kinds,
            secret_sealed: row.secret_sealed,
            position: EventId(row.position),
            created_by: row.created_by.map(UserId),
            created_at: Timestamp::from_micros(row.created_at),
        })
    }
}

pub(crate) fn webhook_sql(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!(
        "SELECT id, uid, url, kinds, secret_sealed, position, created_by, created_at FROM webhooks {rest}"
    ))
}

impl Tx {
    async fn webhook_by_uid(&mut self, uid: &str) -> Result<Option<Webhook>> {
        let record = self.one::<WebhookRecord>(webhook_sql("WHERE uid = ?"), vals![uid]).await?;
        Ok(record.map(Webhook::try_from).transpose()?)
    }
}

impl Webhooks<'_> {
    /// Makes a webhook, which gets the events that come from now on, or gives the one that has this uid already.
    pub async fn create(self, new: &NewWebhook, now: Timestamp) -> Result<Webhook, StoreError> {
        let kinds = json(&new.kinds)?;
        Ok(transaction!(&self.store.db, |tx| {
            if let Some(known) = tx.webhook_by_uid(&new.uid).await? {
                tx.abandon();
                return Ok(known);
            }
            let last = tx.one::<(Option<i64>,)>("SELECT MAX(id) FROM events", vals![]).await?;
            let position = last.and_then(|(id,)| id).unwrap_or(0);
            let sql = "INSERT INTO webhooks (uid, url, kinds, secret_sealed, position, created_by, created_at) \
                       VALUES (?, ?, ?, ?, ?, ?, ?)";
            let secret = new.secret_sealed.as_slice();
            let values = vals![&new.uid, &new.url, &kinds, secret, position, new.created_by, now];
            let id = match tx.insert(sql, values).await {
                Ok(id) => id,
                // Another one was faster: it is read at the next attempt.
                Err(Fault::Unique(text)) => return Err(Fault::Retry(text)),
                Err(fault) => return Err(fault),
            };
            let event = WebhookEvent::Created { webhook_id: WebhookId(id) };
            tx.append_events(&[NewEvent::new(event).by(new.created_by)], now).await?;
            let made = tx.webhook_by_uid(&new.uid).await?;
            made.ok_or_else(|| Fault::Retry("a new webhook vanished".into()))
        })?)
    }

    /// All webhooks, oldest first.
    pub async fn list(self) -> Result<Vec<Webhook>, StoreError> {
        crate::engine::each(self.store.db.all::<WebhookRecord>(webhook_sql("ORDER BY id"), vals![]).await?)
    }

    /// Deletes a webhook, and what was still to be sent to it. `Gone`: there is none.
    pub async fn delete(
        self,
        id: WebhookId,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Cas, StoreError> {
        let deleted = transaction!(&self.store.db, |tx| {
            if tx.exec("DELETE FROM webhooks WHERE id = ?", vals![id]).await? == 0 {
                tx.abandon();
                return Ok(Cas::Gone);
            }
            let event = WebhookEvent::Deleted { webhook_id: id };
            tx.append_events(&[NewEvent::new(event).by(actor)], now).await?;
            Ok(Cas::Done(()))
        })?;
        // What is left when this is cut off, the sweep removes.
        while self.delete_deliveries("webhook_id = ?", vals![id]).await? > 0 {}
        Ok(deleted)
    }

    /// Writes down that these events are to be sent to these webhooks; what was written down before stays as it is.
    pub async fn fan_out(self, wanted: &[(WebhookId, EventId)], now: Timestamp) -> Result<(), StoreError> {
        let twice = self.store.db.sql(
            "ON DUPLICATE KEY UPDATE attempts = attempts",
            "ON CONFLICT (webhook_id, event_id) DO NOTHING",
        );
        for some in wanted.chunks(AT_ONCE) {
            let places = vec!["(?, ?, 'pending', ?, ?)"; some.len()].join(", ");
            let sql = format!(
                "INSERT INTO webhook_deliveries (webhook_id, event_id, state, next_try_at, created_at) \
                 VALUES {places} {twice}"
            );
            let values: Vec<Val> =
                some.iter().flat_map(|(webhook, event)| vals![*webhook, event.0, now, now]).collect();
            transaction!(&self.store.db, |tx| {
                tx.exec(AssertSqlSafe(sql.clone()), values.clone()).await.map(|_| ())
            })?;
        }
        Ok(())
    }

    /// Every event up to `position` was looked at for these webhooks.
    pub async fn settle(self, ids: &[WebhookId], position: EventId) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let places = vec!["?"; ids.len()].join(", ");
        let sql = format!("UPDATE webhooks SET position = ? WHERE position < ? AND id IN ({places})");
        let mut values = vals![position.0, position.0];
        values.extend(ids.iter().map(|id| Val::from(*id)));
        Ok(transaction!(&self.store.db, |tx| {
            tx.exec(AssertSqlSafe(sql.clone()), values.clone()).await.map(|_| ())
        })?)
    }

    /// Sends a webhook an event that no other gets, whatever kinds it wants. `Gone`: there is no such webhook.
    pub async fn test(
        self,
        id: WebhookId,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Cas<DeliveryId>, StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            if tx.one::<(i64,)>("SELECT id FROM webhooks WHERE id = ?", vals![id]).await?.is_none() {
                tx.abandon();
                return Ok(Cas::Gone);
            }
            let event = WebhookEvent::Test { webhook_id: id };
            tx.append_events(&[NewEvent::new(event).by(actor)], now).await?;
            let uid = tx.marked_event();
            let event = tx.one::<(i64,)>("SELECT id FROM events WHERE uid = ?", vals![uid]).await?;
            let Some((event,)) = event else { return Err(Fault::Retry("a new event vanished".into())) };
            let sql = "INSERT INTO webhook_deliveries (webhook_id, event_id, state, next_try_at, created_at) \
                       VALUES (?, ?, 'pending', ?, ?)";
            Ok(Cas::Done(DeliveryId(tx.insert(sql, vals![id, event, now, now]).await?)))
        })?)
    }
}
