//! A node's container engine is due when it is to be asked again: each hour, and more often after the node began to answer,
//! while it has none, and while it is down.

use crate::{
    context::Scheduler,
    driver::{Lanes, Report, Task},
};
use orion_domain::NodeId;
use orion_store::StoreError;
use std::time::Duration;

/// Nodes read in one run; bounds what a large fleet costs after a start.
const BATCH_MAX: u32 = 64;
/// Engines asked at once.
const SIDE_BY_SIDE_MAX: usize = 16;
/// Pause between two runs.
const PERIOD: Duration = Duration::from_secs(1);

/// The task that asks engines.
pub struct Engines {
    lanes: Lanes<NodeId>,
}

impl Default for Engines {
    fn default() -> Self {
        Self { lanes: Lanes::new(Self::NAME, SIDE_BY_SIDE_MAX) }
    }
}

impl Task for Engines {
    const NAME: &'static str = "engines";
    const NUDGED: bool = false;

    fn period(&self, _: &Scheduler) -> Duration {
        PERIOD
    }

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let (store, now) = (&scheduler.fleet.store, scheduler.fleet.now());
        let mut due = store.containers().engines_to_ask(now, BATCH_MAX).await?;
        let found = due.len();
        // Nothing waits for the answer: the others are asked by the schedulers that have a session to them.
        due.retain(|node| scheduler.fleetwide.is_mine(*node));
        let started = self.lanes.start_all(
            scheduler,
            due,
            |node| *node,
            |scheduler, node| async move { scheduler.fleet.ask_engine(node).await },
        );
        Ok(Report::new(found, started))
    }
}
