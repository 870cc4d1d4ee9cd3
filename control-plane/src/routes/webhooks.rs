//! `/api/admin/webhooks`: where events are sent to.
//!
//! Does not live here: sending them, which the schedulers do.

use super::{Body, Message, parse_id};
use crate::{
    App, app::idempotency::Idempotent, auth::Admin, error::ApiError, openapi::parameters::IdempotencyKey,
};
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use orion_domain::{DeliveryId, Timestamp, UserId, WebhookId, webhook::KindPattern};
use orion_service::webhook::WebhookSecret;
use orion_store::{Cas, Delivery, DeliveryState, NewWebhook, Webhook, WebhookTally};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use url::Url;
use utoipa::ToSchema;

/// Most webhooks.
const WEBHOOKS_MAX: usize = 100;
/// Longest address, in characters.
const URL_MAX: usize = 2_000;
/// Most patterns of one webhook.
const KINDS_MAX: usize = 50;
/// How long a test waits for its first try: longer than a try may take.
const TEST_WAIT: Duration = Duration::from_secs(15);
/// Pause between two looks at a test.
const TEST_PAUSE: Duration = Duration::from_millis(200);

/// Where events are to be sent to.
#[derive(Deserialize, ToSchema)]
pub struct WebhookBody {
    /// An `http://` or `https://` address without user and password, at most 2000 characters.
    #[schema(max_length = 2000)]
    url: String,
    /// Which events: kinds such as `node.dead`, groups such as `lease.*`, or `*`, which is what is meant if it is
    /// left out. At most 50.
    #[schema(min_items = 1, max_items = 50)]
    kinds: Option<Vec<String>>,
    /// The signing secret: `whsec_` and base64 of 24 to 64 bytes. One is made if it is left out.
    secret: Option<String>,
}

struct Checked {
    url: String,
    kinds: Vec<String>,
    secret: Option<WebhookSecret>,
}

impl WebhookBody {
    fn check(self) -> Result<Checked, ApiError> {
        let Self { url, kinds, secret } = self;
        let kinds = kinds.unwrap_or_else(|| vec!["*".to_owned()]);
        if kinds.is_empty() || kinds.len() > KINDS_MAX {
            let rule =
                format!("must have 1 to {KINDS_MAX} entries, not {}; leave it out for all", kinds.len());
            return Err(ApiError::field("kinds", rule));
        }
        let kinds = kinds.iter().map(|kind| kind.parse::<KindPattern>()).collect::<Result<Vec<_>, _>>();
        let kinds = kinds.map_err(|rule| ApiError::field("kinds", rule))?;
        let secret = secret.as_deref().map(WebhookSecret::parse).transpose();
        Ok(Checked {
            url: check_url(&url).map_err(|rule| ApiError::field("url", rule))?,
            kinds: kinds.iter().map(|kind| kind.as_str().to_owned()).collect(),
            secret: secret.map_err(|rule| ApiError::field("secret", rule))?,
        })
    }
}

fn check_url(text: &str) -> Result<String, String> {
    if text.chars().count() > URL_MAX {
        return Err(format!("must have at most {URL_MAX} characters"));
    }
    let url = Url::parse(text).map_err(|error| format!("is no address: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("must be an http:// or https:// address".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must hold no user and no password; a receiver knows us by the signature".into());
    }
    if url.fragment().is_some() {
        return Err("must have no part after #, which is never sent".into());
    }
    Ok(url.into())
}

/// A webhook that was made.
#[derive(Serialize, ToSchema)]
pub struct NewWebhookView {
    #[schema(value_type = i64)]
    id: WebhookId,
    url: String,
    kinds: Vec<String>,
    /// For the receiver, which checks `webhook-signature` with it; it is shown here only.
    secret: String,
}

/// How far a delivery is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryWord {
    /// It is to be tried, perhaps again.
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
    /// How often it was tried.
    attempts: u32,
    /// When it was tried last.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_try_at: Option<Timestamp>,
    /// When it is tried next.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    next_try_at: Option<Timestamp>,
    /// The HTTP status of the last reply; `null` if there was none.
    #[schema(required)]
    status: Option<u16>,
    /// Why the last try failed.
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
    /// Who made it.
    #[schema(value_type = Option<i64>, required)]
    created_by: Option<UserId>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Events that are still to be sent.
    pending: i64,
    /// Those of them that failed before, and are tried again.
    failing: i64,
    /// Events of the last 30 days that were given up.
    given_up: i64,
    /// The last try.
    #[schema(required)]
    last_delivery: Option<DeliveryView>,
}

impl WebhookView {
    fn new(webhook: Webhook, tally: Option<WebhookTally>) -> Self {
        let Webhook { id, url, kinds, created_by, created_at, .. } = webhook;
        let WebhookTally { pending, failing, given_up, last } = tally.unwrap_or_default();
        let last_delivery = last.map(DeliveryView::from);
        Self { id, url, kinds, created_by, created_at, pending, failing, given_up, last_delivery }
    }
}

