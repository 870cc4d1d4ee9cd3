//! `/api/rent`, `/api/release`, `/api/extend`, `/api/rentals`: where a rental begins.

use super::{Body, PageQuery, Query, next_link, page_reply};
use crate::{
    App,
    app::{
        idempotency::Idempotent,
        rent::RentBody,
        views::{RentalTicket, RentalView},
    },
    auth::Caller,
    error::ApiError,
    openapi::{parameters::IdempotencyKey, schemas},
};
use axum::{
    Json,
    extract::{Path, State},
    http::HeaderMap,
    response::IntoResponse,
};
use orion_domain::{LeaseId, Timestamp, lease::Phase};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Rent nodes
///
/// All `count` nodes or none. The reply comes when each node has confirmed its finished account, and it is the
/// only one that holds the passwords. With an `Idempotency-Key` the same request gets the same reply again,
/// also after a crash; without one a reply that is lost is lost.
#[utoipa::path(
    post, path = "/api/rent", operation_id = "rent", tag = "leases",
    params(IdempotencyKey),
    request_body = RentBody,
    responses(
        (status = 200, description = "One ticket a node: the login works", body = Vec<RentalTicket>),
        (status = 409, description = "You have a lease of this name already"),
        (status = 503, description = "Too few nodes are free (`found` of them are), nothing was rented; \
            `retry_after_s` is when the next lease ends. Or the database is away"),
    )
)]
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

/// A lease that was released.
#[derive(Serialize, ToSchema)]
pub struct Released {
    message: &'static str,
    #[schema(value_type = i64)]
    rental_id: LeaseId,
    /// `ended`: the account is gone, and that was verified. `releasing`: its node is away; the work is done when
    /// it is back.
    #[schema(value_type = schemas::LeaseState)]
    state: Phase,
}

/// End a lease
///
/// The login is shut, its processes are ended, home and leftovers are removed. The second time the same reply.
#[utoipa::path(
    post, path = "/api/release/{rental_id}", operation_id = "release", tag = "leases",
    params(("rental_id" = String, Path, description = "The lease's number, or the name that you gave it",
        example = "17")),
    responses(
        (status = 200, description = "The lease is over", body = Released),
        (status = 404, description = "You have no such lease"),
    )
)]
pub async fn release(
    State(app): State<App>,
    who: Caller,
    Path(which): Path<String>,
) -> Result<Json<Released>, ApiError> {
    let lease = app.release(&who, &which).await?;
    let state = lease.state.phase();
    Ok(Json(Released { message: "Lease released", rental_id: lease.id, state }))
}

/// How much longer a lease is to last.
#[derive(Deserialize, ToSchema)]
pub struct ExtendBody {
    /// More than 0, a fraction is fine; at most what the operator allows (`ORION_LEASE_HOURS_MAX`, 720).
    #[schema(exclusive_minimum = 0)]
    additional_hours: f64,
}

/// A lease's new end.
#[derive(Serialize, ToSchema)]
pub struct Extension {
    #[schema(value_type = i64)]
    lease_id: LeaseId,
    #[schema(value_type = String, format = DateTime)]
    new_end_at: Timestamp,
    /// Whether the node knows it, and would keep it without the control plane.
    applied: bool,
}

/// Make a lease longer
///
/// Not idempotent: each call adds its hours.
#[utoipa::path(
    post, path = "/api/extend/{rental_id}", operation_id = "extend", tag = "leases",
    params(("rental_id" = String, Path, description = "The lease's number, or the name that you gave it",
        example = "17")),
    request_body = ExtendBody,
    responses(
        (status = 200, description = "The new end", body = Extension),
        (status = 404, description = "You have no such lease"),
        (status = 409, description = "The lease is over, or about to be"),
    )
)]
pub async fn extend(
    State(app): State<App>,
    who: Caller,
    Path(which): Path<String>,
    body: Body<ExtendBody>,
) -> Result<Json<Extension>, ApiError> {
    let extended = app.extend(&who, &which, body.parsed.additional_hours).await?;
    Ok(Json(Extension { lease_id: extended.lease, new_end_at: extended.until, applied: extended.applied }))
}

/// Query parameters of the list of leases.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RentalsQuery {
    /// How many entries to give at most.
    #[param(minimum = 1, maximum = 1000, default = 100, example = 100)]
    limit: Option<u32>,
    /// Where to go on: the id of the last entry that was given. The `Link` header of a full page has the whole
    /// address of the next one.
    #[param(minimum = 0, example = 17)]
    cursor: Option<i64>,
    /// Also those that are over.
    #[serde(default)]
    #[param(default = false)]
    all: bool,
}

/// Your leases
///
/// An admin sees everybody's.
#[utoipa::path(
    get, path = "/api/rentals", operation_id = "listRentals", tag = "leases",
    params(RentalsQuery),
    responses((status = 200, description = "The leases, oldest first", body = Vec<RentalView>,
        headers(("Link" = Option<String>, description = "The next page, after a full one (RFC 8288): \
            `</api/rentals?limit=100&cursor=17>; rel=\"next\"`"))))
)]
pub async fn list(
    State(app): State<App>,
    who: Caller,
    Query(RentalsQuery { limit, cursor, all }): Query<RentalsQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let page = PageQuery { limit, cursor };
    let limit = page.limit()?;
    let owner = (!who.is_admin()).then_some(who.user);
    let rows = app.store.leases_of(owner, all, LeaseId(page.cursor()), limit).await?;
    let last = rows.last().map(|row| row.lease.id.0);
    let next = next_link("/api/rentals", rows.len() == limit as usize, last, limit, all);
    let views: Vec<RentalView> = rows.iter().map(RentalView::new).collect();
    page_reply(&views, next)
}

/// One lease, with its history
#[utoipa::path(
    get, path = "/api/rentals/{id}", operation_id = "showRental", tag = "leases",
    params(("id" = String, Path, description = "The lease's number, or the name that you gave it",
        example = "17")),
    responses(
        (status = 200, description = "The lease, the nodes that it has been on, and its events, oldest first",
            body = RentalView),
        (status = 404, description = "You have no such lease"),
    )
)]
pub async fn show(
    State(app): State<App>,
    who: Caller,
    Path(which): Path<String>,
) -> Result<Json<RentalView>, ApiError> {
    let row = app.find_lease(&who, &which).await?;
    let (nodes, events) = app.history(row.lease.id).await?;
    Ok(Json(RentalView::new(&row).with_history(nodes, events)))
}
