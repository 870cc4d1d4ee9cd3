//! What a route is: its method, its path, who may call it, and what answers.

use crate::App;
use axum::{http::Method, routing::MethodRouter};

/// Callers allowed on a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Callers with and without a login.
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

/// Method and path with their handler, and who may call it.
pub struct Route {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: Method,
    /// The path, with `{parameters}`.
    pub path: &'static str,
    /// Callers allowed on the route.
    pub access: Access,
    /// Whether it lasts: event streams and links have no time limit.
    pub lasts: bool,
    /// Whether its body may describe containers, with their files: up to `CONTAINER_BODY_MAX`.
    pub has_containers: bool,
    pub(crate) handler: MethodRouter<App>,
}

/// Longest body that describes containers, in bytes: 1 MiB of files in base64, and everything else that one may have. What
/// is longer than a limit of its own is refused with the field.
pub const CONTAINER_BODY_MAX: usize = 3 * 1024 * 1024;

fn described(method: Method, path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    Route { method, path, access, lasts: false, has_containers: false, handler }
}

/// Describes a route of the method GET.
pub(crate) fn get_route(path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    described(Method::GET, path, access, handler)
}

/// Describes a route of the method POST.
pub(crate) fn post_route(path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    described(Method::POST, path, access, handler)
}

/// Describes a route of the method PUT.
pub(crate) fn put_route(path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    described(Method::PUT, path, access, handler)
}

/// Describes a route of the method DELETE.
pub(crate) fn delete_route(path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    described(Method::DELETE, path, access, handler)
}

/// Describes the route as one without a time limit.
pub(crate) fn lasting(route: Route) -> Route {
    Route { lasts: true, ..route }
}

/// Describes the route as one whose body may describe containers.
pub(crate) fn with_containers(route: Route) -> Route {
    Route { has_containers: true, ..route }
}
