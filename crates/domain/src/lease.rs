//! The life of a lease: its states, and the only ways from one to the next.
//!
//! Pure: `now` is the caller's, nothing here waits or writes. A transition consumes the state and gives
//! the next one with the event that tells of it, or a [`Refused`] that says from where what was tried.
//! The store writes both in one transaction.

use crate::{
    LeaseId, NodeId, Secret, Timestamp, UserId,
    names::{LeaseName, UnixName},
};
use serde::{Deserialize, Serialize};

/// What happens to a lease when its node is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNodeLoss {
    /// It moves to another node, or back to its own if that returns first.
    #[default]
    Migrate,
    /// It stays `migrating` until its own node returns.
    Wait,
    /// It ends.
    End,
}

/// Why a lease ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum EndReason {
    /// Its owner or an admin released it.
    Released,
    /// Its time was up.
    Expired,
    /// Its node was lost and its policy says `end`.
    NodeLost,
    /// Its node was drained and its policy says `end`.
    Drained,
    /// An admin reset the system.
    Reset,
    /// It could not be provided; the text says why.
    Failed {
        /// For people.
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

/// Where a lease is in its life. Times of entry are kept beside it ([`Lease::since`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// The account is being made on `node`.
    Provisioning {
        /// Where.
        node: NodeId,
    },
    /// The login works on `node`.
    Active {
        /// Where.
        node: NodeId,
    },
    /// `from` was lost, or is being drained; the account is being made on `to`, or waits for a node to come free.
    Migrating {
        /// The node that was lost, or that the lease has to leave.
        from: NodeId,
        /// The node that takes over, once one is found.
        to: Option<NodeId>,
        /// Why it has to move, or what it waits for.
        reason: String,
    },
    /// The account is being removed from `node`.
    Releasing {
        /// Where.
        node: NodeId,
        /// Why it ends.
        reason: EndReason,
    },
    /// Over. Dirt that is left belongs to the node, not to the lease.
    Ended {
        /// Why it ended.
        reason: EndReason,
    },
}

/// The name of a state: what the API shows and the database stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// See [`LeaseState::Provisioning`].
    Provisioning,
    /// See [`LeaseState::Active`].
    Active,
    /// See [`LeaseState::Migrating`].
    Migrating,
    /// See [`LeaseState::Releasing`].
    Releasing,
    /// See [`LeaseState::Ended`].
    Ended,
}

impl Phase {
    /// The word in the database and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Migrating => "migrating",
            Self::Releasing => "releasing",
            Self::Ended => "ended",
        }
    }
}

/// A transition that the state does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lease that is {} cannot be {attempted}", from.as_str())]
pub struct Refused {
    /// Where the lease was.
    pub from: Phase,
    /// What was tried, as a past participle.
    pub attempted: &'static str,
}

/// What a transition tells: one row of the event log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LeaseEvent {
    /// A node was claimed and the account is being made.
    Placed {
        /// Where.
        node: NodeId,
    },
    /// The node first chosen could not take it; another one does.
    Replaced {
        /// The one that could not.
        from: NodeId,
        /// The next.
        to: NodeId,
        /// What the first one said.
        reason: String,
    },
    /// The login works.
    Activated {
        /// Where.
        node: NodeId,
    },
    /// The node was lost.
    NodeLost {
        /// Which.
        node: NodeId,
        /// What was seen.
        reason: String,
    },
    /// A node was found to take the lease over.
    Moving {
        /// From the lost one.
        from: NodeId,
        /// To this one.
        to: NodeId,
        /// Why, where nothing was lost: the node is being drained.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Its node is to be given up: it will be moved, or end, by its policy. Its state is the same.
    NodeDraining {
        /// Which.
        node: NodeId,
        /// Why.
        reason: String,
        /// When it has to be off the node; none: no limit.
        deadline: Option<Timestamp>,
    },
    /// Its node stays after all.
    NodeUndrained {
        /// Which.
        node: NodeId,
    },
    /// No node could take it yet (or the one that should have cannot).
    Waiting {
        /// For what.
        reason: String,
    },
    /// The login works on another node now.
    Moved {
        /// From the lost one.
        from: NodeId,
        /// To this one.
        to: NodeId,
    },
    /// Its own node came back and the login works there again.
    Returned {
        /// Which.
        node: NodeId,
    },
    /// It has a new end.
    Extended {
        /// The new end.
        until: Timestamp,
    },
    /// It is being removed.
    Releasing {
        /// Why.
        reason: EndReason,
    },
    /// It is over.
    Ended {
        /// Why.
        reason: EndReason,
    },
}

impl LeaseEvent {
    /// The event's kind in the log and in the SSE feed.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Placed { .. } => "lease.placed",
            Self::Replaced { .. } => "lease.replaced",
            Self::Activated { .. } => "lease.active",
            Self::NodeLost { .. } => "lease.node_lost",
            Self::Moving { .. } => "lease.moving",
            Self::NodeDraining { .. } => "lease.node_draining",
            Self::NodeUndrained { .. } => "lease.node_undrained",
            Self::Waiting { .. } => "lease.waiting",
            Self::Moved { .. } => "lease.moved",
            Self::Returned { .. } => "lease.returned",
            Self::Extended { .. } => "lease.extended",
            Self::Releasing { .. } => "lease.releasing",
            Self::Ended { .. } => "lease.ended",
        }
    }
}

