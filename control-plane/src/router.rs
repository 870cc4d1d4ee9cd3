//! Every route, once: its method, its path, who may call it, and what answers.

use crate::{
    App,
    auth::{ClientAddr, RightSlot, bearer},
    crypto::NODE_TOKEN,
    error::ApiError,
    known::{Known, refuse_unknown},
    limit::{Asker, Purpose},
    openapi,
    route::{CONTAINER_BODY_MAX, delete_route, get_route, lasting, post_route, put_route, with_containers},
    routes::{accounts, agents, apps, containers, docs, events, images, leases, nodes, operations, webhooks},
};
use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, FromRequestParts as _, Request},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use orion_domain::Secret;
use serde_json::Value;
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::CorsLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    trace::{DefaultOnFailure, TraceLayer},
};
use tracing::Level;

pub use crate::route::{Access, Route};

/// A supervisor asks here whether the process lives: never refused.
const LIVE: &str = "/api/live";
/// A proxy asks here for each request to a container's port: not limited while a good cookie comes with it.
const VISIT: &str = "/api/apps/auth";
/// The header with a request's id.
const REQUEST_ID: &str = "x-request-id";

/// The list. The authorization test walks it; a route that is not in it does not exist.
pub fn routes() -> Vec<Route> {
    use Access::{Admin, Anyone, User, Visitor, Worker};
    vec![
        get_route("/", Anyone, get(operations::status_page)),
        get_route("/api/live", Anyone, get(operations::live)),
        get_route("/api/health", Anyone, get(operations::health)),
        get_route("/metrics", Anyone, get(operations::metrics::metrics)),
        get_route("/api/openapi.json", Anyone, get(docs::openapi)),
        get_route("/docs", Anyone, get(docs::page)),
        get_route("/docs/{file}", Anyone, get(docs::asset)),
        post_route("/auth/signup", Anyone, post(accounts::sign_up)),
        post_route("/api/signup", Anyone, post(accounts::sign_up)),
        post_route("/auth/login", Anyone, post(accounts::log_in)),
        post_route("/api/login", Anyone, post(accounts::log_in)),
        get_route("/auth/me", User, get(accounts::me)),
        post_route("/api/auth/logout", User, post(accounts::log_out)),
        post_route("/api/auth/password", User, post(accounts::change_password)),
        get_route("/api/account/registries", User, get(accounts::registries::list)),
        get_route("/api/account/registries/{registry}", User, get(accounts::registries::show)),
        put_route("/api/account/registries/{registry}", User, put(accounts::registries::keep)),
        delete_route("/api/account/registries/{registry}", User, delete(accounts::registries::remove)),
        with_containers(post_route("/api/rent", User, post(leases::rent))),
        post_route("/api/release/{rental_id}", User, post(leases::release)),
        post_route("/api/extend/{rental_id}", User, post(leases::extend)),
        get_route("/api/rentals", User, get(leases::list)),
        get_route("/api/rentals/{id}", User, get(leases::show)),
        with_containers(post_route("/api/rentals/{id}/containers", User, post(containers::run))),
        get_route("/api/rentals/{id}/containers", User, get(containers::list)),
        get_route("/api/rentals/{id}/containers/{name}", User, get(containers::show)),
        delete_route("/api/rentals/{id}/containers/{name}", User, delete(containers::remove)),
        post_route("/api/rentals/{id}/containers/{name}/stop", User, post(containers::stop)),
        post_route("/api/rentals/{id}/containers/{name}/restart", User, post(containers::restart)),
        lasting(get_route("/api/rentals/{id}/containers/{name}/logs", User, get(containers::logs))),
        lasting(get_route("/api/rentals/{id}/containers/{name}/stats", User, get(containers::stats))),
        lasting(get_route("/api/rentals/{id}/containers/{name}/exec", User, get(containers::exec))),
        lasting(get_route("/api/rentals/{id}/containers/{name}/forward", User, get(containers::forward))),
        post_route("/api/rentals/{id}/containers/{name}/open", User, post(apps::open)),
        get_route(VISIT, Visitor, get(apps::auth)),
        get_route("/api/images/test", User, get(images::test)),
        get_route("/api/nodes", User, get(nodes::list)),
        get_route("/api/nodes/{id}", User, get(nodes::show)),
        lasting(get_route("/api/events", User, get(events::feed))),
        post_route("/api/workers/register", Worker, post(agents::register)),
        lasting(get_route("/api/workers/link", Worker, get(agents::link))),
        post_route("/api/tokens", Admin, post(accounts::tokens::create_token)),
        post_route("/api/admin/nodes/{id}/accept-key", Admin, post(nodes::admin::accept_key)),
        post_route("/api/admin/nodes/{id}/quarantine/lift", Admin, post(nodes::admin::lift_quarantine)),
        get_route("/api/admin/brake", Admin, get(operations::brake::show_brake)),
        post_route("/api/admin/brake/lift", Admin, post(operations::brake::lift_brake)),
        post_route("/api/admin/nodes/{id}/drain", Admin, post(nodes::drain::drain)),
        post_route("/api/admin/nodes/{id}/undrain", Admin, post(nodes::drain::undrain)),
        post_route("/api/admin/nodes/{id}/forget", Admin, post(nodes::admin::forget_node)),
        post_route("/api/admin/nodes/{id}/declare-dead", Admin, post(nodes::admin::declare_node_dead)),
        get_route("/api/admin/users", Admin, get(accounts::admin::list)),
        get_route("/api/admin/users/{user}", Admin, get(accounts::admin::show)),
        post_route("/api/admin/users/{user}/disable", Admin, post(accounts::admin::disable)),
        post_route("/api/admin/users/{user}/enable", Admin, post(accounts::admin::enable)),
        post_route("/api/admin/users/{user}/promote", Admin, post(accounts::admin::promote)),
        post_route("/api/admin/users/{user}/demote", Admin, post(accounts::admin::demote)),
        post_route("/api/admin/users/{user}/quotas", Admin, post(accounts::admin::set_quotas)),
        post_route("/api/admin/invites", Admin, post(accounts::admin::invite)),
        post_route("/api/admin/users/{user}/password", Admin, post(accounts::admin::set_password)),
        get_route("/api/admin/webhooks", Admin, get(webhooks::list)),
        post_route("/api/admin/webhooks", Admin, post(webhooks::create)),
        post_route("/api/admin/webhooks/{id}/delete", Admin, post(webhooks::delete)),
        post_route("/api/admin/webhooks/{id}/test", Admin, post(webhooks::test)),
        post_route("/api/reset", Admin, post(operations::reset::reset)),
    ]
}

