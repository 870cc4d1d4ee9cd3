//! Visitors of the ports of containers: the owner alone comes in, by a URL that works once, and then by a cookie of that host.
//!
//! A ticket and a cookie are tokens like the API's own, under keys of their own, and name the host that they are for. A cookie
//! rests on the account's token generation: a logout ends it everywhere.

use super::Containers;
use crate::{
    auth::{Caller, bearer},
    crypto::{jwt::Tokens, sha256_hex},
    error::ApiError,
};
use axum::http::{HeaderMap, header};
use orion_domain::{
    LeaseId, Timestamp, UserId,
    container::{APP_COOKIE, AppsDomain},
};
use orion_service::sealed::MasterKey;
use orion_store::AppTicket;
use std::time::Duration;

/// Path at which a ticket is changed for a cookie.
const TICKET_PATH: &str = "/.orion/open?ticket=";
/// Lifetime of a ticket.
const TICKET_LIFETIME: Duration = Duration::from_secs(60);
/// Lifetime of a cookie that is not renewed.
const COOKIE_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// Age at which a cookie is renewed by the next request.
const RENEWED_AFTER: Duration = Duration::from_secs(2 * 60);

/// Keys of the tokens of visitors.
pub struct VisitorKeys {
    tickets: Tokens,
    cookies: Tokens,
}

impl VisitorKeys {
    /// Derives them.
    pub fn new(master: &MasterKey) -> Self {
        let key = |purpose: &'static str| master.derive_bytes(purpose, b"");
        Self {
            tickets: Tokens::new(&key("app-ticket")[..], TICKET_LIFETIME),
            cookies: Tokens::new(&key("app-cookie")[..], COOKIE_LIFETIME),
        }
    }
}

/// A URL that lets its holder in once.
pub struct Opened {
    /// The URL, a secret for as long as it was not used.
    pub url: String,
    /// Its end.
    pub expires_at: Timestamp,
}

/// What is answered to the proxy about a visitor.
#[derive(Debug)]
pub enum Visit {
    /// The visitor comes in, with a new cookie if there is one; `drop_authorization`: what the request says there is a token of
    /// the API's.
    Welcome {
        /// Value of `Set-Cookie`.
        cookie: Option<String>,
        /// Whether the container must not get the request's `Authorization`.
        drop_authorization: bool,
    },
    /// The ticket was good: the visitor goes on with this cookie.
    Ticket(String),
}

impl<'app> Containers<'app> {
    /// Gives the owner of a container a URL to come in.
    ///
    /// # Errors
    /// 404 for an unknown container, 409 where it has no such port, or none that is reached by a name.
    pub async fn open(
        self,
        who: &Caller,
        which: &str,
        name: &str,
        port: Option<u16>,
    ) -> Result<Opened, ApiError> {
        let domain = self.apps_domain()?;
        let (row, _) = self.show(who, which, name).await?;
        let known = |wanted: u16| row.node_ports.iter().any(|known| known.port == wanted);
        let port = match port {
            Some(port) if known(port) => port,
            Some(port) => {
                let what =
                    format!("the container '{name}' does not publish port {port}, or is not on its node yet");
                return Err(ApiError::conflict("no_port", what));
            }
            None => row.node_ports.first().map(|first| first.port).ok_or_else(|| {
                ApiError::conflict(
                    "no_port",
                    format!("the container '{name}' publishes no port, or is not on its node yet"),
                )
            })?,
        };
        let host = domain.host(row.lease, port);
        let now = self.app.now();
        // Two of one second are two.
        let about = format!("{host} {}", orion_store::new_container_uid(now));
        let ticket = self.app.visitors.tickets.issue(who.user, &about, who.right.generation, now);
        let ticket = ticket.map_err(ApiError::internal)?;
        let expires_at = now.plus(TICKET_LIFETIME);
        let sha256 = sha256_hex(ticket.expose().as_bytes());
        let row = AppTicket { sha256: &sha256, user: who.user, expires_at };
        self.app.store.containers().give_ticket(&row, now).await?;
        let url = domain.url(&host);
        let url = format!("{}{TICKET_PATH}{}", url.trim_end_matches('/'), ticket.expose());
        Ok(Opened { url, expires_at })
    }

