//! Invitations to sign up.

use super::Accounts;
use crate::{
    engine::{Fault, Result, StoreError, Tx, transaction, vals},
    events::NewEvent,
};
use orion_domain::{Timestamp, UserId, event::UserEvent};

/// A new invitation.
#[derive(Clone, Debug)]
pub struct NewInvite {
    /// SHA-256 (hex) of the secret.
    pub sha256: String,
    /// Note for the admin.
    pub note: String,
    /// User who made the invitation.
    pub created_by: Option<UserId>,
    /// End of the invitation.
    pub expires_at: Timestamp,
    /// Number of accounts that the invitation is valid for.
    pub uses: u32,
}

impl Tx {
    /// Uses an invitation once; false if it is wrong, used up or expired.
    pub(crate) async fn use_invite(&mut self, sha256: &str, now: Timestamp) -> Result<bool> {
        let sql = "UPDATE invites SET uses_left = uses_left - 1 \
                   WHERE token_sha256 = ? AND uses_left > 0 AND expires_at > ?";
        Ok(self.exec(sql, vals![sha256, now]).await? == 1)
    }
}

impl Accounts<'_> {
    /// Makes an invitation known, and gives its number; one that is known already stays as it is.
    pub async fn create_invite(self, new: &NewInvite, now: Timestamp) -> Result<i64, StoreError> {
        let note: String = new.note.chars().take(255).collect();
        let outcome = transaction!(&self.store.db, |tx| {
            let sql = "SELECT id FROM invites WHERE token_sha256 = ?";
            if let Some((id,)) = tx.one::<(i64,)>(sql, vals![&new.sha256]).await? {
                tx.abandon();
                return Ok(id);
            }
            let sql = "INSERT INTO invites (token_sha256, note, created_by, created_at, expires_at, uses_left) \
                       VALUES (?, ?, ?, ?, ?, ?)";
            let values = vals![&new.sha256, &note, new.created_by, now, new.expires_at, new.uses];
            let id = match tx.insert(sql, values).await {
                Err(Fault::Unique(text)) => return Err(Fault::Retry(text)),
                inserted => inserted?,
            };
            let event = UserEvent::Invited { invite_id: id, note: note.clone(), uses: new.uses };
            tx.append_events(&[NewEvent::new(event).of_user(new.created_by)], now).await?;
            Ok(id)
        });
        Ok(outcome?)
    }

    /// Whether an invitation is good now. Read only: what counts is whether it can be used.
    pub async fn is_invited(self, sha256: &str, now: Timestamp) -> Result<bool, StoreError> {
        let sql = "SELECT id FROM invites WHERE token_sha256 = ? AND uses_left > 0 AND expires_at > ?";
        Ok(self.store.db.one::<(i64,)>(sql, vals![sha256, now]).await?.is_some())
    }

    /// Returns the creation time of the account after which `count - 1` newer ones were made; none if there
    /// are fewer.
    pub async fn signed_up_before_last(self, count: u32) -> Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT created_at FROM users ORDER BY id DESC LIMIT 1 OFFSET ?";
        let row = self.store.db.one::<(i64,)>(sql, vals![i64::from(count.max(1)) - 1]).await?;
        Ok(row.map(|(at,)| Timestamp::from_micros(at)))
    }

    /// Counts the leases of a user that have not ended.
    pub async fn live_leases(self, user: UserId) -> Result<u32, StoreError> {
        let row =
            self.store.db.one::<(i64,)>(crate::leases::insert::leases_holding_nodes(), vals![user]).await?;
        Ok(row.and_then(|(count,)| u32::try_from(count).ok()).unwrap_or(0))
    }

    /// Counts the idempotency keys that are kept under any of these scopes, up to `most`.
    pub async fn keys_kept(self, scopes: &[String], most: u32) -> Result<u32, StoreError> {
        let mut kept = 0;
        for scope in scopes {
            let sql = "SELECT COUNT(*) FROM (SELECT 1 FROM idempotency WHERE scope = ? LIMIT ?) AS kept";
            let row = self.store.db.one::<(i64,)>(sql, vals![scope, most]).await?;
            kept += row.and_then(|(count,)| u32::try_from(count).ok()).unwrap_or(0);
        }
        Ok(kept)
    }

    /// Whether a worker's token is known at all: a join token, or a node's own. Read only, for requests of anybody.
    pub async fn knows_worker_token(self, sha256: &str) -> Result<bool, StoreError> {
        let sql = "SELECT id FROM join_tokens WHERE token_sha256 = ?";
        if self.store.db.one::<(i64,)>(sql, vals![sha256]).await?.is_some() {
            return Ok(true);
        }
        // The agent of a node that was forgotten registers again with the token that it had.
        let sql = "SELECT 1 FROM forgotten_nodes WHERE node_token_sha256 = ? LIMIT 1";
        if self.store.db.one::<(i64,)>(sql, vals![sha256]).await?.is_some() {
            return Ok(true);
        }
        Ok(self.store.nodes().by_token_sha256(sha256).await?.is_some())
    }
}
