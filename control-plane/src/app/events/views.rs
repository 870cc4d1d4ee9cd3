//! What the API shows of events.

use orion_domain::{LeaseId, NodeId, Timestamp, UserId};
use orion_store::Event;
use serde::Serialize;
use utoipa::ToSchema;

/// An event, in the feed and in a lease's history.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventView {
    /// Number of the event, for `Last-Event-ID`.
    pub id: i64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Kind of the event, like `lease.active` or `node.dead`.
    pub kind: String,
    #[schema(value_type = Option<i64>, required)]
    lease_id: Option<LeaseId>,
    #[schema(value_type = Option<i64>, required)]
    node_id: Option<NodeId>,
    #[schema(value_type = Option<i64>, required)]
    user_id: Option<UserId>,
    /// Further details of the event, by kind.
    #[schema(value_type = Object)]
    data: serde_json::Value,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        Self {
            id: event.id.0,
            at: event.at,
            kind: event.kind,
            lease_id: event.lease,
            node_id: event.node,
            user_id: event.user,
            data: event.data,
        }
    }
}
