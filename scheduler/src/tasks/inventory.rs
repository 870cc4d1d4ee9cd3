//! A node is this scheduler's by the share of its number. Starts a watcher for each of its own, hands it what changed,
//! and stops it when the node is gone or another scheduler's.
//!
//! Only versions are read each time, and of the nodes those whose version is news: of ten thousand that is mostly
//! none.

use super::watch;
use crate::{
    context::Scheduler,
    driver::{Report, Task},
};
use orion_domain::{NodeId, Timestamp, node::Node, share::Share};
use orion_store::{ChangesCursor, StoreError};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

struct Watched {
    node: channel::Sender<Arc<Node>>,
    stop: CancellationToken,
}

/// The task that starts and stops watchers; what this scheduler knows of the nodes in the database.
pub struct Inventory {
    watched: HashMap<NodeId, Watched>,
    /// The versions that were read last, of this scheduler's nodes and of the others'.
    versions: HashMap<NodeId, i64>,
    /// Distribution of the nodes among the schedulers at the last read of all.
    shared: Option<Share>,
    /// What is read next; reading all also finds those that are gone.
    cursor: ChangesCursor,
}

impl Default for Inventory {
    fn default() -> Self {
        Self { watched: HashMap::new(), versions: HashMap::new(), shared: None, cursor: ChangesCursor::new() }
    }
}

impl Task for Inventory {
    const NAME: &'static str = "inventory";
    const TAKES_CLAIMS: bool = false;

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        // Until it is known which nodes are whose, none is.
        let Some(share) = scheduler.fleetwide.share() else { return Ok(Report::default()) };
        let now = scheduler.fleet.now();
        let is_shared_anew = self.shared.as_ref() != Some(&share);
        let since = if is_shared_anew { None } else { self.cursor.since(now) };
        let news = self.read(scheduler, share, since).await?;
        self.cursor.advance(since, now);
        Ok(Report::new(news, news))
    }
}

impl Inventory {
    /// Reads the nodes that were written at `since` or later; without it, all. Returns how many are news.
    async fn read(
        &mut self,
        scheduler: &Scheduler,
        share: Share,
        since: Option<Timestamp>,
    ) -> Result<usize, StoreError> {
        let (store, fleetwide) = (&scheduler.fleet.store, &scheduler.fleetwide);
        let versions = store.nodes().versions(since).await?;
        if self.shared.as_ref() != Some(&share) {
            // Each node may be somebody else's now.
            self.versions.clear();
        }
        let is_news =
            |(id, version): &&(NodeId, i64)| self.versions.get(id).is_none_or(|held| held < version);
        let news: Vec<NodeId> = versions.iter().filter(is_news).map(|(id, _)| *id).collect();
        for node in store.nodes().by_ids(&news).await? {
            self.versions.insert(node.id, node.version);
            self.take(scheduler, &share, node);
        }
        if since.is_none() {
            let there: HashSet<NodeId> = versions.iter().map(|(id, _)| *id).collect();
            self.versions.retain(|id, _| there.contains(id));
            self.watched.retain(|id, entry| {
                let keep = there.contains(id);
                if !keep {
                    entry.stop.cancel();
                }
                keep
            });
            fleetwide.keep(|id| there.contains(&id));
            fleetwide.all_read();
            self.shared = Some(share);
        }
        Ok(news.len())
    }

    fn take(&mut self, scheduler: &Scheduler, share: &Share, node: Node) {
        let fleetwide = &scheduler.fleetwide;
        // One that only dials out is alive by its link alone: there is nothing to probe.
        if !share.is_mine(node.id) || node.sshd().is_none() {
            if let Some(entry) = self.watched.remove(&node.id) {
                entry.stop.cancel();
            } else if scheduler.fleet.pool.is_connected(node.id.0) {
                // Work on another scheduler's node, or what went on while the node became its, leaves no session behind.
                scheduler.fleet.pool.let_go(node.id.0);
            }
            fleetwide.apply_db_state(&node);
            return;
        }
        if let Some(entry) = self.watched.get(&node.id) {
            entry.node.send_if_modified(|held| {
                let newer = held.version < node.version;
                if newer {
                    *held = Arc::new(node);
                }
                newer
            });
            return;
        }
        let (id, stop) = (node.id, scheduler.shutdown.child_token());
        fleetwide.watch(&node, scheduler.fleet.now());
        let (sender, receiver) = channel::channel(Arc::new(node));
        scheduler.spawn(watch::run(scheduler.clone(), receiver, stop.clone()));
        self.watched.insert(id, Watched { node: sender, stop });
    }
}
