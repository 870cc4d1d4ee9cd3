//! Sign-up, log-in, and the admin's account.

mod change;
pub mod lookup;
pub mod quotas;
pub mod registries;
pub mod rights;
pub mod tokens;

use crate::{
    App,
    app::idempotency::Idempotent,
    auth::Caller,
    config::SignUp,
    crypto::{passwords, sha256_hex},
    error::ApiError,
    limit::{Attempt, Network},
};
use orion_domain::{
    Secret, UserId,
    credentials::{LOGIN_PASSWORD_MIN, check_password},
    names::UnixName,
};
use orion_store::{CreateUser, NewUser};
use std::{net::IpAddr, sync::OnceLock, time::Duration};
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

/// Accounts of the API, their tokens, quotas and rights.
#[derive(Clone, Copy)]
pub struct Accounts<'a> {
    app: &'a App,
}

impl App {
    /// Gives the accounts.
    pub const fn accounts(&self) -> Accounts<'_> {
        Accounts { app: self }
    }
}

/// Fields of a sign-up, and the address of the request.
pub struct NewAccount {
    /// The name.
    pub username: String,
    /// Password in clear, as the client sent it.
    pub password: Secret,
    /// An invitation.
    pub invite: Option<Secret>,
    /// Address that the request comes from.
    pub address: IpAddr,
}

/// Period over which all sign-ups together are counted.
const MINUTE: Duration = Duration::from_secs(60);
/// Longest wait of a login for its turn.
const HASHING_QUEUE: Duration = Duration::from_secs(10);
/// Names that a sign-up does not get; `orion admin create` makes them.
const FOR_ADMINS: &[&str] = &["admin", "administrator"];

/// Outcome of [`Accounts::first_admin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstAdmin {
    /// Admin existed already: nothing changed.
    Known,
    /// `admin` was made.
    Made,
    /// Lack of both an admin and a password to make one with.
    None,
}

impl Accounts<'_> {
    /// Makes the first admin, `admin`: once, never changed by a restart.
    ///
    /// # Errors
    /// 400 with the rule that the password breaks.
    pub async fn first_admin(self, password: Option<Secret>) -> Result<FirstAdmin, ApiError> {
        if self.app.store.accounts().any_admin().await? {
            return Ok(FirstAdmin::Known);
        }
        let Some(password) = password else { return Ok(FirstAdmin::None) };
        self.make_admin("admin", password).await?;
        Ok(FirstAdmin::Made)
    }

    /// Makes a user's account.
    ///
    /// # Errors
    /// 400 with the rule that the name or the password breaks, 403 if sign-up is closed or wants an invitation, 409 if
    /// the name is taken, 429 after too many.
    pub async fn sign_up(self, new: NewAccount, key: Option<Idempotent>) -> Result<(), ApiError> {
        let NewAccount { username, password, invite, address } = new;
        let username: UnixName = username.parse().map_err(|rule| ApiError::field("username", rule))?;
        if FOR_ADMINS.contains(&username.as_str()) {
            return Err(ApiError::field(
                "username",
                format!("'{username}' is for an operator's account; choose another"),
            ));
        }
        check_password(&password, LOGIN_PASSWORD_MIN).map_err(|rule| ApiError::field("password", rule))?;
        // The name before the key: one that was made under this key a moment ago is taken, too.
        let is_taken = self.app.store.accounts().by_name(username.as_str()).await?.is_some();
        if let Some(key) = &key
            && let Some(earlier) = self.app.store.idempotency().get(key.scope(), key.sha256()).await?
        {
            return key.check_body(&earlier);
        }
        if is_taken {
            return Err(taken(&username));
        }
        let invite = self.may_sign_up(invite, address).await?;
        let hash = self.hash(password, Hasher::Newcomer).await?;
        let row = key.as_ref().map(|key| key.row(None, None, self.app.now()));
        let new = NewUser {
            idem: row.as_ref(),
            invite_sha256: invite.as_deref(),
            ..NewUser::new(&username, &hash)
        };
        match self.app.store.accounts().create(&new, self.app.now()).await? {
            CreateUser::Created(_) => Ok(()),
            CreateUser::BadInvite => Err(bad_invite()),
            CreateUser::Taken => Err(taken(&username)),
            CreateUser::Replayed(earlier) => match key {
                Some(key) => key.check_body(&earlier),
                None => Err(ApiError::internal("a sign-up without a key was replayed")),
            },
        }
    }

    /// Whether one more may sign up. The SHA-256 of the invitation, if there is one.
    async fn may_sign_up(self, invite: Option<Secret>, address: IpAddr) -> Result<Option<String>, ApiError> {
        let now = self.app.now();
        let invite = match (self.app.config.signup, invite) {
            (SignUp::Closed, _) => {
                return Err(ApiError::sign_up_refused("sign-up is closed here; ask an admin for an account"));
            }
            (SignUp::Invite, None) => {
                return Err(ApiError::sign_up_refused("sign-up is by invitation here; ask an admin for one")
                    .with("field", "invite"));
            }
            (SignUp::Open | SignUp::Invite, Some(invite)) => {
                let sha256 = sha256_hex(invite.expose().as_bytes());
                if !self.app.store.accounts().is_invited(&sha256, now).await? {
                    return Err(bad_invite());
                }
                Some(sha256)
            }
            (SignUp::Open, None) => None,
        };
        // Who is invited is not held up by strangers.
        let most = if invite.is_none() { self.app.config.signups_per_minute } else { 0 };
        if most > 0
            && let Some(at) = self.app.store.accounts().signed_up_before_last(most).await?
            && now.since(at) < MINUTE
        {
            let wait = MINUTE.saturating_sub(now.since(at)).as_secs() + 1;
            return Err(ApiError::too_many("too many sign-ups at this moment; try again soon", wait));
        }
        if invite.is_none() {
            let site = Network::site(address);
            self.app.sign_ups.look(&site, now).map_err(|wait| {
                let detail =
                    "too many sign-ups from your network; try again later, or ask an admin for an invitation";
                ApiError::too_many(detail, wait)
            })?;
            self.app.sign_ups.count(&site, now);
        }
        Ok(invite)
    }

    /// Checks a name and a password and gives an access token.
    ///
    /// # Errors
    /// 401 alike for a wrong name and a wrong password, 429 after too many.
    pub async fn log_in(
        self,
        username: &str,
        password: Secret,
        from: IpAddr,
        token: Option<&Secret>,
    ) -> Result<Secret, ApiError> {
        let now = self.app.now();
        // What is no user name has no account; it is not remembered one by one.
        let known = username.parse::<UnixName>().is_ok().then_some(username);
        let has_token =
            token.is_some_and(|token| self.app.tokens.name_in(token.expose()).as_deref() == Some(username));
        let attempt = Attempt { account: known, address: from, has_token };
        let who = if self.app.limiter.is_known(attempt) { Hasher::Known } else { Hasher::Stranger };
        self.app.limiter.start(attempt, now).map_err(|seconds| {
            ApiError::too_many(format!("too many failed logins; try again in {seconds} s"), seconds)
        })?;
        let account = match known {
            Some(username) => self.app.store.accounts().by_name(username).await?,
            None => None,
        };
        // An unknown name costs the same work as a wrong password.
        let hash =
            account.as_ref().map_or_else(|| dummy_hash().to_owned(), |a| a.password_hash.expose().to_owned());
        let matches = self.verify(password, hash, who).await?;
        match account {
            Some(account) if matches && account.disabled_at.is_some() => Err(ApiError::disabled(username)),
            Some(account) if matches => {
                self.app.limiter.succeeded(attempt, now);
                self.app
                    .tokens
                    .issue(account.id, account.username.as_str(), account.token_generation, now)
                    .map_err(ApiError::internal)
            }
            Some(_) | None => Err(ApiError::unauthorized("wrong user name or password")),
        }
    }

    /// Makes every token of the caller's account void.
    ///
    /// # Errors
    /// The database's.
    pub async fn log_out(self, who: &Caller) -> Result<(), ApiError> {
        self.app.store.accounts().void_tokens(who.user, self.app.now()).await?;
        self.app.fleet.nudge.all();
        Ok(())
    }

    /// Makes an admin's account, or makes an existing account an admin's with a new password.
    ///
    /// # Errors
    /// 400 with the rule that the name or the password breaks.
    pub async fn make_admin(self, username: &str, password: Secret) -> Result<UserId, ApiError> {
        let username: UnixName = username.parse().map_err(|rule| ApiError::field("username", rule))?;
        check_password(&password, LOGIN_PASSWORD_MIN).map_err(|rule| ApiError::field("password", rule))?;
        let hash = self.hash(password, Hasher::Known).await?;
        Ok(self.app.store.accounts().upsert_admin(&username, &hash, self.app.now()).await?)
    }

    pub(in crate::app) async fn hash(self, password: Secret, who: Hasher) -> Result<String, ApiError> {
        let _permit = self.app.hashing.permit(who).await?;
        tokio::task::spawn_blocking(move || passwords::hash_login(&password))
            .await
            .map_err(ApiError::internal)?
            .map_err(ApiError::internal)
    }

    pub(in crate::app) async fn verify(
        self,
        password: Secret,
        hash: String,
        who: Hasher,
    ) -> Result<bool, ApiError> {
        let _permit = self.app.hashing.permit(who).await?;
        tokio::task::spawn_blocking(move || passwords::verify_login(&password, &hash))
            .await
            .map_err(ApiError::internal)
    }
}