    /// Says whether the visitor whose request a proxy tells of may come in.
    ///
    /// # Errors
    /// 401 without a good cookie, 403 with a ticket that is not good, 404 for a ticket at a host that stands for nothing.
    pub async fn visit(self, headers: &HeaderMap) -> Result<Visit, ApiError> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let drop_authorization = self.is_own_token(headers);
        if text("orion-app").ends_with(" public") {
            return Ok(Visit::Welcome { cookie: None, drop_authorization });
        }
        let host = text("x-forwarded-host").to_ascii_lowercase();
        let host = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host);
        let stands_for = || self.apps_domain().ok()?.app_of(host);
        if let Some(ticket) = text("x-forwarded-uri").strip_prefix(TICKET_PATH) {
            let (lease, _) = stands_for().ok_or_else(|| ApiError::not_found("nothing has this name"))?;
            return self.take_ticket(host, lease, ticket).await.map(Visit::Ticket);
        }
        if is_of_another_page(headers, host) {
            return Err(ApiError::forbidden("a page of another name may not use this one"));
        }
        let now = self.app.now();
        for value in cookies(headers) {
            let Ok(read) = self.app.visitors.cookies.read(value, now) else { continue };
            let is_of_host = self.app.visitors.cookies.name_in(value).is_some_and(|of| of == host);
            let Some((lease, _)) = stands_for().filter(|_| is_of_host) else { continue };
            if self.is_owner(lease, read.user, read.generation).await? {
                let is_old = now.since(read.issued_at) >= RENEWED_AFTER;
                let renewed = || self.cookie(host, read.user, read.generation);
                let cookie = is_old.then(renewed).transpose()?;
                return Ok(Visit::Welcome { cookie, drop_authorization });
            }
        }
        Err(ApiError::unauthorized("this page is its owner's alone")
            .hint("open it: orion open LEASE CONTAINER"))
    }

    /// Whether a cookie came with a request that was given out here and is not over.
    pub fn has_good_cookie(self, headers: &HeaderMap) -> bool {
        let now = self.app.now();
        cookies(headers).any(|value| self.app.visitors.cookies.read(value, now).is_ok())
    }

    async fn take_ticket(self, host: &str, lease: LeaseId, ticket: &str) -> Result<String, ApiError> {
        let now = self.app.now();
        let refused = || {
            ApiError::forbidden(
                "this link was used already, or is too old; get another one: orion open LEASE CONTAINER",
            )
        };
        let tickets = &self.app.visitors.tickets;
        let read = tickets.read(ticket, now).map_err(|_| refused())?;
        let about = tickets.name_in(ticket).unwrap_or_default();
        let is_of_host = about.split_once(' ').is_some_and(|(of, _)| of == host);
        let sha256 = sha256_hex(ticket.as_bytes());
        let row = AppTicket { sha256: &sha256, user: read.user, expires_at: read.expires_at };
        let is_good = is_of_host
            && self.app.store.containers().take_ticket(&row, now).await?
            && self.is_owner(lease, read.user, read.generation).await?;
        if !is_good {
            return Err(refused());
        }
        self.cookie(host, read.user, read.generation)
    }

    /// Whether the lease is that user's, and lives, and the user's right of that generation stands.
    async fn is_owner(self, lease: LeaseId, user: UserId, generation: i64) -> Result<bool, ApiError> {
        let Some(lease) = self.app.store.leases().get(lease).await? else { return Ok(false) };
        if lease.user != user || lease.state.wants_account_on().is_none() {
            return Ok(false);
        }
        let standings = self.app.store.accounts().standings(&[user]).await?;
        Ok(standings.get(&user).is_some_and(|now| now.enabled && now.token_generation == generation))
    }

    fn cookie(self, host: &str, user: UserId, generation: i64) -> Result<String, ApiError> {
        let cookie = self.app.visitors.cookies.issue(user, host, generation, self.app.now());
        let cookie = cookie.map_err(ApiError::internal)?;
        let age = COOKIE_LIFETIME.as_secs();
        Ok(format!("{APP_COOKIE}={}; Path=/; Max-Age={age}; Secure; HttpOnly; SameSite=Lax", cookie.expose()))
    }

    /// Whether the request has a token of the API's in it, be it one that is over.
    fn is_own_token(self, headers: &HeaderMap) -> bool {
        bearer(headers).is_some_and(|token| {
            // Tokens of workers begin so.
            token.expose().starts_with("orion-") || self.app.tokens.name_in(token.expose()).is_some()
        })
    }

    fn apps_domain(self) -> Result<&'app AppsDomain, ApiError> {
        let apps = self.app.fleet.config.networks.apps.as_ref();
        apps.map(|apps| &apps.domain).ok_or_else(|| {
            ApiError::conflict(
                "no_apps_domain",
                "ports of containers have no names here; the operator sets ORION_APPS_DOMAIN",
            )
        })
    }
}

/// Whether a page of another name makes this request: the names of all tenants are one site, so that a browser sends the
/// cookie along. A link that is followed is none.
fn is_of_another_page(headers: &HeaderMap, host: &str) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_own = |origin: &str| {
        let name = origin.strip_prefix("https://").unwrap_or_default();
        name.rsplit_once(':').map_or(name, |(name, _)| name).eq_ignore_ascii_case(host)
    };
    let is_link = text("x-forwarded-method") == Some("GET")
        && text("sec-fetch-mode") == Some("navigate")
        && text("sec-fetch-dest") == Some("document");
    let is_foreign = matches!(text("sec-fetch-site"), Some("same-site" | "cross-site"));
    !text("origin").is_none_or(is_own) || (is_foreign && !is_link)
}

/// The values of the visitors' cookie in a request.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == APP_COOKIE).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn pages_of_other_tenants_are_told_from_links_and_the_page_itself() {
        let foreign = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs.iter().map(|(name, value)| {
                (axum::http::HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            is_of_another_page(&headers.collect(), "17-8080.apps.example.org")
        };
        assert!(!foreign(&[]), "no browser");
        assert!(!foreign(&[("origin", "https://17-8080.apps.example.org:8443")]));
        assert!(foreign(&[("origin", "https://18-80.apps.example.org")]), "also for a WebSocket");
        assert!(foreign(&[("origin", "null")]));
        let link =
            [("x-forwarded-method", "GET"), ("sec-fetch-mode", "navigate"), ("sec-fetch-site", "same-site")];
        assert!(!foreign(&[link[0], link[1], link[2], ("sec-fetch-dest", "document")]));
        assert!(foreign(&[link[0], link[1], link[2], ("sec-fetch-dest", "iframe")]));
        assert!(foreign(&[("x-forwarded-method", "POST"), link[1], link[2], ("sec-fetch-dest", "document")]));
        assert!(!foreign(&[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")]));
    }
}
