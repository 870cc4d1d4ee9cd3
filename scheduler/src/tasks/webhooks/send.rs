//! One delivery: signed as the Standard Webhooks specification has it, sent once, and what came of it recorded.
//!
//! Does not live here: when it is due, and how many at once.

use crate::config::SchedulerConfig;
use orion_domain::{DeliveryId, EventId, LeaseId, NodeId, Timestamp, UserId, webhook::next_try};
use orion_fleet::{Fleet, metrics::DeliveryResult};
use orion_service::{sealed::MasterKey, webhook::WebhookSecret};
use orion_store::{DeliveryClaim, Event, StoreError, Tried};
use reqwest::{Client, Response, StatusCode, Url, header, redirect::Policy};
use serde::Serialize;
use std::{net::IpAddr, time::Duration};

/// Time by which a claim outlives the longest try: for the clocks' difference, and for recording the
/// outcome.
const CLAIM_SLACK: Duration = Duration::from_secs(5);
/// A connection that is not there after this is not waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes read of a reply's body: the beginning of an error's text.
const BODY_MAX: usize = 2_048;
/// Longest wait for a reply's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// Characters kept of a reply's body.
const TEXT_MAX: usize = 200;

/// Outcome of a delivery.
pub(super) enum Outcome {
    /// The target took it.
    Taken,
    /// Delivery that the target did not take.
    Failed,
    /// Delivery that another scheduler has, or that is over.
    NotOurs,
}

/// Sends to any target.
pub(super) struct Sender {
    master: MasterKey,
    timeout: Duration,
    /// Through the proxy of the environment, if there is one.
    client: Client,
    /// Client for targets on this machine.
    direct: Client,
}

/// The body: the specification's three fields, with the event as `GET /api/events` shows it.
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    timestamp: Timestamp,
    data: EventData<'a>,
}

#[derive(Serialize)]
struct EventData<'a> {
    id: EventId,
    at: Timestamp,
    kind: &'a str,
    lease_id: Option<LeaseId>,
    node_id: Option<NodeId>,
    user_id: Option<UserId>,
    data: &'a serde_json::Value,
}

impl<'a> From<&'a Event> for Body<'a> {
    fn from(event: &'a Event) -> Self {
        let Event { id, at, kind, lease, node, user, data, .. } = event;
        Self {
            r#type: kind,
            timestamp: *at,
            data: EventData {
                id: *id,
                at: *at,
                kind,
                lease_id: *lease,
                node_id: *node,
                user_id: *user,
                data,
            },
        }
    }
}

/// Reason for the failure of a try, for the admin who looks at the webhook.
struct Failure {
    status: Option<StatusCode>,
    why: String,
}

impl Failure {
    fn new(why: impl Into<String>) -> Self {
        Self { status: None, why: why.into() }
    }
}

impl Sender {
    /// A sender; none without a master key.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(config: &SchedulerConfig) -> Result<Option<Self>, String> {
        let Some(master) = config.master_key.clone() else { return Ok(None) };
        // It only fails where one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = || {
            Client::builder()
                .user_agent(concat!("orion-webhooks/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                // A redirect would carry what was signed for one address to another.
                .redirect(Policy::none())
        };
        let named = |error: reqwest::Error| format!("cannot set up HTTP: {}", chain(&error));
        Ok(Some(Self {
            master,
            timeout: config.webhook_timeout,
            client: client().build().map_err(named)?,
            direct: client().no_proxy().build().map_err(named)?,
        }))
    }

    /// Tries a delivery once, if it is still to be made.
    ///
    /// # Errors
    /// The database's. The delivery is then sent again.
    pub(super) async fn deliver(&self, fleet: &Fleet, id: DeliveryId) -> Result<Outcome, StoreError> {
        let claimed =
            fleet.store.webhooks().claim_delivery(id, self.timeout + CLAIM_SLACK, fleet.now()).await?;
        let Some(claim) = claimed else { return Ok(Outcome::NotOurs) };
        let (webhook, attempt, kind) = (claim.webhook.id, claim.attempt, &claim.event.kind);
        let sent = self.send(&claim, fleet.now()).await;
        let now = fleet.now();
        let (tried, outcome, result) = match sent {
            Ok(status) => {
                tracing::debug!(%webhook, delivery = %id, attempt, kind, "an event was delivered");
                let tried = Tried { status: Some(status.as_u16()), error: None, again_at: None };
                (tried, Outcome::Taken, DeliveryResult::Delivered)
            }
            Err(Failure { status, why }) => {
                let again_at = next_try(attempt, rand::random_range(0.0..=1.0), now);
                let result =
                    if again_at.is_some() { DeliveryResult::Failed } else { DeliveryResult::GivenUp };
                tracing::warn!(
                    %webhook, delivery = %id, attempt, kind, why, given_up = again_at.is_none(),
                    "an event was not delivered"
                );
                let status = status.map(|status| status.as_u16());
                (Tried { status, error: Some(why), again_at }, Outcome::Failed, result)
            }
        };
        fleet.metrics.tried_delivery(result);
        if !fleet.store.webhooks().finish_delivery(&claim, &tried, now).await? {
            tracing::debug!(%webhook, delivery = %id, "a delivery was taken over meanwhile, or its webhook is gone");
        }
        Ok(outcome)
    }

    async fn send(&self, claim: &DeliveryClaim, now: Timestamp) -> Result<StatusCode, Failure> {
        let DeliveryClaim { webhook, event, .. } = claim;
        let secret = WebhookSecret::open(&self.master, &webhook.uid, &webhook.secret_sealed)
            .map_err(|error| Failure::new(format!("its signing secret: {error}")))?;
        let url: Url = webhook
            .url
            .parse()
            .map_err(|error| Failure::new(format!("its address cannot be used: {error}")))?;
        let body = serde_json::to_vec(&Body::from(event))
            .map_err(|error| Failure::new(format!("the event is no JSON: {error}")))?;
        let client = if is_local(&url) { &self.direct } else { &self.client };
        let request = client
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &event.uid)
            .header("webhook-timestamp", now.as_secs())
            .header("webhook-signature", secret.sign(&event.uid, now.as_secs(), &body))
            .body(body);
        let reply = match tokio::time::timeout(self.timeout, request.send()).await {
            Ok(Ok(reply)) => reply,
            // Its address may hold a token.
            Ok(Err(error)) => return Err(Failure::new(chain(&error.without_url()))),
            Err(_) => return Err(Failure::new(format!("no reply within {} s", self.timeout.as_secs_f32()))),
        };
        let status = reply.status();
        let text = beginning(reply).await;
        if status.is_success() {
            return Ok(status);
        }
        let said = if text.is_empty() { String::new() } else { format!(": {text}") };
        let redirect = if status.is_redirection() { "; redirects are not followed" } else { "" };
        Err(Failure { status: Some(status), why: format!("it answered {status}{redirect}{said}") })
    }
}

fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The beginning of a reply's body, as one line of text. A body that ends within the limit leaves its connection
/// for the next event.
async fn beginning(mut reply: Response) -> String {
    let mut bytes = Vec::new();
    let read = async {
        while bytes.len() < BODY_MAX {
            match reply.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk[..chunk.len().min(BODY_MAX)]),
                Ok(None) | Err(_) => break,
            }
        }
    };
    // What did not come in time does not matter: the status has.
    let _ = tokio::time::timeout(BODY_TIMEOUT, read).await;
    let text = String::from_utf8_lossy(&bytes);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(TEXT_MAX).collect()
}

/// An error with its causes; those that only repeat it are left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
