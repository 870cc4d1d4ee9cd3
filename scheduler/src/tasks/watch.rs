//! One node's watcher: performs what its watch says ([`orion_domain::node::watch`]), which weighs the probes of its SSH
//! against its agent's link: probes it, asks the other schedulers and the brake, and writes what changed.
//!
//! Each node has its own, so that a dead host delays nobody.

use super::{brake, peer_probe, way_in};
use crate::context::Scheduler;
use orion_domain::{
    NodeId, Timestamp,
    credentials::SshPublicKey,
    health::{Failure, SshPath, Verdict},
    node::{
        Admission, Health, Node,
        watch::{Action, NodeWatch, ProbeResult, Surroundings},
    },
};
use orion_fleet::{MEMORY_COMMAND, metrics::Probe, read_memory, target_of};
use orion_ssh::{ExecRequest, Meaning, PoolConfig, SshError, Target, scan_host_key};
use orion_store::{Cas, HighWaterMarks, KeysTold, StoreError};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch::Receiver, time::Instant};
use tokio_util::sync::CancellationToken;

mod probe;

struct Watcher {
    scheduler: Scheduler,
    id: NodeId,
    stop: CancellationToken,
    watch: NodeWatch,
    /// Address at which the node is dialled, and the keys by which it is known.
    target: Result<Arc<Target>, String>,
    last_command: Timestamp,
    last_handshake: Timestamp,
    /// [`crate::fleetwide::Fleetwide::suspension_count`] since which the path was seen.
    suspension_count: u64,
    /// Memory that the node was last found to have, and the database to know.
    compared: Arc<Mutex<Option<HighWaterMarks>>>,
    /// Time at which the node was asked whether lease accounts can log in.
    asked: way_in::Asked,
}

/// Watches a node until `stop`.
pub async fn run(scheduler: Scheduler, mut node: Receiver<Arc<Node>>, stop: CancellationToken) {
    let mut watcher = Watcher::new(scheduler.clone(), node.borrow_and_update().clone(), stop.clone());
    let id = watcher.id;
    let mut turn = None;
    loop {
        let action = watcher.poll();
        if !action.is_written_in_turn() {
            turn = None;
        }
        let outcome = match action {
            Action::Wait { until, session } => {
                watcher.asked.ask_if_due(&scheduler, watcher.watch.node());
                if !watcher.wait(&mut node, until, session).await {
                    break;
                }
                Ok(())
            }
            Action::Probe => tokio::select! {
                () = stop.cancelled() => break,
                result = watcher.look() => {
                    watcher.watch.on_probe(result, scheduler.moment());
                    Ok(())
                }
            },
            Action::TakeTurn => tokio::select! {
                () = stop.cancelled() => break,
                permit = scheduler.verdicts.acquire() => {
                    turn = permit.ok();
                    watcher.watch.on_turn(scheduler.moment());
                    Ok(())
                }
            },
            Action::EvaluateBrake => Box::pin(watcher.evaluate_brake()).await,
            Action::Confirm => Box::pin(watcher.confirm()).await,
            Action::Quarantine { reason } => {
                Box::pin(watcher.quarantine(&reason)).await;
                Ok(())
            }
            Action::OrderLock { reason } => Box::pin(watcher.order_lock(&reason)).await,
            Action::Admit => Box::pin(watcher.admit()).await,
            Action::WriteHealth(verdict) => Box::pin(watcher.write_health(&verdict)).await,
        };
        if let Err(error) = outcome {
            tracing::warn!(node = %id, %error, "a node's health could not be recorded");
            watcher.watch.on_failed();
        }
    }
    drop(turn);
    // What goes on there is finished first: another scheduler looks after the node now, or this process is stopping, and
    // the API in it may be at work.
    scheduler.fleet.pool.let_go(id.0);
}

impl Watcher {
    fn new(scheduler: Scheduler, node: Arc<Node>, stop: CancellationToken) -> Self {
        let now = scheduler.moment();
        Self {
            id: node.id,
            stop,
            target: target_of(&node).map(Arc::new),
            watch: NodeWatch::new(scheduler.watch_policy.clone(), node, now),
            last_command: now.wall.minus(scheduler.config.command_every),
            last_handshake: now.wall,
            suspension_count: scheduler.fleetwide.suspension_count(),
            compared: Arc::default(),
            asked: way_in::Asked::default(),
            scheduler,
        }
    }

    /// Returns what is to be done next, and tells the other tasks what is observed of the node.
    fn poll(&mut self) -> Action {
        let (scheduler, now) = (&self.scheduler, self.scheduler.moment());
        let link = scheduler.fleetwide.link_of(self.watch.node(), now.wall);
        let may_judge = !self.stop.is_cancelled() && scheduler.may_judge(self.suspension_count, now.wall);
        let action = self.watch.poll(Surroundings { link, may_judge }, now);
        match self.watch.observation(link) {
            Some(observation) => scheduler.fleetwide.observe(self.id, observation),
            None => scheduler.fleetwide.clear_observation(self.id),
        }
        action
    }

