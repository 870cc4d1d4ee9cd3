//! Containers of a lease that moved: the old ones end before the new ones start.

use super::{Stop, Work, unreached};
use orion_domain::container::{DesiredContainer, WantedState};
use orion_store::ContainerRow;

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
        self.waits(row, format!("it waits for the end of the one before: {why}")).await
    }

    /// Whether a container of the lease that is to end elsewhere cannot be made here yet. One that failed here is not waited
    /// for.
    async fn misses_an_image(&self, row: &ContainerRow) -> Result<bool, Stop> {
        let of_lease = self.desired.iter().filter(|desired| desired.lease == row.lease);
        let is_to_run = |container: &&DesiredContainer| match container.wanted {
            WantedState::Started | WantedState::Restarted => container.ulid != row.uid,
            WantedState::Stopped => false,
        };
        let missing = of_lease.flat_map(|desired| &desired.containers).filter(is_to_run);
        let (images, node) = (self.fleet.store.images(), self.claim.node.id);
        for container in missing.filter(|container| !self.there.contains(&container.ulid)) {
            let Some(Ok(spec)) = self.row(&container.ulid).map(|row| self.fleet.spec_of(row)) else {
                continue;
            };
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
