//! Rows of `users` and `join_tokens`.

use super::{JoinToken, Quotas, Role, User};
use crate::engine::{Checked, StoreError, at};
use orion_domain::{Secret, TokenId, UserId};
use sqlx::FromRow;

#[derive(FromRow)]
pub(crate) struct UserRecord {
    pub id: i64,
    username: String,
    password_hash: String,
    role: String,
    token_generation: i64,
    created_at: i64,
    disabled_at: Option<i64>,
    quota_nodes: Option<i64>,
    quota_lease_hours: Option<i64>,
    quota_streams: Option<i64>,
    quota_keys: Option<i64>,
}

impl TryFrom<UserRecord> for User {
    type Error = StoreError;

    fn try_from(row: UserRecord) -> Result<Self, StoreError> {
        let check = Checked { table: "users", id: row.id };
        Ok(Self {
            id: UserId(row.id),
            username: check.parse("username", &row.username)?,
            password_hash: Secret::new(row.password_hash),
            role: check.word("role", &row.role, &[Role::User, Role::Admin], Role::as_str)?,
            token_generation: row.token_generation,
            created_at: at(row.created_at),
            disabled_at: row.disabled_at.map(at),
            quotas: Quotas {
                nodes: quota(row.quota_nodes),
                lease_hours: quota(row.quota_lease_hours),
                streams: quota(row.quota_streams),
                keys: quota(row.quota_keys),
            },
        })
    }
}

/// A quota beyond the range is as good as the greatest there is.
fn quota(value: Option<i64>) -> Option<u32> {
    value.map(|value| u32::try_from(value).unwrap_or(u32::MAX))
}

#[derive(FromRow)]
pub(crate) struct TokenRecord {
    pub id: i64,
    note: String,
    created_by: Option<i64>,
    created_at: i64,
    pub expires_at: Option<i64>,
    pub uses_left: Option<i64>,
    pub revoked: i64,
}

impl From<TokenRecord> for JoinToken {
    fn from(row: TokenRecord) -> Self {
        Self {
            id: TokenId(row.id),
            note: row.note,
            created_by: row.created_by.map(UserId),
            created_at: at(row.created_at),
            expires_at: row.expires_at.map(at),
            uses_left: row.uses_left,
            revoked: row.revoked != 0,
        }
    }
}
