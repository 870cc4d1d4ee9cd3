//! `POST /api/admin/nodes/{id}/drain` and `/undrain`.

use crate::{
    App,
    app::nodes::views::NodeView,
    auth::Admin,
    error::ApiError,
    routes::{Body, parse_id},
};
use axum::{
    Json,
    extract::{Path, State},
};
use orion_domain::{NodeId, Timestamp, time::Hours};
use orion_store::DrainRequest;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// Longest reason, in characters.
const REASON_MAX: usize = 200;
/// Furthest deadline, in hours: a year.
const DEADLINE_HOURS_MAX: f64 = 8760.0;

/// Reason and deadline of a drain. The whole body may be left out. Of a drain that goes on, what is left
/// out stays as it is.
#[derive(Default, Deserialize, ToSchema)]
pub struct DrainBody {
    /// Reason for people, at most 200 characters.
    #[schema(max_length = 200)]
    reason: Option<String>,
    /// Hours until the remaining leases lose the node by their own policy, at most 8760.
    #[schema(exclusive_minimum = 0, maximum = 8760)]
    deadline_hours: Option<f64>,
    /// The same as a time. `null`: no deadline, the leases move as nodes come free.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, format = DateTime)]
    deadline: Option<Option<Timestamp>>,
}

/// `null` is something else than nothing.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<Timestamp>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl DrainBody {
    fn check(self, now: Timestamp) -> Result<DrainRequest, ApiError> {
        let reason = self.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
        if reason.is_some_and(|reason| reason.chars().count() > REASON_MAX) {
            return Err(ApiError::field("reason", format!("must have at most {REASON_MAX} characters")));
        }
        let deadline = match (self.deadline_hours, self.deadline) {
            (None, deadline) => deadline,
            (Some(_), Some(Some(_))) => {
                return Err(ApiError::field("deadline", "give it or deadline_hours, not both"));
            }
            (Some(hours), None | Some(None)) => {
                let hours = Hours::new(hours, DEADLINE_HOURS_MAX)
                    .map_err(|rule| ApiError::field("deadline_hours", rule))?;
                Some(Some(now.plus(hours.duration())))
            }
        };
        if let Some(Some(at)) = deadline
            && at <= now
        {
            return Err(ApiError::field("deadline", format!("must lie in the future; it is {now} now")));
        }
        if let Some(Some(at)) = deadline
            && at.since(now).as_secs_f64() > DEADLINE_HOURS_MAX * 3600.0
        {
            return Err(ApiError::field("deadline", "must lie within a year"));
        }
        Ok(DrainRequest { reason: reason.map(str::to_owned), deadline, actor: None })
    }
}

/// A node after its drain began, changed or ended.
#[derive(Serialize, ToSchema)]
pub struct DrainReply {
    message: &'static str,
    node: NodeView,
}

/// Drain a node
///
/// It takes no new leases at once. Leases whose policy is `migrate` move to free nodes with their tags, one at a
/// time over the fleet; each login works on the old node until the new one has confirmed it. Those that may not
/// move stay until the deadline; then what is left loses the node by its own policy, and its account there is
/// removed. When the node is empty and clean (or dead), it is `drained`, and says so in an event. The same again
/// changes the reason or the deadline.
#[utoipa::path(
    post, path = "/api/admin/nodes/{id}/drain", operation_id = "drainNode", tag = "admin",
    params(("id" = i64, Path, description = "The node's number", example = 3)),
    request_body(content = Option<DrainBody>),
    responses(
        (status = 200, description = "The node is being drained", body = DrainReply),
        (status = 404, description = "There is no such node"),
    )
)]
pub async fn drain(
    State(app): State<App>,
    Admin(who): Admin,
    Path(id): Path<String>,
    body: Option<Body<DrainBody>>,
) -> Result<Json<DrainReply>, ApiError> {
    let id: NodeId = parse_id(&id, "node")?;
    let body = body.map(|body| body.parsed).unwrap_or_default();
    let request = DrainRequest { actor: Some(who.user), ..body.check(app.now())? };
    let node = app.nodes().drain(id, &request).await?;
    Ok(Json(DrainReply { message: "The node is being drained", node }))
}

/// End a drain
///
/// The node is looked at, and then offered again. A lease that left it stays where it is; one that lost it at the
/// deadline and still waits has its login there again.
#[utoipa::path(
    post, path = "/api/admin/nodes/{id}/undrain", operation_id = "undrainNode", tag = "admin",
    params(("id" = i64, Path, description = "The node's number", example = 3)),
    responses(
        (status = 200, description = "The drain is over", body = DrainReply),
        (status = 404, description = "There is no such node"),
        (status = 409, description = "The node is not being drained"),
    )
)]
pub async fn undrain(
    State(app): State<App>,
    Admin(who): Admin,
    Path(id): Path<String>,
) -> Result<Json<DrainReply>, ApiError> {
    let id: NodeId = parse_id(&id, "node")?;
    let node = app.nodes().undrain(id, who.user).await?;
    Ok(Json(DrainReply { message: "The node takes leases again", node }))
}
