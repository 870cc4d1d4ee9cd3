//! What admins do to accounts: shutting, rights, passwords, quotas; and whether a right still stands.
//!
//! Does not live here: making accounts and looking one up ([`crate::users`]).

use super::Accounts;
use crate::events::NewEvent;
use crate::{
    accounts::row::UserRecord,
    accounts::{Quotas, Role, SELECT_USER, User},
    engine::{Fault, Result, StoreError, Tx, Val, transaction, vals},
    leases::LIVE,
};
use orion_domain::{Timestamp, UserId, event::UserEvent};

use sqlx::AssertSqlSafe;
use std::collections::HashMap;

/// Counts the changes that may leave no admin: two of them at once are one after the other.
const ADMIN_CHANGES: &str = "admin_changes";

/// Change that is requested for an account.
#[derive(Clone, Debug)]
pub enum AccountChange {
    /// Withdrawal of all rights; the account's tokens become void.
    Disable,
    /// Permission to log in again.
    Enable,
    /// Promotion to an admin's account.
    Promote,
    /// Demotion to a user's account.
    Demote,
    /// New password hash; the account's tokens become void.
    Password(String),
    /// Individual quotas of the account.
    Quotas(Quotas),
}

/// Outcome of an [`AccountChange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountChanged {
    /// Account after the change.
    Done(User),
    /// Account that was already in the requested state; nothing was written.
    Same(User),
    /// Last admin that may log in; nothing was written.
    LastAdmin,
    /// Account that does not exist.
    Gone,
}

/// An account in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRow {
    /// The account.
    pub user: User,
    /// Number of the account's leases that have not ended.
    pub leases: u32,
}

/// Basis of an account's rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Tokens of an earlier generation are void.
    pub token_generation: i64,
    /// Role that determines what the account may do.
    pub role: Role,
    /// Whether it may do anything.
    pub enabled: bool,
}

impl Tx {
    async fn user(&mut self, id: UserId) -> Result<Option<User>> {
        let sql = AssertSqlSafe(format!("{SELECT_USER} WHERE id = ?"));
        Ok(self.one::<UserRecord>(sql, vals![id]).await?.map(User::try_from).transpose()?)
    }

    /// Serializes the transactions that call it: of two at once, one is run again and sees what the other
    /// wrote.
    async fn one_after_the_other(&mut self) -> Result<()> {
        let sql = "SELECT value FROM settings WHERE name = ?";
        let Some((value,)) = self.one::<(String,)>(sql, vals![ADMIN_CHANGES]).await? else {
            let sql = "INSERT INTO settings (name, value) VALUES (?, '1')";
            return match self.exec(sql, vals![ADMIN_CHANGES]).await {
                Err(Fault::Unique(text)) => Err(Fault::Retry(text)),
                result => result.map(drop),
            };
        };
        let next = value.parse::<i64>().unwrap_or(0).wrapping_add(1).to_string();
        let sql = "UPDATE settings SET value = ? WHERE name = ? AND value = ?";
        if self.exec(sql, vals![next, ADMIN_CHANGES, value]).await? == 0 {
            return Err(Fault::Retry("another admin's rights are changed at this moment".into()));
        }
        Ok(())
    }

    async fn has_admin(&mut self) -> Result<bool> {
        let sql = "SELECT id FROM users WHERE role = 'admin' AND disabled_at IS NULL LIMIT 1";
        Ok(self.one::<(i64,)>(sql, vec![]).await?.is_some())
    }
}

