//! The life of a lease: its states, and the only ways from one to the next.
//!
//! Pure: `now` is the caller's, nothing here waits or writes. A transition consumes the state and gives
//! the next one with the event that tells of it, or a [`Refused`] that says from where what was tried.
//! The store writes both in one transaction.

mod event;
mod holding;
mod phase;
mod waiting;

pub use event::LeaseEvent;
pub use holding::{Holding, Share, cores};
pub use phase::Phase;

use crate::{
    LeaseId, NodeId, Refused, Secret, Timestamp, UserId,
    names::{LeaseName, UnixName},
};
use serde::{Deserialize, Serialize};

/// Policy for a lease whose node is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNodeLoss {
    /// Moves the lease to another node, or back to its own if that returns first.
    #[default]
    Migrate,
    /// Keeps the lease `migrating` until its own node returns.
    Wait,
    /// Ends the lease.
    End,
}

/// Reason for the end of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum EndReason {
    /// Release by the owner or an admin.
    Released,
    /// End of the lease's time.
    Expired,
    /// Loss of the node of a lease with the policy `end`.
    NodeLost,
    /// Drain of the node of a lease with the policy `end`.
    Drained,
    /// An admin reset the system.
    Reset,
    /// Failure to provide the lease; the text gives the reason.
    Failed {
        /// Human-readable reason of the failure.
        detail: String,
    },
}

impl std::fmt::Display for EndReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Released => f.write_str("released"),
            Self::Expired => f.write_str("its time was up"),
            Self::NodeLost => f.write_str("its node was lost, and its policy is to end then"),
            Self::Drained => f.write_str("its node was drained, and its policy is to end then"),
            Self::Reset => f.write_str("an admin reset the system"),
            Self::Failed { detail } => write!(f, "failed: {detail}"),
        }
    }
}

/// State in the life of a lease. Times of entry are kept beside the state ([`Lease::since`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Somebody has to approve it. It has no node.
    Requested,
    /// It begins later. It has no node yet.
    Scheduled {
        /// What keeps it from its node, if anything does.
        reason: Option<String>,
    },
    /// It has no node, and takes one as soon as there is room.
    Queued {
        /// What it waits for.
        reason: String,
    },
    /// The account is being made on `node`.
    Provisioning {
        /// Node on which the login works.
        node: NodeId,
    },
    /// The login works on `node`.
    Active {
        /// Node on which the login works.
        node: NodeId,
    },
    /// `from` was lost, or is being drained; the account is being made on `to`, or waits for a node to come free.
    Migrating {
        /// The node that was lost, or that the lease has to leave.
        from: NodeId,
        /// The node that takes over, once one is found.
        to: Option<NodeId>,
        /// Reason for the move, or for the wait.
        reason: String,
    },
    /// Its room on `node` is for another lease: the account is being removed, and then it queues.
    Yielding {
        /// Where.
        node: NodeId,
        /// Reason for lifting the brake.
        reason: String,
    },
    /// The account is being removed from `node`.
    Releasing {
        /// Node from which the account is being removed.
        node: NodeId,
        /// Reason for the end of the lease.
        reason: EndReason,
    },
    /// The lease is over. What is left on the node belongs to the node, not to the lease.
    Ended {
        /// Reason for the end of the lease.
        reason: EndReason,
    },
}

/// The login that a lease gives, as the node needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user's name on the node.
    pub user: UnixName,
    /// Uid of the account: from Orion's range, never used twice.
    pub uid: u32,
    /// The crypt(3) hash; the password itself is known to the client only.
    pub password_hash: Secret,
    /// One line of `authorized_keys`, if the client gave a key.
    pub public_key: Option<String>,
}

/// A lease as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Number of the lease.
    pub id: LeaseId,
    /// ULID of the lease: never given twice, while a database that was restored from a backup gives numbers
    /// again.
    pub ulid: String,
    /// Owner of the lease.
    pub user: UserId,
    /// Name of the lease, if its owner gave one.
    pub name: Option<LeaseName>,
    /// The login; none where the lease gives none.
    pub account: Option<Account>,
    /// Start of the lease.
    pub from: Timestamp,
    /// End of the lease.
    pub until: Timestamp,
    /// Part of the node that the lease holds.
    pub holding: Holding,
    /// Policy for the loss of the node.
    pub on_node_loss: OnNodeLoss,
    /// Tags that its node must have.
    pub tags: Vec<crate::names::Tag>,
    /// Leases of one request share this key.
    pub request_key: String,
    /// Whether the request carried an idempotency key: then it is finished after a crash, not undone.
    pub finish_after_crash: bool,
    /// State of the lease.
    pub state: LeaseState,
    /// Start of the current state.
    pub since: Timestamp,
    /// Time up to which the node itself is known to keep the login open (`until` once the node knows it).
    pub deadline_applied: Option<Timestamp>,
    /// Number of containers that it has had.
    pub containers: u32,
    /// Grows with every write; the store's compare-and-swap.
    pub version: i64,
}

