//! A request to each route. What would go on to a node is asked for so that it ends before: the database's part of it
//! is the same.

use super::{
    Case,
    side::{PASSWORD, Side},
};
use crate::broken::{Broken, Context as _};
use axum::{
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{Request, header},
};
use orion_domain::UserId;
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};
use tower::ServiceExt as _;

/// Sender of a request.
#[derive(Clone, Copy)]
enum Who {
    Nobody,
    Tenant,
    Spare,
    Admin,
}

/// A request to a route; `what` says which, where there are several.
struct Recipe {
    method: &'static str,
    route: &'static str,
    what: &'static str,
    who: Who,
    status: u16,
    /// Path with its query, and the body.
    ask: fn(&Side, usize) -> (String, Value),
}

macro_rules! recipes {
    ($($method:ident $route:literal $what:literal $who:ident $status:literal |$side:ident, $n:ident| $path:expr, $body:expr;)*) => {
        vec![$(Recipe {
            method: stringify!($method),
            route: $route,
            what: $what,
            who: Who::$who,
            status: $status,
            ask: |$side, $n| {
                let _ = ($side, $n);
                ($path.to_string(), $body)
            },
        }),*]
    };
}

/// Returns the recipes in the order of their requests: those that take rights away come last.
fn recipes() -> Vec<Recipe> {
    recipes! {
        GET "/" "" Nobody 200 |s, n| "/", Value::Null;
        GET "/api/live" "" Nobody 200 |s, n| "/api/live", Value::Null;
        GET "/api/health" "" Nobody 200 |s, n| "/api/health", Value::Null;
        GET "/metrics" "" Nobody 200 |s, n| "/metrics", Value::Null;
        GET "/api/openapi.json" "" Nobody 200 |s, n| "/api/openapi.json", Value::Null;
        GET "/docs" "" Nobody 200 |s, n| "/docs", Value::Null;
        GET "/docs/{file}" "" Nobody 200 |s, n| "/docs/swagger-ui.css", Value::Null;
        POST "/auth/signup" "" Nobody 201 |s, n| "/auth/signup", credentials(&format!("user-{n}"));
        POST "/api/signup" "" Nobody 201 |s, n| "/api/signup", credentials(&format!("user-{n}"));
        POST "/auth/login" "" Nobody 200 |s, n| "/auth/login", credentials("tenant");
        POST "/api/login" "" Nobody 200 |s, n| "/api/login", credentials("tenant");
        GET "/auth/me" "" Tenant 200 |s, n| "/auth/me", Value::Null;
        GET "/api/account/registries" "" Tenant 200 |s, n| "/api/account/registries", Value::Null;
        PUT "/api/account/registries/{registry}" "" Tenant 200 |s, n| "/api/account/registries/ghcr.io",
            json!({ "username": "tenant", "password": PASSWORD });
        GET "/api/account/registries/{registry}" "none there" Tenant 404 |s, n| "/api/account/registries/docker.io",
            Value::Null;
        DELETE "/api/account/registries/{registry}" "none there" Tenant 404 |s, n| "/api/account/registries/docker.io",
            Value::Null;
        POST "/api/rent" "none is free" Tenant 503 |s, n| "/api/rent",
            json!({ "duration_hours": 1, "ssh_public_key": Side::public_key() });
        POST "/api/release/{rental_id}" "over already" Tenant 200 |s, n| format!("/api/release/{}", s.ended),
            Value::Null;
        POST "/api/extend/{rental_id}" "over already" Tenant 409 |s, n| format!("/api/extend/{}", s.ended),
            json!({ "additional_hours": 1 });
        POST "/api/rentals/{id}/containers" "over already" Tenant 409
            |s, n| format!("/api/rentals/{}/containers", s.ended), json!({ "image": "debian:12" });
        GET "/api/rentals/{id}/containers" "" Tenant 200 |s, n| format!("/api/rentals/{}/containers", s.ended),
            Value::Null;
        GET "/api/rentals/{id}/containers/{name}" "none of that name" Tenant 404
            |s, n| format!("/api/rentals/{}/containers/web", s.ended), Value::Null;
        DELETE "/api/rentals/{id}/containers/{name}" "none of that name" Tenant 404
            |s, n| format!("/api/rentals/{}/containers/web", s.ended), Value::Null;
        POST "/api/rentals/{id}/containers/{name}/stop" "none of that name" Tenant 404
            |s, n| format!("/api/rentals/{}/containers/web/stop", s.ended), json!({});
        POST "/api/rentals/{id}/containers/{name}/restart" "none of that name" Tenant 404
            |s, n| format!("/api/rentals/{}/containers/web/restart", s.ended), json!({});
        POST "/api/rentals/{id}/containers/{name}/open" "none of that name" Tenant 409
            |s, n| format!("/api/rentals/{}/containers/web/open", s.ended), json!({});
        GET "/api/apps/auth" "" Nobody 401 |s, n| "/api/apps/auth", Value::Null;
        GET "/api/rentals/{id}/containers/{name}/logs" "none of that name" Tenant 404
            |s, n| format!("/api/rentals/{}/containers/web/logs", s.ended), Value::Null;
        GET "/api/rentals/{id}/containers/{name}/stats" "none of that name" Tenant 404
            |s, n| format!("/api/rentals/{}/containers/web/stats", s.ended), Value::Null;
        GET "/api/rentals/{id}/containers/{name}/exec" "no handshake" Tenant 400
            |s, n| format!("/api/rentals/{}/containers/web/exec", s.ended), Value::Null;
        GET "/api/rentals/{id}/containers/{name}/forward" "no handshake" Tenant 400
            |s, n| format!("/api/rentals/{}/containers/web/forward?port=80", s.ended), Value::Null;
        GET "/api/images/test" "no name of an image" Tenant 400 |s, n| "/api/images/test?image=-v", Value::Null;
        GET "/api/rentals" "those that live" Tenant 200 |s, n| "/api/rentals", Value::Null;
        GET "/api/rentals" "all of a tenant" Tenant 200 |s, n| "/api/rentals?all=true&limit=9", Value::Null;
        GET "/api/rentals" "an admin's" Admin 200 |s, n| "/api/rentals", Value::Null;
        GET "/api/rentals" "an admin's, all" Admin 200 |s, n| "/api/rentals?all=true&limit=9", Value::Null;
        GET "/api/rentals/{id}" "" Tenant 200 |s, n| format!("/api/rentals/{}", s.leases[0]), Value::Null;
        GET "/api/rentals/{id}" "over" Tenant 200 |s, n| format!("/api/rentals/{}", s.ended), Value::Null;
        GET "/api/nodes" "" Tenant 200 |s, n| "/api/nodes", Value::Null;
        GET "/api/nodes" "an admin's" Admin 200 |s, n| "/api/nodes", Value::Null;
        GET "/api/nodes/{id}" "" Tenant 200 |s, n| format!("/api/nodes/{}", s.nodes[0]), Value::Null;
        GET "/api/nodes/{id}" "an admin's" Admin 200 |s, n| format!("/api/nodes/{}", s.nodes[0]), Value::Null;
        GET "/api/events" "a tenant's" Tenant 200 |s, n| format!("/api/events?follow=false&after={}", s.events_until),
            Value::Null;
        GET "/api/events" "an admin's" Admin 200 |s, n| format!("/api/events?follow=false&after={}", s.events_until),
            Value::Null;
        POST "/api/workers/register" "a token that nobody has" Tenant 401 |s, n| "/api/workers/register", worker();
        GET "/api/workers/link" "a token that nobody has" Tenant 401 |s, n| "/api/workers/link", Value::Null;
        POST "/api/tokens" "" Admin 201 |s, n| "/api/tokens", json!({ "note": "benchmark" });
        POST "/api/admin/nodes/{id}/accept-key" "another key" Admin 409
            |s, n| format!("/api/admin/nodes/{}/accept-key", s.nodes[0]),
            json!({ "fingerprint": "SHA256:4p6bDXQyNvQyCVQ0m6Xv9e0sJw4n1yQkM7c2Xm0o6yE" });
        POST "/api/admin/nodes/{id}/quarantine/lift" "not in quarantine" Admin 409
            |s, n| format!("/api/admin/nodes/{}/quarantine/lift", s.nodes[0]), Value::Null;
        GET "/api/admin/brake" "" Admin 200 |s, n| "/api/admin/brake", Value::Null;
        POST "/api/admin/brake/lift" "" Admin 200 |s, n| "/api/admin/brake/lift", json!({});
        POST "/api/admin/nodes/{id}/drain" "" Admin 200 |s, n| format!("/api/admin/nodes/{}/drain", s.nodes[0]),
            json!({ "reason": "new disks" });
        POST "/api/admin/nodes/{id}/undrain" "" Admin 200
            |s, n| format!("/api/admin/nodes/{}/undrain", s.nodes[0]), Value::Null;
        POST "/api/admin/nodes/{id}/forget" "leased" Admin 409
            |s, n| format!("/api/admin/nodes/{}/forget", s.nodes[0]), json!({});
        POST "/api/admin/nodes/{id}/declare-dead" "alive" Admin 409
            |s, n| format!("/api/admin/nodes/{}/declare-dead", s.nodes[0]), json!({ "reason": "burnt" });
        GET "/api/admin/users" "" Admin 200 |s, n| "/api/admin/users?limit=3", Value::Null;
        GET "/api/admin/users/{user}" "" Admin 200 |s, n| format!("/api/admin/users/{}", s.tenant), Value::Null;
        POST "/api/admin/users/{user}/quotas" "" Admin 200
            |s, n| format!("/api/admin/users/{}/quotas", s.spare), json!({ "nodes": 1 + n });
        POST "/api/admin/users/{user}/promote" "" Admin 200
            |s, n| format!("/api/admin/users/{}/promote", s.spare), Value::Null;
        POST "/api/admin/users/{user}/demote" "" Admin 200
            |s, n| format!("/api/admin/users/{}/demote", s.spare), Value::Null;
        POST "/api/admin/users/{user}/enable" "" Admin 200
            |s, n| format!("/api/admin/users/{}/enable", s.spare), Value::Null;
        POST "/api/admin/users/{user}/password" "" Admin 200
            |s, n| format!("/api/admin/users/{}/password", s.spare), json!({ "password": PASSWORD });
        POST "/api/admin/invites" "" Admin 201 |s, n| "/api/admin/invites", json!({});
        GET "/api/admin/webhooks" "" Admin 200 |s, n| "/api/admin/webhooks", Value::Null;
        POST "/api/admin/webhooks" "not well said" Admin 400 |s, n| "/api/admin/webhooks",
            json!({ "url": "nowhere" });
        POST "/api/admin/webhooks/{id}/test" "one that is not there" Admin 404
            |s, n| "/api/admin/webhooks/999/test", Value::Null;
        POST "/api/admin/webhooks/{id}/delete" "one that is not there" Admin 404
            |s, n| "/api/admin/webhooks/999/delete", Value::Null;
        POST "/api/auth/password" "" Spare 200 |s, n| "/api/auth/password",
            json!({ "old_password": PASSWORD, "new_password": PASSWORD });
        POST "/api/auth/logout" "" Spare 200 |s, n| "/api/auth/logout", Value::Null;
        POST "/api/admin/users/{user}/disable" "" Admin 200
            |s, n| format!("/api/admin/users/{}/disable", s.spare), json!({ "leases": "keep" });
        POST "/api/reset" "nothing is rented" Admin 200 |s, n| "/api/reset", Value::Null;
    }
}

