//! The disk of a node's engine is due when it was not looked at for five minutes, or for 15 s while it is too full.
//! Images that nobody used for long are removed while it is.
//!
//! Does not live here: the work itself ([`orion_fleet::Fleet::look_at_disk`]).

use crate::{
    context::Scheduler,
    driver::{Lanes, Report, Task},
};
use orion_domain::NodeId;
use orion_store::StoreError;
use std::time::Duration;

/// Pause between two runs.
const PERIOD: Duration = Duration::from_secs(5);
/// Pause between two looks at a disk that has room.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// Pause between two looks at a disk that is too full.
const LOOK_EVERY_WHILE_FULL: Duration = Duration::from_secs(15);
/// Nodes read in one run.
const BATCH_MAX: u32 = 256;
/// Disks that are looked at side by side.
const LOOKS_MAX: usize = 16;

/// The task that keeps disks free of images that nobody uses.
pub struct Images {
    looks: Lanes<NodeId>,
}

impl Default for Images {
    fn default() -> Self {
        Self { looks: Lanes::new(Self::NAME, LOOKS_MAX) }
    }
}

impl Task for Images {
    const NAME: &'static str = "images";
    const NUDGED: bool = false;

    fn period(&self, _: &Scheduler) -> Duration {
        PERIOD
    }

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let (store, now) = (&scheduler.fleet.store, scheduler.fleet.now());
        let (before, full_before) = (now.minus(LOOK_EVERY), now.minus(LOOK_EVERY_WHILE_FULL));
        let mut due = store.images().disks_due(before, full_before, BATCH_MAX).await?;
        let found = due.len();
        // Each scheduler looks at those that it has a session to.
        due.retain(|node| scheduler.fleetwide.is_mine(*node));
        let started = self.looks.start_all(
            scheduler,
            due,
            |node| *node,
            |scheduler, node| async move {
                let (policy, kept) = (&scheduler.config.disk, scheduler.config.images_kept);
                scheduler.fleet.look_at_disk(node, policy, kept).await
            },
        );
        store.images().sweep_rights(now).await?;
        Ok(Report::new(found, started))
    }
}
