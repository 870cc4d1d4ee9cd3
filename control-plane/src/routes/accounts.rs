//! `/auth/signup`, `/auth/login` and their older names.

use super::Body;
use crate::{
    App,
    app::idempotency::Idempotent,
    auth::{Caller, ClientAddr},
    error::ApiError,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use orion_domain::Secret;
use serde::Deserialize;
use serde_json::{Value, json};

/// Name and password.
#[derive(Deserialize)]
pub struct Credentials {
    username: String,
    password: Secret,
}

/// `POST /auth/signup`
pub async fn sign_up(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body<Credentials>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let key = Idempotent::read(&headers, "signup", None, &body.canonical, &app.config.master_key)?;
    let Credentials { username, password } = body.parsed;
    app.sign_up(&username, password, key).await?;
    Ok((StatusCode::CREATED, Json(json!({ "message": "Account created" }))))
}

/// `POST /auth/login`
pub async fn log_in(
    State(app): State<App>,
    ClientAddr(address): ClientAddr,
    body: Body<Credentials>,
) -> Result<Json<Value>, ApiError> {
    let Credentials { username, password } = body.parsed;
    let token = app.log_in(&username, password, address).await?;
    Ok(Json(json!({ "token": token.expose() })))
}

/// `GET /auth/me`: whose token this is.
pub async fn me(who: Caller) -> Json<Value> {
    Json(json!({ "user_id": who.user, "username": who.username, "role": who.role }))
}

/// `POST /api/auth/logout`: every token of the account is void from now on.
pub async fn log_out(State(app): State<App>, who: Caller) -> Result<Json<Value>, ApiError> {
    app.store.bump_token_generation(who.user).await?;
    Ok(Json(json!({ "message": "Logged out" })))
}
