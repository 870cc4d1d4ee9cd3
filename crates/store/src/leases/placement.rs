//! What is asked of a placement, and what comes of it. How it is done is in `place`, `slice` and `waiting`.

use crate::{
    engine::{Fault, Result, Tx},
    idempotency::{IdemNew, IdemRow},
    nodes::claimed::{NodeClaim, node_claim},
};
use orion_domain::{
    NodeId, Secret, Timestamp, UserId,
    lease::{Holding, Lease, OnNodeLoss},
    names::{LeaseName, Tag, UnixName},
};
use std::time::Duration;

/// The login of one lease to be.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// The crypt(3) hash.
    pub password_hash: Secret,
    /// One line of `authorized_keys`.
    pub public_key: Option<String>,
}

/// A container that a lease begins with.
#[derive(Clone, Debug)]
pub struct FirstContainer {
    /// Name that the owner gave; none for one made of the number.
    pub name: Option<String>,
    /// The specification without the values of `env` and `files`, as JSON.
    pub spec: String,
    /// 26 characters that no other container has; the sealed part is bound to them.
    pub uid: String,
    /// The values of `env` and `files`, sealed by the caller.
    pub spec_sealed: Vec<u8>,
    /// Thousandths of a core that it needs at least.
    pub cpu_milli: Option<u32>,
    /// Memory in MiB that it needs at least.
    pub memory_mb: Option<u32>,
    /// Number of GPUs that it needs.
    pub gpus: u32,
}

/// A wish for `count` nodes, now.
#[derive(Clone, Debug)]
pub struct PlaceRequest {
    /// The owner.
    pub user: UserId,
    /// The account's name on the nodes.
    pub username: UnixName,
    /// Number of leases; all of them are placed, or none.
    pub count: usize,
    /// Start of the leases.
    pub from: Timestamp,
    /// End of the leases.
    pub until: Timestamp,
    /// Name of the leases; for `count > 1` they are called `name-1`, `name-2` …
    pub name: Option<LeaseName>,
    /// One for each lease, in the order of the reply; none at all for leases that give no login.
    pub accounts: Vec<NewAccount>,
    /// Tags that every node must have.
    pub tags: Vec<Tag>,
    /// Part of its node that each lease holds.
    pub holding: Holding,
    /// One for each lease, which its node is to run from the beginning; or none.
    pub containers: Vec<FirstContainer>,
    /// Reaction to the loss of a node.
    pub on_node_loss: OnNodeLoss,
    /// Largest number of nodes that the owner may have at once; none for any number.
    pub nodes_max: Option<u32>,
    /// Groups the leases of one request; unique for it.
    pub request_key: String,
    /// The client's idempotency key, if it sent one: then the leases are finished after a crash.
    pub idem: Option<IdemNew>,
    /// How long the scheduler leaves the nodes to who provisions.
    pub first_turn: Duration,
    /// The first uid of Orion's range.
    pub first_uid: u32,
    /// The last uid of Orion's range.
    pub last_uid: u32,
    /// The time.
    pub now: Timestamp,
}

/// A lease on its node, which nobody has claimed for it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Lease as it was when it got the node.
    pub lease: Lease,
    pub(super) node: NodeId,
    /// What the next claim on the node tells, if nothing happens to it before: without a token, and with the epoch
    /// before. None for a slice: to others of its node much happens, and to read all of them would hold up whoever places on
    /// the same node.
    pub(crate) ahead: Option<NodeClaim>,
}

impl Placement {
    /// A lease that has just got its node in this transaction, with the node as it is by now.
    pub(super) async fn read(tx: &mut Tx, lease: Lease, node: NodeId, now: Timestamp) -> Result<Self> {
        if !lease.holding.is_whole() {
            return Ok(Self { lease, node, ahead: None });
        }
        let Some(record) = tx.node_record(node).await? else {
            return Err(Fault::Retry("the node vanished".into()));
        };
        let (leases, holds) = (tx.leases_on(node).await?, tx.holds_on(node).await?);
        let ahead = Some(node_claim(record, String::new(), (&leases, holds), now)?);
        Ok(Self { lease, node, ahead })
    }

    /// Returns the node that it was placed on.
    pub const fn node(&self) -> NodeId {
        self.node
    }
}

/// Outcome of a [`PlaceRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceOutcome {
    /// All of them.
    Placed(Vec<Placement>),
    /// No placements: only `found` nodes are free, and the next running lease ends at `next_end`.
    TooFew {
        /// Number of leases that would have fitted.
        found: usize,
        /// End of the lease that ends next.
        next_end: Option<Timestamp>,
    },
    /// The owner has a live lease of that name (or `name-N` is no lease name).
    NameTaken(String),
    /// The idempotency key was used before; nothing was written.
    Replayed(IdemRow),
    /// Orion's uid range is used up.
    UidsExhausted,
    /// The owner has so many nodes already, and may not have as many more.
    QuotaOfNodes {
        /// Leases that have not ended.
        have: u32,
    },
    /// The owner's account is disabled, or gone.
    Disabled,
}
