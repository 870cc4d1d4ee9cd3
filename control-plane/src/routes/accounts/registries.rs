//! `/api/account/registries`: logins of the account at registries of images.

use crate::{
    App,
    app::accounts::registries::LoginRequest,
    auth::Caller,
    error::ApiError,
    routes::{Body, Message},
};
use axum::{
    Json,
    extract::{Path, State},
};
use orion_domain::{Secret, Timestamp, container::RegistryHost};
use orion_store::RegistryLogin;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest name of a user at a registry, in characters.
const USERNAME_CHARS_MAX: usize = 255;
/// Longest password: keys of service accounts are JSON of some kilobytes.
const PASSWORD_BYTES_MAX: usize = 8 * 1024;

/// A login at a registry.
#[derive(Deserialize, ToSchema)]
pub struct RegistryLoginBody {
    /// Name of the user there.
    #[schema(min_length = 1, max_length = 255)]
    username: String,
    /// Password or access token; sealed, and shown nowhere.
    #[schema(value_type = String, format = Password, min_length = 1, max_length = 8192)]
    password: Secret,
}

impl RegistryLoginBody {
    fn check(self, registry: &str) -> Result<LoginRequest, ApiError> {
        let Self { username, password } = self;
        let is_plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        if !is_plain(&username) || username.contains(':') || username.chars().count() > USERNAME_CHARS_MAX {
            let rule = format!(
                "must have 1 to {USERNAME_CHARS_MAX} characters, none of them ':' or a control character"
            );
            return Err(ApiError::field("username", rule));
        }
        if !is_plain(password.expose()) || password.expose().len() > PASSWORD_BYTES_MAX {
            let rule = format!("must have 1 to {PASSWORD_BYTES_MAX} bytes, none of them a control character");
            return Err(ApiError::field("password", rule));
        }
        Ok(LoginRequest { registry: host(registry)?, username, password })
    }
}

fn host(text: &str) -> Result<RegistryHost, ApiError> {
    text.parse().map_err(|why: String| ApiError::field("registry", why))
}

/// A login of the account at a registry of images, without its password.
#[derive(Serialize, ToSchema)]
#[schema(as = RegistryLogin)]
pub struct RegistryLoginView {
    registry: String,
    /// Name of the user there.
    username: String,
    #[schema(value_type = String, format = DateTime)]
    changed_at: Timestamp,
}

impl From<RegistryLogin> for RegistryLoginView {
    fn from(login: RegistryLogin) -> Self {
        Self { registry: login.registry, username: login.username, changed_at: login.changed_at }
    }
}

/// Your logins at registries
#[utoipa::path(
    get, path = "/api/account/registries", operation_id = "listRegistryLogins", tag = "accounts",
    responses((status = 200, description = "Without their passwords", body = Vec<RegistryLoginView>))
)]
pub async fn list(State(app): State<App>, who: Caller) -> Result<Json<Vec<RegistryLoginView>>, ApiError> {
    let logins = app.accounts().logins(&who).await?;
    Ok(Json(logins.into_iter().map(RegistryLoginView::from).collect()))
}

/// Your login at a registry
#[utoipa::path(
    get, path = "/api/account/registries/{registry}", operation_id = "showRegistryLogin", tag = "accounts",
    params(("registry" = String, Path, description = "Host of the registry, with its port if it is not 443",
        example = "registry.example:5000")),
    responses(
        (status = 200, description = "Without its password", body = RegistryLoginView),
        (status = 404, description = "You have no login there"),
    )
)]
pub async fn show(
    State(app): State<App>,
    who: Caller,
    Path(registry): Path<String>,
) -> Result<Json<RegistryLoginView>, ApiError> {
    Ok(Json(app.accounts().login(&who, &host(&registry)?).await?.into()))
}

/// Log in at a registry
///
/// Images of that registry are pulled with this login for your containers, and for nobody else's. Its password is sealed; it
/// is given to a node's engine with each pull, and kept there nowhere. It is not tried: `GET /api/images/test` does that.
#[utoipa::path(
    put, path = "/api/account/registries/{registry}", operation_id = "keepRegistryLogin", tag = "accounts",
    params(("registry" = String, Path, description = "Host of the registry, with its port if it is not 443",
        example = "registry.example:5000")),
    request_body = RegistryLoginBody,
    responses(
        (status = 200, description = "It is kept, in place of an older one", body = RegistryLoginView),
        (status = 409, description = "You have logins at 50 registries"),
    )
)]
pub async fn keep(
    State(app): State<App>,
    who: Caller,
    Path(registry): Path<String>,
    body: Body<RegistryLoginBody>,
) -> Result<Json<RegistryLoginView>, ApiError> {
    let request = body.parsed.check(&registry)?;
    Ok(Json(app.accounts().keep_login(&who, request).await?.into()))
}

/// Log out of a registry
#[utoipa::path(
    delete, path = "/api/account/registries/{registry}", operation_id = "removeRegistryLogin", tag = "accounts",
    params(("registry" = String, Path, description = "Host of the registry, with its port if it is not 443",
        example = "registry.example:5000")),
    responses(
        (status = 200, description = "The login is forgotten", body = Message),
        (status = 404, description = "You have no login there"),
    )
)]
pub async fn remove(
    State(app): State<App>,
    who: Caller,
    Path(registry): Path<String>,
) -> Result<Json<Message>, ApiError> {
    app.accounts().remove_login(&who, &host(&registry)?).await?;
    Ok(Message::new("Login forgotten"))
}
