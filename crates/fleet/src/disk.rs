//! The disk of a node's engine: how full it is, and the removal of images that nobody used for long while it is too full.
//!
//! Only what Orion pulled is removed.

use crate::{Fleet, engine_words::with_source, fleet::target_of};
use orion_containers::{Engine, EngineError};
use orion_domain::{
    NodeId,
    container::{Disk, DiskPolicy, ImageName},
};
use orion_ssh::{ExecRequest, Target};
use orion_store::{Cas, ContainerRow, StoreError};
use std::time::Duration;

/// Longest wait for the size of a disk.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// A node whose disk is looked at.
struct Look<'a> {
    node: NodeId,
    target: &'a Target,
    engine: Engine,
    root_dir: String,
    was_full: bool,
    policy: &'a DiskPolicy,
}

impl Fleet {
    /// Looks at the disk of a node's engine, removes images that were not used for `kept` as long as it is too full, and
    /// writes whether it still is.
    ///
    /// # Errors
    /// The database's.
    pub async fn look_at_disk(
        &self,
        node: NodeId,
        policy: &DiskPolicy,
        kept: Duration,
    ) -> Result<(), StoreError> {
        let images = self.store.images();
        // First: a node that does not answer is not asked all the time.
        images.disk_looked_at(node, None, self.now()).await?;
        let Some(known) = self.store.nodes().get(node).await? else { return Ok(()) };
        let Ok(target) = target_of(&known) else { return Ok(()) };
        let engine = self.engines.of(&target);
        let root_dir = match engine.info().await {
            Ok(info) => info.root_dir,
            Err(error) => {
                tracing::debug!(%node, error = %with_source(&error), "a node's engine was not asked for its disk");
                return Ok(());
            }
        };
        let Some(root_dir) = root_dir else { return Ok(()) };
        let was_full = known.disk_full.is_some();
        let look = Look { node, target: &target, engine, root_dir, was_full, policy };
        let Some(mut disk) = self.disk_of(&look).await else { return Ok(()) };
        let in_use = self.images_in_use(node).await?;
        images.used(node, &in_use, self.now()).await?;
        if policy.objection(disk, was_full).is_some() {
            disk = self.free_disk(&look, disk, &in_use, kept).await?;
        }
        images.disk_looked_at(node, Some(disk), self.now()).await?;
        let why = policy.objection(disk, was_full);
        if let Cas::Done(_) = images.set_disk_full(node, disk, why.as_deref(), self.now()).await? {
            match why {
                Some(why) => tracing::warn!(%node, why, "a node is not offered for containers"),
                None => {
                    tracing::info!(%node, free_mb = disk.free_mb, "a node's disk has room for containers again")
                }
            }
            self.nudge.all();
        }
        Ok(())
    }

    /// Removes images, the longest unused first, until the disk is not too full any more; returns how it is then.
    async fn free_disk(
        &self,
        look: &Look<'_>,
        mut disk: Disk,
        in_use: &[ImageName],
        kept: Duration,
    ) -> Result<Disk, StoreError> {
        let images = self.store.images();
        for image in images.unused(look.node, self.now().minus(kept)).await? {
            if in_use.contains(&image) {
                continue;
            }
            match look.engine.remove_image(&image.familiar()).await {
                Ok(()) => {}
                // A container uses it that is not Orion's.
                Err(EngineError::Conflict(_)) => continue,
                Err(error) => {
                    tracing::warn!(node = %look.node, %image, error = %with_source(&error), "an image was not removed");
                    break;
                }
            }
            images.removed(look.node, &image, self.now()).await?;
            tracing::info!(node = %look.node, %image, "an image that nobody used was removed: the disk is too full");
            let Some(now) = self.disk_of(look).await else { break };
            disk = now;
            if look.policy.objection(disk, look.was_full).is_none() {
                break;
            }
        }
        Ok(disk)
    }

    /// Returns the images of the containers of leases on a node.
    async fn images_in_use(&self, node: NodeId) -> Result<Vec<ImageName>, StoreError> {
        let rows = self.store.containers().of_node(node).await?;
        Ok(rows.iter().filter_map(image_of).collect())
    }

    async fn disk_of(&self, look: &Look<'_>) -> Option<Disk> {
        let quoted = look.root_dir.replace('\'', r"'\''");
        let mut request = ExecRequest::new(format!("LC_ALL=C df -Pk -- '{quoted}'"));
        request.timeout = LOOK_MAX;
        match self.pool.exec(look.target, request).await {
            Ok(output) => read_df(&String::from_utf8_lossy(&output.stdout)),
            Err(error) => {
                tracing::debug!(node = %look.node, %error, "a node was not asked for its disk");
                None
            }
        }
    }
}

/// Returns the image in a container's specification.
fn image_of(row: &ContainerRow) -> Option<ImageName> {
    let spec: serde_json::Value = serde_json::from_str(&row.spec).ok()?;
    spec["image"].as_str()?.parse().ok()
}

/// Reads what `df -Pk` prints: a heading, then device, blocks, used, available, percent and place.
fn read_df(text: &str) -> Option<Disk> {
    let line = text.lines().nth(1)?;
    let mut numbers = line.split_whitespace().skip(1).map(str::parse::<u64>);
    let (_blocks, used, free) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(Disk { free_mb: free / 1024, total_mb: used.saturating_add(free) / 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_df_prints_is_read_by_its_columns() {
        let text = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n\
                    /dev/vda1         264175616 37748736  58720256      40% /var/lib/docker\n";
        assert_eq!(read_df(text), Some(Disk { free_mb: 57_344, total_mb: 94_208 }));
        for nonsense in ["", "df: no such file", "a\nb c d e f", "a\n/dev/vda1 1 2\n"] {
            assert_eq!(read_df(nonsense), None, "{nonsense:?}");
        }
    }
}
