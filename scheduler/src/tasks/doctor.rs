//! Looks every minute whether what must hold does, as far as the database can tell (`orion doctor` looks at the
//! nodes, too), and shows what it finds as the metric `orion_invariant_violations`.
//!
//! Of several schedulers one looks: the first by name of those that live.

use crate::Scheduler;
use orion_domain::doctor::Finding;
use orion_store::{HowFar, StoreError};
use std::{collections::BTreeSet, time::Duration};

/// Pause between two looks.
const EVERY: Duration = Duration::from_secs(60);
/// Pause until it is known who looks.
const UNDECIDED: Duration = Duration::from_secs(1);

/// Looks until shutdown.
pub async fn run(scheduler: Scheduler) {
    let mut known = BTreeSet::new();
    loop {
        let pause = match is_mine(&scheduler) {
            None => UNDECIDED,
            Some(true) => {
                if let Err(error) = look(&scheduler, &mut known).await {
                    tracing::warn!(%error, "it could not be looked whether what must hold does");
                    // An old figure would look like a new one.
                    scheduler.fleet.metrics.examined(None);
                }
                EVERY
            }
            Some(false) => {
                known.clear();
                scheduler.fleet.metrics.examined(None);
                EVERY
            }
        };
        tokio::select! {
            () = scheduler.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether this scheduler is the one that looks; none while it does not know the others.
fn is_mine(scheduler: &Scheduler) -> Option<bool> {
    let share = scheduler.fleetwide.share()?;
    let name = scheduler.fleetwide.name();
    Some(share.others().iter().all(|other| name < other.as_str()))
}

async fn look(scheduler: &Scheduler, known: &mut BTreeSet<Finding>) -> Result<(), StoreError> {
    let fleet = &scheduler.fleet;
    let found = fleet.store.examine(HowFar::Recent, fleet.now()).await?;
    fleet.metrics.examined(Some(&found));
    let found: BTreeSet<Finding> = found.into_iter().filter(|finding| !finding.check.is_warning()).collect();
    for finding in found.difference(known) {
        let Finding { check, node, lease, what } = finding;
        let (node, lease) = (node.map(|node| node.0), lease.map(|lease| lease.0));
        tracing::error!(%check, node, lease, what, "something that must hold does not; see orion doctor");
    }
    *known = found;
    Ok(())
}
