//! Every route, once: its method, its path, who may call it, and what answers.

use crate::{
    App,
    error::ApiError,
    routes::{accounts, admin, docs, drain, events, health, metrics, nodes, rentals, webhooks, workers},
};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use std::time::Duration;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::CorsLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    trace::{DefaultOnFailure, TraceLayer},
};
use tracing::Level;

/// The header with a request's id.
const REQUEST_ID: &str = "x-request-id";

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Anyone,
    /// Any account.
    User,
    /// Admins.
    Admin,
    /// A worker with a join token or its node token.
    Worker,
}

/// One route.
pub struct Route {
    /// `GET` or `POST`.
    pub method: Method,
    /// The path, with `{parameters}`.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    /// Whether it lasts: event streams and links have no time limit.
    pub lasts: bool,
    handler: MethodRouter<App>,
}

fn get_route(path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    Route { method: Method::GET, path, access, lasts: false, handler }
}

fn post_route(path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    Route { method: Method::POST, path, access, lasts: false, handler }
}

fn lasting(route: Route) -> Route {
    Route { lasts: true, ..route }
}

/// The list. The authorization test walks it; a route that is not in it does not exist.
pub fn routes() -> Vec<Route> {
    use Access::{Admin, Anyone, User, Worker};
    vec![
        get_route("/", Anyone, get(health::status_page)),
        get_route("/api/live", Anyone, get(health::live)),
        get_route("/api/health", Anyone, get(health::health)),
        get_route("/metrics", Anyone, get(metrics::metrics)),
        get_route("/api/openapi.json", Anyone, get(docs::openapi)),
        get_route("/docs", Anyone, get(docs::page)),
        get_route("/docs/{file}", Anyone, get(docs::asset)),
        post_route("/auth/signup", Anyone, post(accounts::sign_up)),
        post_route("/api/signup", Anyone, post(accounts::sign_up)),
        post_route("/auth/login", Anyone, post(accounts::log_in)),
        post_route("/api/login", Anyone, post(accounts::log_in)),
        get_route("/auth/me", User, get(accounts::me)),
        post_route("/api/auth/logout", User, post(accounts::log_out)),
        post_route("/api/rent", User, post(rentals::rent)),
        post_route("/api/release/{rental_id}", User, post(rentals::release)),
        post_route("/api/extend/{rental_id}", User, post(rentals::extend)),
        get_route("/api/rentals", User, get(rentals::list)),
        get_route("/api/rentals/{id}", User, get(rentals::show)),
        get_route("/api/nodes", User, get(nodes::list)),
        get_route("/api/nodes/{id}", User, get(nodes::show)),
        lasting(get_route("/api/events", User, get(events::feed))),
        post_route("/api/workers/register", Worker, post(workers::register)),
        lasting(get_route("/api/workers/link", Worker, get(workers::link))),
        post_route("/api/tokens", Admin, post(admin::create_token)),
        post_route("/api/admin/nodes/{id}/accept-key", Admin, post(admin::accept_key)),
        post_route("/api/admin/nodes/{id}/quarantine/lift", Admin, post(admin::lift_quarantine)),
        get_route("/api/admin/brake", Admin, get(admin::show_brake)),
        post_route("/api/admin/brake/lift", Admin, post(admin::lift_brake)),
        post_route("/api/admin/nodes/{id}/drain", Admin, post(drain::drain)),
        post_route("/api/admin/nodes/{id}/undrain", Admin, post(drain::undrain)),
        post_route("/api/admin/nodes/{id}/forget", Admin, post(admin::forget_node)),
        get_route("/api/admin/webhooks", Admin, get(webhooks::list)),
        post_route("/api/admin/webhooks", Admin, post(webhooks::create)),
        post_route("/api/admin/webhooks/{id}/delete", Admin, post(webhooks::delete)),
        post_route("/api/admin/webhooks/{id}/test", Admin, post(webhooks::test)),
        post_route("/api/reset", Admin, post(admin::reset)),
    ]
}

/// The whole service: routes, limits, logging.
pub fn router(app: App) -> Router {
    let limit = Duration::from_millis(app.config.request_timeout_ms);
    let mut router = Router::new();
    for route in routes() {
        let handler = if route.lasts {
            route.handler
        } else {
            route
                .handler
                .layer(middleware::from_fn(move |request: Request, next: Next| within(limit, request, next)))
        };
        router = router.route(route.path, handler);
    }
    let request_id = HeaderName::from_static(REQUEST_ID);
    let mut router = router
        .fallback(|| async { ApiError::not_found("there is no such route") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(DefaultBodyLimit::max(app.config.body_bytes_max))
        .layer(CatchPanicLayer::custom(|_| ApiError::internal("a handler panicked").into_response()))
        .layer(PropagateRequestIdLayer::new(request_id.clone()))
        // What went wrong inside is logged where it happened; a 503 is often nobody's mistake.
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_failure(DefaultOnFailure::new().level(Level::DEBUG)),
        )
        .layer(SetRequestIdLayer::new(request_id, MakeRequestUuid))
        .layer(middleware::map_request(drop_odd_request_id));
    if !app.config.cors_origins.is_empty() {
        let origins: Vec<HeaderValue> =
            app.config.cors_origins.iter().filter_map(|origin| origin.parse().ok()).collect();
        router = router.layer(
            CorsLayer::new().allow_origin(origins).allow_methods([Method::GET, Method::POST]).allow_headers(
                [header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("idempotency-key")],
            ),
        );
    }
    router.with_state(app)
}

/// Longest request id that is taken over from a client or a proxy.
const REQUEST_ID_MAX: usize = 64;

/// A request id that comes from outside goes into the logs: only one that looks like an id is taken over.
async fn drop_odd_request_id(mut request: Request) -> Request {
    let sane = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        let is_ours = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        (1..=REQUEST_ID_MAX).contains(&bytes.len()) && bytes.iter().all(is_ours)
    };
    let mut given = request.headers().get_all(REQUEST_ID).iter();
    if !(given.next().is_none_or(sane) && given.next().is_none()) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// A request's span: no query string and no headers, which may hold secrets.
fn span(request: &Request) -> tracing::Span {
    let request_id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    tracing::info_span!("request", method = %request.method(), path = request.uri().path(), request_id)
}

async fn within(limit: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::unavailable(format!(
            "no answer within {} s; what was begun goes on, look at GET /api/rentals",
            limit.as_secs()
        ))
        .into_response(),
    }
}