/// The OpenAPI document of these routes.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| openapi::document(&routes()));
    &DOCUMENT
}

/// The whole service: routes, limits, logging.
pub fn router(app: App) -> Router {
    let limit = Duration::from_millis(app.config.request_timeout_ms);
    let mut router = Router::new();
    for route in routes() {
        let known = Known::of(document(), &route);
        let body_max =
            app.config.body_bytes_max.max(if route.has_containers { CONTAINER_BODY_MAX } else { 0 });
        let handler = route.handler.layer(DefaultBodyLimit::max(body_max));
        let handler = if route.lasts {
            handler
        } else {
            handler
                .layer(middleware::from_fn(move |request: Request, next: Next| within(limit, request, next)))
        };
        let handler = match route.access {
            Access::User | Access::Admin => handler.layer(middleware::from_fn(while_the_right_stands)),
            Access::Anyone | Access::Worker | Access::Visitor => handler,
        };
        let (state, limited) = (app.clone(), app.clone());
        let handler = handler.layer(middleware::from_fn(move |request: Request, next: Next| {
            refuse_unknown(state.clone(), Arc::clone(&known), request, next)
        }));
        let handler = if route.path == LIVE {
            handler
        } else {
            handler.layer(middleware::from_fn(move |request: Request, next: Next| {
                within_rate(limited.clone(), request, next)
            }))
        };
        router = router.route(route.path, handler);
    }
    let request_id = HeaderName::from_static(REQUEST_ID);
    let mut router = router
        .fallback(|| async { ApiError::not_found("there is no such route") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(Extension(docs::Document::new(document())))
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
            CorsLayer::new()
                .allow_origin(origins)
                .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
                .allow_headers([
                    header::AUTHORIZATION,
                    header::CONTENT_TYPE,
                    HeaderName::from_static("idempotency-key"),
                    HeaderName::from_static("last-event-id"),
                ])
                // Without these a page on another origin can neither go to the next page nor know how long to wait.
                .expose_headers([
                    header::LINK,
                    header::RETRY_AFTER,
                    header::LOCATION,
                    HeaderName::from_static(REQUEST_ID),
                ]),
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

/// Refuses what comes too often: of an account or a worker with a good token, else of an address.
async fn within_rate(app: App, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    if parts.uri.path() == VISIT && app.containers().has_good_cookie(&parts.headers) {
        return next.run(Request::from_parts(parts, body)).await;
    }
    // In tests without a listener there is no address.
    if let Ok(ClientAddr(address)) = ClientAddr::from_request_parts(&mut parts, &app).await {
        let now = app.now();
        let purpose = Purpose::of(parts.uri.path());
        let token = bearer(&parts.headers);
        let token = token.as_ref().map(Secret::expose);
        let asker = match token {
            Some(token) if purpose == Purpose::Worker => Asker::Worker(token),
            Some(token) => app.tokens.read(token, now).map_or(Asker::Anyone, |read| {
                parts.extensions.insert(read);
                Asker::User(read.user)
            }),
            None => Asker::Anyone,
        };
        if let Err(wait) = app.requests.take(asker, purpose, address, now) {
            let detail = format!("too many requests; the next one is taken in {wait} s");
            return ApiError::too_many(detail, wait).into_response();
        }
        if let Asker::Worker(token) = asker {
            let (token, is_own) = (token.to_owned(), token.starts_with(NODE_TOKEN));
            let response = next.run(Request::from_parts(parts, body)).await;
            // Only who has a good token is told of a conflict.
            let is_good = response.status().is_success()
                || [StatusCode::SWITCHING_PROTOCOLS, StatusCode::CONFLICT].contains(&response.status());
            if is_good {
                app.requests.worker_was_known(&token, is_own, address, now);
            }
            return response;
        }
    }
    next.run(Request::from_parts(parts, body)).await
}

/// A request that waits ends when the right of its caller ends; what it began goes on.
async fn while_the_right_stands(mut request: Request, next: Next) -> Response {
    let slot = RightSlot::default();
    request.extensions_mut().insert(slot.clone());
    tokio::select! {
        response = next.run(request) => response,
        () = slot.lost.cancelled() => {
            ApiError::unauthorized("the token is no longer valid; what was begun goes on, log in again").into_response()
        }
    }
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
