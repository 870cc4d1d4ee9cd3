//! Images that Orion pulled to nodes, and the disks that they are on.

use super::{Images, RIGHT_LASTS};
use crate::{
    engine::{Cas, StoreError, transaction, vals},
    events::NewEvent,
    nodes::NodeChange,
};
use orion_domain::{
    NodeId, Timestamp,
    container::{Disk, ImageName},
    event::NodeEvent,
    node::Node,
};
use std::time::Duration;

/// The use of an image is written again after this time.
const USE_EVERY: Duration = Duration::from_secs(3600);

impl Images<'_> {
    /// Writes that Orion pulled an image to a node that had not got it.
    pub async fn pulled(self, node: NodeId, image: &ImageName, now: Timestamp) -> Result<(), StoreError> {
        let sql = self.store.db.sql(
            "INSERT INTO node_images (node_id, image, pulled_at, used_at) VALUES (?, ?, ?, ?) \
             ON DUPLICATE KEY UPDATE used_at = VALUES(used_at)",
            "INSERT INTO node_images (node_id, image, pulled_at, used_at) VALUES (?, ?, ?, ?) \
             ON CONFLICT (node_id, image) DO UPDATE SET used_at = excluded.used_at",
        );
        let image = image.to_string();
        Ok(transaction!(&self.store.db, |tx| {
            tx.exec(sql, vals![node, &image, now, now]).await.map(|_| ())
        })?)
    }

    /// Writes that these images of a node are in use, as far as Orion pulled them.
    pub async fn used(self, node: NodeId, images: &[ImageName], now: Timestamp) -> Result<(), StoreError> {
        let sql = "SELECT image FROM node_images WHERE node_id = ? AND used_at <= ?";
        let stale = now.minus(USE_EVERY);
        let known = self.store.db.all::<(String,)>(sql, vals![node, stale]).await?;
        let images: Vec<String> = images.iter().map(ToString::to_string).collect();
        let used: Vec<String> =
            known.into_iter().map(|(image,)| image).filter(|of| images.contains(of)).collect();
        if used.is_empty() {
            return Ok(());
        }
        Ok(transaction!(&self.store.db, |tx| {
            for image in &used {
                let sql = "UPDATE node_images SET used_at = ? WHERE node_id = ? AND image = ?";
                tx.exec(sql, vals![now, node, image]).await?;
            }
            Ok(())
        })?)
    }

    /// Returns the images that Orion pulled to a node and that were not used since `before`, the longest unused first.
    pub async fn unused(self, node: NodeId, before: Timestamp) -> Result<Vec<ImageName>, StoreError> {
        let sql = "SELECT image FROM node_images WHERE node_id = ? AND used_at <= ? ORDER BY used_at, image";
        let rows = self.store.db.all::<(String,)>(sql, vals![node, before]).await?;
        let read = |(image,): (String,)| {
            image.parse::<ImageName>().map_err(|why| StoreError::Corrupt {
                table: "node_images",
                id: node.0,
                detail: format!("image {image}: {why}"),
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// Writes that an image was removed from a node, and tells of it; false if that is known.
    pub async fn removed(self, node: NodeId, image: &ImageName, now: Timestamp) -> Result<bool, StoreError> {
        let name = image.to_string();
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "DELETE FROM node_images WHERE node_id = ? AND image = ?";
            if tx.exec(sql, vals![node, &name]).await? == 0 {
                return Ok(false);
            }
            let event = NewEvent::new(NodeEvent::ImageRemoved { image: name.clone() }).of_node(node);
            tx.append_events(&[event], now).await?;
            Ok(true)
        })?)
    }

    /// Returns nodes with an engine whose disk was not looked at since `before`, or since `full_before` where it was full.
    pub async fn disks_due(
        self,
        before: Timestamp,
        full_before: Timestamp,
        limit: u32,
    ) -> Result<Vec<NodeId>, StoreError> {
        let sql = "SELECT n.id FROM nodes n LEFT JOIN node_disks d ON d.node_id = n.id \
                   WHERE n.engine IS NOT NULL AND n.health = 'alive' AND n.admission = 'admitted' \
                   AND n.quarantine IS NULL AND (d.looked_at IS NULL \
                   OR d.looked_at <= CASE WHEN n.disk_full IS NULL THEN ? ELSE ? END) \
                   ORDER BY d.looked_at, n.id LIMIT ?";
        let rows = self.store.db.all::<(i64,)>(sql, vals![before, full_before, limit]).await?;
        Ok(rows.into_iter().map(|(node,)| NodeId(node)).collect())
    }

    /// Writes that the disk of a node is looked at, and what was seen of it.
    pub async fn disk_looked_at(
        self,
        node: NodeId,
        disk: Option<Disk>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = self.store.db.sql(
            "INSERT INTO node_disks (node_id, looked_at, free_mb, total_mb) VALUES (?, ?, ?, ?) \
             ON DUPLICATE KEY UPDATE looked_at = VALUES(looked_at), \
             free_mb = COALESCE(VALUES(free_mb), free_mb), total_mb = COALESCE(VALUES(total_mb), total_mb)",
            "INSERT INTO node_disks (node_id, looked_at, free_mb, total_mb) VALUES (?, ?, ?, ?) \
             ON CONFLICT (node_id) DO UPDATE SET looked_at = excluded.looked_at, \
             free_mb = COALESCE(excluded.free_mb, free_mb), total_mb = COALESCE(excluded.total_mb, total_mb)",
        );
        let mb = |mb: u64| i64::try_from(mb).unwrap_or(i64::MAX);
        let (free, total) = (disk.map(|disk| mb(disk.free_mb)), disk.map(|disk| mb(disk.total_mb)));
        Ok(transaction!(&self.store.db, |tx| {
            tx.exec(sql, vals![node, now, free, total]).await.map(|_| ())
        })?)
    }

    /// Has the disk of a node looked at soon: a pull found no space.
    pub async fn look_at_disk_soon(self, node: NodeId) -> Result<(), StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            tx.exec("UPDATE node_disks SET looked_at = 0 WHERE node_id = ?", vals![node]).await.map(|_| ())
        })?)
    }

    /// Writes whether the disk of a node is too full for containers, and why, with an event where that is new. `Stale`: it was
    /// known.
    pub async fn set_disk_full(
        self,
        node: NodeId,
        disk: Disk,
        why: Option<&str>,
        now: Timestamp,
    ) -> Result<Cas<Node>, StoreError> {
        let Disk { free_mb, total_mb } = disk;
        let (guard, event) = match why {
            Some(_) => ("AND disk_full IS NULL", NodeEvent::DiskFull { free_mb, total_mb }),
            None => ("AND disk_full IS NOT NULL", NodeEvent::DiskFree { free_mb, total_mb }),
        };
        let written = self.store.nodes().write(node, now, || NodeChange {
            sets: "disk_full = ?",
            values: vals![why],
            guard,
            event: Some(event.clone()),
            ..NodeChange::default()
        });
        written.await
    }

    /// Deletes rights to images that have lapsed.
    pub async fn sweep_rights(self, now: Timestamp) -> Result<u64, StoreError> {
        let lapsed = now.minus(RIGHT_LASTS);
        let sql = "SELECT COUNT(*) FROM image_rights WHERE shown_at <= ?";
        let (count,) = self.store.db.one::<(i64,)>(sql, vals![lapsed]).await?.unwrap_or((0,));
        if count == 0 {
            return Ok(0);
        }
        Ok(transaction!(&self.store.db, |tx| {
            tx.exec("DELETE FROM image_rights WHERE shown_at <= ?", vals![lapsed]).await
        })?)
    }
}