/// The login that a lease gives, as the node needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user's name on the node.
    pub user: UnixName,
    /// Its uid: from Orion's range, never used twice.
    pub uid: u32,
    /// The crypt(3) hash; the password itself is known to the client only.
    pub password_hash: Secret,
    /// One line of `authorized_keys`, if the client gave a key.
    pub public_key: Option<String>,
}

/// A lease as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// Its ULID: never given twice, while a database that was restored from a backup gives numbers again.
    pub ulid: String,
    /// Its owner.
    pub user: UserId,
    /// Its name, if its owner gave one.
    pub name: Option<LeaseName>,
    /// The login.
    pub account: Account,
    /// When it began.
    pub from: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// What happens when its node is lost.
    pub on_node_loss: OnNodeLoss,
    /// Tags that its node must have.
    pub tags: Vec<crate::names::Tag>,
    /// Leases of one request share this key.
    pub request_key: String,
    /// Whether the request carried an idempotency key: then it is finished after a crash, not undone.
    pub finish_after_crash: bool,
    /// Where it is in its life.
    pub state: LeaseState,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// Up to when the node itself is known to keep the login open (`until` once it has heard of it).
    pub deadline_applied: Option<Timestamp>,
    /// Grows with every write; the store's compare-and-swap.
    pub version: i64,
}

impl LeaseState {
    /// The state's name.
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Provisioning { .. } => Phase::Provisioning,
            Self::Active { .. } => Phase::Active,
            Self::Migrating { .. } => Phase::Migrating,
            Self::Releasing { .. } => Phase::Releasing,
            Self::Ended { .. } => Phase::Ended,
        }
    }

    /// The node that this lease keeps for itself: no other whole-node lease may have it (I1).
    pub fn occupies(&self) -> Option<NodeId> {
        match self {
            Self::Provisioning { node } | Self::Active { node } | Self::Releasing { node, .. } => Some(*node),
            Self::Migrating { from, to, .. } => Some(to.unwrap_or(*from)),
            Self::Ended { .. } => None,
        }
    }

    /// The node on which the account should exist.
    pub fn wants_account_on(&self) -> Option<NodeId> {
        match self {
            Self::Releasing { .. } | Self::Ended { .. } => None,
            Self::Provisioning { .. } | Self::Active { .. } | Self::Migrating { .. } => self.occupies(),
        }
    }

    fn refused<T>(&self, attempted: &'static str) -> Result<T, Refused> {
        Err(Refused { from: self.phase(), attempted })
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
            Self::Provisioning { .. }
            | Self::Active { .. }
            | Self::Migrating { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => return self.refused("confirmed on that node"),
        };
        Ok((Self::Active { node }, event))
    }

    /// The node that was to take the lease cannot; `to` does instead. For a migrating lease this is also
    /// how the first target is found.
    ///
    /// # Errors
    /// When the lease is not on its way to a node.
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
            Self::Active { .. } | Self::Releasing { .. } | Self::Ended { .. } => self.refused("placed"),
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
            Self::Provisioning { .. }
            | Self::Active { .. }
            | Self::Migrating { .. }
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
            Self::Provisioning { .. }
            | Self::Migrating { .. }
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
            Self::Provisioning { .. }
            | Self::Active { .. }
            | Self::Migrating { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => self.refused("moved away from that node"),
        }
    }

    /// Says what a migrating lease waits for, if that changed.
    pub fn wait_for(self, why: &str) -> Option<(Self, LeaseEvent)> {
        match self {
            Self::Migrating { from, to: None, reason } if reason != why => Some((
                Self::Migrating { from, to: None, reason: why.into() },
                LeaseEvent::Waiting { reason: why.into() },
            )),
            Self::Provisioning { .. }
            | Self::Active { .. }
            | Self::Migrating { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => None,
        }
    }

    /// The lease is to end: its account will be removed.
    ///
    /// # Errors
    /// When it is already ending or over.
    pub fn end(self, reason: EndReason) -> Result<(Self, LeaseEvent), Refused> {
        match self.wants_account_on() {
            Some(node) => {
                Ok((Self::Releasing { node, reason: reason.clone() }, LeaseEvent::Releasing { reason }))
            }
            None => self.refused("released"),
        }
    }

    /// `node` is clean, or dead: nothing is left that this lease should wait for.
    ///
    /// # Errors
    /// When the lease is not being released from `node`.
    pub fn finish(self, node: NodeId) -> Result<(Self, LeaseEvent), Refused> {
        match self {
            Self::Releasing { node: held, reason } if held == node => {
                Ok((Self::Ended { reason: reason.clone() }, LeaseEvent::Ended { reason }))
            }
            Self::Provisioning { .. }
            | Self::Active { .. }
            | Self::Migrating { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => self.refused("ended"),
        }
    }

    /// Whether the end of this lease can still be moved.
    pub const fn can_be_extended(&self) -> bool {
        matches!(self, Self::Provisioning { .. } | Self::Active { .. } | Self::Migrating { .. })
    }
}

#[cfg(test)]
mod tests;
