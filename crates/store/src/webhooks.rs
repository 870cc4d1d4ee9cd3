//! Webhooks: where events go, and which event goes to which of them.
//!
//! Lives here: the webhooks' rows, and the rows of what is to be sent ([`Store::fan_out`]). Does not live here:
//! claiming and ending a delivery (`deliveries`), and which events a webhook wants (`orion_domain::webhook`).

use crate::{
    Store,
    attempts::{Tx, transaction},
    db::{Val, vals},
    error::{Cas, Fault, Result, StoreError},
    model::NewEvent,
    rows::json,
};
use orion_domain::{DeliveryId, EventId, Timestamp, UserId, WebhookId, webhook::TEST_KIND};
use serde_json::json;
use sqlx::{AssertSqlSafe, FromRow};

/// Rows written with one statement.
const AT_ONCE: usize = 200;

/// A webhook to be.
#[derive(Clone, Debug)]
pub struct NewWebhook {
    /// 26 characters that no other has; the secret is sealed with them.
    pub uid: String,
    /// Where events are sent to.
    pub url: String,
    /// Which events: patterns of [`orion_domain::webhook::KindPattern`].
    pub kinds: Vec<String>,
    /// The signing secret, sealed by the caller.
    pub secret_sealed: Vec<u8>,
    /// Who makes it.
    pub created_by: Option<UserId>,
}

/// A webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its number.
    pub id: WebhookId,
    /// As [`NewWebhook::uid`].
    pub uid: String,
    /// Where events are sent to.
    pub url: String,
    /// Which events.
    pub kinds: Vec<String>,
    /// The signing secret, sealed.
    pub secret_sealed: Vec<u8>,
    /// Every event up to here was looked at for it; those from before it was made are not for it.
    pub position: EventId,
    /// Who made it.
    pub created_by: Option<UserId>,
    /// When.
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

fn told(kind: &'static str, id: WebhookId, actor: Option<UserId>) -> NewEvent {
    let mut data = json!({ "webhook_id": id });
    if let Some(actor) = actor {
        data["actor"] = actor.0.into();
    }
    NewEvent { kind, lease: None, node: None, user: None, data }
}

impl Store {
    /// Makes a webhook, which gets the events that come from now on, or gives the one that has this uid already.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create_webhook(&self, new: &NewWebhook, now: Timestamp) -> Result<Webhook, StoreError> {
        let kinds = json(&new.kinds)?;
        Ok(transaction!(&self.db, |tx| {
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
            tx.tell(&[told("webhook.created", WebhookId(id), new.created_by)], now).await?;
            let made = tx.webhook_by_uid(&new.uid).await?;
            made.ok_or_else(|| Fault::Retry("a new webhook vanished".into()))
        })?)
    }

    /// All webhooks, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, StoreError> {
        crate::rows::each(self.db.all::<WebhookRecord>(webhook_sql("ORDER BY id"), vals![]).await?)
    }

    /// Deletes a webhook, and what was still to be sent to it. `Gone`: there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_webhook(
        &self,
        id: WebhookId,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Cas, StoreError> {
        let deleted = transaction!(&self.db, |tx| {
            if tx.exec("DELETE FROM webhooks WHERE id = ?", vals![id]).await? == 0 {
                tx.abandon();
                return Ok(Cas::Gone);
            }
            tx.tell(&[told("webhook.deleted", id, actor)], now).await?;
            Ok(Cas::Done(()))
        })?;
        // What is left when this is cut off, the sweep removes.
        while self.delete_deliveries("webhook_id = ?", vals![id]).await? > 0 {}
        Ok(deleted)
    }

    /// Writes down that these events are to be sent to these webhooks; what was written down before stays as it is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn fan_out(&self, wanted: &[(WebhookId, EventId)], now: Timestamp) -> Result<(), StoreError> {
        let twice = self.db.sql(
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
            transaction!(&self.db, |tx| {
                tx.exec(AssertSqlSafe(sql.clone()), values.clone()).await.map(|_| ())
            })?;
        }
        Ok(())
    }

    /// Every event up to `position` was looked at for these webhooks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn settle_webhooks(&self, ids: &[WebhookId], position: EventId) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let places = vec!["?"; ids.len()].join(", ");
        let sql = format!("UPDATE webhooks SET position = ? WHERE position < ? AND id IN ({places})");
        let mut values = vals![position.0, position.0];
        values.extend(ids.iter().map(|id| Val::from(*id)));
        Ok(transaction!(&self.db, |tx| {
            tx.exec(AssertSqlSafe(sql.clone()), values.clone()).await.map(|_| ())
        })?)
    }

    /// Sends a webhook an event that no other gets, whatever kinds it wants. `Gone`: there is no such webhook.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn test_webhook(
        &self,
        id: WebhookId,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Cas<DeliveryId>, StoreError> {
        Ok(transaction!(&self.db, |tx| {
            if tx.one::<(i64,)>("SELECT id FROM webhooks WHERE id = ?", vals![id]).await?.is_none() {
                tx.abandon();
                return Ok(Cas::Gone);
            }
            tx.tell(&[told(TEST_KIND, id, actor)], now).await?;
            let uid = tx.witnessed_event();
            let event = tx.one::<(i64,)>("SELECT id FROM events WHERE uid = ?", vals![uid]).await?;
            let Some((event,)) = event else { return Err(Fault::Retry("a new event vanished".into())) };
            let sql = "INSERT INTO webhook_deliveries (webhook_id, event_id, state, next_try_at, created_at) \
                       VALUES (?, ?, 'pending', ?, ?)";
            Ok(Cas::Done(DeliveryId(tx.insert(sql, vals![id, event, now, now]).await?)))
        })?)
    }
}
