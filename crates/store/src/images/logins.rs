//! Logins of users at registries of images.

use super::Images;
use crate::engine::{StoreError, transaction, vals};
use orion_domain::{Timestamp, UserId};

/// A login of a user at a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryLogin {
    /// Host of the registry, with its port if it is not 443.
    pub registry: String,
    /// Name of the user there.
    pub username: String,
    /// Password or token, sealed.
    pub password_sealed: Vec<u8>,
    /// Time of the last change.
    pub changed_at: Timestamp,
}

/// A login to be kept.
#[derive(Clone, Debug)]
pub struct NewRegistryLogin {
    /// Host of the registry.
    pub registry: String,
    /// Name of the user there.
    pub username: String,
    /// Password or token, sealed by the caller.
    pub password_sealed: Vec<u8>,
    /// Most logins that a user may have.
    pub of_user_max: u32,
}

/// Outcome of keeping a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginKept {
    /// It is kept, in place of an older one of that registry.
    Kept,
    /// The user has as many as allowed.
    TooMany,
}

type Row = (String, String, Vec<u8>, i64);

fn login((registry, username, password_sealed, changed_at): Row) -> RegistryLogin {
    RegistryLogin { registry, username, password_sealed, changed_at: Timestamp::from_micros(changed_at) }
}

impl Images<'_> {
    /// Keeps a login of a user.
    pub async fn keep_login(
        self,
        user: UserId,
        new: &NewRegistryLogin,
        now: Timestamp,
    ) -> Result<LoginKept, StoreError> {
        let sql = self.store.db.sql(
            "INSERT INTO registry_logins (user_id, registry, username, password_sealed, changed_at) \
             VALUES (?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE username = VALUES(username), \
             password_sealed = VALUES(password_sealed), changed_at = VALUES(changed_at)",
            "INSERT INTO registry_logins (user_id, registry, username, password_sealed, changed_at) \
             VALUES (?, ?, ?, ?, ?) ON CONFLICT (user_id, registry) DO UPDATE SET username = excluded.username, \
             password_sealed = excluded.password_sealed, changed_at = excluded.changed_at",
        );
        Ok(transaction!(&self.store.db, |tx| {
            let mut values = vals![user, &new.registry, &new.username, new.password_sealed.as_slice()];
            values.extend(vals![now]);
            tx.exec(sql, values).await?;
            let count = "SELECT COUNT(*) FROM registry_logins WHERE user_id = ?";
            let (count,) = tx.one::<(i64,)>(count, vals![user]).await?.unwrap_or((0,));
            if count > i64::from(new.of_user_max) {
                tx.abandon();
                return Ok(LoginKept::TooMany);
            }
            Ok(LoginKept::Kept)
        })?)
    }

    /// Returns the logins of a user, by registry.
    pub async fn logins(self, user: UserId) -> Result<Vec<RegistryLogin>, StoreError> {
        let sql = "SELECT registry, username, password_sealed, changed_at FROM registry_logins WHERE user_id = ? \
                   ORDER BY registry";
        let rows = self.store.db.all::<Row>(sql, vals![user]).await?;
        Ok(rows.into_iter().map(login).collect())
    }

    /// Returns the login of a user at a registry.
    pub async fn login(self, user: UserId, registry: &str) -> Result<Option<RegistryLogin>, StoreError> {
        let sql = "SELECT registry, username, password_sealed, changed_at FROM registry_logins \
                   WHERE user_id = ? AND registry = ?";
        Ok(self.store.db.one::<Row>(sql, vals![user, registry]).await?.map(login))
    }

    /// Removes the login of a user at a registry; false if there was none.
    pub async fn remove_login(self, user: UserId, registry: &str) -> Result<bool, StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "DELETE FROM registry_logins WHERE user_id = ? AND registry = ?";
            Ok(tx.exec(sql, vals![user, registry]).await? == 1)
        })?)
    }
}
