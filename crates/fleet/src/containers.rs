//! From a container that was asked for to one that runs: its image ([`crate::images`]), which holds no claim, and then the
//! work on its node.

use crate::{
    Change, Fleet,
    apply::{STOP_GRACE, news_of, nothing_seen},
    engine_words::with_source,
    fleet::target_of,
    images::Image,
    turns::ClaimFor,
};
use orion_containers::{ContainerEvent, ContainerState, Engine, EngineError, EngineMeaning, EventAction};
use orion_domain::{
    ContainerId, LeaseId, NodeId,
    container::{
        ContainerPhase, ContainerSpec, EngineState, FoundContainer, RestartPolicy, is_container_name,
    },
    lease::{OnNodeLoss, Phase},
};
use orion_store::{
    Cas, ContainerNews, ContainerRow, MoveOutcome, MoveReason, NodeClaim, SilentEngine, StoreError, Wanted,
};
use std::time::Duration;

/// Longest wait for work on the node by somebody else; the scheduler goes on then.
const CLAIM_WAIT: Duration = Duration::from_secs(30);
/// Longest time between two looks at all containers of a node whose engine is followed.
const LIST_EVERY: Duration = Duration::from_secs(60);
/// Time for which an engine is followed on when the last lease with containers has left its node: it may still make one, for a
/// process that asked for it and died.
const FOLLOWED_ON_FOR: Duration = Duration::from_secs(60);
/// Pause before an engine is followed again that could not be.
const FOLLOW_AGAIN: Duration = Duration::from_secs(2);
/// Lines of its log that the reason of a container has that failed for good.
const LAST_LINES: u32 = 5;
/// Largest number of characters of them.
const LAST_CHARACTERS: usize = 300;

impl Fleet {
    /// Returns a container's specification, opened.
    pub(crate) fn spec_of(&self, row: &ContainerRow) -> Result<ContainerSpec, String> {
        let opened = (self.open_spec)(&row.uid, &row.spec_sealed)?;
        ContainerSpec::restore(&row.stored_spec(opened)).map_err(|error| error.to_string())
    }

    /// Makes a container that was asked for: pulls its image if the node has not got it, and brings the node in order. What
    /// came of it is in the container's row. The scheduler finishes what breaks off. `version`: the first version of what the
    /// node is to hold with a new container; where nothing else has changed the accounts on the node are not looked at.
    ///
    /// # Errors
    /// The database's.
    pub async fn provide_container(&self, id: ContainerId, version: Option<i64>) -> Result<(), StoreError> {
        let Some(row) = self.store.containers().get(id).await? else { return Ok(()) };
        let Some(lease) = self.store.leases().get(row.lease).await? else { return Ok(()) };
        let Some(node) = lease.state.wants_account_on() else { return Ok(()) };
        self.store.containers().touch(id, self.now()).await?;
        let is_to_run = matches!(row.wanted, Wanted::Started | Wanted::Restarted);
        if is_to_run && (!row.phase.is_settled() || row.wanted == Wanted::Restarted) {
            match self.image_for(&row, node, lease.user).await? {
                Image::Present => {}
                Image::Refused(reason) => {
                    let (phase, reason) = (ContainerPhase::Failed, Some(reason));
                    let news = ContainerNews { phase, reason, ..nothing_seen(&row, node) };
                    self.store.containers().observed(&news, self.now()).await?;
                    // A restart that cannot be is over, too.
                    self.store.containers().restart_tried(row.id).await?;
                }
                Image::Waits => return Ok(()),
                Image::Later(why) => {
                    tracing::warn!(container = row.uid, node = %node, why, "an image was not looked for; it is tried again");
                    return Ok(());
                }
            }
        }
        let Some(claim) = self.claim_node(node).await? else { return Ok(()) };
        if !claim.node.is_dirty() && self.is_begun(id, &claim).await? {
            // Whoever worked on the node while it was waited for has made it.
            return self.store.nodes().release_claim(&claim, self.now()).await;
        }
        let is_all = version == Some(claim.desired_version) && claim.departing.is_empty();
        self.apply_or_leave(&claim, if is_all { Change::NewContainer } else { Change::Unknown }).await?;
        Ok(())
    }

    /// Whether there is nothing left to do for a container and its lease.
    async fn is_begun(&self, id: ContainerId, claim: &NodeClaim) -> Result<bool, StoreError> {
        let Some(row) = self.store.containers().get(id).await? else { return Ok(true) };
        let is_active = claim.desired_of(row.lease).is_some_and(|desired| desired.phase == Phase::Active);
        Ok(is_active && row.phase.is_settled() && row.wanted == Wanted::Started)
    }

