//! What a route is: its method, its path, who may call it, and what answers.

use crate::App;
use axum::{http::Method, routing::MethodRouter};

/// Callers allowed on a route.
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
    /// A visitor of a container's port, by the cookie of that host.
    Visitor,
}

/// One route.
pub struct Route {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: Method,
    /// The path, with `{parameters}`.
    pub path: &'static str,
    /// Callers allowed on the route.
    pub access: Access,
    /// Whether it lasts: event streams and links have no time limit.
    pub lasts: bool,
    pub(crate) handler: MethodRouter<App>,
}

/// Describes a route of the method GET.
pub(crate) fn get_route(path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    Route { method: Method::GET, path, access, lasts: false, handler }
}

/// Describes a route of the method POST.
pub(crate) fn post_route(path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    Route { method: Method::POST, path, access, lasts: false, handler }
}

/// Describes a route of the method PUT.
pub(crate) fn put_route(path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    Route { method: Method::PUT, path, access, lasts: false, handler }
}

/// Describes a route of the method DELETE.
pub(crate) fn delete_route(path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    Route { method: Method::DELETE, path, access, lasts: false, handler }
}

/// Describes the route as one without a time limit.
pub(crate) fn lasting(route: Route) -> Route {
    Route { lasts: true, ..route }
}
