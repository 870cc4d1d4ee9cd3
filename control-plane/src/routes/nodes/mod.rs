//! `GET /api/nodes`.

pub mod admin;
pub mod drain;

use crate::{
    App,
    app::nodes::views::NodeView,
    auth::Caller,
    error::ApiError,
    routes::{PageQuery, Query, pages, parse_id},
};
use axum::{
    Json,
    extract::{Path, State},
    response::IntoResponse,
};
use orion_domain::NodeId;

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
    let viewer = (!who.is_admin()).then_some(who.user);
    let views = app.nodes().page(NodeId(page.cursor()?), limit, viewer).await?;
    let last = views.last().map(|view| view.node_id.0);
    let next = pages::next_link("/api/nodes", views.len() == limit as usize, last, limit, false);
    pages::long_reply(views, next).await
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
    let viewer = (!who.is_admin()).then_some(who.user);
    app.nodes().show(id, viewer).await.map(Json)
}
