//! Which nodes there are, and which are this scheduler's: starts a watcher for each of its own, hands it what
//! changed, and stops it when the node is gone or another scheduler's.
//!
//! Only versions are read each time, and of the nodes those whose version is news: of ten thousand that is mostly
//! none.

use super::{next_look, rest, watch};
use crate::Scheduler;
use orion_domain::{NodeId, Timestamp, node::Node, share::Share};
use orion_fleet::CHANGES_OVERLAP;
use orion_store::StoreError;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

/// How often the versions of all nodes are read, which also finds those that are gone.
const READ_ALL_EVERY: Duration = Duration::from_secs(30);

struct Watched {
    node: channel::Sender<Arc<Node>>,
    stop: CancellationToken,
}

/// What this scheduler knows of the nodes in the database.
#[derive(Default)]
struct Inventory {
    watched: HashMap<NodeId, Watched>,
    /// The versions that were read last, of this scheduler's nodes and of the others'.
    versions: HashMap<NodeId, i64>,
    /// How the nodes were shared then.
    shared: Option<Share>,
}

/// Keeps the watchers until shutdown.
pub async fn run(scheduler: Scheduler) {
    let mut nudged = scheduler.fleet.nudge.listen();
    let mut inventory = Inventory::default();
    let mut since = Timestamp::from_micros(0);
    let mut read_all = since;
    loop {
        let (now, began) = (scheduler.fleet.now(), Instant::now());
        // Until it is known which nodes are whose, none is.
        if let Some(share) = scheduler.fleetwide.share() {
            let all = now.since(read_all) >= READ_ALL_EVERY || inventory.shared.as_ref() != Some(&share);
            match inventory.look(&scheduler, share, (!all).then_some(since)).await {
                Ok(()) => {
                    since = now.minus(CHANGES_OVERLAP);
                    if all {
                        read_all = now;
                    }
                }
                Err(error) => tracing::warn!(%error, "the nodes could not be read"),
            }
        }
        rest(began).await;
        if !next_look(&scheduler, &mut nudged, scheduler.config.look_every).await {
            return;
        }
    }
}

impl Inventory {
    /// Looks at the nodes that were written at `since` or later; without it, at all.
    async fn look(
        &mut self,
        scheduler: &Scheduler,
        share: Share,
        since: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let (store, fleetwide) = (&scheduler.fleet.store, &scheduler.fleetwide);
        let versions = store.node_versions(since).await?;
        if self.shared.as_ref() != Some(&share) {
            // Each node may be somebody else's now.
            self.versions.clear();
        }
        let is_news =
            |(id, version): &&(NodeId, i64)| self.versions.get(id).is_none_or(|held| held < version);
        let news: Vec<NodeId> = versions.iter().filter(is_news).map(|(id, _)| *id).collect();
        for node in store.nodes_of(&news).await? {
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
        Ok(())
    }

    fn take(&mut self, scheduler: &Scheduler, share: &Share, node: Node) {
        let fleetwide = &scheduler.fleetwide;
        if !share.is_mine(node.id) {
            if let Some(entry) = self.watched.remove(&node.id) {
                entry.stop.cancel();
            }
            fleetwide.hear_of(&node);
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
