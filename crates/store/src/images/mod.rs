//! Images: logins of users at registries, who may have an image that lies on a node already, and what Orion pulled to which
//! node.
//!
//! Does not live here: the registries' answers, and pulls.

mod kept;
mod logins;

pub use logins::{LoginKept, NewRegistryLogin, RegistryLogin};

use crate::{
    Store,
    engine::{StoreError, transaction, vals},
};
use orion_domain::{LeaseId, NodeId, Timestamp, UserId, container::ImageName};
use std::time::Duration;

/// Time for which a user who has shown a right to an image has it on that node.
const RIGHT_LASTS: Duration = Duration::from_secs(24 * 3600);

/// Queries and transactions on images.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    store: &'a Store,
}

impl Store {
    /// Gives the images.
    pub const fn images(&self) -> Images<'_> {
        Images { store: self }
    }
}

/// Registry and repository, without tag and digest.
fn repository(image: &ImageName) -> String {
    format!("{}/{}", image.registry(), image.repository())
}

impl Images<'_> {
    /// Returns whether the user of a lease may have an image that is on a node without asking its registry: the registry
    /// gives it to all, or the user has shown the right for this node.
    pub async fn may_use(
        self,
        node: NodeId,
        image: &ImageName,
        lease: LeaseId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = "SELECT since FROM private_repositories WHERE repository = ?";
        if self.store.db.one::<(i64,)>(sql, vals![repository(image)]).await?.is_none() {
            return Ok(true);
        }
        let sql = "SELECT r.shown_at FROM leases l JOIN image_rights r ON r.user_id = l.user_id \
                   WHERE l.id = ? AND r.node_id = ? AND r.image = ? AND r.shown_at > ?";
        let since = now.minus(RIGHT_LASTS);
        let shown = self.store.db.one::<(i64,)>(sql, vals![lease, node, image.to_string(), since]).await?;
        Ok(shown.is_some())
    }

    /// Returns whether a registry gives the repository of an image to some users only, as far as known.
    pub async fn is_private(self, image: &ImageName) -> Result<bool, StoreError> {
        let sql = "SELECT since FROM private_repositories WHERE repository = ?";
        Ok(self.store.db.one::<(i64,)>(sql, vals![repository(image)]).await?.is_some())
    }

    /// Writes that a registry gives the repository of an image to some users only.
    pub async fn make_private(self, image: &ImageName, now: Timestamp) -> Result<(), StoreError> {
        let sql = self.store.db.sql(
            "INSERT INTO private_repositories (repository, since) VALUES (?, ?) \
             ON DUPLICATE KEY UPDATE since = since",
            "INSERT INTO private_repositories (repository, since) VALUES (?, ?) ON CONFLICT (repository) DO NOTHING",
        );
        let repository = repository(image);
        Ok(transaction!(&self.store.db, |tx| { tx.exec(sql, vals![&repository, now]).await.map(|_| ()) })?)
    }

    /// Writes that a registry gives the repository of an image to everybody.
    pub async fn make_public(self, image: &ImageName) -> Result<(), StoreError> {
        let repository = repository(image);
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "DELETE FROM private_repositories WHERE repository = ?";
            tx.exec(sql, vals![&repository]).await.map(|_| ())
        })?)
    }

    /// Writes that a user has shown the right to an image for a node.
    pub async fn show_right(
        self,
        node: NodeId,
        image: &ImageName,
        user: UserId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = self.store.db.sql(
            "INSERT INTO image_rights (node_id, user_id, image, shown_at) VALUES (?, ?, ?, ?) \
             ON DUPLICATE KEY UPDATE shown_at = VALUES(shown_at)",
            "INSERT INTO image_rights (node_id, user_id, image, shown_at) VALUES (?, ?, ?, ?) \
             ON CONFLICT (node_id, user_id, image) DO UPDATE SET shown_at = excluded.shown_at",
        );
        let image = image.to_string();
        Ok(transaction!(&self.store.db, |tx| {
            tx.exec(sql, vals![node, user, &image, now]).await.map(|_| ())
        })?)
    }
}
