//! What the holder of a claim on a node knows of it, put together from the rows of the node and of its leases.
//!
//! Does not live here: taking and keeping the claim (`claim`).

use crate::{engine::Result, nodes::row::NodeRecord};
use orion_domain::{
    LeaseId, Timestamp,
    lease::{Account, Lease, LeaseState},
    node::Node,
    reconcile::Desired,
};

/// A node's row under a short claim: what its holder has to do there, and how it proves later that it
/// still holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeClaim {
    /// The node as it is under the claim.
    pub node: Node,
    /// The proof: results are written `WHERE claim_token = token`.
    pub token: String,
    /// Higher than every epoch this node was worked on with before.
    pub epoch: u64,
    /// The desired version that was read with the claim: see [`Self::version_when_done`].
    pub desired_version: i64,
    /// Whether the node was clean before the one change that this claim is for (`applied + 1 == desired`).
    pub was_clean_before: bool,
    /// What the node should hold of each lease.
    pub desired: Vec<Desired>,
    /// The holds on the node, each with the version that was read with the claim.
    pub holds: Vec<(LeaseId, i64)>,
    /// The leases in `Releasing` or `Yielding` on the node, each with the account to remove, if it has one.
    pub retiring: Vec<(LeaseId, Option<Account>)>,
    /// Whether a lease on the node has had containers: then its engine is looked at, too.
    pub has_containers: bool,
    /// ULIDs of the leases that are just on their way off the node, which is drained: what runs of them there runs until
    /// they are confirmed on their new nodes.
    pub departing: Vec<String>,
}

impl NodeClaim {
    /// Returns the only lease that the node has work for: whose account is to be there, or is to go. None when there
    /// are several, or none.
    pub fn lease(&self) -> Option<LeaseId> {
        let leases = self.desired.iter().map(|desired| desired.lease);
        let mut leases = leases.chain(self.retiring.iter().map(|(lease, _)| *lease));
        leases.next().filter(|_| leases.next().is_none())
    }

    /// Returns the version that the node has once the work under this claim is done. A node with something of a lease that
    /// departs has to be looked at once more, when that lease is away.
    pub fn version_when_done(&self) -> i64 {
        let open = i64::from(!self.departing.is_empty());
        self.node.applied_version.max(self.desired_version - open)
    }

    /// Returns what the node should hold of the lease.
    pub fn desired_of(&self, lease: LeaseId) -> Option<&Desired> {
        self.desired.iter().find(|desired| desired.lease == lease)
    }

    /// Returns whether what the node has of the lease is to be removed.
    pub fn retires(&self, lease: LeaseId) -> bool {
        self.retiring.iter().any(|(retiring, _)| *retiring == lease)
    }

    /// Returns the account of the lease that the node should remove.
    pub fn retiring_of(&self, lease: LeaseId) -> Option<&Account> {
        self.retiring.iter().find(|(retiring, _)| *retiring == lease)?.1.as_ref()
    }

    /// Returns how many other leases than this one the node has accounts of.
    pub fn others_than(&self, lease: LeaseId) -> usize {
        let desired =
            self.desired.iter().filter(|known| known.lease != lease && known.account.is_some()).count();
        let retiring = self.retiring.iter().filter(|(known, account)| *known != lease && account.is_some());
        desired + retiring.count()
    }
}

/// Puts together what a claim's holder has to know.
pub(crate) fn node_claim(
    record: NodeRecord,
    token: String,
    (leases, holds): (&[Lease], Vec<(LeaseId, i64)>),
    now: Timestamp,
) -> Result<NodeClaim> {
    let epoch = u64::try_from(record.epoch).unwrap_or(0);
    let node = Node::try_from(record)?;
    // A lease that lost the node when its drain was due is not given back before the drain is over.
    let wants = |lease: &&Lease| {
        lease.state.wants_account_on() == Some(node.id)
            && (node.accepts_return_of(now) || !matches!(lease.state, LeaseState::Migrating { to: None, .. }))
    };
    let retires = |lease: &&Lease| match &lease.state {
        LeaseState::Releasing { node: held, .. } | LeaseState::Yielding { node: held, .. } => {
            *held == node.id
        }
        LeaseState::Requested
        | LeaseState::Scheduled { .. }
        | LeaseState::Queued { .. }
        | LeaseState::Provisioning { .. }
        | LeaseState::Active { .. }
        | LeaseState::Migrating { .. }
        | LeaseState::Ended { .. } => false,
    };
    let desired = |lease: &Lease| Desired {
        lease: lease.id,
        ulid: lease.ulid.clone(),
        phase: lease.state.phase(),
        account: lease.account.clone(),
        until: lease.until,
    };
    Ok(NodeClaim {
        token,
        epoch,
        desired_version: node.desired_version,
        was_clean_before: node.applied_version + 1 == node.desired_version && node.quarantine.is_none(),
        holds,
        desired: leases.iter().filter(wants).map(desired).collect(),
        has_containers: leases.iter().any(|lease| lease.containers > 0),
        retiring: leases.iter().filter(retires).map(|lease| (lease.id, lease.account.clone())).collect(),
        departing: Vec::new(),
        node,
    })
}
