//! `/api/admin/webhooks`: where events are sent to.
//!
//! Does not live here: sending them, which the schedulers do.

use super::{Body, Message, parse_id};
use crate::{
    App,
    app::{
        idempotency::Idempotent,
        webhooks::{
            WebhookRequest,
            views::{NewWebhookView, WebhookTested, WebhookView},
        },
    },
    auth::Admin,
    error::ApiError,
    openapi::parameters::IdempotencyKey,
};
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use orion_domain::{WebhookId, webhook::KindPattern};
use orion_service::webhook::WebhookSecret;
use serde::Deserialize;
use url::Url;
use utoipa::ToSchema;

/// Longest address, in characters.
const URL_MAX: usize = 2_000;
/// Most patterns of one webhook.
const KINDS_MAX: usize = 50;

/// Receiver to which events are to be sent.
#[derive(Deserialize, ToSchema)]
pub struct WebhookBody {
    /// An `http://` or `https://` address without user and password, at most 2000 characters.
    #[schema(max_length = 2000, pattern = "^[hH][tT][tT][pP][sS]?://[^#]+$")]
    url: String,
    /// Events to send: kinds such as `node.dead`, groups such as `lease.*`, or `*`, the default. At most 50.
    #[schema(min_items = 1, max_items = 50, value_type = Option<Vec<crate::openapi::schemas::KindPattern>>)]
    kinds: Option<Vec<String>>,
    /// The signing secret: `whsec_` and base64 of 24 to 64 bytes. One is made if it is left out.
    secret: Option<String>,
}

impl WebhookBody {
    fn check(self) -> Result<WebhookRequest, ApiError> {
        let Self { url, kinds, secret } = self;
        let kinds = kinds.unwrap_or_else(|| vec!["*".to_owned()]);
        if kinds.is_empty() || kinds.len() > KINDS_MAX {
            let rule =
                format!("must have 1 to {KINDS_MAX} entries, not {}; leave it out for all", kinds.len());
            return Err(ApiError::field("kinds", rule));
        }
        let kinds = kinds.iter().map(|kind| kind.parse::<KindPattern>()).collect::<Result<Vec<_>, _>>();
        let secret = secret.as_deref().map(WebhookSecret::parse).transpose();
        Ok(WebhookRequest {
            url: check_url(&url).map_err(|rule| ApiError::field("url", rule))?,
            kinds: kinds.map_err(|rule| ApiError::field("kinds", rule))?,
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
    let made = app.webhooks().create(who.user, body.parsed.check()?, key).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// The webhooks
///
/// With what is still to be sent to each, and how its last try went. There are at most 100 of them.
#[utoipa::path(
    get, path = "/api/admin/webhooks", operation_id = "listWebhooks", tag = "admin",
    responses((status = 200, description = "The webhooks, oldest first", body = [WebhookView]))
)]
pub async fn list(State(app): State<App>, Admin(_): Admin) -> Result<Json<Vec<WebhookView>>, ApiError> {
    app.webhooks().list().await.map(Json)
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
    app.webhooks().delete(id, who.user).await?;
    Ok(Message::new("Webhook deleted"))
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
    app.webhooks().test(id, who.user).await.map(Json)
}
