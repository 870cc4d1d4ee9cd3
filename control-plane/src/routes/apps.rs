//! `/api/apps`, and what opens it: the ports of containers in a browser.

use super::Body;
use crate::{
    App,
    app::containers::visit::{Opened, Visit},
    auth::Caller,
    error::ApiError,
};
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use orion_domain::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Tells the proxy that `Authorization` is not for the container.
const DROP: HeaderName = HeaderName::from_static("orion-drop");

/// The port to open.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct OpenBody {
    /// Port of the container; its first one if left out.
    #[schema(minimum = 1)]
    port: Option<u16>,
}

/// A URL that lets its holder in once.
#[derive(Serialize, ToSchema)]
#[schema(as = OpenedContainer)]
pub struct OpenedView {
    /// The URL: a secret until it was used.
    url: String,
    /// It works until then.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// A URL for a container's port
///
/// It works once, within a minute, and sets a cookie of that host alone, with which its holder comes in as the owner for 10
/// minutes after each visit. A logout ends it.
#[utoipa::path(
    post, path = "/api/rentals/{id}/containers/{name}/open", operation_id = "openContainer", tag = "containers",
    params(("id" = String, Path, description = "The lease's number, or the name that you gave it", example = "17"),
        ("name" = String, Path, description = "The container's name", example = "web")),
    request_body = OpenBody,
    responses(
        (status = 200, description = "The URL", body = OpenedView),
        (status = 404, description = "You have no such lease, or it has no such container"),
        (status = 409, description = "It has no such port, or ports have no names here"),
    )
)]
pub async fn open(
    State(app): State<App>,
    who: Caller,
    Path((which, name)): Path<(String, String)>,
    body: Body<OpenBody>,
) -> Result<Json<OpenedView>, ApiError> {
    let Opened { url, expires_at } = app.containers().open(&who, &which, &name, body.parsed.port).await?;
    Ok(Json(OpenedView { url, expires_at }))
}

/// Whether a visitor may come in
///
/// Asked by the proxy for each request to a container's port, with the visitor's headers and `X-Forwarded-Host`,
/// `X-Forwarded-Uri`. A success lets the request pass; its `Set-Cookie` goes to the visitor.
#[utoipa::path(
    get, path = "/api/apps/auth", operation_id = "mayVisit", tag = "containers",
    responses(
        (status = 204, description = "The visitor is the owner"),
        (status = 303, description = "The ticket is changed for a cookie"),
        (status = 401, description = "No good cookie came with it"),
        (status = 403, description = "The ticket was used already, or is too old"),
        (status = 404, description = "Nothing has this name"),
    )
)]
pub async fn auth(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    let uncached = (header::CACHE_CONTROL, "no-store");
    Ok(match app.containers().visit(&headers).await? {
        Visit::Ticket(cookie) => {
            let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, "/".to_owned())];
            (StatusCode::SEE_OTHER, [uncached], headers).into_response()
        }
        Visit::Welcome { cookie, drop_authorization } => {
            let mut response = (StatusCode::NO_CONTENT, [uncached]).into_response();
            if let Some(cookie) = cookie {
                let cookie = cookie.parse().map_err(ApiError::internal)?;
                response.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            if drop_authorization {
                response.headers_mut().insert(DROP, header::HeaderValue::from_static("authorization"));
            }
            response
        }
    })
}
