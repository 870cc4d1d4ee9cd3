//! The events about a lease.

use super::EndReason;
use crate::{NodeId, Timestamp, names::UnixName};
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};

/// An event about a lease, most of them the record of a transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[serde(tag = "event", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", prefix = "lease.")]
pub enum LeaseEvent {
    /// It was asked for, and waits for approval.
    Requested,
    /// It was approved, and begins at its time.
    Scheduled,
    /// It has no node, and waits for one.
    Queued {
        /// Reason of the wait.
        reason: String,
    },
    /// Its room on the node is for another lease.
    Yielding {
        /// Where.
        node: NodeId,
        /// Reason for lifting the brake.
        reason: String,
    },
    /// A node was found and the account is being made.
    Placed {
        /// Node on which the login works.
        node: NodeId,
    },
    /// The node first chosen could not take it; another one does.
    Replaced {
        /// The one that could not.
        from: NodeId,
        /// The next.
        to: NodeId,
        /// Reason that the first node gave.
        reason: String,
    },
    /// The login works.
    #[strum(serialize = "active")]
    Activated {
        /// Node on which the login works.
        node: NodeId,
    },
    /// The node was lost.
    NodeLost {
        /// Node that was lost.
        node: NodeId,
        /// Observation for which the node counts as lost.
        reason: String,
    },
    /// A node was found to take the lease over.
    Moving {
        /// Node that was lost, or is being drained.
        from: NodeId,
        /// Node that takes the lease over.
        to: NodeId,
        /// Reason for the move where no node was lost: the node is being drained.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The lease's node is to be given up: the lease will be moved, or end, by its policy. The lease's state
    /// is the same.
    NodeDraining {
        /// Node that is being drained.
        node: NodeId,
        /// Reason of the drain.
        reason: String,
        /// Time by which the lease has to be off the node; none: no limit.
        deadline: Option<Timestamp>,
    },
    /// The lease's node stays after all.
    NodeUndrained {
        /// Node that came back.
        node: NodeId,
    },
    /// The lease waits: no node could take it yet (or the one that should have cannot).
    Waiting {
        /// Reason of the wait.
        reason: String,
    },
    /// The login works on another node now.
    Moved {
        /// Node that was lost, or is being drained.
        from: NodeId,
        /// Node on which the login works now.
        to: NodeId,
    },
    /// The lease's own node came back and the login works there again.
    Returned {
        /// Node that came back.
        node: NodeId,
    },
    /// The lease has a new end.
    Extended {
        /// The new end.
        until: Timestamp,
    },
    /// The lease is being removed.
    Releasing {
        /// Reason for the end of the lease.
        reason: EndReason,
    },
    /// The lease is over.
    Ended {
        /// Reason for the end of the lease.
        reason: EndReason,
    },
    /// The account has another name: the node gives rights of its own to the first one.
    NewAccount {
        /// The first name.
        from: UnixName,
        /// The name now.
        to: UnixName,
    },
    /// The account has another uid: the node had seen the first one before.
    NewUid {
        /// The first uid.
        from: u32,
        /// The uid now.
        to: u32,
        /// The highest uid that the node had seen.
        seen_by_node: u32,
    },
}

impl LeaseEvent {
    /// The event's kind in the log and in the SSE feed.
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}
