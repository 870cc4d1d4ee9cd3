//! The parts that work on nodes, in one bundle: store, SSH pool, playbooks, clock.

use crate::{Metrics, Nudge, playbook::Playbooks};
use orion_domain::{Clock, Timestamp, agent::DEADLINE_GRACE_S, node::Node};
use orion_ssh::{HostKey, Pool, Target};
use orion_store::{Store, StoreError};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How often a process says in the database that it lives.
pub const REPLICA_BEAT_EVERY: Duration = Duration::from_secs(2);
/// A process that has not said so for this long is taken to be gone.
pub const REPLICA_STALE_AFTER: Duration = Duration::from_secs(8);

/// How far this machine's clock may be off the database's: a process that is further off takes no claims.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(2);

/// How far back each look at the nodes that changed goes: longer than any transaction may live.
pub const CHANGES_OVERLAP: Duration = Duration::from_secs(8);

/// Limits of the work on nodes.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// This process's name in row claims; unique among all that share the database.
    pub holder: String,
    /// How long a row claim lasts unless it is renewed (it is, at a third of this).
    pub claim_ttl: Duration,
    /// First uid for accounts.
    pub first_uid: u32,
    /// Last uid for accounts.
    pub last_uid: u32,
    /// How long after a lease's end the node itself closes the login, in seconds.
    pub deadline_grace_s: u64,
    /// Nodes that a lease tries one after another before its provisioning fails.
    pub nodes_tried_max: u32,
}

impl FleetConfig {
    /// The defaults for a process called `holder`.
    pub fn new(holder: impl Into<String>) -> Self {
        Self {
            holder: holder.into(),
            claim_ttl: Duration::from_secs(10),
            first_uid: 200_000,
            last_uid: 60_000_000,
            deadline_grace_s: DEADLINE_GRACE_S,
            nodes_tried_max: 8,
        }
    }
}

/// What every service that works on nodes holds. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Parts>);

/// The parts of a [`Fleet`].
pub struct Parts {
    /// The database.
    pub store: Store,
    /// Control sessions to the nodes.
    pub pool: Pool,
    /// What is run on them.
    pub playbooks: Playbooks,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Limits.
    pub config: FleetConfig,
    /// Wakes the loops of this process.
    pub nudge: Nudge,
    /// Whether this machine's clock is too far off the database's to take claims, or was not compared yet.
    pub clock_is_off: AtomicBool,
    /// What this process counts.
    pub metrics: Metrics,
}

impl Fleet {
    /// Bundles `parts`.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Whether this process may take claims: its clock agrees with the database's.
    pub fn may_claim(&self) -> bool {
        !self.0.clock_is_off.load(Ordering::Relaxed)
    }

    /// How far this machine's clock is off the database's, if that is more than `at_most`; then no claims are taken
    /// until it is right.
    ///
    /// # Errors
    /// The database's: nothing is known then.
    pub async fn check_clock(&self, at_most: Duration) -> Result<Option<Duration>, StoreError> {
        let before = self.now();
        let theirs = self.0.store.now().await?;
        // The database's word lies between the two; how long it took must not count as skew.
        let skew = before.since(theirs).max(theirs.since(self.now()));
        let skew = (skew > at_most).then_some(skew);
        self.0.clock_is_off.store(skew.is_some(), Ordering::Relaxed);
        Ok(skew)
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}

impl std::ops::Deref for Fleet {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// How `node` is dialled.
///
/// # Errors
/// A stored host key that does not parse, for people.
pub fn target_of(node: &Node) -> Result<Target, String> {
    let host_keys = node
        .host_keys
        .iter()
        .map(|line| line.parse::<HostKey>().map_err(|error| format!("stored host key: {error}")))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Target {
        node_id: node.id.0,
        host: node.addr.as_str().to_owned(),
        port: node.ssh_port.get(),
        host_keys,
    })
}
