//! A lease is due when its time is up and it still has its login, or is to have one: it is ended.

use crate::{
    context::Scheduler,
    driver::{ForeignWork, Lanes, Report, Task},
};
use orion_domain::{LeaseId, lease::EndReason};
use orion_store::StoreError;
use std::time::Duration;

/// Due leases read in one run.
const BATCH_MAX: u32 = 256;

/// The task that ends due leases.
pub struct Expire {
    lanes: Lanes<LeaseId>,
    foreign: ForeignWork<LeaseId>,
}

impl Expire {
    /// Makes the task.
    pub fn new(scheduler: &Scheduler) -> Self {
        let lanes = Lanes::new(Self::NAME, scheduler.config.side_by_side_max);
        Self { lanes, foreign: ForeignWork::default() }
    }
}

impl Task for Expire {
    const NAME: &'static str = "expire";

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let (fleet, period) = (&scheduler.fleet, self.period(scheduler));
        let due = fleet.store.leases().due(fleet.now(), BATCH_MAX).await?;
        let found = due.len();
        let ready = self.foreign.ready_items(scheduler, due, |lease| (lease.id, lease.state.occupies()));
        let started = self.lanes.start_all(
            scheduler,
            ready,
            |lease| lease.id,
            |scheduler, lease| async move {
                scheduler.fleet.end_lease(lease.id, &EndReason::Expired, None).await.map(drop)
            },
        );
        // Until the next one is due, if that comes before the period ends.
        let next = fleet.store.leases().next_due(fleet.now()).await?;
        let until_next = next.map_or(period, |at| at.since(fleet.now()) + Duration::from_millis(1));
        Ok(Report::new(found, started).next_in(until_next.min(period)))
    }
}