    /// Waits until there is news, at most until `until`; false if the watch is to end.
    async fn wait(&mut self, rows: &mut Receiver<Arc<Node>>, until: Duration, session: bool) -> bool {
        let pool = &self.scheduler.fleet.pool;
        let hint = async {
            if session && pool.is_connected(self.id.0) {
                pool.closed(self.id.0).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => return false,
            changed = rows.changed() => if changed.is_err() { return false },
            () = hint => self.watch.on_session_closed(self.scheduler.moment()),
            () = tokio::time::sleep_until(self.scheduler.started + until) => {}
        }
        let (node, now) = (rows.borrow_and_update().clone(), self.scheduler.moment());
        let before = self.watch.node();
        if !Arc::ptr_eq(before, &node) {
            if before.transport != node.transport {
                self.target = target_of(&node).map(Arc::new);
            }
            self.watch.on_node(node, now);
        }
        let suspension_count = self.scheduler.fleetwide.suspension_count();
        if suspension_count != self.suspension_count {
            self.suspension_count = suspension_count;
            self.watch.on_resumed(now);
        }
        true
    }

    async fn evaluate_brake(&mut self) -> Result<(), StoreError> {
        let scheduler = &self.scheduler;
        brake::evaluate_before_giving_up(scheduler, self.now()).await?;
        let mut standing = scheduler.fleetwide.standing(self.id, &scheduler.config.brake);
        standing.clock_off = !scheduler.fleet.may_claim();
        self.watch.on_standing(&standing, scheduler.moment());
        Ok(())
    }

    /// Probes from here and from another scheduler at once: the other's answer takes a moment, and the node
    /// may be back by then.
    async fn confirm(&mut self) -> Result<(), StoreError> {
        let (scheduler, id, stop) = (self.scheduler.clone(), self.id, self.stop.clone());
        let (verdict, result) = tokio::join!(peer_probe::ask(&scheduler, id, &stop), self.look());
        self.watch.on_probe(result, scheduler.moment());
        self.watch.on_peer(verdict?);
        Ok(())
    }

    async fn quarantine(&self, reason: &str) {
        if let Err(error) = brake::evaluate_before_giving_up(&self.scheduler, self.now()).await {
            tracing::warn!(node = %self.id, %error, "the brake could not be looked at");
        }
        let store = &self.scheduler.fleet.store;
        match store.nodes().quarantine_as_seen(self.id, reason, self.now()).await {
            Ok(Cas::Done(_)) => self.scheduler.fleet.nudge.all(),
            Ok(Cas::Stale | Cas::Gone) => {}
            Err(error) => tracing::warn!(node = %self.id, %error, "a quarantine could not be recorded"),
        }
    }

    async fn order_lock(&mut self, reason: &str) -> Result<(), StoreError> {
        let store = &self.scheduler.fleet.store;
        if let Cas::Done(_) = store.nodes().order_lock(self.id, self.watch.version(), self.now()).await? {
            tracing::warn!(node = %self.id, reason, "a node's accounts are locked before it is given up");
            self.scheduler.fleet.nudge.all();
        }
        self.watch.on_written();
        Ok(())
    }

    async fn admit(&mut self) -> Result<(), StoreError> {
        let (scheduler, node) = (&self.scheduler, self.watch.node());
        let learnt = match &self.target {
            Ok(target) => probe::learn_keys(scheduler, node, target).await,
            Err(error) => Err(error.clone()),
        };
        match learnt {
            Ok(true) => {
                scheduler.fleet.store.nodes().admit(self.id, node.version, self.now()).await?;
                scheduler.fleet.nudge.all();
            }
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(node = %self.id, error, "it is admitted when its host keys are known");
            }
        }
        self.watch.on_written();
        Ok(())
    }

    async fn write_health(&mut self, verdict: &Verdict) -> Result<(), StoreError> {
        let (scheduler, node) = (&self.scheduler, self.watch.node());
        let fleet = &scheduler.fleet;
        if verdict.health == Health::Dead {
            fleet.pool.drop_session(self.id.0);
        }
        let (health, reason) = (verdict.health, &verdict.reason);
        let written =
            fleet.store.nodes().set_health(self.id, node.version, health, reason, self.now()).await?;
        match written {
            Cas::Done(changed) => {
                tracing::info!(
                    node = %self.id, from = node.health.as_str(), to = health.as_str(), reason,
                    leases = changed.leases.len(), "a node's health changed"
                );
                fleet.nudge.all();
            }
            Cas::Gone => fleet.nudge.all(),
            // The node changed meanwhile; or another scheduler engaged the brake, which is to be known then.
            Cas::Stale if health == Health::Dead => brake::follow(scheduler).await?,
            Cas::Stale => {}
        }
        self.watch.on_written();
        Ok(())
    }

    fn now(&self) -> Timestamp {
        self.scheduler.fleet.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Bounds the memory of a watcher: there is one for each of thousands of nodes.
    #[test]
    fn a_watcher_takes_little_memory() {
        let bytes = size_of_future(run);
        assert!(bytes < 8 * 1024, "{bytes} bytes");
    }
}
