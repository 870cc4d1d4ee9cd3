//! `/auth/signup`, `/auth/login` and their older names.

use super::{Body, Message};
use crate::{
    App,
    app::idempotency::Idempotent,
    auth::{Caller, ClientAddr},
    error::ApiError,
    openapi::parameters::IdempotencyKey,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use orion_domain::{Secret, UserId};
use orion_store::Role;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Name and password.
#[derive(Deserialize, ToSchema)]
pub struct Credentials {
    /// 1 to 31 of `a-z`, `0-9`, `-` and `_`, the first a letter; it is also the name of the login on nodes.
    username: String,
    /// 8 characters to 128 bytes, no control characters.
    #[schema(value_type = String, format = Password)]
    password: Secret,
}

/// An access token.
#[derive(Serialize, ToSchema)]
pub struct AccessToken {
    /// A JWT for `Authorization: Bearer`. It ends by itself after a day (`ORION_TOKEN_HOURS`), or at a logout.
    token: String,
}

/// Whose token it is.
#[derive(Serialize, ToSchema)]
pub struct Account {
    #[schema(value_type = i64)]
    user_id: UserId,
    username: String,
    #[schema(value_type = crate::openapi::schemas::Role)]
    role: Role,
}

/// Make an account
///
/// Everybody may; an admin's account is made with `orion admin create`.
#[utoipa::path(
    post, path = "/auth/signup", operation_id = "signUp", tag = "accounts",
    params(IdempotencyKey),
    request_body = Credentials,
    responses(
        (status = 201, description = "The account was made; log in with it", body = Message),
        (status = 409, description = "The name is taken"),
    )
)]
pub async fn sign_up(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body<Credentials>,
) -> Result<(StatusCode, Json<Message>), ApiError> {
    let key = Idempotent::read(&headers, "signup", None, &body.canonical, &app.config.master_key)?;
    let Credentials { username, password } = body.parsed;
    app.sign_up(&username, password, key).await?;
    Ok((StatusCode::CREATED, Message::new("Account created")))
}

/// Log in
///
/// A wrong name and a wrong password are refused alike, in the same time. After 5 failures for a name or an
/// address further tries are refused for a while.
#[utoipa::path(
    post, path = "/auth/login", operation_id = "logIn", tag = "accounts",
    request_body = Credentials,
    responses(
        (status = 200, description = "A token", body = AccessToken),
        (status = 401, description = "The name or the password is wrong"),
        (status = 429, description = "Too many failed logins; `Retry-After` says how many seconds to wait"),
    )
)]
pub async fn log_in(
    State(app): State<App>,
    ClientAddr(address): ClientAddr,
    body: Body<Credentials>,
) -> Result<Json<AccessToken>, ApiError> {
    let Credentials { username, password } = body.parsed;
    let token = app.log_in(&username, password, address).await?;
    Ok(Json(AccessToken { token: token.expose().to_owned() }))
}

/// Whose token this is
#[utoipa::path(
    get, path = "/auth/me", operation_id = "whoAmI", tag = "accounts",
    responses((status = 200, description = "The account", body = Account))
)]
pub async fn me(who: Caller) -> Json<Account> {
    Json(Account { user_id: who.user, username: who.username, role: who.role })
}

/// Log out
///
/// Every token of the account is void from now on, also on other machines.
#[utoipa::path(
    post, path = "/api/auth/logout", operation_id = "logOut", tag = "accounts",
    responses((status = 200, description = "Logged out", body = Message))
)]
pub async fn log_out(State(app): State<App>, who: Caller) -> Result<Json<Message>, ApiError> {
    app.store.bump_token_generation(who.user).await?;
    Ok(Message::new("Logged out"))
}
