//! Tokens that an admin gives away: for workers to join, for people to sign up.

use super::Accounts;
use crate::{
    app::idempotency::Idempotent,
    crypto::{new_token, sha256_hex},
    error::ApiError,
};
use orion_domain::{Secret, UserId};
use orion_store::{JoinToken, NewInvite};
use std::time::Duration;

/// What a join token is to be good for, checked.
pub struct JoinTokenRequest {
    /// For the operator's own memory.
    pub note: String,
    /// How long; none: for ever.
    pub lasts: Option<Duration>,
    /// How many workers; none: any number.
    pub uses: Option<u32>,
}

/// What an invitation is to be good for, checked.
pub struct InviteRequest {
    /// For the admin's own memory.
    pub note: String,
    /// How long.
    pub lasts: Duration,
    /// How many accounts.
    pub uses: u32,
}

impl Accounts<'_> {
    /// Makes a join token, and gives it with its row.
    ///
    /// # Errors
    /// 422 for a re-used key.
    pub async fn create_join_token(
        self,
        actor: UserId,
        request: JoinTokenRequest,
        key: Option<Idempotent>,
    ) -> Result<(Secret, JoinToken), ApiError> {
        let now = self.app.now();
        let token = match &key {
            Some(key) => {
                key.begin(&self.app.store, now).await?;
                self.app.config.master_key.derive_token("orion-join", "join-token", key.salt().as_bytes())
            }
            None => new_token("orion-join"),
        };
        let JoinTokenRequest { note, lasts, uses } = request;
        let expires_at = lasts.map(|lasts| now.plus(lasts));
        let sha256 = sha256_hex(token.expose().as_bytes());
        let accounts = self.app.store.accounts();
        let made = accounts.create_join_token(&sha256, &note, Some(actor), expires_at, uses, now).await?;
        Ok((token, made))
    }

    /// Makes an invitation, and gives it with its number and what was written.
    ///
    /// # Errors
    /// The database's.
    pub async fn invite(
        self,
        actor: UserId,
        request: InviteRequest,
    ) -> Result<(Secret, i64, NewInvite), ApiError> {
        let (token, now) = (new_token("orion-invite"), self.app.now());
        let InviteRequest { note, lasts, uses } = request;
        let new = NewInvite {
            sha256: sha256_hex(token.expose().as_bytes()),
            note,
            created_by: Some(actor),
            expires_at: now.plus(lasts),
            uses,
        };
        let id = self.app.store.accounts().create_invite(&new, now).await?;
        Ok((token, id, new))
    }
}