/// The columns that a change sets, and the event that tells of it; none: the account is so already.
fn written(
    user: &User,
    change: &AccountChange,
    by_itself: bool,
    now: Timestamp,
) -> Option<(&'static str, Vec<Val>, UserEvent)> {
    let username = user.username.to_string();
    Some(match change {
        AccountChange::Disable if user.disabled_at.is_some() => return None,
        AccountChange::Enable if user.disabled_at.is_none() => return None,
        AccountChange::Promote if user.role == Role::Admin => return None,
        AccountChange::Demote if user.role == Role::User => return None,
        AccountChange::Quotas(quotas) if user.quotas == *quotas => return None,
        AccountChange::Disable => (
            "disabled_at = ?, token_generation = token_generation + 1",
            vals![now],
            UserEvent::Disabled { username },
        ),
        AccountChange::Enable => ("disabled_at = NULL", vals![], UserEvent::Enabled { username }),
        AccountChange::Promote => ("role = 'admin'", vals![], UserEvent::Promoted { username }),
        AccountChange::Demote => ("role = 'user'", vals![], UserEvent::Demoted { username }),
        AccountChange::Password(hash) => (
            "password_hash = ?, token_generation = token_generation + 1",
            vals![hash],
            if by_itself {
                UserEvent::PasswordChanged { username }
            } else {
                UserEvent::PasswordSet { username }
            },
        ),
        AccountChange::Quotas(quotas) => (
            "quota_nodes = ?, quota_lease_hours = ?, quota_streams = ?, quota_keys = ?",
            vals![quotas.nodes, quotas.lease_hours, quotas.streams, quotas.keys],
            UserEvent::QuotasSet { username, quotas: *quotas },
        ),
    })
}

impl Accounts<'_> {
    /// Changes an account. The last admin that may log in stays one, also when two ask at once.
    pub async fn change(
        self,
        id: UserId,
        change: &AccountChange,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<AccountChanged, StoreError> {
        let outcome = transaction!(&self.store.db, |tx| {
            let takes_an_admin = matches!(change, AccountChange::Disable | AccountChange::Demote);
            if takes_an_admin {
                tx.one_after_the_other().await?;
            }
            let Some(user) = tx.user(id).await? else {
                tx.abandon();
                return Ok(AccountChanged::Gone);
            };
            let Some((columns, mut values, event)) = written(&user, change, actor == Some(id), now) else {
                tx.abandon();
                return Ok(AccountChanged::Same(user));
            };
            values.push(id.into());
            let sql = format!("UPDATE users SET {columns} WHERE id = ?");
            tx.exec(AssertSqlSafe(sql), values).await?;
            if takes_an_admin && user.role == Role::Admin && !tx.has_admin().await? {
                tx.abandon();
                return Ok(AccountChanged::LastAdmin);
            }
            tx.append_events(&[NewEvent::new(event).of_user(id).by(actor)], now).await?;
            match tx.user(id).await? {
                Some(user) => Ok(AccountChanged::Done(user)),
                None => Err(Fault::Retry("the account vanished".into())),
            }
        });
        Ok(outcome?)
    }

    /// Accounts with a greater number than `after`, in order, each with how many of its leases have not ended.
    pub async fn list(self, after: UserId, limit: u32) -> Result<Vec<AccountRow>, StoreError> {
        let sql = AssertSqlSafe(format!("{SELECT_USER} WHERE id > ? ORDER BY id LIMIT ?"));
        let records = self.store.db.all::<UserRecord>(sql, vals![after, limit]).await?;
        let users = records.into_iter().map(User::try_from).collect::<Result<Vec<_>, _>>()?;
        // By the state, so that it costs what is alive.
        let sql = format!("SELECT user_id, COUNT(*) FROM leases WHERE state IN {LIVE} GROUP BY user_id");
        let live: HashMap<i64, i64> =
            self.store.db.all::<(i64, i64)>(AssertSqlSafe(sql), vec![]).await?.into_iter().collect();
        let leases = |user: &User| live.get(&user.id.0).and_then(|n| u32::try_from(*n).ok()).unwrap_or(0);
        Ok(users.into_iter().map(|user| AccountRow { leases: leases(&user), user }).collect())
    }

    /// Returns the standings of these accounts. Accounts that are gone are left out.
    pub async fn standings(self, ids: &[UserId]) -> Result<HashMap<UserId, Standing>, StoreError> {
        let standing = |user: User| Standing {
            token_generation: user.token_generation,
            role: user.role,
            enabled: user.disabled_at.is_none(),
        };
        Ok(self.by_ids(ids).await?.into_iter().map(|user| (user.id, standing(user))).collect())
    }
}
