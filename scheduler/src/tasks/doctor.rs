//! A finding is something that must hold and does not, as far as the database can tell (`orion doctor` looks at the
//! nodes, too). Findings are shown as the metric `orion_invariant_violations`.
//!
//! Runs on one scheduler only: the live one with the smallest name.

use crate::{
    context::Scheduler,
    driver::{Report, Task},
};
use orion_domain::doctor::Finding;
use orion_store::{Scope, StoreError};
use std::{collections::BTreeSet, time::Duration};

/// Pause between two runs.
const PERIOD: Duration = Duration::from_secs(60);
/// Pause until the other schedulers are known.
const UNDECIDED_PERIOD: Duration = Duration::from_secs(1);

/// The task that audits the database.
#[derive(Default)]
pub struct Doctor {
    known: BTreeSet<Finding>,
}

impl Task for Doctor {
    const NAME: &'static str = "doctor";
    const NUDGED: bool = false;
    const TAKES_CLAIMS: bool = false;

    fn period(&self, _: &Scheduler) -> Duration {
        PERIOD
    }

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let metrics = &scheduler.fleet.metrics;
        let Some(share) = scheduler.fleetwide.share() else {
            return Ok(Report::default().next_in(UNDECIDED_PERIOD));
        };
        if share.others().iter().any(|other| scheduler.fleetwide.name() >= other.as_str()) {
            self.known.clear();
            metrics.examined(None);
            return Ok(Report::default());
        }
        let audited = self.audit(scheduler).await;
        if audited.is_err() {
            // An old figure would look like a new one.
            metrics.examined(None);
        }
        audited
    }
}

impl Doctor {
    async fn audit(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let fleet = &scheduler.fleet;
        let found = fleet.store.admin().audit(Scope::Recent, fleet.now()).await?;
        fleet.metrics.examined(Some(&found));
        let found: BTreeSet<Finding> =
            found.into_iter().filter(|finding| !finding.check.is_warning()).collect();
        for finding in found.difference(&self.known) {
            let Finding { check, node, lease, what } = finding;
            let (node, lease) = (node.map(|node| node.0), lease.map(|lease| lease.0));
            tracing::error!(%check, node, lease, what, "something that must hold does not; see orion doctor");
        }
        let news = found.difference(&self.known).count();
        let report = Report::new(found.len(), news);
        self.known = found;
        Ok(report)
    }
}
