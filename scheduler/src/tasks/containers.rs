//! Containers that wait are made: those whose requester went away before, and those that moved. The engines of nodes with
//! containers are followed, so that an end is known at once, and their firewalls are told when other nodes join.
//!
//! Does not live here: the work itself ([`orion_fleet::Fleet::provide_container`]).

use crate::{
    context::Scheduler,
    driver::{ForeignWork, Lanes, Report, Task},
};
use orion_domain::{ContainerId, NodeId};
use orion_store::{SilentEngine, StoreError};
use std::time::Duration;

/// Containers read in one run.
const BATCH_MAX: u32 = 256;
/// Time for which a container that waits is left to who asked for it. A pull writes its progress more often.
const LEFT_FOR: Duration = Duration::from_secs(5);
/// Pause between two runs.
const PERIOD: Duration = Duration::from_secs(1);
/// Containers that are made at once. A pull holds its place for as long as it takes; of one user at most a few go on.
const MADE_MAX: usize = 512;
/// Time after which a port of a node goes to another container: proxies that are not Orion's may lead there still.
const PORT_KEPT: Duration = Duration::from_secs(10 * 60);
/// Runs between two looks at ports that were freed.
const PORTS_EVERY: u32 = 10;
/// Engines that one scheduler follows at most.
const FOLLOWED_MAX: usize = 10_000;

/// Nodes with a silent engine that are left at once.
const LEFT_MAX: usize = 4;

/// The task that looks after containers.
pub struct Containers {
    made: Lanes<ContainerId>,
    followed: Lanes<NodeId>,
    closed: Lanes<NodeId>,
    left: Lanes<NodeId>,
    foreign: ForeignWork<ContainerId>,
    runs: u32,
}

impl Containers {
    /// Makes the task.
    pub fn new(scheduler: &Scheduler) -> Self {
        Self {
            made: Lanes::new(Self::NAME, scheduler.config.side_by_side_max.max(MADE_MAX)),
            followed: Lanes::new(Self::NAME, FOLLOWED_MAX),
            closed: Lanes::new(Self::NAME, scheduler.config.side_by_side_max),
            left: Lanes::new(Self::NAME, LEFT_MAX),
            foreign: ForeignWork::default(),
            runs: 0,
        }
    }

    /// Takes leases that are containers alone off the nodes whose engines have been silent for long, unless so many are that
    /// the fault is likelier elsewhere.
    fn leave_silent(&self, scheduler: &Scheduler, silent: Vec<SilentEngine>, with_engine: usize) {
        let is_shared = scheduler.config.brake.is_shared(silent.len(), with_engine);
        if scheduler.fleetwide.brake_engaged() || is_shared {
            return;
        }
        let lost = scheduler.fleet.now().minus(scheduler.fleet.config.engine_lost_after);
        for engine in silent.into_iter().filter(|engine| engine.since <= lost && !engine.leases.is_empty()) {
            let fleet = scheduler.fleet.clone();
            self.left.start(scheduler, engine.node, async move { fleet.leave_silent_engine(&engine).await });
        }
    }
}

impl Task for Containers {
    const NAME: &'static str = "containers";

    fn period(&self, _: &Scheduler) -> Duration {
        PERIOD
    }

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let (store, now) = (&scheduler.fleet.store, scheduler.fleet.now());
        let waiting = store.containers().waiting(now.minus(LEFT_FOR), BATCH_MAX).await?;
        let found = waiting.len();
        let ready = self.foreign.ready_items(scheduler, waiting, |row| (row.id, row.node));
        let started = self.made.start_all(
            scheduler,
            ready,
            |row| row.id,
            |scheduler, row| async move { scheduler.fleet.provide_container(row.id, None).await },
        );
        let is_mine = |node: &NodeId| scheduler.fleetwide.is_mine(*node);
        let mut nodes = store.containers().nodes_with_running().await?;
        nodes.retain(is_mine);
        // Of a node without containers nobody claims the work for its firewall.
        for node in scheduler.fleet.with_old_firewalls(&nodes).await? {
            let fleet = scheduler.fleet.clone();
            self.closed.start(scheduler, node, async move { fleet.renew_firewall(node).await });
        }
        nodes.extend(scheduler.fleet.nodes_left_lately().await?.into_iter().filter(is_mine));
        // A silent engine is followed until it answers, whatever runs there.
        let (silent, with_engine) = store.containers().silent_engines().await?;
        nodes.extend(silent.iter().map(|engine| engine.node).filter(is_mine));
        self.leave_silent(scheduler, silent, with_engine);
        for node in nodes {
            let (fleet, stop) = (scheduler.fleet.clone(), scheduler.shutdown.clone());
            self.followed.start(scheduler, node, async move {
                tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    followed = fleet.follow_containers(node) => followed,
                }
            });
        }
        self.runs = self.runs.wrapping_add(1);
        if self.runs.is_multiple_of(PORTS_EVERY) {
            store.containers().sweep_ports(now.minus(PORT_KEPT), now).await?;
        }
        Ok(Report::new(found, started))
    }
}
