//! One agent's link, from its opening to its loss, and what is heard over it.

use super::{Agents, links::Link, pace::Heard};
use crate::{crypto::sha256_hex, error::ApiError};
use axum::extract::ws::{Message, WebSocket};
use orion_domain::{
    NodeId, Secret,
    agent::{BEAT_EVERY, BEATS_MISSED_MAX, FromAgent, ToAgent},
    node::{LinkState, Node},
    way_in::{CLOCK_OFF_MIN, SEEN_OPEN_FOR, WayInReport, clock_off_text},
};
use orion_store::{BootTold, Cas, Prober, StoreError, two_machines};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Messages that may wait for a slow agent; one more closes its link, it dials again and reads anew.
const QUEUE_MAX: usize = 32;
/// Shortest pause between two writes of what one agent says of its way in.
const WAY_IN_PAUSE: Duration = Duration::from_millis(900);
/// Shortest pause between two writes of how far one node's clock is off.
const CLOCK_PAUSE: Duration = Duration::from_secs(10);

impl Agents<'_> {
    /// Gives the node whose own token this is.
    ///
    /// # Errors
    /// 401 `forgotten` when no node has it (any more).
    pub async fn node_of(self, token: &Secret) -> Result<Node, ApiError> {
        let node = self.app.store.nodes().by_token_sha256(&sha256_hex(token.expose().as_bytes())).await?;
        node.ok_or_else(|| {
            ApiError::unauthorized("no node has this node token (any more); register again")
                .with("forgotten", true)
        })
    }

    /// Whether the node may open a link here, from the kernel of that boot id.
    ///
    /// # Errors
    /// 409 when its link is up from another machine, 503 when this replica is full.
    pub async fn may_link(self, node: &Node, boot_id: Option<&str>) -> Result<(), ApiError> {
        if let Some(boot_id) = boot_id
            && !self.app.store.nodes().may_link(node.id, boot_id, self.app.now()).await?
        {
            return Err(ApiError::second_machine(node.id));
        }
        if !self.app.links.has_room() {
            return Err(ApiError::unavailable("this replica holds as many links as it may"));
        }
        Ok(())
    }

    /// Serves one link until it ends.
    pub async fn serve(self, node: Node, mut socket: WebSocket) {
        let (down, mut queue) = mpsc::channel(QUEUE_MAX);
        let id = node.id;
        tokio::time::sleep(self.app.links.wait_before_open(id)).await;
        // The store gives each link an epoch that grows, and ignores a late word of an older one.
        let epoch = match self
            .app
            .store
            .agents()
            .open_link(id, &self.app.fleet.config.holder, self.app.now())
            .await
        {
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
        if self.app.links.open(id, Link::new(epoch, down)) {
            match self.app.store.nodes().quarantine_as_seen(id, &two_machines(id), self.app.now()).await {
                Ok(Cas::Done(_)) => tracing::error!(node = %id, "two machines use the identity of one node"),
                Ok(Cas::Stale | Cas::Gone) => {}
                Err(error) => tracing::warn!(node = %id, %error, "a quarantine could not be recorded"),
            }
        }
        self.app.fleet.nudge.all();
        let silence_max = BEAT_EVERY * BEATS_MISSED_MAX + Duration::from_secs(1);
        let mut heard = Heard::default();
        // Counted from what was heard last, not from what was said to it.
        let mut silent_at = tokio::time::Instant::now() + silence_max;
        let ended = loop {
            tokio::select! {
                () = self.app.shutdown.cancelled() => break None,
                message = queue.recv() => match message {
                    Some(message) => if send(&mut socket, &message).await.is_err() { break Some("it closed") },
                    None => break Some("it was replaced by a newer one, or did not read"),
                },
                () = tokio::time::sleep_until(silent_at) => break Some("two beats were missed"),
                message = socket.recv() => match message {
                    None | Some(Err(_)) | Some(Ok(Message::Close(_))) => break Some("it closed"),
                    Some(Ok(Message::Text(text))) => {
                        silent_at = tokio::time::Instant::now() + silence_max;
                        self.app.links.saw(id, self.app.now(), None);
                        match serde_json::from_str(&text) {
                            Ok(word) => {
                                if !self.hear((id, epoch), word, &mut heard, &mut socket).await {
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
            let mut links = self.app.links.locked();
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
            self.app.fleet.nudge.all();
        }
    }

    async fn lose_link(self, node: NodeId, epoch: i64) -> Result<(), StoreError> {
        let replica = &self.app.fleet.config.holder;
        self.app
            .store
            .agents()
            .link_changed(node, epoch, replica, LinkState::Lost, self.app.now())
            .await
            .map(drop)
    }

    /// Takes an agent's word over the link of that epoch. False if its node is gone.
    async fn hear(
        self,
        (node, epoch): (NodeId, i64),
        word: FromAgent,
        heard: &mut Heard,
        socket: &mut WebSocket,
    ) -> bool {
        let now = self.app.now();
        let written = match word {
            FromAgent::Beat { seq, sshd, way_in, way_in_age_s, clock_ms, .. } => {
                self.app.links.beat(node, epoch, (seq, sshd));
                let _ = send(socket, &ToAgent::Ack { seq }).await;
                // Agents of older versions do not say how old it is.
                let age = Duration::from_secs(way_in_age_s.unwrap_or(0));
                if way_in.as_ref().is_some_and(|found| found.open) {
                    self.app.links.saw(node, now, Some(now.minus(age)));
                }
                self.hear_of_way_in((node, Prober::Agent { link_epoch: epoch, age }), way_in, heard).await;
                self.hear_clock(node, clock_ms, heard).await;
                if heard.facts.is_some() && !self.write_inventory(node, heard).await {
                    return false;
                }
                // The next beat says it again.
                if heard.sshd == Some(sshd) || !self.app.links.may_write(node) {
                    return true;
                }
                heard.sshd = Some(sshd);
                self.app.store.agents().set_agent_sshd(node, epoch, Some(sshd), now).await
            }
            FromAgent::Inventory { facts } => {
                heard.facts = Some(facts);
                return self.write_inventory(node, heard).await;
            }
            FromAgent::Hello { agent_version, boot_id } => {
                if std::mem::replace(&mut heard.hello, true) {
                    return true;
                }
                tracing::debug!(%node, agent_version, "an agent's link is up");
                match self.app.store.agents().record_boot_id(node, &boot_id, now).await {
                    Ok(BootTold::Same) => {}
                    Ok(told) => {
                        tracing::warn!(%node, ?told, "an agent names another kernel than before");
                        self.app.fleet.nudge.all();
                    }
                    Err(error) => tracing::warn!(%node, %error, "a boot id could not be recorded"),
                }
                return true;
            }
            FromAgent::Deadlines { kept } => {
                self.app.links.hear_kept(node, epoch, &kept, now);
                return true;
            }
        };
        match written {
            Ok(Cas::Done(_) | Cas::Stale) => {
                self.app.fleet.nudge.all();
                true
            }
            Ok(Cas::Gone) => false,
            Err(error) => {
                // It is said again with the next beat.
                heard.sshd = None;
                tracing::warn!(%node, %error, "an agent's word could not be recorded");
                true
            }
        }
    }

    /// Writes the machine's inventory, now or with a later beat. False if its node is gone.
    async fn write_inventory(self, node: NodeId, heard: &mut Heard) -> bool {
        if !self.app.links.may_write(node) {
            return true;
        }
        let Some(mut facts) = heard.facts.take() else { return true };
        let devices = std::mem::take(&mut facts.gpu_devices);
        let written = match self.write_gpus(node, &devices).await {
            Ok(()) => self.app.store.nodes().update_facts(node, &facts, self.app.now()).await,
            Err(error) => Err(error),
        };
        match written {
            Ok(Cas::Done(_)) => self.app.fleet.nudge.all(),
            Ok(Cas::Stale) => {}
            Ok(Cas::Gone) => return false,
            Err(error) => {
                facts.gpu_devices = devices;
                heard.facts = Some(facts);
                tracing::warn!(%node, %error, "an agent's inventory could not be recorded");
            }
        }
        true
    }

    /// Writes what the agent's probe found, if it is news. What changes faster than [`WAY_IN_PAUSE`] is written with a
    /// later beat: each repeats it. A login that was seen too long ago is none.
    async fn hear_of_way_in(
        self,
        (node, by): (NodeId, Prober),
        found: Option<WayInReport>,
        heard: &mut Heard,
    ) {
        let Some(found) = found else { return };
        if let Prober::Agent { age, .. } = by
            && found.open
            && age > SEEN_OPEN_FOR
        {
            if heard.way_in.take().is_some() {
                match self.app.store.agents().way_in_not_seen(node, by, self.app.now()).await {
                    Ok(_) => self.app.fleet.nudge.all(),
                    Err(error) => {
                        heard.way_in = Some(found);
                        tracing::warn!(%node, %error, "that no login was seen could not be recorded");
                    }
                }
            }
            return;
        }
        if heard.way_in.as_ref() == Some(&found) {
            return;
        }
        if heard.way_in_at.is_some_and(|at| at.elapsed() < WAY_IN_PAUSE) {
            return;
        }
        heard.way_in_at = Some(Instant::now());
        match self.app.store.agents().set_way_in(node, &found, by, self.app.now()).await {
            Ok(Cas::Done(_)) => self.app.fleet.nudge.all(),
            Ok(Cas::Stale | Cas::Gone) => {}
            Err(error) => {
                tracing::warn!(%node, %error, "what the agent says of the way in could not be recorded");
                return;
            }
        }
        heard.way_in = Some(found);
    }

    /// Compares the node's clock with this machine's; writes when how far it is off has changed much.
    async fn hear_clock(self, node: NodeId, clock_ms: Option<i64>, heard: &mut Heard) {
        let Some(clock_ms) = clock_ms else { return };
        let off = clock_ms.saturating_sub(self.app.now().as_micros() / 1000);
        let told = clock_off_text(off).map(|_| off);
        let is_news = match (heard.clock_off, told) {
            (None, _) => true,
            (Some(None), told) => told.is_some(),
            (Some(Some(_)), None) => true,
            (Some(Some(before)), Some(off)) => {
                before.abs_diff(off) >= u64::try_from(CLOCK_OFF_MIN.as_millis()).unwrap_or(u64::MAX)
            }
        };
        if !is_news || heard.clock_at.is_some_and(|at| at.elapsed() < CLOCK_PAUSE) {
            return;
        }
        match self.app.store.agents().set_clock_off(node, told, self.app.now()).await {
            Ok(written) => {
                heard.clock_off = Some(told);
                if matches!(written, Cas::Done(_)) {
                    heard.clock_at = Some(Instant::now());
                }
            }
            Err(error) => tracing::debug!(%node, %error, "how far a clock is off could not be recorded"),
        }
    }
}

async fn send(socket: &mut WebSocket, message: &ToAgent) -> Result<(), ()> {
    let text = serde_json::to_string(message).map_err(|_| ())?;
    let sent = tokio::time::timeout(Duration::from_secs(5), socket.send(Message::Text(text.into()))).await;
    sent.map_err(|_| ())?.map_err(|_| ())
}