/// Kind of client for which a password is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hasher {
    /// An account's owner, as far as one can tell, or an admin.
    Known,
    /// Client that tries to log in from an address unknown for the account.
    Stranger,
    /// Client that signs up.
    Newcomer,
}

/// Password hashes that are computed at once: each takes 19 MiB and a core. Strangers and newcomers have one place
/// each, so
/// that however many come, one is left for those who are known.
#[derive(Debug)]
pub struct Hashing {
    all: Semaphore,
    strangers: Semaphore,
    newcomers: Semaphore,
}

impl Default for Hashing {
    fn default() -> Self {
        Self { all: Semaphore::new(3), strangers: Semaphore::new(1), newcomers: Semaphore::new(1) }
    }
}

impl Hashing {
    /// A place among the hashes that are computed at once; a queue that is too long is told so.
    pub async fn permit(&self, who: Hasher) -> Result<[Option<SemaphorePermit<'_>>; 2], ApiError> {
        let take = async {
            let own = match who {
                Hasher::Known => None,
                Hasher::Stranger => Some(self.strangers.acquire().await?),
                Hasher::Newcomer => Some(self.newcomers.acquire().await?),
            };
            Ok::<_, AcquireError>([own, Some(self.all.acquire().await?)])
        };
        tokio::time::timeout(HASHING_QUEUE, take)
            .await
            .map_err(|_| ApiError::unavailable("too many logins at once; try again in a moment"))?
            .map_err(ApiError::internal)
    }
}

fn bad_invite() -> ApiError {
    ApiError::sign_up_refused("the invitation is wrong, used up or expired; ask an admin for another")
        .with("field", "invite")
}

fn taken(username: &UnixName) -> ApiError {
    ApiError::conflict("username_taken", format!("the user name '{username}' is taken; choose another"))
}

fn dummy_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| passwords::hash_login(&crate::crypto::new_token("dummy")).unwrap_or_default())
}
