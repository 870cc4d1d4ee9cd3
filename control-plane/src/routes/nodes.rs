//! `GET /api/nodes`.

use super::{PageQuery, Query, next_link, page_reply, parse_id};
use crate::{App, app::views::NodeView, auth::Caller, error::ApiError};
use axum::{
    Json,
    extract::{Path, State},
    response::IntoResponse,
};
use orion_domain::NodeId;

/// How many of a node's last events are shown with it.
const EVENTS_SHOWN: u32 = 50;

/// The nodes
///
/// Everybody sees all nodes, but the lease on a node only its owner and admins; `admin` is there for admins only.
#[utoipa::path(
    get, path = "/api/nodes", operation_id = "listNodes", tag = "nodes",
    params(PageQuery),
    responses((status = 200, description = "The nodes, by number", body = Vec<NodeView>,
        headers(("Link" = Option<String>, description = "The next page, after a full one (RFC 8288): \
            `</api/nodes?limit=100&cursor=17>; rel=\"next\"`"))))
)]
pub async fn list(
    State(app): State<App>,
    who: Caller,
    Query(page): Query<PageQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let limit = page.limit()?;
    let nodes = app.store.nodes_page(NodeId(page.cursor()), limit).await?;
    let ids: Vec<NodeId> = nodes.iter().filter(|node| node.lease.is_some()).map(|node| node.id).collect();
    let leases = app.store.leases_on_nodes(&ids).await?;
    let last = nodes.last().map(|node| node.id.0);
    let next = next_link("/api/nodes", nodes.len() == limit as usize, last, limit, false);
    let viewer = (!who.is_admin()).then_some(who.user);
    let mut drains = app.drains_of(&nodes, &leases, viewer).await?;
    let views: Vec<NodeView> = nodes
        .into_iter()
        .map(|node| {
            let (lease, drain) = (leases.get(&node.id), drains.remove(&node.id));
            NodeView::new(node, lease, viewer).with_drain(drain)
        })
        .collect();
    page_reply(&views, next)
}

/// One node
#[utoipa::path(
    get, path = "/api/nodes/{id}", operation_id = "showNode", tag = "nodes",
    params(("id" = i64, Path, description = "The node's number", example = 3)),
    responses(
        (status = 200, description = "The node", body = NodeView),
        (status = 404, description = "There is no such node"),
    )
)]
pub async fn show(
    State(app): State<App>,
    who: Caller,
    Path(id): Path<String>,
) -> Result<Json<NodeView>, ApiError> {
    let id: NodeId = parse_id(&id, "node")?;
    let node =
        app.store.node(id).await?.ok_or_else(|| ApiError::not_found(format!("there is no node '{id}'")))?;
    if !who.is_admin() {
        return app.node_view(node, Some(who.user)).await.map(Json);
    }
    let events = app.store.events_of_node(id, EVENTS_SHOWN).await?;
    Ok(Json(app.node_view(node, None).await?.with_events(events)))
}
