//! A row is old when it is over for longer than it is kept. Old rows are deleted a little at a time: a database that
//! runs for years stays as small as what is kept.
//!
//! Each scheduler does it; what one has deleted another does not find.

use crate::{
    context::Scheduler,
    driver::{Report, Task},
};
use orion_domain::Timestamp;
use orion_store::{Prunable, StoreError};
use std::time::Duration;

/// Pause between two runs.
const PERIOD: Duration = Duration::from_secs(60);
/// Pause between two sweeps of what was sent to webhooks.
const DELIVERIES_PERIOD: Duration = Duration::from_secs(600);
/// Steps of one kind in one run: 10,000 rows a minute, 14 million a day.
const STEPS_MAX: u32 = 20;
/// Pause between two steps: others need the database, too.
const REST: Duration = Duration::from_millis(50);

/// Beginning of a table.
const BEGINNING: Timestamp = Timestamp::from_micros(0);

/// The task that deletes old rows.
pub struct Retention {
    deliveries_at: Timestamp,
    /// Position from which the pruning of each table goes on: rows that must stay hold nothing up.
    positions: [(Prunable, Timestamp); Prunable::ALL.len()],
}

impl Default for Retention {
    fn default() -> Self {
        Self { deliveries_at: BEGINNING, positions: Prunable::ALL.map(|table| (table, BEGINNING)) }
    }
}

impl Task for Retention {
    const NAME: &'static str = "retention";
    const NUDGED: bool = false;

    fn period(&self, _: &Scheduler) -> Duration {
        PERIOD
    }

    /// Prunes each table, also when another one failed; the first failure is the run's.
    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let now = scheduler.fleet.now();
        let (mut deleted, mut failure) = (0, None);
        for (table, from) in &mut self.positions {
            match prune(scheduler, *table, from).await {
                Ok(rows) => deleted += usize::try_from(rows).unwrap_or(usize::MAX),
                Err(error) => {
                    tracing::warn!(table = table.table(), %error, "old rows could not be deleted");
                    failure = failure.or(Some(error));
                }
            }
        }
        if now.since(self.deliveries_at) >= DELIVERIES_PERIOD {
            self.deliveries_at = now;
            scheduler.fleet.store.webhooks().sweep_deliveries(now).await?;
        }
        failure.map_or(Ok(Report::new(deleted, deleted)), Err)
    }
}

/// Deletes for some steps, beginning at `from`, which goes on to where the next run begins: the beginning after the end
/// was reached. Returns how many rows were deleted.
async fn prune(scheduler: &Scheduler, what: Prunable, from: &mut Timestamp) -> Result<u64, StoreError> {
    let (fleet, mut deleted) = (&scheduler.fleet, 0);
    let mut at = *from;
    for _ in 0..STEPS_MAX {
        let pruned = fleet.store.admin().prune(what, &scheduler.config.kept, at, fleet.now()).await?;
        fleet.metrics.pruned(what.table(), pruned.deleted);
        deleted += pruned.deleted;
        let Some(next) = pruned.next else {
            *from = BEGINNING;
            return Ok(deleted);
        };
        at = next;
        tokio::time::sleep(REST).await;
    }
    *from = at;
    Ok(deleted)
}
