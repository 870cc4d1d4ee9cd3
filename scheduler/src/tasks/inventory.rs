//! Which nodes there are: starts a watcher for each, hands it what changed, and stops it when the node is
//! gone.

use super::{next_look, watch};
use crate::{Scheduler, fleetwide::Sight};
use orion_domain::{
    NodeId, Timestamp,
    node::{Admission, Node},
};
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
    loop {
        let now = scheduler.fleet.now();
        let all = now.since(read_all) >= READ_ALL_EVERY;
        match look(&scheduler, &mut watched, all, since).await {
            Ok(()) => {
                since = now.minus(CHANGES_OVERLAP);
                if all {
                    read_all = now;
                }
            }
            Err(error) => tracing::warn!(%error, "the nodes could not be read"),
        }
        if !next_look(&scheduler, &mut nudged, scheduler.config.look_every).await {
            return;
        }
    }
}

async fn look(
    scheduler: &Scheduler,
    watched: &mut HashMap<NodeId, Watched>,
    all: bool,
    since: Timestamp,
) -> Result<(), StoreError> {
    let store = &scheduler.fleet.store;
    let nodes = if all { store.nodes_all().await? } else { store.nodes_changed_since(since).await? };
    if all {
        let there: std::collections::HashSet<NodeId> = nodes.iter().map(|node| node.id).collect();
        watched.retain(|id, entry| {
            let keep = there.contains(id);
            if !keep {
                entry.stop.cancel();
                scheduler.fleetwide.forget(*id);
            }
            keep
        });
    }
    for node in nodes {
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
                if node.admission == Admission::Admitted {
                    scheduler.fleetwide.see(node.id, Sight::unseen(node.health));
                }
                scheduler.spawn(watch::run(scheduler.clone(), receiver, stop.clone()));
                watched.insert(node.id, Watched { node: sender, stop });
            }
        }
    }
    if all {
        scheduler.fleetwide.all_read();
    }
    Ok(())
}
