//! Asks nodes whose agent does not report it whether lease accounts can log in there.
//!
//! Lives here: when a node is asked, and what is written of its answer. Does not live here: the probe
//! ([`orion_fleet::Fleet::probe_way_in`]) and what it means for placement ([`Node::is_offerable`]).

use crate::context::Scheduler;
use orion_domain::{
    node::{Admission, Health, LinkState, Node},
    way_in::{PROBE_EVERY, Way, WayInReport, clock_off_text, told},
};
use orion_fleet::Probed;
use orion_store::{Cas, Prober, Sighting, StoreError};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Longest wait for the findings of an agent with a link; then the node is asked instead.
const AGENT_WAIT: Duration = Duration::from_secs(6);
/// Pause before a node whose way in is not open is asked again.
const SHUT_EVERY: Duration = Duration::from_secs(10);

/// Time at which one node was last asked, and the state of that query.
#[derive(Default)]
pub struct Asked {
    at: Option<Instant>,
    under_way: Arc<AtomicBool>,
    /// The last time nothing was found out.
    in_vain: Arc<AtomicBool>,
}

impl Asked {
    /// Asks the node if it is time to.
    pub fn ask_if_due(&mut self, scheduler: &Scheduler, node: &Arc<Node>) {
        let is_known = node.way_in.way == Way::Open && !self.in_vain.load(Ordering::Relaxed);
        let pause = if is_known { PROBE_EVERY } else { SHUT_EVERY };
        let is_due = self.at.is_none_or(|at| at.elapsed() >= pause);
        if !is_due || !is_for_scheduler(node, scheduler) || self.under_way.swap(true, Ordering::Relaxed) {
            return;
        }
        self.at = Some(Instant::now());
        let (scheduler, node, under_way) = (scheduler.clone(), node.clone(), self.under_way.clone());
        let (worker, in_vain) = (scheduler.clone(), self.in_vain.clone());
        scheduler.spawn(async move {
            if let Ok(_turn) = worker.probes.acquire().await {
                let told = ask(&worker, &node).await;
                in_vain.store(!matches!(told, Ok(true)), Ordering::Relaxed);
                if let Err(error) = told {
                    tracing::debug!(node = %node.id, %error, "what a probe found could not be recorded");
                }
            }
            under_way.store(false, Ordering::Relaxed);
        });
    }
}

/// Whether it is the scheduler that asks: the node answers, and no agent reports over a link.
fn is_for_scheduler(node: &Node, scheduler: &Scheduler) -> bool {
    let answers = node.admission == Admission::Admitted && node.health == Health::Alive;
    let by_agent = node.link == LinkState::Up
        && (node.way_in.by_agent || scheduler.fleet.now().since(node.link_since) < AGENT_WAIT);
    answers && !by_agent
}

/// Withdraws an open way in that was last seen too long ago; otherwise what was seen before counts.
async fn doubt(scheduler: &Scheduler, node: &Node) -> Result<(), StoreError> {
    let (store, now) = (&scheduler.fleet.store, scheduler.fleet.now());
    let open_at = store.agents().sightings(&[node.id]).await?.get(&node.id).and_then(|seen| seen.open_at);
    if node.way_in.way == Way::Open && told(Way::Open, open_at, now) == Way::Unknown {
        store.agents().way_in_not_seen(node.id, Prober::Scheduler, now).await?;
    }
    Ok(())
}

/// Tells whether the node's row already says what was found, as of most probes. A row that has changed since it was read
/// is asked about again, after [`SHUT_EVERY`] if the way in is not open by it.
fn is_known(node: &Node, found: &WayInReport) -> bool {
    let known = &node.way_in;
    known.way == found.way() && known.reason == found.kept_reason() && !known.by_agent
}

/// Whether something was found out.
async fn ask(scheduler: &Scheduler, node: &Node) -> Result<bool, StoreError> {
    let fleet = &scheduler.fleet;
    let (report, clock_ms) = match fleet.probe_way_in(node).await {
        Probed::Found { report, clock_ms } => (report, clock_ms),
        Probed::NotKnown(why) => {
            tracing::debug!(node = %node.id, why, "whether lease accounts can log in was not found out");
            doubt(scheduler, node).await?;
            return Ok(false);
        }
    };
    let now = fleet.now();
    if let Some(clock_ms) = clock_ms {
        let off = clock_ms.saturating_sub(now.as_micros() / 1000);
        let off = clock_off_text(off).map(|_| off);
        let near = |before: i64| off.is_some_and(|off| before.abs_diff(off) < 5_000);
        if off.is_some() != node.clock_off_ms.is_some()
            || node.clock_off_ms.is_some_and(|before| !near(before))
        {
            fleet.store.agents().set_clock_off(node.id, off, now).await?;
        }
    }
    scheduler.sightings.add(node.id, Sighting { last_seen: now, open_at: report.open.then_some(now) });
    if is_known(node, &report) {
        return Ok(true);
    }
    let changed = fleet.store.agents().set_way_in(node.id, &report, Prober::Scheduler, now).await?;
    if let Cas::Done(changed) = changed {
        let reason = changed.way_in.reason.as_deref().unwrap_or_default();
        tracing::info!(node = %node.id, way_in = changed.way_in.way.as_str(), reason, "a node's way in changed");
        fleet.nudge.all();
    }
    Ok(true)
}
