//! `/api/rent`, `/api/release`, `/api/extend`, `/api/rentals`: where a rental begins.

use super::{Body, PageQuery, Query, pages};
use crate::{
    App,
    app::{
        idempotency::Idempotent,
        leases::{
            phases::shown,
            request::RentBody,
            views::{RentalTicket, RentalView},
        },
    },
    auth::Caller,
    error::ApiError,
    openapi::{parameters::IdempotencyKey, schemas},
};
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use orion_domain::{LeaseId, Timestamp, lease::Phase};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Rent nodes
///
/// All `count` nodes or none. The reply comes when each node has confirmed its finished account, and it is the
/// only one that holds the passwords. With an `Idempotency-Key` the same request gets the same reply again,
/// also after a crash; without one a reply that is lost is lost.
///
/// With `cpus` and `memory_mb` (and `gpus`) each lease is a slice of a node, beside those of others: it has no login,
/// and runs its `container`. A whole node may have a `container` from the beginning, too. A container that could not be
/// started (`state` is `failed`, `state_reason` says why) does not end its lease: run another one there.
#[utoipa::path(
    post, path = "/api/rent", operation_id = "rent", tag = "leases",
    params(IdempotencyKey),
    request_body = RentBody,
    responses(
        (status = 200, description = "One ticket a lease: the login works, and the container was begun",
            body = Vec<RentalTicket>),
        (status = 202, description = "The container takes longer than a minute, as for the pull of its image; its `step` \
            says what is being done, and `Location` where to look", body = Vec<RentalTicket>),
        (status = 403, description = "`quota_exceeded`: `quota` names which, `limit` is its value"),
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
) -> Result<Response, ApiError> {
    let key = Idempotent::read(&headers, "rent", Some(who.user), &body.canonical, &app.config.master_key)?;
    let config = &app.config;
    let request =
        body.parsed.check(config.lease_hours_max, config.rent_count_max, &config.image_registries)?;
    let username = who.username.parse().map_err(ApiError::internal)?;
    let reply = app.leases().rent(&who, username, request, key).await?;
    let first = reply.tickets.first().map(|ticket| format!("/api/rentals/{}", ticket.rental_id));
    Ok(match first.filter(|_| !reply.is_complete) {
        Some(place) => (StatusCode::ACCEPTED, [(LOCATION, place)], Json(reply.tickets)).into_response(),
        None => Json(reply.tickets).into_response(),
    })
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
    let lease = app.leases().release(&who, &which).await?;
    let state = shown(lease.state.phase());
    let message = match state {
        Phase::Ended => "Lease released",
        Phase::Requested
        | Phase::Scheduled
        | Phase::Queued
        | Phase::Provisioning
        | Phase::Active
        | Phase::Migrating
        | Phase::Yielding
        | Phase::Releasing => {
            "Lease is being released; until its node has confirmed that, the login may still work"
        }
    };
    Ok(Json(Released { message, rental_id: lease.id, state }))
}

/// Time by which a lease is to be extended.
#[derive(Deserialize, ToSchema)]
pub struct ExtendBody {
    /// Hours to add: more than 0, a fraction is fine; at most what the operator allows
    /// (`ORION_LEASE_HOURS_MAX`, 720).
    #[schema(minimum = 0.000278)]
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
        (status = 403, description = "`quota_exceeded`: the lease would be too long in all"),
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
    let extended = app.leases().extend(&who, &which, body.parsed.additional_hours).await?;
    Ok(Json(Extension { lease_id: extended.lease, new_end_at: extended.until, applied: extended.applied }))
}

/// Query parameters of the list of leases.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RentalsQuery {
    /// Greatest number of entries in the reply.
    #[param(minimum = 1, maximum = 1000, default = 100, example = 100)]
    limit: Option<u32>,
    /// Position to go on from: the id of the last entry that was given. The `Link` header of a full page has
    /// the whole address of the next one.
    #[param(minimum = 0, example = 17)]
    cursor: Option<i64>,
    /// Whether leases that are over are listed, too.
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
    let views = app.leases().list(&who, all, LeaseId(page.cursor()?), limit).await?;
    let last = views.last().map(|view| view.rental_id.0);
    let next = pages::next_link("/api/rentals", views.len() == limit as usize, last, limit, all);
    pages::reply(&views, next)
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
    app.leases().show(&who, &which).await.map(Json)
}
