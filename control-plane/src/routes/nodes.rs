//! `GET /api/nodes`.

use super::{PageQuery, Query, next_link, parse_id};
use crate::{App, app::views::NodeView, auth::Caller, error::ApiError};
use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::{AppendHeaders, IntoResponse},
};
use orion_domain::NodeId;

/// `GET /api/nodes`
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
    let views: Vec<NodeView> = nodes
        .into_iter()
        .map(|node| {
            let lease = leases.get(&node.id);
            NodeView::new(node, lease, viewer)
        })
        .collect();
    Ok((AppendHeaders(next.map(|next| (header::LINK, next))), Json(views)))
}

/// `GET /api/nodes/{id}`
pub async fn show(
    State(app): State<App>,
    who: Caller,
    Path(id): Path<String>,
) -> Result<Json<NodeView>, ApiError> {
    let id: NodeId = parse_id(&id, "node")?;
    let node =
        app.store.node(id).await?.ok_or_else(|| ApiError::not_found(format!("there is no node '{id}'")))?;
    let leases = app.store.leases_on_nodes(&[id]).await?;
    Ok(Json(NodeView::new(node, leases.get(&id), (!who.is_admin()).then_some(who.user))))
}