fn credentials(name: &str) -> Value {
    json!({ "username": name, "password": PASSWORD })
}

fn worker() -> Value {
    json!({ "hostname": "node-x", "ip": "10.9.0.13", "ssh_port": 22, "host_keys": [Side::public_key()], "cpu_cores": 16,
        "memory_mb": 65536, "agent_version": "1.0.0" })
}

/// Routes that hash a password.
const HASHING: [&str; 6] = [
    "/auth/signup",
    "/api/signup",
    "/auth/login",
    "/api/login",
    "/api/auth/password",
    "/api/admin/users/{user}/password",
];

/// Ends every lease, which is not the database's work alone: nothing is rented any more when it is asked for.
const RESET: &str = "/api/reset";

/// Begun anew each time.
const UNDRAIN: &str = "/api/admin/nodes/{id}/undrain";

/// Every case.
pub fn cases() -> Vec<Case> {
    recipes().into_iter().map(as_case).collect()
}

fn as_case(recipe: Recipe) -> Case {
    let Recipe { method, route, what, who, status, ask } = recipe;
    let name = format!("{method} {route} {what}").trim_end().to_owned();
    let case = Case::new(name, move |side, n| {
        let (path, body) = ask(side, n);
        Box::pin(async move {
            // A health without a scheduler is none.
            side.store().cluster().heartbeat("benchmark", "scheduler", side.now()).await.context(route)?;
            match route {
                RESET => side.end_all().await?,
                UNDRAIN => {
                    let drain = path.replace("undrain", "drain");
                    let drain = request(side, who, method, &drain, &json!({ "reason": "new disks" })).await?;
                    side.router.clone().oneshot(drain).await.context(route)?;
                }
                _ => {}
            }
            let request = request(side, who, method, &path, &body).await?;
            let began = Instant::now();
            let response = side.router.clone().oneshot(request).await.context(route)?;
            let got = response.status().as_u16();
            let bytes = to_bytes(response.into_body(), usize::MAX).await.context(route)?;
            let took = began.elapsed();
            if got == status {
                return Ok(took);
            }
            let text: String = String::from_utf8_lossy(&bytes).chars().take(300).collect();
            Err(Broken::new(format!("{got} and not {status}: {text}")))
        })
    });
    Case { is_slow: HASHING.contains(&route), ..case }
}

