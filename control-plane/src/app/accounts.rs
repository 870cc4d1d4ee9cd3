//! Sign-up, log-in, and the admin's account.

use crate::{App, app::idempotency::Idempotent, crypto::passwords, error::ApiError};
use orion_domain::{
    Secret, UserId,
    credentials::{LOGIN_PASSWORD_MIN, check_password},
    names::UnixName,
};
use orion_store::{CreateUser, Role};
use std::{net::IpAddr, sync::OnceLock};

/// Names that a sign-up does not get; `orion admin create` makes them.
const FOR_ADMINS: &[&str] = &["admin", "administrator"];

impl App {
    /// Makes a user's account.
    ///
    /// # Errors
    /// 400 with the rule that the name or the password breaks, 409 if the name is taken.
    pub async fn sign_up(
        &self,
        username: &str,
        password: Secret,
        key: Option<Idempotent>,
    ) -> Result<(), ApiError> {
        let username: UnixName = username.parse().map_err(|rule| ApiError::field("username", rule))?;
        if FOR_ADMINS.contains(&username.as_str()) {
            return Err(ApiError::field(
                "username",
                format!("'{username}' is for an operator's account; choose another"),
            ));
        }
        check_password(&password, LOGIN_PASSWORD_MIN).map_err(|rule| ApiError::field("password", rule))?;
        if let Some(key) = &key
            && let Some(earlier) = self.store.idem_get(key.scope(), key.sha256()).await?
        {
            return key.check_body(&earlier);
        }
        if self.store.user_by_name(username.as_str()).await?.is_some() {
            return Err(taken(&username));
        }
        let hash = self.hash(password).await?;
        let row = key.as_ref().map(|key| key.row(None, None, self.now()));
        match self.store.create_user(&username, &hash, Role::User, self.now(), row.as_ref()).await? {
            CreateUser::Created(_) => Ok(()),
            CreateUser::Taken => Err(taken(&username)),
            CreateUser::Replayed(earlier) => match key {
                Some(key) => key.check_body(&earlier),
                None => Err(ApiError::internal("a sign-up without a key was replayed")),
            },
        }
    }

    /// Checks a name and a password and gives an access token.
    ///
    /// # Errors
    /// 401 alike for a wrong name and a wrong password, 429 after too many.
    pub async fn log_in(&self, username: &str, password: Secret, from: IpAddr) -> Result<Secret, ApiError> {
        let wrong = || ApiError::unauthorized("wrong user name or password");
        self.limiter.check(username, from, self.now()).map_err(|seconds| {
            ApiError::too_many(format!("too many failed logins; try again in {seconds} s"), seconds)
        })?;
        let account = self.store.user_by_name(username).await?;
        // An unknown name costs the same work as a wrong password.
        let hash =
            account.as_ref().map_or_else(|| dummy_hash().to_owned(), |a| a.password_hash.expose().to_owned());
        let matches = self.verify(password, hash).await?;
        match account {
            Some(account) if matches => {
                self.limiter.succeeded(username, from);
                self.tokens
                    .issue(account.id, account.username.as_str(), account.token_generation, self.now())
                    .map_err(ApiError::internal)
            }
            Some(_) | None => {
                self.limiter.failed(username, from, self.now());
                Err(wrong())
            }
        }
    }

    /// Makes an admin's account, or makes an existing account an admin's with a new password.
    ///
    /// # Errors
    /// 400 with the rule that the name or the password breaks.
    pub async fn make_admin(&self, username: &str, password: Secret) -> Result<UserId, ApiError> {
        let username: UnixName = username.parse().map_err(|rule| ApiError::field("username", rule))?;
        check_password(&password, LOGIN_PASSWORD_MIN).map_err(|rule| ApiError::field("password", rule))?;
        let hash = self.hash(password).await?;
        Ok(self.store.upsert_admin(&username, &hash, self.now()).await?)
    }

    async fn hash(&self, password: Secret) -> Result<String, ApiError> {
        let _permit = self.hashing.acquire().await.map_err(ApiError::internal)?;
        tokio::task::spawn_blocking(move || passwords::hash_login(&password))
            .await
            .map_err(ApiError::internal)?
            .map_err(ApiError::internal)
    }

    async fn verify(&self, password: Secret, hash: String) -> Result<bool, ApiError> {
        let _permit = self.hashing.acquire().await.map_err(ApiError::internal)?;
        tokio::task::spawn_blocking(move || passwords::verify_login(&password, &hash))
            .await
            .map_err(ApiError::internal)
    }
}

fn taken(username: &UnixName) -> ApiError {
    ApiError::conflict("username_taken", format!("the user name '{username}' is taken; choose another"))
}

fn dummy_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| passwords::hash_login(&crate::crypto::new_token("dummy")).unwrap_or_default())
}
