//! One node's watcher: probes its SSH, weighs that against its agent's link, and writes what changed.
//!
//! Each node has its own, so that a dead host delays nobody.

use super::{
    brake,
    second_look::{self, Word},
};
use crate::{Scheduler, fleetwide::Sight};
use orion_domain::{
    NodeId, Timestamp,
    health::{Failure, LinkPath, SshPath, Verdict, judge, reprobe_after},
    names::{HostAddr, Port},
    node::{Admission, Health, Node},
};
use orion_fleet::{MEMORY_COMMAND, metrics::Probe, read_memory, target_of};
use orion_ssh::{ExecRequest, Kind, PoolConfig, SshError, Target, scan_host_key};
use orion_store::{Cas, NodeMemory, StoreError};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{SemaphorePermit, watch::Receiver},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Longest pause between dials of a dead node.
const DEAD_PROBE_EVERY_MAX: Duration = Duration::from_secs(30);
/// Pause between looks at a node that waits for an admin.
const PENDING_EVERY: Duration = Duration::from_secs(5);
/// Pause between groups of healthy nodes that are looked at together.
const GROUPS_EVERY: Duration = Duration::from_millis(20);

struct Watcher {
    scheduler: Scheduler,
    id: NodeId,
    stop: CancellationToken,
    path: SshPath,
    last_answer: Option<Timestamp>,
    last_command: Timestamp,
    last_handshake: Timestamp,
    /// What `path` is about: a node that moved has to be looked at anew.
    about: (HostAddr, Port, Vec<String>),
    /// The same, parsed.
    target: Result<Arc<Target>, String>,
    /// The node moved and was not looked at since: what is known of its health is about another address.
    moved: bool,
    /// [`crate::fleetwide::Fleetwide::absences`] since which the path was seen.
    absences: u64,
    /// What the node was last found to remember, and the database to know.
    compared: Arc<Mutex<Option<NodeMemory>>>,
    /// Until when another scheduler's word holds that the node answers it, and what is told of that.
    vouched: Option<(Timestamp, String)>,
}

