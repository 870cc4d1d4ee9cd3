//! `/api/rent`, `/api/release`, `/api/extend`, `/api/rentals`: where a rental begins.

use super::{Body, PageQuery, Query, next_link};
use crate::{
    App,
    app::{
        idempotency::Idempotent,
        rent::RentBody,
        views::{RentalTicket, RentalView},
    },
    auth::Caller,
    error::ApiError,
};
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::{AppendHeaders, IntoResponse},
};
use orion_domain::LeaseId;
use serde::Deserialize;
use serde_json::{Value, json};

/// `POST /api/rent`
pub async fn rent(
    State(app): State<App>,
    who: Caller,
    headers: HeaderMap,
    body: Body<RentBody>,
) -> Result<Json<Vec<RentalTicket>>, ApiError> {
    let key = Idempotent::read(&headers, "rent", Some(who.user), &body.canonical, &app.config.master_key)?;
    let request = body.parsed.check(app.config.lease_hours_max, app.config.rent_count_max)?;
    let username = who.username.parse().map_err(ApiError::internal)?;
    app.rent(who.user, username, request, key).await.map(Json)
}

/// `POST /api/release/{rental_id}`
pub async fn release(
    State(app): State<App>,
    who: Caller,
    Path(which): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let lease = app.release(&who, &which).await?;
    Ok(Json(json!({ "message": "Lease released", "rental_id": lease.id, "state": lease.state.phase() })))
}

/// The body of `POST /api/extend/{rental_id}`.
#[derive(Deserialize)]
pub struct ExtendBody {
    additional_hours: f64,
}

/// `POST /api/extend/{rental_id}`
pub async fn extend(
    State(app): State<App>,
    who: Caller,
    Path(which): Path<String>,
    body: Body<ExtendBody>,
) -> Result<Json<Value>, ApiError> {
    let extended = app.extend(&who, &which, body.parsed.additional_hours).await?;
    Ok(Json(json!({
        "lease_id": extended.lease,
        "new_end_at": extended.until,
        "applied": extended.applied,
    })))
}

/// `GET /api/rentals`
pub async fn list(
    State(app): State<App>,
    who: Caller,
    Query(page): Query<PageQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let limit = page.limit()?;
    let owner = (!who.is_admin()).then_some(who.user);
    let rows = app.store.leases_of(owner, page.all, LeaseId(page.cursor()), limit).await?;
    let last = rows.last().map(|row| row.lease.id.0);
    let next = next_link("/api/rentals", rows.len() == limit as usize, last, limit, page.all);
    let views: Vec<RentalView> = rows.iter().map(RentalView::new).collect();
    Ok((AppendHeaders(next.map(|next| (header::LINK, next))), Json(views)))
}

/// `GET /api/rentals/{id}`
pub async fn show(
    State(app): State<App>,
    who: Caller,
    Path(which): Path<String>,
) -> Result<Json<RentalView>, ApiError> {
    let row = app.find_lease(&who, &which).await?;
    let (nodes, events) = app.history(row.lease.id).await?;
    Ok(Json(RentalView::new(&row).with_history(nodes, events)))
}