/// Make a webhook
///
/// From now on, each event of these kinds is posted to the address as JSON: `type`, `timestamp`, and in `data` the
/// event as `GET /api/events` shows it. It is signed as the
/// [Standard Webhooks](https://www.standardwebhooks.com) specification has it, in the headers `webhook-id`,
/// `webhook-timestamp` and `webhook-signature`. Any status of 200 to 299 means that it was taken; otherwise it is
/// tried again later and later, for about a day. It comes at least once, and not always in order: the same
/// `webhook-id` is the same event.
#[utoipa::path(
    post, path = "/api/admin/webhooks", operation_id = "createWebhook", tag = "admin",
    params(IdempotencyKey),
    request_body = WebhookBody,
    responses(
        (status = 201, description = "The webhook, with its secret", body = NewWebhookView),
        (status = 409, description = "There are too many webhooks"),
    )
)]
pub async fn create(
    State(app): State<App>,
    Admin(who): Admin,
    headers: HeaderMap,
    body: Body<WebhookBody>,
) -> Result<(StatusCode, Json<NewWebhookView>), ApiError> {
    let master = &app.config.master_key;
    let key = Idempotent::read(&headers, "webhook", Some(who.user), &body.canonical, master)?;
    let Checked { url, kinds, secret } = body.parsed.check()?;
    let now = app.now();
    let (uid, made) = match &key {
        Some(key) => {
            if let Some(earlier) = app.store.idem_begin(&key.row(None, None, now), now).await? {
                key.check_body(&earlier)?;
            }
            // Both follow from the key: the same request makes the same webhook, also after a crash.
            let salt = format!("{} {}", key.scope(), key.sha256());
            let bytes = master.derive_bytes("webhook-uid-of-request", salt.as_bytes());
            let (head, _) =
                bytes.split_first_chunk::<16>().ok_or_else(|| ApiError::internal("no 16 bytes"))?;
            let uid = ulid::Ulid::from(u128::from_be_bytes(*head));
            (uid, WebhookSecret::derive(master, salt.as_bytes()))
        }
        None => (ulid::Ulid::generate(), WebhookSecret::generate()),
    };
    let (uid, secret) = (uid.to_string(), secret.unwrap_or(made));
    let known = app.store.webhooks().await?;
    if known.len() >= WEBHOOKS_MAX && !known.iter().any(|webhook| webhook.uid == uid) {
        return Err(ApiError::conflict(
            "too_many_webhooks",
            format!("there are {WEBHOOKS_MAX} webhooks already; delete some"),
        ));
    }
    let secret_sealed = secret.seal(master, &uid);
    let new = NewWebhook { uid, url, kinds, secret_sealed, created_by: Some(who.user) };
    let Webhook { id, url, kinds, .. } = app.store.create_webhook(&new, now).await?;
    app.fleet.nudge.all();
    let reply = NewWebhookView { id, url, kinds, secret: secret.text().expose().to_owned() };
    Ok((StatusCode::CREATED, Json(reply)))
}

/// The webhooks
///
/// With what is still to be sent to each, and how its last try went. There are at most 100 of them.
#[utoipa::path(
    get, path = "/api/admin/webhooks", operation_id = "listWebhooks", tag = "admin",
    responses((status = 200, description = "The webhooks, oldest first", body = [WebhookView]))
)]
pub async fn list(State(app): State<App>, Admin(_): Admin) -> Result<Json<Vec<WebhookView>>, ApiError> {
    let webhooks = app.store.webhooks().await?;
    let ids: Vec<WebhookId> = webhooks.iter().map(|webhook| webhook.id).collect();
    let mut tallies = app.store.tally_webhooks(&ids).await?;
    let view = |webhook: Webhook| {
        let tally = tallies.remove(&webhook.id);
        WebhookView::new(webhook, tally)
    };
    Ok(Json(webhooks.into_iter().map(view).collect()))
}

/// Delete a webhook
///
/// What was still to be sent to it is not sent.
#[utoipa::path(
    post, path = "/api/admin/webhooks/{id}/delete", operation_id = "deleteWebhook", tag = "admin",
    params(("id" = i64, Path, description = "The webhook's number", example = 2)),
    responses(
        (status = 200, description = "It is gone", body = Message),
        (status = 404, description = "There is no such webhook"),
    )
)]
pub async fn delete(
    State(app): State<App>,
    Admin(who): Admin,
    Path(id): Path<String>,
) -> Result<Json<Message>, ApiError> {
    let id: WebhookId = parse_id(&id, "webhook")?;
    match app.store.delete_webhook(id, Some(who.user), app.now()).await? {
        Cas::Done(()) | Cas::Stale => {
            app.fleet.nudge.all();
            Ok(Message::new("Webhook deleted"))
        }
        Cas::Gone => Err(no_such(id)),
    }
}

/// What a test came to.
#[derive(Serialize, ToSchema)]
pub struct WebhookTested {
    /// In a sentence.
    message: &'static str,
    delivery: DeliveryView,
}

/// Test a webhook
///
/// Sends it an event of the kind `webhook.test`, which no other webhook gets, and waits for the first try, up to 15
/// seconds.
#[utoipa::path(
    post, path = "/api/admin/webhooks/{id}/test", operation_id = "testWebhook", tag = "admin",
    params(("id" = i64, Path, description = "The webhook's number", example = 2)),
    responses(
        (status = 200, description = "What the try came to, or that there was none yet", body = WebhookTested),
        (status = 404, description = "There is no such webhook"),
    )
)]
pub async fn test(
    State(app): State<App>,
    Admin(who): Admin,
    Path(id): Path<String>,
) -> Result<Json<WebhookTested>, ApiError> {
    let id: WebhookId = parse_id(&id, "webhook")?;
    let begun = app.store.test_webhook(id, Some(who.user), app.now()).await?;
    let delivery = begun.done().ok_or_else(|| no_such(id))?;
    app.fleet.nudge.all();
    let until = tokio::time::Instant::now() + TEST_WAIT;
    loop {
        // Only a delete takes it away.
        let seen = app.store.delivery(delivery).await?.ok_or_else(|| no_such(id))?;
        let failed = seen.error.is_some();
        let waited_enough = tokio::time::Instant::now() >= until || app.shutdown.is_cancelled();
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
        return Ok(Json(WebhookTested { message, delivery: seen.into() }));
    }
}

fn no_such(id: WebhookId) -> ApiError {
    ApiError::not_found(format!("there is no webhook {id}; GET /api/admin/webhooks lists them"))
}
