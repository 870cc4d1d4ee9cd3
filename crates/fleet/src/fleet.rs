//! The parts that work on nodes, in one bundle: store, SSH pool, playbooks, clock.

use crate::{ContainerNetworks, Firewalls, Metrics, Nudge, Pulls, Turns, playbook::Playbooks};
use orion_containers::Engines;
use orion_domain::{Clock, Secret, Timestamp, agent::DEADLINE_GRACE_S, node::Node};
use orion_ssh::{HostKey, Pool, Target};
use orion_store::{Store, StoreError};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Interval at which a process reports in the database that it is alive.
pub const REPLICA_BEAT_EVERY: Duration = Duration::from_secs(2);
/// A process that has not said so for this long is taken to be gone.
pub const REPLICA_STALE_AFTER: Duration = Duration::from_secs(8);
/// Silence of an engine after which its containers count as lost.
pub const ENGINE_LOST_AFTER: Duration = Duration::from_secs(120);

/// Opens what is sealed: what it is bound to (of a container's specification its ULID), and the sealed bytes. The error is
/// for people.
pub type OpenSpec = Arc<dyn Fn(&str, &[u8]) -> Result<Secret, String> + Send + Sync>;

/// Limits of the work on nodes.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Name of this process in row claims; unique among all processes that share the database.
    pub holder: String,
    /// Lifetime of a row claim unless it is renewed (it is, at a third of this time).
    pub claim_ttl: Duration,
    /// Time after a lease's end at which the node itself closes the login, in seconds.
    pub deadline_grace_s: u64,
    /// Nodes that a lease tries one after another before its provisioning fails.
    pub nodes_tried_max: u32,
    /// Networks and ports of containers.
    pub networks: ContainerNetworks,
    /// Silence of a container engine after which its containers count as lost.
    pub engine_lost_after: Duration,
}

impl FleetConfig {
    /// The defaults for a process called `holder`.
    pub fn new(holder: impl Into<String>) -> Self {
        Self {
            holder: holder.into(),
            claim_ttl: Duration::from_secs(10),
            deadline_grace_s: DEADLINE_GRACE_S,
            nodes_tried_max: 8,
            networks: ContainerNetworks::default(),
            engine_lost_after: ENGINE_LOST_AFTER,
        }
    }
}

/// Shared parts of every service that works on nodes. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Parts>);

/// The parts of a [`Fleet`].
pub struct Parts {
    /// The database.
    pub store: Store,
    /// Control sessions to the nodes.
    pub pool: Pool,
    /// Container engines of the nodes, through the same sessions.
    pub engines: Engines,
    /// Opens what is sealed of a container's specification.
    pub open_spec: OpenSpec,
    /// Opens the passwords of users at registries of images.
    pub open_login: OpenSpec,
    /// The pulls of images that go on.
    pub pulls: Pulls,
    /// Playbooks that are run on the nodes.
    pub playbooks: Playbooks,
    /// Source of the current time.
    pub clock: Arc<dyn Clock>,
    /// Limits.
    pub config: FleetConfig,
    /// Wakes the loops of this process.
    pub nudge: Nudge,
    /// Whether this machine's clock is too far off the database's to take claims, or was not compared yet.
    pub clock_is_off: AtomicBool,
    /// Metrics of this process.
    pub metrics: Metrics,
    /// What the firewalls of nodes were told.
    pub firewalls: Firewalls,
    /// Who of this process asks for the claim of a node.
    pub turns: Turns,
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

    /// Returns the difference between this machine's clock and the database's if it exceeds `at_most`; then
    /// no claims are taken until the clock is right.
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
/// A stored host key that does not parse, or that it is not dialled at all, for people.
pub fn target_of(node: &Node) -> Result<Target, String> {
    let sshd = node.sshd().ok_or("it dials out, and is not reached over SSH")?;
    let host_keys = sshd
        .host_keys
        .iter()
        .map(|line| line.parse::<HostKey>().map_err(|error| format!("stored host key: {error}")))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Target { node_id: node.id.0, host: sshd.addr.as_str().to_owned(), port: sshd.port.get(), host_keys })
}
