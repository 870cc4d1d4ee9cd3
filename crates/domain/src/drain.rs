//! Draining: a node is emptied for maintenance, by a deadline or as long as it takes.
//!
//! Lives here: what a drain is and the words for its progress. Does not live here: how far a node is
//! ([`crate::node::Node::drain_state`]), moving a lease ([`crate::lease::LeaseState::leave_node`]) and when that is done
//! (the scheduler).

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// A node is being emptied, or is empty: it takes no new leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Human-readable reason of the drain.
    pub reason: String,
    /// Start of the drain.
    pub since: Timestamp,
    /// Time at which the remaining leases lose the node by their own policy; none: never.
    pub deadline: Option<Timestamp>,
    /// Time at which the node was empty and clean; none: not yet.
    pub drained_at: Option<Timestamp>,
}

impl Drain {
    /// Whether its deadline has come: what is left has lost the node, and gets it back only after the drain.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Returns the human-readable reason for which a lease leaves the node.
    pub fn why(&self) -> String {
        format!("the node is being drained: {}", self.reason)
    }
}

/// Progress of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrainState {
    /// A lease is on its way off the node, or about to be.
    #[serde(rename = "moving")]
    Moving,
    /// The node's lease moves as soon as a node with the lease's tags comes free.
    #[serde(rename = "waiting for a free node")]
    WaitingForNode,
    /// The node's lease stays until the deadline, as the lease's policy says.
    #[serde(rename = "waiting for its deadline")]
    WaitingForDeadline,
    /// The node's lease stays until it ends: its policy is not to move, and the drain has no deadline.
    #[serde(rename = "waiting for its lease to end")]
    WaitingForEnd,
    /// The node has no lease left and is being cleaned.
    #[serde(rename = "cleaning")]
    Cleaning,
    /// The node has no lease left and is clean, or dead.
    #[serde(rename = "drained")]
    Drained,
}

impl DrainState {
    /// The words in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Moving => "moving",
            Self::WaitingForNode => "waiting for a free node",
            Self::WaitingForDeadline => "waiting for its deadline",
            Self::WaitingForEnd => "waiting for its lease to end",
            Self::Cleaning => "cleaning",
            Self::Drained => "drained",
        }
    }
}