impl LeaseState {
    /// The state's name.
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Requested => Phase::Requested,
            Self::Scheduled { .. } => Phase::Scheduled,
            Self::Queued { .. } => Phase::Queued,
            Self::Provisioning { .. } => Phase::Provisioning,
            Self::Active { .. } => Phase::Active,
            Self::Migrating { .. } => Phase::Migrating,
            Self::Yielding { .. } => Phase::Yielding,
            Self::Releasing { .. } => Phase::Releasing,
            Self::Ended { .. } => Phase::Ended,
        }
    }

    /// Returns whether the login works.
    pub const fn is_active(&self) -> bool {
        matches!(self, Self::Active { .. })
    }

    /// The node of which this lease holds capacity: no other whole-node lease may have it (I1).
    pub fn occupies(&self) -> Option<NodeId> {
        match self {
            Self::Provisioning { node }
            | Self::Active { node }
            | Self::Yielding { node, .. }
            | Self::Releasing { node, .. } => Some(*node),
            Self::Migrating { from, to, .. } => Some(to.unwrap_or(*from)),
            Self::Requested | Self::Scheduled { .. } | Self::Queued { .. } | Self::Ended { .. } => None,
        }
    }

    /// The node on which the account should exist.
    pub fn wants_account_on(&self) -> Option<NodeId> {
        match self {
            Self::Requested
            | Self::Scheduled { .. }
            | Self::Queued { .. }
            | Self::Yielding { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => None,
            Self::Provisioning { .. } | Self::Active { .. } | Self::Migrating { .. } => self.occupies(),
        }
    }

    fn refused<T>(&self, attempted: &'static str) -> Result<T, Refused> {
        Err(Refused { noun: "lease", from: self.phase().as_str(), attempted })
    }

    /// The account was confirmed on `node`: the login works.
    ///
    /// # Errors
    /// When the lease does not wait for an account on `node`.
    pub fn confirm(self, node: NodeId) -> Result<(Self, LeaseEvent), Refused> {
        let event = match &self {
            Self::Provisioning { node: wanted } if *wanted == node => LeaseEvent::Activated { node },
            Self::Migrating { from, to: Some(to), .. } if *to == node => {
                LeaseEvent::Moved { from: *from, to: node }
            }
            Self::Migrating { from, to: None, .. } if *from == node => LeaseEvent::Returned { node },
            Self::Requested
            | Self::Scheduled { .. }
            | Self::Queued { .. }
            | Self::Provisioning { .. }
            | Self::Active { .. }
            | Self::Migrating { .. }
            | Self::Yielding { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => return self.refused("confirmed on that node"),
        };
        Ok((Self::Active { node }, event))
    }

    /// The node that was to take the lease cannot; `to` does instead. For a migrating lease this is also
    /// how the first target is found, and for one that has no node yet how it gets its first.
    ///
    /// # Errors
    /// When the lease neither is on its way to a node nor waits for its first.
    pub fn place_on(self, to: NodeId, reason: &str) -> Result<(Self, LeaseEvent), Refused> {
        match self {
            Self::Provisioning { node } => Ok((
                Self::Provisioning { node: to },
                LeaseEvent::Replaced { from: node, to, reason: reason.into() },
            )),
            Self::Migrating { from, reason: why, .. } => {
                let event = LeaseEvent::Moving { from, to, reason: None };
                Ok((Self::Migrating { from, to: Some(to), reason: why }, event))
            }
            Self::Scheduled { .. } | Self::Queued { .. } => {
                Ok((Self::Provisioning { node: to }, LeaseEvent::Placed { node: to }))
            }
            Self::Requested
            | Self::Active { .. }
            | Self::Yielding { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => self.refused("placed"),
        }
    }

    /// The login works on `node`, which is being drained, and `to` takes over: it works on the old node until the
    /// new one has confirmed it.
    ///
    /// # Errors
    /// When the login does not work on `node`, or `to` is the same.
    pub fn leave_node(self, node: NodeId, to: NodeId, reason: &str) -> Result<(Self, LeaseEvent), Refused> {
        match self {
            Self::Active { node: held } if held == node && to != node => Ok((
                Self::Migrating { from: node, to: Some(to), reason: reason.into() },
                LeaseEvent::Moving { from: node, to, reason: Some(reason.into()) },
            )),
            Self::Requested
            | Self::Scheduled { .. }
            | Self::Queued { .. }
            | Self::Provisioning { .. }
            | Self::Active { .. }
            | Self::Migrating { .. }
            | Self::Yielding { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => self.refused("moved off that node"),
        }
    }

    /// `node` is gone. What follows is the lease's policy.
    ///
    /// # Errors
    /// When the lease does not depend on `node`.
    pub fn lose_node(
        self,
        node: NodeId,
        policy: OnNodeLoss,
        reason: &str,
    ) -> Result<(Self, LeaseEvent), Refused> {
        self.lose(node, policy, reason, EndReason::NodeLost)
    }

    /// The time that `node` was given for draining is up: the same as if it were gone.
    ///
    /// # Errors
    /// When the login does not work on `node`.
    pub fn lose_drained_node(
        self,
        node: NodeId,
        policy: OnNodeLoss,
        reason: &str,
    ) -> Result<(Self, LeaseEvent), Refused> {
        match self {
            Self::Active { .. } => self.lose(node, policy, reason, EndReason::Drained),
            Self::Requested
            | Self::Scheduled { .. }
            | Self::Queued { .. }
            | Self::Provisioning { .. }
            | Self::Migrating { .. }
            | Self::Yielding { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => self.refused("taken off that node"),
        }
    }

    fn lose(
        self,
        node: NodeId,
        policy: OnNodeLoss,
        reason: &str,
        end: EndReason,
    ) -> Result<(Self, LeaseEvent), Refused> {
        let reason = reason.to_string();
        match self {
            Self::Active { node: held } if held == node => match policy {
                OnNodeLoss::Migrate | OnNodeLoss::Wait => Ok((
                    Self::Migrating { from: node, to: None, reason: reason.clone() },
                    LeaseEvent::NodeLost { node, reason },
                )),
                OnNodeLoss::End => {
                    Ok((Self::Releasing { node, reason: end.clone() }, LeaseEvent::Releasing { reason: end }))
                }
            },
            Self::Migrating { from, to: Some(to), .. } if to == node => Ok((
                Self::Migrating { from, to: None, reason: reason.clone() },
                LeaseEvent::Waiting { reason },
            )),
            Self::Requested
            | Self::Scheduled { .. }
            | Self::Queued { .. }
            | Self::Provisioning { .. }
            | Self::Active { .. }
            | Self::Migrating { .. }
            | Self::Yielding { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => self.refused("moved away from that node"),
        }
    }

    /// Says what a lease without its (new) node waits for, if that changed.
    pub fn wait_for(self, why: &str) -> Option<(Self, LeaseEvent)> {
        let waiting = LeaseEvent::Waiting { reason: why.into() };
        match self {
            Self::Migrating { from, to: None, reason } if reason != why => {
                Some((Self::Migrating { from, to: None, reason: why.into() }, waiting))
            }
            Self::Scheduled { reason } if reason.as_deref() != Some(why) => {
                Some((Self::Scheduled { reason: Some(why.into()) }, waiting))
            }
            Self::Queued { reason } if reason != why => Some((Self::Queued { reason: why.into() }, waiting)),
            Self::Requested
            | Self::Scheduled { .. }
            | Self::Queued { .. }
            | Self::Provisioning { .. }
            | Self::Active { .. }
            | Self::Migrating { .. }
            | Self::Yielding { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => None,
        }
    }

    /// The lease is to end: its account will be removed. One without a node is over at once.
    ///
    /// # Errors
    /// When it is already ending or over.
    pub fn end(self, reason: EndReason) -> Result<(Self, LeaseEvent), Refused> {
        match self {
            Self::Provisioning { .. }
            | Self::Active { .. }
            | Self::Migrating { .. }
            | Self::Yielding { .. } => match self.occupies() {
                Some(node) => {
                    let event = LeaseEvent::Releasing { reason: reason.clone() };
                    Ok((Self::Releasing { node, reason }, event))
                }
                None => self.refused("released"),
            },
            Self::Requested | Self::Scheduled { .. } | Self::Queued { .. } => {
                Ok((Self::Ended { reason: reason.clone() }, LeaseEvent::Ended { reason }))
            }
            Self::Releasing { .. } | Self::Ended { .. } => self.refused("released"),
        }
    }

    /// `node` is clean, or dead: nothing is left that this lease should wait for. It is over, or it queues.
    ///
    /// # Errors
    /// When the lease is not being removed from `node`.
    pub fn finish(self, node: NodeId) -> Result<(Self, LeaseEvent), Refused> {
        match self {
            Self::Releasing { node: held, reason } if held == node => {
                Ok((Self::Ended { reason: reason.clone() }, LeaseEvent::Ended { reason }))
            }
            Self::Yielding { node: held, reason } if held == node => {
                Ok((Self::Queued { reason: reason.clone() }, LeaseEvent::Queued { reason }))
            }
            Self::Requested
            | Self::Scheduled { .. }
            | Self::Queued { .. }
            | Self::Provisioning { .. }
            | Self::Active { .. }
            | Self::Migrating { .. }
            | Self::Yielding { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => self.refused("ended"),
        }
    }

    /// Refuses to move the end of a lease that is over, or about to be.
    pub fn may_be_extended(&self) -> Result<(), Refused> {
        match self {
            Self::Provisioning { .. } | Self::Active { .. } | Self::Migrating { .. } => Ok(()),
            Self::Requested
            | Self::Scheduled { .. }
            | Self::Queued { .. }
            | Self::Yielding { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => self.refused("extended"),
        }
    }
}

#[cfg(test)]
mod tests;