    /// Returns the nodes that leases with containers have left so lately that their engines are followed on.
    ///
    /// # Errors
    /// The database's.
    pub async fn nodes_left_lately(&self) -> Result<Vec<NodeId>, StoreError> {
        self.store.containers().nodes_left(self.now().minus(FOLLOWED_ON_FOR)).await
    }

    /// Follows the engine of a node that has containers, or had some a moment ago, as long as the engine answers: what happens
    /// to them is written at once, and first what was missed.
    ///
    /// # Errors
    /// The database's.
    pub async fn follow_containers(&self, node: NodeId) -> Result<(), StoreError> {
        let Ok(engine) = self.engine_of(node).await? else { return Ok(()) };
        let mut events = match engine.events().await {
            Ok(events) => events,
            Err(error) => {
                tracing::debug!(%node, error = %with_source(&error), "an engine is not followed");
                self.engine_failed(node, &error).await?;
                // It is followed again when this work is over.
                tokio::time::sleep(FOLLOW_AGAIN).await;
                return Ok(());
            }
        };
        if self.store.containers().engine_answers(node, self.now()).await? {
            tracing::info!(%node, "a container engine answers again");
            self.nudge.all();
        }
        let mut rows = self.store.containers().of_node(node).await?;
        let mut told = None;
        while !rows.is_empty() || self.nodes_left_lately().await?.contains(&node) {
            let looked = match &told {
                None => self.look_around(&engine, node, &rows).await?,
                Some(event) => self.act_on_event(&engine, node, &rows, event).await?,
            };
            if let Err(error) = looked {
                tracing::debug!(%node, error = %with_source(&error), "containers were not looked at");
                return Ok(());
            }
            told = match tokio::time::timeout(LIST_EVERY, events.next()).await {
                Ok(Some(Ok(event))) => Some(event),
                Ok(Some(Err(_)) | None) => return Ok(()),
                Err(_) => None,
            };
            rows = self.store.containers().of_node(node).await?;
        }
        Ok(())
    }

    /// Writes what the engine says of the containers of a node, and has the node looked at when it has some of Orion's that
    /// nothing explains.
    async fn look_around(
        &self,
        engine: &Engine,
        node: NodeId,
        rows: &[ContainerRow],
    ) -> Result<Result<(), EngineError>, StoreError> {
        let listed = match engine.list_containers().await {
            Ok(listed) => listed,
            Err(error) => return Ok(Err(error)),
        };
        let looked = self.look_at_listed(engine, node, rows, &listed).await?;
        if looked.is_ok()
            && listed.iter().any(|found| is_stray(found, rows))
            && let Some(claim) = self.claim_node(node).await?
        {
            self.apply_or_leave(&claim, Change::Unknown).await?;
        }
        Ok(looked)
    }

    async fn act_on_event(
        &self,
        engine: &Engine,
        node: NodeId,
        rows: &[ContainerRow],
        event: &ContainerEvent,
    ) -> Result<Result<(), EngineError>, StoreError> {
        if let Some(row) = rows.iter().find(|row| Some(&row.uid) == event.container.as_ref()) {
            // Not by the list: Docker tells of an end before its list does.
            let looked = self.look_at_container(engine, node, row, &event.id).await?;
            let is_unwanted = event.action == EventAction::Started && row.wanted == Wanted::Stopped;
            if looked.is_err() || !is_unwanted {
                return Ok(looked);
            }
        }
        // Nothing explains it, or its owner has stopped it.
        let began = matches!(event.action, EventAction::Created | EventAction::Started);
        if began && let Some(claim) = self.claim_node(node).await? {
            self.apply_or_leave(&claim, Change::Unknown).await?;
        }
        Ok(Ok(()))
    }

    /// Writes what the engine says of the containers of a node.
    pub(crate) async fn look_at_containers(
        &self,
        engine: &Engine,
        node: NodeId,
        rows: &[ContainerRow],
    ) -> Result<Result<(), EngineError>, StoreError> {
        if rows.is_empty() {
            return Ok(Ok(()));
        }
        match engine.list_containers().await {
            Ok(listed) => self.look_at_listed(engine, node, rows, &listed).await,
            Err(error) => Ok(Err(error)),
        }
    }