/// Watches a node until `stop`.
pub async fn run(scheduler: Scheduler, mut node: Receiver<Arc<Node>>, stop: CancellationToken) {
    let mut watcher = Watcher::new(scheduler.clone(), &node.borrow(), stop.clone());
    let id = watcher.id;
    let mut next_probe = Instant::now();
    loop {
        let current = node.borrow_and_update().clone();
        if watcher.moved(&current) {
            next_probe = Instant::now();
        }
        if watcher.was_away() {
            // Not all nodes in the same moment.
            next_probe =
                Instant::now() + scheduler.config.keepalive_every.mul_f64(rand::random_range(0.0..=0.5));
        }
        if Instant::now() >= next_probe {
            tokio::select! {
                () = stop.cancelled() => break,
                () = watcher.look(&current) => next_probe = watcher.next_probe(&current),
            }
        }
        if let Err(error) = watcher.decide(&current).await {
            tracing::warn!(node = %id, %error, "a node's health could not be recorded");
        }
        // A node that changes often must be probed all the same: a change never puts the next probe off.
        next_probe = next_probe.min(watcher.next_probe(&current));
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
    if scheduler.shutdown.is_cancelled() {
        scheduler.fleet.pool.drop_session(id.0);
    } else {
        // Another scheduler looks after it now; what this one does there is finished first.
        scheduler.fleet.pool.let_go(id.0);
    }
}

impl Watcher {
    fn new(scheduler: Scheduler, node: &Node, stop: CancellationToken) -> Self {
        let now = scheduler.fleet.now();
        Self {
            id: node.id,
            stop,
            path: SshPath::Untried,
            last_answer: None,
            last_command: now.minus(scheduler.config.command_every),
            last_handshake: now,
            about: about(node),
            target: target_of(node).map(Arc::new),
            moved: false,
            absences: scheduler.fleetwide.absences(),
            compared: Arc::default(),
            vouched: None,
            scheduler,
        }
    }

    /// Whether the node has another address or other keys than the path is about; the path is forgotten then.
    fn moved(&mut self, node: &Node) -> bool {
        let (addr, port, keys) = &self.about;
        if *addr == node.addr && *port == node.ssh_port && *keys == node.host_keys {
            return false;
        }
        self.about = about(node);
        self.target = target_of(node).map(Arc::new);
        self.moved = true;
        self.forget();
        true
    }

    /// Whether this scheduler was away since the last look; what was seen before says nothing then.
    fn was_away(&mut self) -> bool {
        let absences = self.scheduler.fleetwide.absences();
        let was_away = absences != self.absences;
        if was_away {
            self.absences = absences;
            self.forget();
        }
        was_away
    }

    fn forget(&mut self) {
        self.path = SshPath::Untried;
        self.last_answer = None;
        self.vouched = None;
    }

    async fn look(&mut self, node: &Node) {
        let target = match &self.target {
            Ok(target) => target.clone(),
            Err(error) => {
                let error = error.clone();
                self.failed(Failure::Sick, error);
                return;
            }
        };
        let seen = if node.admission == Admission::Pending {
            // Boxes, here and below: what is needed now and then must not lie in every watcher all the time.
            Box::pin(self.scan(node)).await
        } else {
            self.probe(node, &target).await
        };
        match seen {
            Ok(()) => {
                self.moved = false;
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
            self.timed(Probe::Connect, Box::pin(pool.connect(target))).await?;
            // Nodes that were connected to together are not all shaken hands with together.
            self.last_handshake = now.minus(self.handshake_every().mul_f64(rand::random_range(0.0..1.0)));
            // What it remembers is asked for soon: the database may have been restored from a backup.
            if self.known_memory().is_some() {
                self.last_command = now;
            }
            return Ok(());
        }
        if matches!(self.path, SshPath::Failing { .. }) {
            return Box::pin(self.second_opinion(target)).await;
        }
        // An agent that says its sshd is down knows what an old session cannot show.
        let doubted = node.agent_sees_sshd == Some(false);
        if doubted || now.since(self.last_handshake) >= self.handshake_every() {
            self.last_handshake = now;
            return self.timed(Probe::Handshake, Box::pin(pool.fresh_handshake(target))).await;
        }
        if now.since(self.last_command) >= config.command_every {
            // The first of a node comes at once, the others are spread.
            let first = self.known_memory().is_none();
            let early = if first {
                config.command_every.mul_f64(rand::random_range(0.0..1.0))
            } else {
                Duration::ZERO
            };
            self.last_command = now.minus(early);
            let mut memory = None;
            let command = async {
                memory = self.command(target).await?;
                Ok(())
            };
            self.timed(Probe::Command, Box::pin(command)).await?;
            if let Some(memory) = memory {
                self.compare(memory);
            }
            return Ok(());
        }
        self.timed(Probe::Keepalive, pool.keepalive(target, config.keepalive_timeout)).await
    }

    /// Counts a probe, how long it took and what it said.
    async fn timed(
        &self,
        probe: Probe,
        work: impl Future<Output = Result<(), SshError>>,
    ) -> Result<(), SshError> {
        let began = Instant::now();
        let outcome = work.await;
        let word = match outcome.as_ref().map_err(SshError::verdict) {
            Ok(()) => "ok",
            Err(orion_ssh::Verdict::Gone) => "gone",
            Err(orion_ssh::Verdict::Silent) => "silent",
            Err(orion_ssh::Verdict::AliveThrottled) => "throttled",
            Err(orion_ssh::Verdict::Sick) => "sick",
            Err(orion_ssh::Verdict::Mismatch) => "mismatch",
            Err(orion_ssh::Verdict::Unknown) => "unknown",
        };
        self.scheduler.fleet.metrics.probed(probe, word, began.elapsed());
        outcome
    }

    /// A failing node is asked both ways at once: the old session may only have been cut for a moment, and a
    /// stuck session says nothing about new ones.
    async fn second_opinion(&self, target: &Target) -> Result<(), SshError> {
        let (pool, config) = (&self.scheduler.fleet.pool, &self.scheduler.config);
        let (kept, fresh) = tokio::join!(
            self.timed(Probe::Keepalive, pool.keepalive(target, config.keepalive_timeout)),
            self.timed(Probe::Handshake, pool.fresh_handshake(target))
        );
        match (kept, fresh) {
            (Ok(()), Ok(())) => Ok(()),
            // The old session is stuck, the node is not.
            (Err(_), Ok(())) => {
                pool.drop_session(self.id.0);
                self.timed(Probe::Connect, pool.connect(target)).await
            }
            // New logins fail while old sessions live: not healthy, and the error of the dial says why.
            (Ok(()) | Err(_), Err(error)) => Err(error),
        }
    }

    /// Runs the command by which a node shows that it works; what it remembers, if it said so.
    async fn command(&self, target: &Target) -> Result<Option<NodeMemory>, SshError> {
        let request = ExecRequest {
            command: MEMORY_COMMAND.into(),
            stdin: Vec::new(),
            timeout: self.scheduler.config.command_timeout,
            output_max_bytes: 1024,
        };
        let output = self.scheduler.fleet.pool.exec(target, request).await?;
        Ok(output.is_success().then(|| read_memory(&output.stdout)))
    }

    fn known_memory(&self) -> Option<NodeMemory> {
        *self.compared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what the node remembers compared with the database if it is news, beside the probes: a database that is
    /// away must not delay them.
    fn compare(&self, memory: NodeMemory) {
        if self.known_memory() == Some(memory) {
            return;
        }
        let (id, scheduler, compared) = (self.id, self.scheduler.clone(), self.compared.clone());
        self.scheduler.spawn(async move {
            let Ok(_turn) = scheduler.comparisons.acquire().await else { return };
            match scheduler.fleet.compare_memory(id, memory).await {
                Ok(()) => *compared.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory),
                Err(error) => tracing::debug!(node = %id, %error, "what a node remembers is compared later"),
            }
        });
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
                match Box::pin(store.quarantine(self.id, &reason, now)).await {
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
        self.moved = false;
        let (since, failures) = match &self.path {
            SshPath::Failing { since, failures, .. } => (*since, failures.saturating_add(1)),
            SshPath::Untried | SshPath::Up => (now, 1),
        };
        self.path = SshPath::Failing { since, last_answer: self.last_answer, failures, kind, detail };
    }

    /// Weighs both paths, and tells the others of this scheduler what is seen.
    fn weigh(&self, node: &Node) -> Verdict {
        let fleetwide = &self.scheduler.fleetwide;
        let now = self.now();
        let link = fleetwide.link_of(node, now);
        let long_dead = node.health == Health::Dead && self.last_answer.is_none();
        let silent_since = match &self.path {
            // An sshd that answers and does not let us in is not silent; one that was dead before this
            // scheduler looked after it did not go silent now.
            SshPath::Failing { since, kind: Failure::Refused | Failure::Silent, .. } if !long_dead => {
                let was_silent = matches!(node.health, Health::Suspect | Health::Unreachable);
                let before = self.last_answer.is_none() && was_silent;
                Some(if before { node.health_since.min(*since) } else { *since })
            }
            SshPath::Failing { .. } | SshPath::Untried | SshPath::Up => None,
        };
        let looked = self.path != SshPath::Untried;
        let both_paths = self.path == SshPath::Up && matches!(link, LinkPath::Up { .. } | LinkPath::None);
        // One that is only just being set up, or was drained, says nothing about the others.
        if node.should_answer() {
            fleetwide.see(self.id, Sight { looked, silent_since, health: node.health, both_paths });
        } else {
            fleetwide.unsee(self.id);
        }
        judge(&self.path, link, &self.scheduler.config.health, now)
    }

    /// What is left of the verdict that a node is dead: the brake, the hold after a start or a take-over, and
    /// another scheduler that reaches the node all speak against it.
    async fn doubt(&mut self, node: &Node, mut verdict: Verdict) -> Result<Verdict, StoreError> {
        let scheduler = self.scheduler.clone();
        brake::look_before_giving_up(&scheduler, self.now()).await?;
        if let Some(held) = self.held_back(&verdict) {
            return Ok(held);
        }
        if scheduler.fleetwide.share().is_none_or(|share| share.is_alone()) {
            return Ok(verdict);
        }
        if let Some((until, reason)) = &self.vouched
            && self.now() < *until
        {
            return Ok(Verdict { health: Health::Unreachable, reason: reason.clone() });
        }
        let (id, stop) = (self.id, self.stop.clone());
        // Both look at once: the word of the other takes a moment, and the node may be back by then.
        let (word, ()) = tokio::join!(second_look::ask(&scheduler, id, &stop), self.look(node));
        let word = word?;
        let second = self.weigh(node);
        if second.health != Health::Dead {
            return Ok(second);
        }
        match word {
            Word::Answers { peer } => {
                let reason = format!(
                    "it answers the scheduler {peer} and not this one: the fault is more likely here ({})",
                    second.reason
                );
                self.vouched = Some((self.now().plus(scheduler.config.keepalive_every), reason.clone()));
                return Ok(Verdict { health: Health::Unreachable, reason });
            }
            Word::Gone { peer } => {
                verdict.reason = format!("{}; the scheduler {peer} does not reach it either", second.reason);
            }
            Word::Nobody => verdict.reason = second.reason,
        }
        brake::look_before_giving_up(&scheduler, self.now()).await?;
        Ok(self.held_back(&verdict).unwrap_or(verdict))
    }

    /// The verdict that is left if nothing may be given up now.
    fn held_back(&self, verdict: &Verdict) -> Option<Verdict> {
        let hold = self.scheduler.config.hold_after_start;
        let why = if self.scheduler.fleet.may_claim() {
            self.scheduler.fleetwide.holds_back(self.id, hold, self.now())?
        } else {
            "this machine's clock is off the database's".to_owned()
        };
        let reason = format!("{}; not given up: {why}", verdict.reason);
        Some(Verdict { health: Health::Suspect, reason })
    }

    /// Weighs both paths and writes the verdict if it is news.
    async fn decide(&mut self, node: &Node) -> Result<(), StoreError> {
        let scheduler = self.scheduler.clone();
        let fleet = &scheduler.fleet;
        let mut verdict = self.weigh(node);
        // A node that could not be looked at yet is what it was.
        let unseen = self.path == SshPath::Untried && !self.moved;
        if unseen || !scheduler.may_judge(self.absences, self.now()) {
            return Ok(());
        }
        if verdict.health == Health::Dead && node.health != Health::Dead {
            verdict = Box::pin(self.doubt(node, verdict)).await?;
            // That took a while.
            if self.stop.is_cancelled() || !scheduler.may_judge(self.absences, self.now()) {
                return Ok(());
            }
        }
        // A dead node stays dead until something of it answers.
        let still_dead =
            node.health == Health::Dead && matches!(verdict.health, Health::Suspect | Health::Unknown);
        let is_admitted = node.admission == Admission::Reported && verdict.health == Health::Alive;
        if !is_admitted && (verdict.health == node.health || still_dead) {
            return Ok(());
        }
        let Some(_turn) = self.turn_to_write(verdict.health).await else { return Ok(()) };
        let now = self.now();
        if is_admitted {
            Box::pin(fleet.store.admit(self.id, node.version, now)).await?;
            fleet.nudge.all();
            return Ok(());
        }
        if verdict.health == Health::Dead {
            fleet.pool.drop_session(self.id.0);
        }
        let writing = fleet.store.set_health(self.id, node.version, verdict.health, &verdict.reason, now);
        let written = Box::pin(writing).await?;
        if let Cas::Done(changed) = &written {
            tracing::info!(
                node = %self.id, from = node.health.as_str(), to = verdict.health.as_str(),
                reason = verdict.reason, leases = changed.leases.len(), "a node's health changed"
            );
        }
        match written {
            Cas::Done(_) | Cas::Gone => fleet.nudge.all(),
            // The node changed meanwhile; or another scheduler pulled the brake, which is to be known then.
            Cas::Stale if verdict.health == Health::Dead => Box::pin(brake::follow(&scheduler)).await?,
            Cas::Stale => {}
        }
        Ok(())
    }

    fn handshake_every(&self) -> Duration {
        self.scheduler.config.handshake_every_of(self.scheduler.fleetwide.own_nodes())
    }

    /// A place among the watchers that write. None when the node has to be looked at again first: it is not given up
    /// for what was seen long ago.
    async fn turn_to_write(&self, verdict: Health) -> Option<SemaphorePermit<'_>> {
        let began = Instant::now();
        let turn = self.scheduler.verdicts.acquire().await.ok()?;
        let may_be_over = verdict == Health::Dead && began.elapsed() >= self.scheduler.config.keepalive_every;
        let may_write = !self.stop.is_cancelled() && self.scheduler.may_judge(self.absences, self.now());
        (may_write && !may_be_over).then_some(turn)
    }

    /// When the node is looked at next. Healthy ones are looked at in small groups: waking up for each of thousands
    /// costs more than looking at it.
    fn next_probe(&self, node: &Node) -> Instant {
        let at = Instant::now() + self.pause(node);
        if matches!(self.path, SshPath::Failing { .. }) {
            return at;
        }
        let since = at.duration_since(self.scheduler.started).as_nanos();
        let group = GROUPS_EVERY.as_nanos();
        let early = u64::try_from(since % group).unwrap_or(0);
        at - Duration::from_nanos(early)
    }

    fn pause(&self, node: &Node) -> Duration {
        let config = &self.scheduler.config;
        match &self.path {
            SshPath::Failing { .. } if node.health == Health::Dead => {
                // What has been dead for long is asked less often: many such must not keep others waiting.
                let dead_for = self.now().since(node.health_since);
                jittered((dead_for / 10).clamp(config.dead_probe_every, DEAD_PROBE_EVERY_MAX))
            }
            SshPath::Failing { failures, .. } => reprobe_after(*failures),
            SshPath::Untried | SshPath::Up if node.admission == Admission::Pending => PENDING_EVERY,
            SshPath::Untried | SshPath::Up => jittered(config.keepalive_every),
        }
    }

    fn now(&self) -> Timestamp {
        self.scheduler.fleet.now()
    }
}

fn about(node: &Node) -> (HostAddr, Port, Vec<String>) {
    (node.addr.clone(), node.ssh_port, node.host_keys.clone())
}

/// Up to a tenth less, so that nodes that registered together are not probed together for ever.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.9..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// There is one for each of thousands of nodes.
    #[test]
    fn a_watcher_takes_little_memory() {
        let bytes = size_of_future(run);
        assert!(bytes < 8 * 1024, "{bytes} bytes");
    }
}
