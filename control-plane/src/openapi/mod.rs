//! The OpenAPI document: every route with who may call it, its parameters, its bodies and errors, and examples.
//!
//! Most of it stands beside the code that it is about: `#[utoipa::path]` at each handler, `ToSchema` at each
//! body. Lives here: the list of them, and what no handler says for itself (the rights, from the router's own
//! list; the errors that all routes share; the examples; older names of routes). Does not live here: what a
//! route does.

mod examples;
mod finish;
pub mod parameters;
pub mod schemas;

use crate::{app::views, routes};
use serde_json::Value;
use std::sync::LazyLock;
use utoipa::OpenApi;

/// What is true of every route.
const ABOUT: &str = include_str!("about.md");

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Orion",
        description = ABOUT,
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        contact()
    ),
    servers((url = "/", description = "Where this document comes from")),
    tags(
        (name = "accounts", description = "Who you are."),
        (name = "leases", description = "A lease is one login on one node for a while. It moves to another node \
            when its own dies, with the same name, password and home path."),
        (name = "nodes", description = "The machines."),
        (name = "workers", description = "What agents on machines call."),
        (name = "admin", description = "What admins do."),
        (name = "operations", description = "Whether Orion works, for machines that watch it."),
        (name = "pages", description = "For people with a browser, and this document."),
    ),
    paths(
        routes::accounts::sign_up,
        routes::accounts::log_in,
        routes::accounts::me,
        routes::accounts::log_out,
        routes::rentals::rent,
        routes::rentals::release,
        routes::rentals::extend,
        routes::rentals::list,
        routes::rentals::show,
        routes::events::feed,
        routes::nodes::list,
        routes::nodes::show,
        routes::workers::register,
        routes::workers::link,
        routes::admin::create_token,
        routes::admin::accept_key,
        routes::admin::lift_quarantine,
        routes::admin::show_brake,
        routes::admin::lift_brake,
        routes::drain::drain,
        routes::drain::undrain,
        routes::admin::forget_node,
        routes::webhooks::create,
        routes::webhooks::list,
        routes::webhooks::delete,
        routes::webhooks::test,
        routes::admin::reset,
        routes::health::live,
        routes::health::health,
        routes::metrics::metrics,
        routes::health::status_page,
        routes::docs::openapi,
        routes::docs::page,
        routes::docs::asset,
    ),
    components(schemas(schemas::Problem, views::EventView))
)]
struct Annotated;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    // A schema that is no JSON would be a mistake of this build: every test of the document would fail.
    let annotated = serde_json::to_value(Annotated::openapi()).unwrap_or_default();
    finish::finish(annotated)
});

static TEXT: LazyLock<String> = LazyLock::new(|| DOCUMENT.to_string());

/// The document of this build, OpenAPI 3.1.
pub fn document() -> &'static Value {
    &DOCUMENT
}

/// The same as JSON text on one line.
pub fn text() -> &'static str {
    &TEXT
}