    async fn look_at_listed(
        &self,
        engine: &Engine,
        node: NodeId,
        rows: &[ContainerRow],
        listed: &[FoundContainer],
    ) -> Result<Result<(), EngineError>, StoreError> {
        for row in rows {
            let Some(found) = listed.iter().find(|found| found.container.as_ref() == Some(&row.uid)) else {
                // Somebody removed it behind Orion's back, or the engine lost it: it is made again.
                if row.phase == ContainerPhase::Running {
                    let reason = Some("it vanished from its node's engine".to_owned());
                    let news = ContainerNews { reason, ..nothing_seen(row, node) };
                    self.store.containers().observed(&news, self.now()).await?;
                }
                continue;
            };
            let is_known = row.phase == ContainerPhase::Running && row.engine_id.as_ref() == Some(&found.id);
            if found.state == EngineState::Running && is_known && row.wanted != Wanted::Restarted {
                continue;
            }
            if let Err(error) = self.look_at_container(engine, node, row, &found.id).await? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    async fn look_at_container(
        &self,
        engine: &Engine,
        node: NodeId,
        row: &ContainerRow,
        id: &str,
    ) -> Result<Result<(), EngineError>, StoreError> {
        let seen = match engine.inspect(id).await {
            Ok(seen) => seen,
            Err(EngineError::NotFound(_)) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        };
        // One of an older incarnation is about to go.
        let is_this =
            seen.epoch.is_some_and(|epoch| (row.oldest_incarnation..=row.incarnation).contains(&epoch));
        let mut news = news_of(row, &seen, nothing_seen(row, node)).filter(|_| is_this);
        if let Some(news) = &mut news
            && self.is_given_up(row, &seen)
        {
            news.phase = ContainerPhase::Failed;
            let is_known = row.phase == ContainerPhase::Failed && row.finished_at == news.finished_at;
            news.reason = if is_known {
                row.reason.clone()
            } else {
                match last_words(engine, &seen).await {
                    Ok(reason) => Some(reason),
                    Err(error) => return Ok(Err(error)),
                }
            };
        }
        if let Some(news) = news
            && let Cas::Done(_) = self.store.containers().observed(&news, self.now()).await?
        {
            self.nudge.all();
        }
        Ok(Ok(()))
    }

    /// Whether a container failed again and again, and the engine starts it no more.
    fn is_given_up(&self, row: &ContainerRow, seen: &ContainerState) -> bool {
        let has_failed =
            seen.state == EngineState::Exited && seen.exit.as_ref().is_some_and(|exit| exit.code != 0);
        let policy = || self.spec_of(row).map(|spec| spec.restart);
        has_failed
            && row.wanted == Wanted::Started
            && matches!(policy(), Ok(RestartPolicy::OnFailure { retries_max }) if seen.restarts >= u32::from(retries_max))
    }

    /// Writes that the engine of a node that lives does not answer, if that is what the error says.
    pub(crate) async fn engine_failed(&self, node: NodeId, error: &EngineError) -> Result<(), StoreError> {
        let is_silent = match error.meaning() {
            EngineMeaning::EngineDown => true,
            EngineMeaning::NodeUnreached
            | EngineMeaning::Unusable
            | EngineMeaning::NotFound
            | EngineMeaning::Conflict
            | EngineMeaning::Invalid
            | EngineMeaning::Denied
            | EngineMeaning::NoSpace
            | EngineMeaning::Failed
            | EngineMeaning::Nothing => false,
        };
        if is_silent {
            let why = with_source(error);
            if self.store.containers().engine_silent(node, &why, self.now()).await? {
                tracing::warn!(%node, why, "the container engine of a node does not answer");
                self.nudge.all();
            }
        }
        Ok(())
    }

    /// Returns the other nodes than `here` on which containers of the lease may run: those that live and hold it, without
    /// those whose engine is silent for so long that it is lost.
    pub(crate) async fn nodes_left(&self, lease: LeaseId, here: NodeId) -> Result<Vec<NodeId>, StoreError> {
        let lost_before = self.now().minus(self.config.engine_lost_after);
        self.store.leases().nodes_left(lease, here, lost_before).await
    }

    /// Ends the containers of a lease on these nodes, which hold it, those that may overlap left out. The inner error
    /// says where one may still run.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn end_elsewhere(
        &self,
        lease: LeaseId,
        nodes: &[NodeId],
        rows: &[ContainerRow],
    ) -> Result<Result<(), String>, StoreError> {
        for &node in nodes {
            let engine = match self.engine_of(node).await? {
                Ok(engine) => engine,
                Err(why) => return Ok(Err(format!("node {node}: {why}"))),
            };
            let rows = rows.iter().filter(|row| row.lease == lease);
            if let Err(error) = self.end_containers(&engine, rows).await {
                if error.meaning() == EngineMeaning::Unusable {
                    continue;
                }
                return Ok(Err(format!("node {node}: {}", with_source(&error))));
            }
        }
        Ok(Ok(()))
    }

    async fn end_containers(
        &self,
        engine: &Engine,
        rows: impl DoubleEndedIterator<Item = &ContainerRow>,
    ) -> Result<(), EngineError> {
        let listed = engine.list_containers().await?;
        // The last that was started ends first.
        for row in rows.rev().filter(|row| !self.spec_of(row).is_ok_and(|spec| spec.overlap)) {
            for found in listed.iter().filter(|found| found.container.as_ref() == Some(&row.uid)) {
                let ended = async {
                    engine.set_restart(&found.id, RestartPolicy::No).await?;
                    engine.stop(&found.id, STOP_GRACE).await
                };
                match ended.await {
                    Ok(()) | Err(EngineError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    async fn may_move(&self, lease: LeaseId) -> Result<bool, StoreError> {
        let lease = self.store.leases().get(lease).await?;
        Ok(lease.is_some_and(|lease| lease.on_node_loss == OnNodeLoss::Migrate))
    }

    /// Takes the leases that are containers alone off a node whose engine has not answered for long.
    ///
    /// # Errors
    /// The database's.
    pub async fn leave_silent_engine(&self, silent: &SilentEngine) -> Result<(), StoreError> {
        let node = silent.node;
        for &lease in &silent.leases {
            let Some(claim) = self.claim_node(node).await? else { return Ok(()) };
            if claim.node.engine_down_since != Some(silent.since) {
                return self.store.nodes().release_claim(&claim, self.now()).await;
            }
            let why = format!("the container engine of its node has not answered since {}", silent.since);
            match self.store.nodes().leave_refusing_node(&claim, lease, &why, self.now()).await? {
                Cas::Done(Phase::Migrating) if !self.may_move(lease).await? => {}
                Cas::Done(Phase::Migrating) => {
                    tracing::warn!(%node, %lease, why, "a lease leaves a node for its engine");
                    let moved = self.move_on(lease, node, Some(&claim), MoveReason::Lost(why)).await?;
                    if let MoveOutcome::Placed(placement) = moved {
                        if let Err(error) = self.provision(placement).await {
                            tracing::warn!(%lease, ?error, "a lease that lost its engine is not on another node yet");
                        }
                        continue;
                    }
                }
                Cas::Done(_) | Cas::Stale | Cas::Gone => {}
                Cas::Refused(never) => match never {},
            }
            self.store.nodes().release_claim(&claim, self.now()).await?;
        }
        Ok(())
    }

    /// Claims a node as soon as nobody else works on it.
    pub(crate) async fn claim_node(&self, node: NodeId) -> Result<Option<NodeClaim>, StoreError> {
        let (holder, ttl) = (&self.config.holder, self.config.claim_ttl);
        let claim = |now| self.store.nodes().claim(node, holder, ttl, now);
        self.claim_when_free(ClaimFor::Work(node), CLAIM_WAIT, claim).await
    }

    /// Returns the container engine of a node; the error says why it cannot be asked.
    pub(crate) async fn engine_of(&self, node: NodeId) -> Result<Result<Engine, String>, StoreError> {
        let Some(known) = self.store.nodes().get(node).await? else { return Ok(Err("no such node".into())) };
        Ok(target_of(&known).map(|target| self.engines.of(&target)))
    }
}

/// How the last run of a container ended, and the last lines of its log.
async fn last_words(engine: &Engine, seen: &ContainerState) -> Result<String, EngineError> {
    let chunks = engine.last_lines(&seen.id, LAST_LINES).await?;
    let bytes: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.bytes.iter().copied()).collect();
    let log = String::from_utf8_lossy(&bytes);
    let end = seen.exit.as_ref().map(ToString::to_string).unwrap_or_default();
    // Of lines that are too long for a reason the end is kept.
    let log: Vec<char> = log.trim_end().chars().collect();
    let tail: String = log[log.len().saturating_sub(LAST_CHARACTERS)..].iter().collect();
    Ok(format!("{end} after {} restarts; its log ends with: {tail}", seen.restarts))
}

/// Whether a container has a label and a name of Orion's, and none of these is it.
fn is_stray(found: &FoundContainer, rows: &[ContainerRow]) -> bool {
    found.lease.is_some()
        && is_container_name(&found.name)
        && !rows.iter().any(|row| Some(&row.uid) == found.container.as_ref())
}
