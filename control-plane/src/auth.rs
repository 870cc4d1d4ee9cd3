//! Who calls: the access token of a user, the token of a node, the address of a client.

use crate::{
    App,
    app::accounts::rights::{HeldRight, Right},
    crypto::jwt::ReadToken,
    error::ApiError,
};
use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, header, request::Parts},
};
use orion_domain::{Secret, UserId};
use orion_store::{Quotas, Role};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Largest difference between the clocks of two replicas, with room: one makes an account, the other logs
/// it in.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(10);

/// A logged-in user. As an argument of a handler it is the check itself.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Account of the caller.
    pub user: UserId,
    /// Name of the account.
    pub username: String,
    /// Role of the account.
    pub role: Role,
    /// Right that the token gave, for streams and requests that wait.
    pub right: Right,
    /// The account's own quotas.
    pub quotas: Quotas,
}

impl Caller {
    /// Whether the caller is an admin.
    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let token = bearer(&parts.headers).ok_or_else(|| {
            ApiError::unauthorized("no access token; send `Authorization: Bearer <token>` with the token that POST /auth/login gave")
        })?;
        // The limit of requests has read a good token already.
        let ReadToken { user, generation, issued_at, expires_at } = match parts.extensions.get::<ReadToken>()
        {
            Some(read) => *read,
            None => app
                .tokens
                .read(token.expose(), app.now())
                .map_err(|error| ApiError::unauthorized(error.to_string()))?,
        };
        let account = app.lookups.get(&app.store, user).await?;
        match account {
            // A token that is older than its account was somebody else's: a database that was restored from a backup
            // gives numbers again.
            Some(account)
                if account.token_generation == generation
                    && account.disabled_at.is_none()
                    && account.created_at <= issued_at.plus(CLOCKS_APART_MAX) =>
            {
                let right = Right { user, generation, role: account.role, until: expires_at };
                if let Some(slot) = parts.extensions.get::<RightSlot>() {
                    slot.hold(app, right);
                }
                Ok(Self {
                    user,
                    username: account.username.to_string(),
                    role: account.role,
                    right,
                    quotas: account.quotas,
                })
            }
            Some(_) | None => Err(ApiError::unauthorized("the token is no longer valid; log in again")),
        }
    }
}

/// The right that a request rests on: the caller is known only while the request is handled.
#[derive(Clone, Default)]
pub struct RightSlot {
    held: Arc<Mutex<Option<HeldRight>>>,
    /// Set when the right has ended while the request was handled.
    pub lost: CancellationToken,
}

impl RightSlot {
    fn hold(&self, app: &App, right: Right) {
        let held = app.accounts().hold_right(right, self.lost.clone());
        // The lock is free before what was held goes, which takes another one.
        let earlier = self.held.lock().unwrap_or_else(PoisonError::into_inner).replace(held);
        drop(earlier);
    }
}

/// A logged-in admin.
#[derive(Clone, Debug)]
pub struct Admin(pub Caller);

impl FromRequestParts<App> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, app).await?;
        if caller.is_admin() {
            Ok(Self(caller))
        } else {
            Err(ApiError::forbidden("this needs an admin's account"))
        }
    }
}

/// The token after `Authorization: Bearer`.
pub fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Secret::new(token))
}

/// Address that the request comes from: that of the peer, or the one that a trusted proxy reports.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddr(pub IpAddr);

impl FromRequestParts<App> for ClientAddr {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let ConnectInfo(peer) = ConnectInfo::<SocketAddr>::from_request_parts(parts, app)
            .await
            .map_err(|_| ApiError::internal("the listener gives no peer address"))?;
        let trusted = |address: IpAddr| app.config.trusted_proxies.iter().any(|net| net.contains(&address));
        Ok(Self(client_address(peer.ip(), &parts.headers, trusted)))
    }
}

/// Walks `X-Forwarded-For` from its end, as long as trusted proxies wrote it (RFC 7239, section 7.4 warns
/// of everything before).
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut address = peer.to_canonical();
    let forwarded: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    for hop in forwarded.iter().rev() {
        if !trusted(address) {
            break;
        }
        match hop.trim().parse::<IpAddr>() {
            Ok(previous) => address = previous.to_canonical(),
            Err(_) => break,
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        client_address(peer.parse().unwrap(), &headers, |ip| ip.to_string().starts_with("10.0.0."))
            .to_string()
    }

    #[test]
    fn a_forwarded_address_is_believed_from_a_trusted_proxy_only() {
        assert_eq!(seen("1.2.3.4", &["9.9.9.9"]), "1.2.3.4");
        assert_eq!(seen("10.0.0.1", &["9.9.9.9"]), "9.9.9.9");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, 9.9.9.9"]), "9.9.9.9", "the client's own claim comes first");
        assert_eq!(seen("10.0.0.1", &["9.9.9.9, 10.0.0.2"]), "9.9.9.9", "two proxies in a row");
        assert_eq!(seen("10.0.0.1", &["nonsense"]), "10.0.0.1");
    }
}
