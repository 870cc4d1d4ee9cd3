//! One node's watcher: probes its SSH, weighs that against its agent's link, and writes what changed.
//!
//! Each node has its own, so that a dead host delays nobody.

use super::beat::look_at_brake;
use crate::{Scheduler, fleetwide::Sight};
use orion_domain::{
    NodeId, Timestamp,
    health::{Failure, LinkPath, SshPath, judge, reprobe_after},
    node::{Admission, Health, Node},
};
use orion_fleet::target_of;
use orion_ssh::{ExecRequest, Kind, PoolConfig, SshError, Target, scan_host_key};
use orion_store::{Cas, StoreError};
use std::time::Duration;
use tokio::{sync::watch::Receiver, time::Instant};
use tokio_util::sync::CancellationToken;

/// Pause between looks at a node that waits for an admin.
const PENDING_EVERY: Duration = Duration::from_secs(5);

struct Watcher {
    scheduler: Scheduler,
    id: NodeId,
    path: SshPath,
    last_answer: Option<Timestamp>,
    last_command: Timestamp,
    last_handshake: Timestamp,
    /// What `path` is about: a node that moved has to be looked at anew.
    address: Option<Target>,
}

/// Watches a node until `stop`.
pub async fn run(scheduler: Scheduler, mut node: Receiver<Node>, stop: CancellationToken) {
    let now = scheduler.fleet.now();
    let id = node.borrow().id;
    let mut watcher = Watcher {
        scheduler: scheduler.clone(),
        id,
        path: SshPath::Untried,
        last_answer: None,
        last_command: now,
        last_handshake: now,
        address: None,
    };
    let mut next_probe = Instant::now();
    loop {
        let current = node.borrow_and_update().clone();
        if watcher.moved(&current) {
            next_probe = Instant::now();
        }
        if Instant::now() >= next_probe {
            tokio::select! {
                () = stop.cancelled() => break,
                () = watcher.look(&current) => next_probe = Instant::now() + watcher.pause(&current),
            }
        }
        if let Err(error) = watcher.decide(&current).await {
            tracing::warn!(node = %id, %error, "a node's health could not be recorded");
        }
        // A node that changes often must be probed all the same: a change never puts the next probe off.
        next_probe = next_probe.min(Instant::now() + watcher.pause(&current));
        let pool = &scheduler.fleet.pool;
        // The drop of a session is an instant hint, but only for a node that answered a moment ago.
        let hint = async {
            if watcher.path == SshPath::Up && pool.is_connected(id.0) {
                pool.closed(id.0).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            changed = node.changed() => if changed.is_err() { break },
            () = hint => next_probe = Instant::now(),
            () = tokio::time::sleep_until(next_probe) => {}
        }
    }
    scheduler.fleet.pool.drop_session(id.0);
}

impl Watcher {
    /// Whether the node has another address or other keys than the path is about; the path is forgotten then.
    fn moved(&mut self, node: &Node) -> bool {
        let address = target_of(node).ok();
        let moved = address != self.address;
        if moved {
            self.address = address;
            self.path = SshPath::Untried;
            self.last_answer = None;
        }
        moved
    }

    async fn look(&mut self, node: &Node) {
        let target = match target_of(node) {
            Ok(target) => target,
            Err(error) => {
                self.failed(Failure::Sick, error);
                return;
            }
        };
        let seen = if node.admission == Admission::Pending {
            self.scan(node).await
        } else {
            self.probe(node, &target).await
        };
        match seen {
            Ok(()) => {
                self.last_answer = Some(self.now());
                self.path = SshPath::Up;
            }
            Err(error) => self.take(error).await,
        }
    }

    /// Sees which host key a pending node has, for an admin to accept.
    async fn scan(&self, node: &Node) -> Result<(), SshError> {
        let key = scan_host_key(node.addr.as_str(), node.ssh_port.get(), &PoolConfig::default()).await?;
        let fingerprint = key.fingerprint();
        if node.seen_fingerprint.as_deref() != Some(fingerprint.as_str()) {
            let (store, now) = (&self.scheduler.fleet.store, self.now());
            if let Err(error) = store.saw_host_key(self.id, &key.to_string(), &fingerprint, now).await {
                tracing::warn!(node = %self.id, %error, "a seen host key could not be recorded");
            }
        }
        Ok(())
    }

    async fn probe(&mut self, node: &Node, target: &Target) -> Result<(), SshError> {
        let (pool, config) = (&self.scheduler.fleet.pool, &self.scheduler.config);
        let now = self.now();
        if !pool.is_connected(self.id.0) {
            pool.connect(target).await?;
            (self.last_command, self.last_handshake) = (now, now);
            return Ok(());
        }
        if matches!(self.path, SshPath::Failing { .. }) {
            return self.second_opinion(target).await;
        }
        // An agent that says its sshd is down knows what an old session cannot show.
        let doubted = node.agent_sees_sshd == Some(false);
        if doubted || now.since(self.last_handshake) >= config.handshake_every {
            self.last_handshake = now;
            return pool.fresh_handshake(target).await;
        }
        if now.since(self.last_command) >= config.command_every {
            self.last_command = now;
            return self.command(target).await;
        }
        pool.keepalive(target, config.keepalive_timeout).await
    }

    /// A failing node is asked both ways at once: the old session may only have been cut for a moment, and a
    /// stuck session says nothing about new ones.
    async fn second_opinion(&self, target: &Target) -> Result<(), SshError> {
        let (pool, config) = (&self.scheduler.fleet.pool, &self.scheduler.config);
        let (kept, fresh) =
            tokio::join!(pool.keepalive(target, config.keepalive_timeout), pool.fresh_handshake(target));
        match (kept, fresh) {
            (Ok(()), Ok(())) => Ok(()),
            // The old session is stuck, the node is not.
            (Err(_), Ok(())) => {
                pool.drop_session(self.id.0);
                pool.connect(target).await
            }
            // New logins fail while old sessions live: not healthy, and the error of the dial says why.
            (Ok(()) | Err(_), Err(error)) => Err(error),
        }
    }

    async fn command(&self, target: &Target) -> Result<(), SshError> {
        let request = ExecRequest {
            command: "true".into(),
            stdin: Vec::new(),
            timeout: self.scheduler.config.command_timeout,
            output_max_bytes: 1024,
        };
        self.scheduler.fleet.pool.exec(target, request).await.map(drop)
    }

    async fn take(&mut self, error: SshError) {
        let failure = match &error.kind {
            // A throttling sshd answers, and one that gives no more channels has a session with us: alive.
            Kind::Throttled | Kind::ChannelRefused(_) => {
                self.last_answer = Some(self.now());
                self.path = SshPath::Up;
                return;
            }
            // Says nothing about the node: it is looked at again.
            Kind::Busy | Kind::Dropped | Kind::NoSession | Kind::Local(_) => {
                tracing::debug!(node = %self.id, %error, "a probe failed on our side");
                return;
            }
            Kind::HostKeyMismatch { .. } => {
                let reason = format!("its host key is not the pinned one: {error}");
                let (store, now) = (&self.scheduler.fleet.store, self.now());
                match store.quarantine(self.id, &reason, now).await {
                    Ok(Cas::Done(_)) => self.scheduler.fleet.nudge.all(),
                    Ok(Cas::Stale | Cas::Gone) => {}
                    Err(error) => {
                        tracing::warn!(node = %self.id, %error, "a quarantine could not be recorded")
                    }
                }
                Failure::WrongKey
            }
            Kind::AuthRejected | Kind::Protocol(_) | Kind::NoPinnedKey => Failure::Sick,
            Kind::Refused | Kind::Closed => Failure::Refused,
            Kind::Unreachable | Kind::TimedOut | Kind::NotResolved | Kind::OutcomeUnknown => Failure::Silent,
        };
        self.failed(failure, error.to_string());
    }

    fn failed(&mut self, kind: Failure, detail: String) {
        let now = self.now();
        let (since, failures) = match &self.path {
            SshPath::Failing { since, failures, .. } => (*since, failures.saturating_add(1)),
            SshPath::Untried | SshPath::Up => (now, 1),
        };
        self.path = SshPath::Failing { since, last_answer: self.last_answer, failures, kind, detail };
    }

    /// Weighs both paths and writes the verdict if it is news.
    async fn decide(&mut self, node: &Node) -> Result<(), StoreError> {
        let (fleet, fleetwide) = (&self.scheduler.fleet, &self.scheduler.fleetwide);
        let now = self.now();
        let link = fleetwide.link_of(node, now);
        let mut verdict = judge(&self.path, link, &self.scheduler.config.health, now);
        let long_dead = node.health == Health::Dead && self.last_answer.is_none();
        let silent_since = match &self.path {
            // An sshd that answers and does not let us in is not silent; one that was dead before this
            // scheduler started did not go silent now.
            SshPath::Failing { since, kind: Failure::Refused | Failure::Silent, .. } if !long_dead => {
                Some(*since)
            }
            SshPath::Failing { .. } | SshPath::Untried | SshPath::Up => None,
        };
        let looked = self.path != SshPath::Untried;
        let both_paths = self.path == SshPath::Up && matches!(link, LinkPath::Up { .. } | LinkPath::None);
        // One that is only just being set up says nothing about those that were there.
        if node.admission == Admission::Admitted {
            fleetwide.see(self.id, Sight { looked, silent_since, health: node.health, both_paths });
        }
        if verdict.health == Health::Dead && node.health != Health::Dead {
            look_at_brake(&self.scheduler).await?;
            if let Some(why) = fleetwide.holds_back(self.scheduler.config.hold_after_start, now) {
                verdict.health = Health::Suspect;
                verdict.reason = format!("{}; not given up: {why}", verdict.reason);
            }
        }
        if node.admission == Admission::Reported && verdict.health == Health::Alive {
            fleet.store.admit(self.id, node.version, now).await?;
            fleet.nudge.all();
            return Ok(());
        }
        // A dead node stays dead until something of it answers.
        let still_dead =
            node.health == Health::Dead && matches!(verdict.health, Health::Suspect | Health::Unknown);
        if verdict.health == node.health || still_dead {
            return Ok(());
        }
        if verdict.health == Health::Dead {
            fleet.pool.drop_session(self.id.0);
        }
        let written =
            fleet.store.set_health(self.id, node.version, verdict.health, &verdict.reason, now).await?;
        if let Cas::Done(changed) = &written {
            tracing::info!(
                node = %self.id, from = node.health.as_str(), to = verdict.health.as_str(),
                reason = verdict.reason, leases = changed.leases.len(), "a node's health changed"
            );
        }
        if !matches!(written, Cas::Stale) {
            fleet.nudge.all();
        }
        Ok(())
    }

    fn pause(&self, node: &Node) -> Duration {
        let config = &self.scheduler.config;
        match &self.path {
            SshPath::Failing { .. } if node.health == Health::Dead => jittered(config.dead_probe_every),
            SshPath::Failing { failures, .. } => reprobe_after(*failures),
            SshPath::Untried | SshPath::Up if node.admission == Admission::Pending => PENDING_EVERY,
            SshPath::Untried | SshPath::Up => jittered(config.keepalive_every),
        }
    }

    fn now(&self) -> Timestamp {
        self.scheduler.fleet.now()
    }
}

/// Up to a tenth less, so that nodes that registered together are not probed together for ever.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.9..=1.0))
}