async fn request(
    side: &Side,
    who: Who,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<Request<Body>, Broken> {
    // What the listener tells the routes.
    let peer = ConnectInfo(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    let mut request = Request::builder().method(method).uri(path).extension(peer);
    let account = match who {
        Who::Nobody => None,
        Who::Tenant => Some(side.tenant),
        Who::Spare => Some(side.spare),
        Who::Admin => Some(side.admin),
    };
    if let Some(account) = account {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token(side, account).await?));
    }
    let body = if body.is_null() {
        Body::empty()
    } else {
        request = request.header(header::CONTENT_TYPE, "application/json");
        Body::from(body.to_string())
    };
    request.body(body).context(path)
}

/// A token that is good now: some requests make earlier ones void.
async fn token(side: &Side, account: UserId) -> Result<String, Broken> {
    let user = side.store().accounts().get(account).await.context("an account")?;
    let user = user.ok_or_else(|| Broken::new("an account is gone"))?;
    let issued =
        side.app.tokens.issue(user.id, &user.username.to_string(), user.token_generation, side.now());
    Ok(issued.map_err(Broken::new)?.expose().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_control_plane::router::routes;

    #[test]
    fn every_route_has_a_request() {
        let recipes = recipes();
        let forgotten: Vec<String> = routes()
            .iter()
            .filter(|route| {
                !recipes
                    .iter()
                    .any(|recipe| recipe.method == route.method.as_str() && recipe.route == route.path)
            })
            .map(|route| format!("{} {}", route.method, route.path))
            .collect();
        assert!(forgotten.is_empty(), "{forgotten:?}");
    }
}
