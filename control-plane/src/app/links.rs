//! The agents' links that this replica holds: who beats, and what is pushed down to them.
//!
//! The database sees only the *change* of a link. Beats stay in memory; `last_seen` goes to the database in
//! batches.

use crate::App;
use axum::extract::ws::{Message, WebSocket};
use orion_domain::{
    NodeId, Timestamp,
    agent::{BEAT_EVERY, BEATS_MISSED_MAX, FromAgent, LeaseDeadline, ToAgent, seconds_to_deadline},
    lease::Lease,
    node::{Health, LinkState, Node},
};
use orion_fleet::{CHANGES_OVERLAP, REPLICA_BEAT_EVERY};
use orion_store::{Cas, StoreError};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;

/// Messages that may wait for a slow agent; one more closes its link, it dials again and reads anew.
const QUEUE_MAX: usize = 32;
/// How often what changed is pushed down when nobody nudges.
const PUSH_EVERY: Duration = Duration::from_secs(1);
/// How often `last_seen` is written.
const SEEN_EVERY: Duration = Duration::from_secs(10);
/// How long a node may be reached by its agent alone before its accounts are locked: shortly before it is given
/// up for dead ([`orion_domain::health::HealthPolicy::sshd_down_hold`]), so that a blip kills nobody's work.
const LOCK_AFTER: Duration = Duration::from_secs(20);

struct Link {
    epoch: i64,
    down: mpsc::Sender<ToAgent>,
    pushed_version: i64,
    /// When the accounts of a node that only its agent can reach are to be locked.
    lock_at: Option<Timestamp>,
}

/// The registry of links.
pub struct Links {
    most: usize,
    links: Mutex<HashMap<NodeId, Link>>,
    seen: Mutex<HashMap<NodeId, Timestamp>>,
}

impl Links {
    /// A registry for at most `most` links.
    pub fn new(most: usize) -> Self {
        Self { most, links: Mutex::default(), seen: Mutex::default() }
    }

    /// Whether one more link may be opened.
    pub fn has_room(&self) -> bool {
        self.count() < self.most
    }

    /// How many links this replica holds.
    pub fn count(&self) -> usize {
        self.locked().len()
    }

    /// Tells the agent of a node that is gone to register again, and closes its link.
    pub fn register_again(&self, node: NodeId) {
        self.push(node, ToAgent::RegisterAgain);
        // The link's loop ends when it has sent what is in the queue.
        self.locked().remove(&node);
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, node: NodeId, message: ToAgent) {
        let mut links = self.locked();
        let full = links.get(&node).is_some_and(|link| link.down.try_send(message).is_err());
        if full {
            // Dropping the sender ends the link's loop.
            links.remove(&node);
        }
    }

    /// Asks the agents whose time has come to lock their accounts.
    fn lock_due(&self, now: Timestamp) {
        let due: Vec<NodeId> = {
            let mut links = self.locked();
            let due = links.iter_mut().filter(|(_, link)| link.lock_at.is_some_and(|at| at <= now));
            due.map(|(id, link)| {
                link.lock_at = None;
                *id
            })
            .collect()
        };
        for node in due {
            self.push(node, ToAgent::LockAccounts);
        }
    }

    fn saw(&self, node: NodeId, at: Timestamp) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(node, at);
    }
}

