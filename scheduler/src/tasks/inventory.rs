//! Which nodes there are, and which are this scheduler's: starts a watcher for each of its own, hands it what
//! changed, and stops it when the node is gone or another scheduler's.

use super::{next_look, watch};
use crate::Scheduler;
use orion_domain::{NodeId, Timestamp, node::Node, share::Share};
use orion_fleet::CHANGES_OVERLAP;
use orion_store::StoreError;
use std::{collections::HashMap, time::Duration};
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

/// How often all nodes are read, which also finds those that are gone.
const READ_ALL_EVERY: Duration = Duration::from_secs(30);

struct Watched {
    node: channel::Sender<Node>,
    stop: CancellationToken,
}

/// Keeps the watchers until shutdown.
pub async fn run(scheduler: Scheduler) {
    let mut nudged = scheduler.fleet.nudge.listen();
    let mut watched: HashMap<NodeId, Watched> = HashMap::new();
    let mut since = Timestamp::from_micros(0);
    let mut read_all = since;
    let mut shared: Option<Share> = None;
    loop {
        let now = scheduler.fleet.now();
        // Until it is known which nodes are whose, none is.
        if let Some(share) = scheduler.fleetwide.share() {
            let all = now.since(read_all) >= READ_ALL_EVERY || shared.as_ref() != Some(&share);
            match look(&scheduler, &share, &mut watched, all, since).await {
                Ok(()) => {
                    since = now.minus(CHANGES_OVERLAP);
                    if all {
                        read_all = now;
                        shared = Some(share);
                    }
                }
                Err(error) => tracing::warn!(%error, "the nodes could not be read"),
            }
        }
        if !next_look(&scheduler, &mut nudged, scheduler.config.look_every).await {
            return;
        }
    }
}

async fn look(
    scheduler: &Scheduler,
    share: &Share,
    watched: &mut HashMap<NodeId, Watched>,
    all: bool,
    since: Timestamp,
) -> Result<(), StoreError> {
    let (store, fleetwide) = (&scheduler.fleet.store, &scheduler.fleetwide);
    let nodes = if all { store.nodes_all().await? } else { store.nodes_changed_since(since).await? };
    if all {
        let there: std::collections::HashSet<NodeId> = nodes.iter().map(|node| node.id).collect();
        watched.retain(|id, entry| {
            let keep = there.contains(id);
            if !keep {
                entry.stop.cancel();
            }
            keep
        });
        fleetwide.keep(|id| there.contains(&id));
    }
    for node in nodes {
        if !share.is_mine(node.id) {
            if let Some(entry) = watched.remove(&node.id) {
                entry.stop.cancel();
            }
            fleetwide.hear_of(&node);
            continue;
        }
        match watched.get(&node.id) {
            Some(entry) => {
                entry.node.send_if_modified(|held| {
                    let newer = held.version < node.version;
                    if newer {
                        held.clone_from(&node);
                    }
                    newer
                });
            }
            None => {
                let stop = scheduler.shutdown.child_token();
                let (sender, receiver) = channel::channel(node.clone());
                fleetwide.watch(&node, scheduler.fleet.now());
                scheduler.spawn(watch::run(scheduler.clone(), receiver, stop.clone()));
                watched.insert(node.id, Watched { node: sender, stop });
            }
        }
    }
    if all {
        fleetwide.all_read();
    }
    Ok(())
}
