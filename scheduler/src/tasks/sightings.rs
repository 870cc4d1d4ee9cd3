//! A sighting is due when a probe of a way in has made it: it is written with all others since the last run. Thousands of
//! nodes are probed each minute, and one transaction for each would be most of what their health costs.

use crate::{
    context::Scheduler,
    driver::{Report, Task},
};
use orion_store::StoreError;
use std::time::Duration;

/// Pause between two writes. A sighting counts for much longer ([`orion_domain::way_in::SEEN_OPEN_FOR`]).
const PERIOD: Duration = Duration::from_secs(2);

/// The task that writes sightings.
pub struct WriteSightings;

impl WriteSightings {
    async fn write(scheduler: &Scheduler) -> Result<usize, StoreError> {
        let seen = scheduler.sightings.take();
        match scheduler.fleet.store.nodes().touch_seen(&seen).await {
            Ok(()) => Ok(seen.len()),
            Err(error) => {
                scheduler.sightings.give_back(seen);
                Err(error)
            }
        }
    }
}

impl Task for WriteSightings {
    const NAME: &'static str = "sightings";
    const NUDGED: bool = false;
    const TAKES_CLAIMS: bool = false;

    fn period(&self, _scheduler: &Scheduler) -> Duration {
        PERIOD
    }

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let written = Self::write(scheduler).await?;
        Ok(Report::new(written, written))
    }

    async fn stop(&mut self, scheduler: &Scheduler) {
        if let Err(error) = Self::write(scheduler).await {
            tracing::debug!(%error, "the last sightings were not written");
        }
    }
}
