//! Logins of an account at registries of images.

use super::Accounts;
use crate::{auth::Caller, error::ApiError};
use orion_domain::{Secret, container::RegistryHost};
use orion_service::assemble::seal_login;
use orion_store::{LoginKept, NewRegistryLogin, RegistryLogin};

/// Registries at which an account may have a login.
const LOGINS_MAX: u32 = 50;

/// A login, checked.
pub struct LoginRequest {
    /// Host of the registry.
    pub registry: RegistryHost,
    /// Name of the user there.
    pub username: String,
    /// Password or token.
    pub password: Secret,
}

fn none_at(registry: &RegistryHost) -> ApiError {
    ApiError::not_found(format!(
        "you have no login at {}; GET /api/account/registries lists yours",
        registry.as_str()
    ))
}

impl Accounts<'_> {
    /// Keeps a login, sealed, in place of an older one.
    ///
    /// # Errors
    /// 409 where the account has too many.
    pub async fn keep_login(self, who: &Caller, request: LoginRequest) -> Result<RegistryLogin, ApiError> {
        let LoginRequest { registry, username, password } = request;
        let registry = registry.as_str().to_owned();
        let password_sealed = seal_login(&self.app.config.master_key, who.user, &registry, &password);
        let new = NewRegistryLogin { registry, username, password_sealed, of_user_max: LOGINS_MAX };
        let now = self.app.now();
        match self.app.store.images().keep_login(who.user, &new, now).await? {
            LoginKept::Kept => {}
            LoginKept::TooMany => {
                let text = format!("you have logins at {LOGINS_MAX} registries already; remove one first");
                return Err(ApiError::conflict("too_many_logins", text));
            }
        }
        let NewRegistryLogin { registry, username, password_sealed, .. } = new;
        Ok(RegistryLogin { registry, username, password_sealed, changed_at: now })
    }

    /// Returns the logins of the account, by registry.
    ///
    /// # Errors
    /// The database's.
    pub async fn logins(self, who: &Caller) -> Result<Vec<RegistryLogin>, ApiError> {
        Ok(self.app.store.images().logins(who.user).await?)
    }

    /// Returns the login of the account at a registry.
    ///
    /// # Errors
    /// 404 where there is none.
    pub async fn login(self, who: &Caller, registry: &RegistryHost) -> Result<RegistryLogin, ApiError> {
        let login = self.app.store.images().login(who.user, registry.as_str()).await?;
        login.ok_or_else(|| none_at(registry))
    }

    /// Removes the login of the account at a registry.
    ///
    /// # Errors
    /// 404 where there is none.
    pub async fn remove_login(self, who: &Caller, registry: &RegistryHost) -> Result<(), ApiError> {
        match self.app.store.images().remove_login(who.user, registry.as_str()).await? {
            true => Ok(()),
            false => Err(none_at(registry)),
        }
    }
}
