//! Sign-up, log-in, and the admin's account.

use crate::{App, app::idempotency::Idempotent, crypto::passwords, error::ApiError};
use orion_domain::{
    Secret, UserId,
    credentials::{LOGIN_PASSWORD_MIN, check_password},
    names::UnixName,
};
use orion_store::{CreateUser, Role};
use std::{net::IpAddr, sync::OnceLock, time::Duration};
use tokio::sync::SemaphorePermit;

/// How long a login waits for its turn.
const HASHING_QUEUE: Duration = Duration::from_secs(10);
/// Names that a sign-up does not get; `orion admin create` makes them.
const FOR_ADMINS: &[&str] = &["admin", "administrator"];

/// What came of [`App::first_admin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstAdmin {
    /// There was an admin: nothing changed.
    Known,
    /// `admin` was made.
    Made,
    /// There is none, and no password to make one with.
    None,
}

impl App {
    /// Makes the first admin, `admin`: once, never changed by a restart.
    ///
    /// # Errors
    /// 400 with the rule that the password breaks.
    pub async fn first_admin(&self, password: Option<Secret>) -> Result<FirstAdmin, ApiError> {
        if self.store.any_admin().await? {
            return Ok(FirstAdmin::Known);
        }
        let Some(password) = password else { return Ok(FirstAdmin::None) };
        self.make_admin("admin", password).await?;
        Ok(FirstAdmin::Made)
    }

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
        let now = self.now();
        // What is no user name has no account; it is not remembered one by one.
        let known = username.parse::<UnixName>().is_ok().then_some(username);
        self.limiter.start(known, from, now).map_err(|seconds| {
            ApiError::too_many(format!("too many failed logins; try again in {seconds} s"), seconds)
        })?;
        let account = match known {
            Some(username) => self.store.user_by_name(username).await?,
            None => None,
        };
        // An unknown name costs the same work as a wrong password.
        let hash =
            account.as_ref().map_or_else(|| dummy_hash().to_owned(), |a| a.password_hash.expose().to_owned());
        let matches = self.verify(password, hash).await?;
        match account {
            Some(account) if matches => {
                self.limiter.succeeded(username, from, now);
                self.tokens
                    .issue(account.id, account.username.as_str(), account.token_generation, now)
                    .map_err(ApiError::internal)
            }
            Some(_) | None => Err(ApiError::unauthorized("wrong user name or password")),
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

    /// A place among the hashes that are computed at once; a queue that is too long is told so.
    async fn hashing_permit(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        tokio::time::timeout(HASHING_QUEUE, self.hashing.acquire())
            .await
            .map_err(|_| ApiError::unavailable("too many logins at once; try again in a moment"))?
            .map_err(ApiError::internal)
    }

    async fn hash(&self, password: Secret) -> Result<String, ApiError> {
        let _permit = self.hashing_permit().await?;
        tokio::task::spawn_blocking(move || passwords::hash_login(&password))
            .await
            .map_err(ApiError::internal)?
            .map_err(ApiError::internal)
    }

    async fn verify(&self, password: Secret, hash: String) -> Result<bool, ApiError> {
        let _permit = self.hashing_permit().await?;
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
