//! How the database and the schedulers are: who asks at the same time shares one look. Anybody may ask, without a
//! login: that must not load the database.

use super::Operations;
use orion_domain::{Timestamp, brake::Brake};
use orion_store::{Replica, TaskStatus};
use std::{collections::BTreeMap, time::Duration};

/// A scheduler that has not written its heartbeat for so long is down.
pub const SCHEDULER_SILENT: Duration = Duration::from_secs(30);

/// Result of one look at the health.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whether the database takes transactions.
    pub database: bool,
    /// Time of a scheduler's last pass.
    pub last_pass: Option<Timestamp>,
    /// State of the brake; `None` while it cannot be read from the database.
    pub brake: Option<Brake>,
    /// Each background task of the schedulers, by name; of several schedulers that in the worst state.
    pub tasks: Vec<TaskStatus>,
}

impl Operations<'_> {
    /// Returns the present health of the database and the schedulers.
    pub async fn look_at_health(self) -> Seen {
        self.app.health.get(self.look()).await
    }

    async fn look(self) -> Seen {
        if !self.app.store.is_healthy().await {
            return Seen { database: false, last_pass: None, brake: None, tasks: Vec::new() };
        }
        let replicas = self.app.store.cluster().replicas().await.unwrap_or_default();
        let live_since = self.app.now().minus(SCHEDULER_SILENT);
        let tasks = self.app.store.cluster().task_statuses(live_since).await.unwrap_or_default();
        let passes = replicas.iter().filter(|replica| replica.kind == Replica::SCHEDULER);
        Seen {
            database: true,
            last_pass: passes.map(|replica| replica.beat_at).max(),
            brake: self.app.store.cluster().brake().await.ok(),
            tasks: worst_of_each(tasks),
        }
    }
}

/// Returns one status of each task: the worst, and of equally bad ones the newest.
fn worst_of_each(statuses: Vec<TaskStatus>) -> Vec<TaskStatus> {
    let mut worst: BTreeMap<String, TaskStatus> = BTreeMap::new();
    for status in statuses {
        let rank = |status: &TaskStatus| (status.state, status.last_run);
        if worst.get(&status.name).is_none_or(|known| rank(known) < rank(&status)) {
            worst.insert(status.name.clone(), status);
        }
    }
    worst.into_values().collect()
}
