//! `/auth/signup`, `/auth/login` and their older names.

pub mod admin;
pub mod registries;
pub mod tokens;

use crate::{
    App,
    app::{
        accounts::{NewAccount, quotas::QuotasView},
        idempotency::Idempotent,
    },
    auth::{Caller, ClientAddr, bearer},
    error::ApiError,
    openapi::parameters::IdempotencyKey,
    routes::{Body, Message},
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
    #[schema(min_length = 1, max_length = 31, pattern = "^[a-z_][a-z0-9_-]*$")]
    username: String,
    /// 8 characters to 128 bytes, no control characters.
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
    password: Secret,
}

/// Name and password of a new account.
#[derive(Deserialize, ToSchema)]
pub struct SignUpBody {
    /// 1 to 31 of `a-z`, `0-9`, `-` and `_`, the first a letter; it is also the name of the login on nodes.
    #[schema(min_length = 1, max_length = 31, pattern = "^[a-z_][a-z0-9_-]*$")]
    username: String,
    /// 8 characters to 128 bytes, no control characters.
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
    password: Secret,
    /// An invitation, where sign-up wants one (`ORION_SIGNUP=invite`).
    #[schema(value_type = Option<String>)]
    invite: Option<Secret>,
}

/// Proof of a login, sent with each request.
#[derive(Serialize, ToSchema)]
pub struct AccessToken {
    /// A JWT for `Authorization: Bearer`. It ends by itself after a day (`ORION_TOKEN_HOURS`), or at a logout.
    token: String,
}

/// Account to which the token belongs.
#[derive(Serialize, ToSchema)]
pub struct Account {
    #[schema(value_type = i64)]
    user_id: UserId,
    username: String,
    #[schema(value_type = crate::openapi::schemas::Role)]
    role: Role,
    /// Limits of the account, and their use.
    quotas: QuotasView,
}

/// Make an account
///
/// Everybody may, within limits, unless the operator wants an invitation (`ORION_SIGNUP=invite`) or nobody to sign up
/// (`closed`); an admin's account is made with `orion admin create`.
#[utoipa::path(
    post, path = "/auth/signup", operation_id = "signUp", tag = "accounts",
    params(IdempotencyKey),
    request_body = SignUpBody,
    responses(
        (status = 201, description = "The account was made; log in with it", body = Message),
        (status = 403, description = "Sign-up is closed, or wants an invitation that is good"),
        (status = 409, description = "The name is taken"),
    )
)]
pub async fn sign_up(
    State(app): State<App>,
    ClientAddr(address): ClientAddr,
    headers: HeaderMap,
    body: Body<SignUpBody>,
) -> Result<(StatusCode, Json<Message>), ApiError> {
    let key = Idempotent::read(&headers, "signup", None, &body.canonical, &app.config.master_key)?;
    let SignUpBody { username, password, invite } = body.parsed;
    app.accounts().sign_up(NewAccount { username, password, invite, address }, key).await?;
    Ok((StatusCode::CREATED, Message::new("Account created")))
}

/// Log in
///
/// A wrong name and a wrong password are refused alike, in the same time. After 5 failures for a name or an
/// address further tries are refused for a while. Who sends a token of the account along, also one that has ended, or
/// logged in from the same address before, is not held up by failures of others.
#[utoipa::path(
    post, path = "/auth/login", operation_id = "logIn", tag = "accounts",
    request_body = Credentials,
    responses(
        (status = 200, description = "A token", body = AccessToken),
        (status = 401, description = "The name or the password is wrong"),
        (status = 403, description = "`account_disabled`: the password is right, but an admin has shut the account"),
        (status = 429, description = "Too many failed logins; `Retry-After` says how many seconds to wait"),
    )
)]
pub async fn log_in(
    State(app): State<App>,
    ClientAddr(address): ClientAddr,
    headers: HeaderMap,
    body: Body<Credentials>,
) -> Result<Json<AccessToken>, ApiError> {
    let Credentials { username, password } = body.parsed;
    let token = app.accounts().log_in(&username, password, address, bearer(&headers).as_ref()).await?;
    Ok(Json(AccessToken { token: token.expose().to_owned() }))
}

/// Show the account of the token
#[utoipa::path(
    get, path = "/auth/me", operation_id = "whoAmI", tag = "accounts",
    responses((status = 200, description = "The account", body = Account))
)]
pub async fn me(State(app): State<App>, who: Caller) -> Result<Json<Account>, ApiError> {
    let quotas = app.accounts().quotas_view(&who).await?;
    Ok(Json(Account { user_id: who.user, username: who.username, role: who.role, quotas }))
}

/// Log out
///
/// Every token of the account is void from now on, also on other machines.
#[utoipa::path(
    post, path = "/api/auth/logout", operation_id = "logOut", tag = "accounts",
    responses((status = 200, description = "Logged out", body = Message))
)]
pub async fn log_out(State(app): State<App>, who: Caller) -> Result<Json<Message>, ApiError> {
    app.accounts().log_out(&who).await?;
    Ok(Message::new("Logged out"))
}

/// The present password and the new one.
#[derive(Deserialize, ToSchema)]
pub struct PasswordBody {
    #[schema(value_type = String, format = Password, max_length = 128)]
    old_password: Secret,
    /// 8 characters to 128 bytes, no control characters.
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
    new_password: Secret,
}

/// Change your password
///
/// Every token of the account is void from now on; the reply holds a new one. The logins of your leases keep their
/// own passwords.
#[utoipa::path(
    post, path = "/api/auth/password", operation_id = "changePassword", tag = "accounts",
    request_body = PasswordBody,
    responses(
        (status = 200, description = "The password is changed; a new token", body = AccessToken),
        (status = 403, description = "The old password is wrong"),
        (status = 429, description = "Too many failed tries; `Retry-After` says how many seconds to wait"),
    )
)]
pub async fn change_password(
    State(app): State<App>,
    who: Caller,
    ClientAddr(address): ClientAddr,
    body: Body<PasswordBody>,
) -> Result<Json<AccessToken>, ApiError> {
    let PasswordBody { old_password, new_password } = body.parsed;
    let token = app.accounts().change_own_password(&who, old_password, new_password, address).await?;
    Ok(Json(AccessToken { token: token.expose().to_owned() }))
}
