//! `POST /api/reset`.

use crate::{App, auth::Admin, error::ApiError};
use axum::{Json, extract::State};
use orion_domain::NodeId;
use serde::Serialize;
use utoipa::ToSchema;

/// Outcome of a reset.
#[derive(Serialize, ToSchema)]
pub struct ResetReport {
    message: &'static str,
    /// Number of nodes that were forgotten; their agents register again.
    forgotten: usize,
    /// The nodes that could not be cleaned, and are kept until they are.
    kept: Vec<KeptNode>,
}

/// A node that a reset kept.
#[derive(Serialize, ToSchema)]
pub struct KeptNode {
    #[schema(value_type = i64)]
    node_id: NodeId,
    hostname: String,
    why: String,
}

/// End every lease and forget the clean nodes
///
/// Every lease goes through the normal release.
#[utoipa::path(
    post, path = "/api/reset", operation_id = "reset", tag = "admin",
    responses((status = 200, description = "Done", body = ResetReport))
)]
pub async fn reset(State(app): State<App>, Admin(who): Admin) -> Result<Json<ResetReport>, ApiError> {
    let report = app.operations().reset(who.user).await?;
    let kept = report.kept.into_iter();
    Ok(Json(ResetReport {
        message: "DB reset OK",
        forgotten: report.forgotten.len(),
        kept: kept.map(|(node_id, hostname, why)| KeptNode { node_id, hostname, why }).collect(),
    }))
}
