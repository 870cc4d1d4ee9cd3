//! Accounts as admins see and change them, and changing one's own password.

use super::Accounts;
use crate::{app::accounts::Hasher, auth::Caller, error::ApiError, limit::Attempt};
use futures_util::{StreamExt as _, stream};
use orion_domain::{
    LeaseId, Secret, UserId,
    credentials::{LOGIN_PASSWORD_MIN, check_password},
    lease::EndReason,
};
use orion_store::{AccountChange, AccountChanged, AccountRow, LeaseRow, User};
use std::net::IpAddr;

/// Leases that are ended side by side.
const ENDED_AT_ONCE: usize = 8;
/// Leases that are told of a disabled account; more than anybody has.
const LEASES_TOLD: u32 = 1_000;

impl Accounts<'_> {
    /// Lists the next `limit` accounts after `after` by number, with how many leases each has.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(self, after: UserId, limit: u32) -> Result<Vec<AccountRow>, ApiError> {
        Ok(self.app.store.accounts().list(after, limit).await?)
    }

    /// The account that `which` names: its number, or its user name.
    ///
    /// # Errors
    /// 404
    pub async fn find(self, which: &str) -> Result<User, ApiError> {
        let found = match which.parse::<UserId>() {
            Ok(id) => self.app.store.accounts().get(id).await?,
            Err(_) => self.app.store.accounts().by_name(which).await?,
        };
        found.ok_or_else(|| no_such(which))
    }

    /// The same with how many leases it has.
    ///
    /// # Errors
    /// 404
    pub async fn find_row(self, which: &str) -> Result<AccountRow, ApiError> {
        let user = self.find(which).await?;
        let row = self.app.store.accounts().list(UserId(user.id.0 - 1), 1).await?.into_iter().next();
        row.filter(|row| row.user.id == user.id).ok_or_else(|| no_such(which))
    }

    /// Changes an account.
    ///
    /// # Errors
    /// 404 for an unknown one, 409 `last_admin` when nobody would be left to administrate.
    pub async fn change(
        self,
        who: &Caller,
        which: &str,
        change: &AccountChange,
    ) -> Result<AccountRow, ApiError> {
        let user = self.find(which).await?;
        let changed =
            self.app.store.accounts().change(user.id, change, Some(who.user), self.app.now()).await?;
        self.app.fleet.nudge.all();
        match changed {
            AccountChanged::Done(_) | AccountChanged::Same(_) => self.find_row(which).await,
            AccountChanged::Gone => Err(no_such(which)),
            AccountChanged::LastAdmin => Err(ApiError::conflict(
                "last_admin",
                format!("'{}' is the last admin; make another one first", user.username),
            )
            .hint("orion users promote NAME")),
        }
    }

    /// Shuts an account. Its leases are ended if `end_leases`, else left until their end; they are given back as they
    /// are afterwards.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub async fn disable(
        self,
        who: &Caller,
        which: &str,
        end_leases: bool,
    ) -> Result<(AccountRow, Vec<LeaseRow>), ApiError> {
        let account = self.change(who, which, &AccountChange::Disable).await?;
        let leases =
            self.app.store.leases().list(Some(account.user.id), false, LeaseId(0), LEASES_TOLD).await?;
        if !end_leases || leases.is_empty() {
            return Ok((account, leases));
        }
        let (app, actor, which) = (self.app.clone(), who.user, which.to_owned());
        self.app
            .run_detached(async move {
                let ends = leases.iter().map(|row| {
                    let (app, id) = (app.clone(), row.lease.id);
                    async move { app.fleet.end_lease(id, &EndReason::Released, Some(actor)).await }
                });
                let mut ended = stream::iter(ends.collect::<Vec<_>>()).buffer_unordered(ENDED_AT_ONCE);
                while let Some(done) = ended.next().await {
                    done?;
                }
                let mut now = Vec::with_capacity(leases.len());
                for row in leases {
                    now.extend(app.store.leases().with_node(row.lease.id).await?);
                }
                Ok((app.accounts().find_row(&which).await?, now))
            })
            .await
    }

    /// Gives an account a new password; its tokens are void.
    ///
    /// # Errors
    /// 400 with the rule that the password breaks, 404 for an unknown account.
    pub async fn set_password(
        self,
        who: &Caller,
        which: &str,
        password: Secret,
    ) -> Result<AccountRow, ApiError> {
        check_password(&password, LOGIN_PASSWORD_MIN).map_err(|rule| ApiError::field("password", rule))?;
        self.find(which).await?;
        let hash = self.hash(password, Hasher::Known).await?;
        self.change(who, which, &AccountChange::Password(hash)).await
    }

    /// Changes the caller's own password and gives a new token: the old ones are void.
    ///
    /// # Errors
    /// 400 with the rule that the new password breaks, 403 when the old one is wrong, 429 after too many tries.
    pub async fn change_own_password(
        self,
        who: &Caller,
        old: Secret,
        new: Secret,
        from: IpAddr,
    ) -> Result<Secret, ApiError> {
        check_password(&new, LOGIN_PASSWORD_MIN).map_err(|rule| ApiError::field("new_password", rule))?;
        let now = self.app.now();
        let attempt = Attempt { account: Some(&who.username), address: from, has_token: true };
        self.app.limiter.start(attempt, now).map_err(|seconds| {
            ApiError::too_many(format!("too many wrong passwords; try again in {seconds} s"), seconds)
        })?;
        let user = self.find(&who.user.to_string()).await?;
        if !self.verify(old, user.password_hash.expose().to_owned(), Hasher::Known).await? {
            return Err(ApiError::forbidden("the old password is wrong"));
        }
        self.app.limiter.succeeded(attempt, now);
        let change = AccountChange::Password(self.hash(new, Hasher::Known).await?);
        match self.app.store.accounts().change(who.user, &change, Some(who.user), self.app.now()).await? {
            AccountChanged::Done(user) | AccountChanged::Same(user) => self
                .app
                .tokens
                .issue(user.id, user.username.as_str(), user.token_generation, self.app.now())
                .map_err(ApiError::internal),
            AccountChanged::Gone | AccountChanged::LastAdmin => Err(no_such(&who.username)),
        }
    }
}

fn no_such(which: &str) -> ApiError {
    ApiError::not_found(format!("there is no account '{which}'; GET /api/admin/users lists them"))
}