impl App {
    /// Serves one link until it ends.
    pub async fn serve_link(&self, node: Node, mut socket: WebSocket) {
        let (down, mut queue) = mpsc::channel(QUEUE_MAX);
        let id = node.id;
        // The store gives each link an epoch that grows, and ignores a late word of an older one.
        let epoch = match self.store.open_link(id, &self.fleet.config.holder, self.now()).await {
            Ok(Cas::Done((_, epoch))) => epoch,
            Ok(Cas::Stale | Cas::Gone) => {
                let _ = send(&mut socket, &ToAgent::RegisterAgain).await;
                return;
            }
            Err(error) => {
                tracing::warn!(node = %id, %error, "a link could not be recorded; the agent will dial again");
                return;
            }
        };
        self.links.locked().insert(id, Link { epoch, down, pushed_version: -1, lock_at: None });
        self.fleet.nudge.all();
        let silence_max = BEAT_EVERY * BEATS_MISSED_MAX + Duration::from_secs(1);
        let mut sshd_seen = None;
        // Counted from what was heard last, not from what was said to it.
        let mut silent_at = tokio::time::Instant::now() + silence_max;
        let ended = loop {
            tokio::select! {
                () = self.shutdown.cancelled() => break None,
                message = queue.recv() => match message {
                    Some(message) => if send(&mut socket, &message).await.is_err() { break Some("it closed") },
                    None => break Some("it was replaced by a newer one, or did not read"),
                },
                () = tokio::time::sleep_until(silent_at) => break Some("two beats were missed"),
                message = socket.recv() => match message {
                    None | Some(Err(_)) | Some(Ok(Message::Close(_))) => break Some("it closed"),
                    Some(Ok(Message::Text(text))) => {
                        silent_at = tokio::time::Instant::now() + silence_max;
                        self.links.saw(id, self.now());
                        match serde_json::from_str(&text) {
                            Ok(word) => {
                                if !self.hear((id, epoch), word, &mut sshd_seen, &mut socket).await {
                                    let _ = send(&mut socket, &ToAgent::RegisterAgain).await;
                                    break Some("its node was forgotten");
                                }
                            }
                            Err(error) => tracing::debug!(node = %id, %error, "unknown word on a link"),
                        }
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_))) => {}
                },
            }
        };
        let newest = {
            let mut links = self.links.locked();
            match links.get(&id) {
                Some(link) if link.epoch == epoch => {
                    links.remove(&id);
                    true
                }
                Some(_) => false,
                None => true,
            }
        };
        // A replica that stops does not say that its links are lost: its silence says that they are unknown.
        if let (Some(why), true) = (ended, newest) {
            tracing::info!(node = %id, why, "the agent's link is lost");
            while let Err(error) = self.lose_link(id, epoch).await {
                tracing::warn!(node = %id, %error, "a lost link could not be recorded; trying again");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            self.fleet.nudge.all();
        }
    }

    async fn lose_link(&self, node: NodeId, epoch: i64) -> Result<(), StoreError> {
        let replica = &self.fleet.config.holder;
        self.store.link_changed(node, epoch, replica, LinkState::Lost, self.now()).await.map(drop)
    }

    /// Takes an agent's word over the link of that epoch. False if its node is gone.
    async fn hear(
        &self,
        (node, epoch): (NodeId, i64),
        word: FromAgent,
        sshd_seen: &mut Option<bool>,
        socket: &mut WebSocket,
    ) -> bool {
        let now = self.now();
        let written = match word {
            FromAgent::Beat { seq, sshd, .. } => {
                let _ = send(socket, &ToAgent::Ack { seq }).await;
                if *sshd_seen == Some(sshd) {
                    return true;
                }
                *sshd_seen = Some(sshd);
                self.store.set_agent_sshd(node, epoch, Some(sshd), now).await
            }
            FromAgent::Inventory { facts } => self.store.update_facts(node, &facts, now).await,
            FromAgent::Hello { agent_version, .. } => {
                tracing::debug!(%node, agent_version, "an agent's link is up");
                return true;
            }
            FromAgent::Deadlines { kept } => {
                tracing::debug!(%node, accounts = kept.len(), "deadlines that the node keeps");
                return true;
            }
        };
        match written {
            Ok(Cas::Done(_) | Cas::Stale) => {
                self.fleet.nudge.all();
                true
            }
            Ok(Cas::Gone) => false,
            Err(error) => {
                // It is said again with the next beat.
                *sshd_seen = None;
                tracing::warn!(%node, %error, "an agent's word could not be recorded");
                true
            }
        }
    }

    /// Pushes what changed down to the agents, and writes when nodes were last seen, until shutdown.
    pub async fn tend_links(self) {
        let mut nudged = self.fleet.nudge.listen();
        let mut since = Timestamp::from_micros(0);
        let mut seen_written = self.now();
        let mut beat = Timestamp::from_micros(0);
        while !self.shutdown.is_cancelled() {
            let now = self.now();
            match self.push_changes(since).await {
                Ok(()) => since = now.minus(CHANGES_OVERLAP),
                Err(error) => tracing::debug!(%error, "changes could not be pushed to the agents"),
            }
            self.links.lock_due(now);
            if now.since(seen_written) >= SEEN_EVERY {
                seen_written = now;
                let seen: Vec<_> =
                    self.links.seen.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
                if let Err(error) = self.store.touch_seen(&seen).await {
                    tracing::debug!(%error, "last_seen could not be written");
                }
                if let Err(error) = self.end_links_of_gone_nodes().await {
                    tracing::debug!(%error, "which nodes are gone could not be read");
                }
            }
            if now.since(beat) >= REPLICA_BEAT_EVERY {
                beat = now;
                self.compare_clocks().await;
                if let Err(error) = self.store.replica_beat(&self.fleet.config.holder, "api", now).await {
                    tracing::debug!(%error, "this replica's beat could not be written");
                }
            }
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = nudged.within(PUSH_EVERY) => {
                    // Many nudges in a row are one look.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        // If this is not heard, the row goes by its age.
        let _ = self.store.remove_replica(&self.fleet.config.holder, "api").await;
    }

    /// Ends the links of nodes that another replica has forgotten.
    async fn end_links_of_gone_nodes(&self) -> Result<(), StoreError> {
        let held: Vec<NodeId> = self.links.locked().keys().copied().collect();
        for node in self.store.nodes_gone(&held).await? {
            self.links.register_again(node);
        }
        Ok(())
    }

    async fn push_changes(&self, since: Timestamp) -> Result<(), StoreError> {
        let changed: Vec<Node> = {
            let nodes = self.store.nodes_changed_since(since).await?;
            let links = self.links.locked();
            let is_news = |node: &Node| links.get(&node.id).is_some_and(|l| l.pushed_version != node.version);
            nodes.into_iter().filter(is_news).collect()
        };
        if changed.is_empty() {
            return Ok(());
        }
        let ids: Vec<NodeId> = changed.iter().map(|node| node.id).collect();
        let leases = self.store.leases_on_nodes(&ids).await?;
        for node in changed {
            let wanted = leases.get(&node.id).filter(|lease| lease.state.wants_account_on() == Some(node.id));
            self.links.push(
                node.id,
                ToAgent::Leases {
                    desired_version: node.desired_version,
                    leases: wanted.map(|lease| self.deadline(lease)).into_iter().collect(),
                },
            );
            if let Some(link) = self.links.locked().get_mut(&node.id) {
                link.pushed_version = node.version;
                let sshd_is_down = node.health == Health::Unreachable && node.agent_sees_sshd == Some(false);
                link.lock_at = sshd_is_down.then(|| node.health_since.plus(LOCK_AFTER));
            }
        }
        Ok(())
    }

    fn deadline(&self, lease: &Lease) -> LeaseDeadline {
        LeaseDeadline {
            lease_id: lease.id,
            user: lease.account.user.to_string(),
            uid: lease.account.uid,
            remaining_s: seconds_to_deadline(lease.until, self.fleet.config.deadline_grace_s, self.now()),
        }
    }
}

async fn send(socket: &mut WebSocket, message: &ToAgent) -> Result<(), ()> {
    let text = serde_json::to_string(message).map_err(|_| ())?;
    let sent = tokio::time::timeout(Duration::from_secs(5), socket.send(Message::Text(text.into()))).await;
    sent.map_err(|_| ())?.map_err(|_| ())
}
