//! The agents' links that this replica holds: who beats, and what is pushed down to them.
//!
//! The database sees only the *change* of a link. Beats stay in memory; `last_seen` goes to the database in
//! batches.

use super::{kept::Kept, pace::Pace};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    agent::{BEAT_EVERY, KeptDeadline, ToAgent},
    node::LockOrder,
};
use orion_store::Sighting;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Shortest life of a link before a newer one of its node takes its place.
const LINK_PAUSE: Duration = Duration::from_secs(1);
/// Number of links of one node, alive and replaced within [`REPLACED_WITHIN`], that are taken for those
/// of two machines.
const REPLACED_MAX: usize = 4;
/// See [`REPLACED_MAX`].
const REPLACED_WITHIN: Duration = Duration::from_secs(60);

/// WebSocket of one agent to this replica, and what was last heard and said over it.
pub struct Link {
    pub(super) epoch: i64,
    down: mpsc::Sender<ToAgent>,
    pub(super) pushed_version: i64,
    /// The order to lock the node's accounts that was not passed on yet, and the last one that was.
    pub(super) lock: Option<LockOrder>,
    pub(super) locked: Option<LockOrder>,
    /// The last beat's number, and whether the agent saw its sshd answer.
    beat: Option<(u64, bool)>,
    /// Opening of the link; `heard` is the time at which anything was last heard over it.
    opened: Instant,
    heard: Instant,
    /// What the node keeps of its lease.
    pub(super) kept: Kept,
}

impl Link {
    pub(super) fn new(epoch: i64, down: mpsc::Sender<ToAgent>) -> Self {
        let now = Instant::now();
        Self {
            epoch,
            down,
            pushed_version: -1,
            lock: None,
            locked: None,
            beat: None,
            opened: now,
            heard: now,
            kept: Kept::default(),
        }
    }

    /// Returns the message for an order to lock; `None` if the order rests on an sshd that is down and the
    /// last beat does not say so.
    fn order(&self, brake: bool) -> Option<ToAgent> {
        match (self.lock?.observed_at, self.beat) {
            (None, _) => Some(ToAgent::LockAccounts { rests_on_beat: None }),
            (Some(_), Some((seq, false))) if !brake => {
                Some(ToAgent::LockAccounts { rests_on_beat: Some(seq) })
            }
            (Some(_), Some(_) | None) => None,
        }
    }
}

/// The registry of links.
pub struct Links {
    most: usize,
    links: Mutex<HashMap<NodeId, Link>>,
    pub(super) seen: Mutex<HashMap<NodeId, Sighting>>,
    /// Allowance that each node has left for writes of what it reports about itself.
    paces: Mutex<HashMap<NodeId, Pace>>,
    /// Times at which a link that was alive was replaced by a newer one of the same node.
    replaced: Mutex<HashMap<NodeId, Vec<Instant>>>,
}

impl Links {
    /// A registry for at most `most` links.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            links: Mutex::default(),
            seen: Mutex::default(),
            paces: Mutex::default(),
            replaced: Mutex::default(),
        }
    }

    /// Whether one more link may be opened.
    pub fn has_room(&self) -> bool {
        self.count() < self.most
    }

    /// Returns the number of links that this replica holds.
    pub fn count(&self) -> usize {
        self.locked().len()
    }

    /// Tells the agent of a node that is gone to register again, and closes its link.
    pub fn register_again(&self, node: NodeId) {
        self.push(node, ToAgent::RegisterAgain);
        // The link's loop ends when it has sent what is in the queue.
        self.locked().remove(&node);
    }

    pub(super) fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, node: NodeId, message: ToAgent) {
        let mut links = self.locked();
        let full = links.get(&node).is_some_and(|link| link.down.try_send(message).is_err());
        if full {
            // Dropping the sender ends the link's loop.
            links.remove(&node);
        }
    }

    /// Whether an order to lock waits to be passed on.
    pub(super) fn any_to_lock(&self) -> bool {
        self.locked().values().any(|link| link.lock.is_some())
    }

    /// Passes the orders to lock on, once each.
    pub(super) fn pass_locks_on(&self, brake: bool) {
        let due: Vec<(NodeId, ToAgent)> = {
            let mut links = self.locked();
            let due = links.iter_mut().filter_map(|(id, link)| {
                let order = link.order(brake)?;
                link.locked = link.lock.take();
                Some((*id, order))
            });
            due.collect()
        };
        for (node, order) in due {
            tracing::warn!(%node, ?order, "an agent is told to lock its accounts");
            self.push(node, order);
        }
    }

    /// Returns the time that a new link of the node has to wait: one that replaces another at once, again and
    /// again, must not cost a write each time.
    pub(super) fn wait_before_open(&self, node: NodeId) -> Duration {
        let age = self.locked().get(&node).map(|link| link.opened.elapsed());
        age.map_or(Duration::ZERO, |age| LINK_PAUSE.saturating_sub(age))
    }

    /// Takes a new link in. Whether two agents throw each other out of it: one agent dials again only when its link
    /// is gone.
    pub(super) fn open(&self, node: NodeId, link: Link) -> bool {
        let before = self.locked().insert(node, link);
        let was_alive = before.is_some_and(|before| before.heard.elapsed() < BEAT_EVERY + LINK_PAUSE);
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        if !was_alive {
            return false;
        }
        replaced.retain(|_, times| times.iter().any(|at| at.elapsed() < REPLACED_WITHIN));
        let times = replaced.entry(node).or_default();
        times.retain(|at| at.elapsed() < REPLACED_WITHIN);
        times.push(Instant::now());
        times.len() >= REPLACED_MAX
    }

    /// Nodes that keep something else of their lease than they should, for long enough.
    pub(super) fn doubts(&self, slack: Duration) -> Vec<(NodeId, LeaseId, String)> {
        let now = Instant::now();
        let mut links = self.locked();
        let doubt = |(id, link): (&NodeId, &mut Link)| {
            link.kept.doubt(slack, now).map(|(lease, why)| (*id, lease, why))
        };
        links.iter_mut().filter_map(doubt).collect()
    }

    /// A node told what it keeps.
    pub(super) fn hear_kept(&self, node: NodeId, epoch: i64, kept: &[KeptDeadline], now: Timestamp) {
        if let Some(link) = self.locked().get_mut(&node).filter(|link| link.epoch == epoch) {
            link.kept.hear(kept, now);
        }
    }

    /// A beat came over the link of that epoch.
    pub(super) fn beat(&self, node: NodeId, epoch: i64, beat: (u64, bool)) {
        if let Some(link) = self.locked().get_mut(&node).filter(|link| link.epoch == epoch) {
            link.beat = Some(beat);
            link.heard = Instant::now();
        }
    }

    /// Whether one more change of what the node says of itself may be written now.
    pub(super) fn may_write(&self, node: NodeId) -> bool {
        let (mut paces, now) = (self.paces.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        paces.entry(node).or_insert_with(|| Pace::new(now)).take(now)
    }

    /// The node was heard of now; `open_at` is when its agent saw a login work, if it said that.
    pub(super) fn saw(&self, node: NodeId, at: Timestamp, open_at: Option<Timestamp>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let sighting = seen.entry(node).or_insert(Sighting { last_seen: at, open_at: None });
        sighting.last_seen = at;
        sighting.open_at = open_at.or(sighting.open_at);
    }
}
