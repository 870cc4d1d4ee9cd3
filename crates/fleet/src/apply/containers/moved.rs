//! Containers of a lease that moved: the old ones end before the new ones start.

use super::{Stop, Work, nothing_seen, unreached};
use orion_domain::container::ContainerPhase;
use orion_store::{ContainerNews, ContainerRow, Wanted};

impl Work<'_> {
    /// Ends the containers of a lease that moved on the nodes that it comes from, once each of them can be made here. False:
    /// one may still run there, which is written.
    pub(super) async fn is_alone(&mut self, row: &ContainerRow) -> Result<bool, Stop> {
        if row.incarnation == 1 || self.alone.contains(&row.lease) {
            return Ok(true);
        }
        let nodes = self.fleet.nodes_left(row.lease, self.claim.node.id).await?;
        let why = if nodes.is_empty() {
            None
        } else if self.misses_an_image(row).await? {
            Some("the image of another container of its lease is not on the node".to_owned())
        } else {
            self.fleet.end_elsewhere(row.lease, &nodes, self.rows).await?.err()
        };
        let Some(why) = why else {
            self.alone.insert(row.lease);
            return Ok(true);
        };
        let reason = Some(format!("it waits for the end of the one before: {why}"));
        let news = ContainerNews { reason, ..nothing_seen(row, self.claim.node.id) };
        self.fleet.store.containers().observed(&news, self.fleet.now()).await?;
        Ok(false)
    }

    /// Whether a container of the lease that is to end elsewhere cannot be made here yet. One that failed here is not waited
    /// for.
    async fn misses_an_image(&self, row: &ContainerRow) -> Result<bool, Stop> {
        let is_to_run = |other: &&ContainerRow| {
            let is_over = matches!(other.phase, ContainerPhase::Exited | ContainerPhase::Failed);
            other.lease == row.lease
                && other.id != row.id
                && match other.wanted {
                    Wanted::Started => !is_over,
                    Wanted::Restarted => true,
                    Wanted::Stopped | Wanted::Removed => false,
                }
        };
        let (images, node) = (self.fleet.store.images(), self.claim.node.id);
        for other in self.rows.iter().filter(is_to_run).filter(|other| !self.there.contains(&other.uid)) {
            let Ok(spec) = self.fleet.spec_of(other) else { continue };
            if spec.overlap {
                continue;
            }
            let is_allowed = images.may_use(node, &spec.image, row.lease, self.fleet.now()).await?;
            let image = self.engine.image(&spec.image).await.map_err(|error| unreached(&error))?;
            if !is_allowed || image.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
