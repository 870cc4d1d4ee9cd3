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

use crate::{app::events::views, route::Route, routes};
use serde_json::Value;
use utoipa::OpenApi;

/// Text on what holds for every route.
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
        (name = "containers", description = "Containers run on leased nodes, beside the login or in place of one, and end \
            with their lease."),
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
        routes::accounts::change_password,
        routes::accounts::registries::list,
        routes::accounts::registries::show,
        routes::accounts::registries::keep,
        routes::accounts::registries::remove,
        routes::leases::rent,
        routes::leases::release,
        routes::leases::extend,
        routes::leases::list,
        routes::leases::show,
        routes::containers::run,
        routes::containers::list,
        routes::containers::show,
        routes::containers::remove,
        routes::containers::stop,
        routes::containers::restart,
        routes::containers::logs,
        routes::containers::stats,
        routes::containers::exec,
        routes::containers::forward,
        routes::apps::open,
        routes::apps::auth,
        routes::images::test,
        routes::events::feed,
        routes::nodes::list,
        routes::nodes::show,
        routes::agents::register,
        routes::agents::link,
        routes::accounts::tokens::create_token,
        routes::nodes::admin::accept_key,
        routes::nodes::admin::lift_quarantine,
        routes::operations::brake::show_brake,
        routes::operations::brake::lift_brake,
        routes::nodes::drain::drain,
        routes::nodes::drain::undrain,
        routes::nodes::admin::forget_node,
        routes::nodes::admin::declare_node_dead,
        routes::accounts::admin::list,
        routes::accounts::admin::show,
        routes::accounts::admin::disable,
        routes::accounts::admin::enable,
        routes::accounts::admin::promote,
        routes::accounts::admin::demote,
        routes::accounts::admin::set_password,
        routes::accounts::admin::set_quotas,
        routes::accounts::admin::invite,
        routes::webhooks::create,
        routes::webhooks::list,
        routes::webhooks::delete,
        routes::webhooks::test,
        routes::operations::reset::reset,
        routes::operations::live,
        routes::operations::health,
        routes::operations::metrics::metrics,
        routes::operations::status_page,
        routes::docs::openapi,
        routes::docs::page,
        routes::docs::asset,
    ),
    components(schemas(schemas::Problem, views::EventView))
)]
struct Annotated;

/// Returns the document of these routes, OpenAPI 3.1.
pub fn document(routes: &[Route]) -> Value {
    // A schema that is no JSON would be a mistake of this build: every test of the document would fail.
    let annotated = serde_json::to_value(Annotated::openapi()).unwrap_or_default();
    finish::finish(annotated, routes)
}
