//! Who calls: the access token of a user, the token of a node, the address of a client.

use crate::{App, error::ApiError};
use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, header, request::Parts},
};
use orion_domain::{Secret, UserId};
use orion_store::Role;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// How far the clocks of two replicas may be apart, with room: one makes an account, the other logs it in.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(10);

/// A logged-in user. As an argument of a handler it is the check itself.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whose account it is.
    pub user: UserId,
    /// Its name.
    pub username: String,
    /// What it may do.
    pub role: Role,
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
        let (user, generation, issued_at) = app
            .tokens
            .read(token.expose(), app.now())
            .map_err(|error| ApiError::unauthorized(error.to_string()))?;
        let account = app.store.user_by_id(user).await?;
        match account {
            // A token that is older than its account was somebody else's: a database that was restored from a backup
            // gives numbers again.
            Some(account)
                if account.token_generation == generation
                    && account.created_at <= issued_at.plus(CLOCKS_APART_MAX) =>
            {
                Ok(Self { user, username: account.username.to_string(), role: account.role })
            }
            Some(_) | None => Err(ApiError::unauthorized("the token is no longer valid; log in again")),
        }
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

/// Where the request comes from: the peer, or what a trusted proxy says of it.
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
