//! What the API shows of webhooks and deliveries.

use orion_domain::{DeliveryId, Timestamp, UserId, WebhookId};
use orion_store::{Delivery, DeliveryState, Webhook, WebhookTally};
use serde::Serialize;
use utoipa::ToSchema;

/// A webhook that was made.
#[derive(Serialize, ToSchema)]
pub struct NewWebhookView {
    #[schema(value_type = i64)]
    pub(super) id: WebhookId,
    pub(super) url: String,
    pub(super) kinds: Vec<String>,
    /// Secret for the receiver, which checks `webhook-signature` with it; it is shown here only.
    pub(super) secret: String,
}

/// State of a delivery.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryWord {
    /// Delivery that is to be tried, perhaps again.
    Pending,
    /// The receiver took it.
    Delivered,
    /// The receiver did not take it for about a day; it is not tried any more.
    GivenUp,
}

impl From<DeliveryState> for DeliveryWord {
    fn from(state: DeliveryState) -> Self {
        match state {
            DeliveryState::Pending => Self::Pending,
            DeliveryState::Delivered => Self::Delivered,
            DeliveryState::GivenUp => Self::GivenUp,
        }
    }
}

/// One event for one webhook.
#[derive(Serialize, ToSchema)]
pub struct DeliveryView {
    #[schema(value_type = i64)]
    id: DeliveryId,
    /// The event's kind.
    kind: String,
    #[schema(value_type = DeliveryWord, inline)]
    state: DeliveryWord,
    /// Number of tries so far.
    attempts: u32,
    /// Time of the last try.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_try_at: Option<Timestamp>,
    /// Time of the next try.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    next_try_at: Option<Timestamp>,
    /// The HTTP status of the last reply; `null` if there was none.
    #[schema(required)]
    status: Option<u16>,
    /// Reason for the failure of the last try.
    #[schema(required)]
    error: Option<String>,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        let Delivery { id, kind, state, attempts, last_try_at, next_try_at, status, error } = delivery;
        Self { id, kind, state: state.into(), attempts, last_try_at, next_try_at, status, error }
    }
}

/// A webhook, and how it goes with it.
#[derive(Serialize, ToSchema)]
pub struct WebhookView {
    #[schema(value_type = i64)]
    id: WebhookId,
    url: String,
    kinds: Vec<String>,
    /// Account that made the webhook.
    #[schema(value_type = Option<i64>, required)]
    created_by: Option<UserId>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Events that are still to be sent.
    pending: i64,
    /// Pending events that failed before, and are tried again.
    failing: i64,
    /// Events of the last 30 days that were given up.
    given_up: i64,
    /// The last try.
    #[schema(required)]
    last_delivery: Option<DeliveryView>,
}

impl WebhookView {
    /// Puts a webhook and its tally together.
    pub fn new(webhook: Webhook, tally: Option<WebhookTally>) -> Self {
        let Webhook { id, url, kinds, created_by, created_at, .. } = webhook;
        let WebhookTally { pending, failing, given_up, last } = tally.unwrap_or_default();
        let last_delivery = last.map(DeliveryView::from);
        Self { id, url, kinds, created_by, created_at, pending, failing, given_up, last_delivery }
    }
}

/// Outcome of a test.
#[derive(Serialize, ToSchema)]
pub struct WebhookTested {
    /// In a sentence.
    pub(super) message: &'static str,
    pub(super) delivery: DeliveryView,
}
