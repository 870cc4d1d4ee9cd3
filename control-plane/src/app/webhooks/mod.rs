//! Webhooks: where events are sent to.
//!
//! Does not live here: sending them, which the schedulers do.

pub mod views;

use self::views::{NewWebhookView, WebhookTested, WebhookView};
use crate::{
    App,
    app::idempotency::Idempotent,
    error::{ApiError, WEBHOOK},
};
use orion_domain::{UserId, WebhookId, webhook::KindPattern};
use orion_service::webhook::WebhookSecret;
use orion_store::{Cas, DeliveryState, NewWebhook, Webhook};
use std::time::Duration;
use ulid::Ulid;

/// Most webhooks.
const WEBHOOKS_MAX: usize = 100;
/// Longest wait of a test for its first try: longer than a try may take.
const TEST_WAIT: Duration = Duration::from_secs(15);
/// Pause between two looks at a test.
const TEST_PAUSE: Duration = Duration::from_millis(200);

/// A webhook that is wanted, checked.
pub struct WebhookRequest {
    /// The address.
    pub url: String,
    /// The patterns of the kinds of its events; those of a new webhook must be of kinds that there are.
    pub kinds: Vec<KindPattern>,
    /// Its signing secret; made if there is none.
    pub secret: Option<WebhookSecret>,
}

/// What admins do with webhooks.
#[derive(Clone, Copy)]
pub struct Webhooks<'a> {
    app: &'a App,
}

impl App {
    /// Gives the webhooks.
    pub const fn webhooks(&self) -> Webhooks<'_> {
        Webhooks { app: self }
    }
}

impl Webhooks<'_> {
    /// Makes a webhook. A request that made one already gets that one, also when a kind of events that it names has
    /// gone since.
    ///
    /// # Errors
    /// 400 for a kind that no event has, 409 when there are too many, 422 for a re-used key.
    pub async fn create(
        self,
        actor: UserId,
        request: WebhookRequest,
        key: Option<Idempotent>,
    ) -> Result<NewWebhookView, ApiError> {
        let (master, now) = (&self.app.config.master_key, self.app.now());
        let (uid, made) = match &key {
            Some(key) => {
                // Both follow from the key.
                let salt = key.salt();
                let bytes = master.derive_bytes("webhook-uid-of-request", salt.as_bytes());
                let (head, _) =
                    bytes.split_first_chunk::<16>().ok_or_else(|| ApiError::internal("no 16 bytes"))?;
                (Ulid::from(u128::from_be_bytes(*head)), WebhookSecret::derive(master, salt.as_bytes()))
            }
            None => (Ulid::generate(), WebhookSecret::generate()),
        };
        let WebhookRequest { url, kinds, secret } = request;
        let (uid, secret) = (uid.to_string(), secret.unwrap_or(made));
        let there = self.app.store.webhooks().list().await?;
        if !there.iter().any(|webhook| webhook.uid == uid) {
            for kind in &kinds {
                kind.known().map_err(|rule| ApiError::field("kinds", rule))?;
            }
            if there.len() >= WEBHOOKS_MAX {
                return Err(ApiError::conflict(
                    "too_many_webhooks",
                    format!("there are {WEBHOOKS_MAX} webhooks already; delete some"),
                ));
            }
        }
        if let Some(key) = &key {
            key.begin(&self.app.store, now).await?;
        }
        let kinds = kinds.iter().map(ToString::to_string).collect();
        let secret_sealed = secret.seal(master, &uid);
        let new = NewWebhook { uid, url, kinds, secret_sealed, created_by: Some(actor) };
        let Webhook { id, url, kinds, .. } = self.app.store.webhooks().create(&new, now).await?;
        self.app.fleet.nudge.all();
        Ok(NewWebhookView { id, url, kinds, secret: secret.text().expose().to_owned() })
    }

    /// Lists the webhooks with what is still to be sent to each, oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(self) -> Result<Vec<WebhookView>, ApiError> {
        let webhooks = self.app.store.webhooks().list().await?;
        let ids: Vec<WebhookId> = webhooks.iter().map(|webhook| webhook.id).collect();
        let mut tallies = self.app.store.webhooks().counts(&ids).await?;
        let view = |webhook: Webhook| {
            let tally = tallies.remove(&webhook.id);
            WebhookView::new(webhook, tally)
        };
        Ok(webhooks.into_iter().map(view).collect())
    }

    /// Deletes a webhook.
    ///
    /// # Errors
    /// 404 for an unknown one.
    pub async fn delete(self, id: WebhookId, actor: UserId) -> Result<(), ApiError> {
        let deleted = self.app.store.webhooks().delete(id, Some(actor), self.app.now()).await?;
        if deleted == Cas::Gone {
            return Err(WEBHOOK.missing(id));
        }
        self.app.fleet.nudge.all();
        Ok(())
    }

    /// Sends a webhook a test event and waits for the first try, or until nobody tries.
    ///
    /// # Errors
    /// 404 for an unknown one.
    pub async fn test(self, id: WebhookId, actor: UserId) -> Result<WebhookTested, ApiError> {
        let missing = || WEBHOOK.missing(id);
        let begun = self.app.store.webhooks().test(id, Some(actor), self.app.now()).await?;
        let delivery = begun.done().ok_or_else(missing)?;
        self.app.fleet.nudge.all();
        let until = tokio::time::Instant::now() + TEST_WAIT;
        loop {
            // Only a delete takes it away.
            let seen = self.app.store.webhooks().delivery(delivery).await?.ok_or_else(missing)?;
            let failed = seen.error.is_some();
            let waited_enough = tokio::time::Instant::now() >= until || self.app.shutdown.is_cancelled();
            let message = match seen.state {
                DeliveryState::Delivered => "The receiver took it",
                DeliveryState::GivenUp => "The receiver did not take it",
                DeliveryState::Pending if failed => "The receiver did not take it; it is tried again",
                DeliveryState::Pending if waited_enough => {
                    "It was not tried to the end yet; is a scheduler running?"
                }
                DeliveryState::Pending => {
                    tokio::time::sleep(TEST_PAUSE).await;
                    continue;
                }
            };
            return Ok(WebhookTested { message, delivery: seen.into() });
        }
    }
}
