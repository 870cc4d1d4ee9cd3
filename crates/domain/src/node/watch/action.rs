//! What a watch is told, and what it asks for.

use crate::health::{Failure, LinkPath, Verdict};
use std::time::Duration;

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// The node answers (a throttling sshd does, too).
    Answered,
    /// The node does not answer, or not as it should.
    Failed {
        /// Kind of the failure.
        failure: Failure,
        /// Human-readable message of the probe.
        detail: String,
    },
    /// The probe failed on this side and says nothing about the node.
    Inconclusive,
}

/// The verdict of the other schedulers on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerVerdict {
    /// The node answers one of the other schedulers.
    Reachable {
        /// The one that it answers.
        peer: String,
    },
    /// The node does not answer one of the other schedulers either.
    Unreachable {
        /// The one that dialled it.
        peer: String,
    },
    /// The node could not be checked: there is no other scheduler that can do it.
    NoPeer,
}

/// The surroundings of a watch at the moment when it is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The agent's link: what a replica wrote counts only while that replica lives.
    pub link: LinkPath,
    /// Whether this scheduler may write verdicts: it was not suspended since it saw what they rest on, the others do
    /// not
    /// take it for gone, and the watch is not to stop.
    pub may_judge: bool,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wait until [`super::NodeWatch::on_node`] or [`super::NodeWatch::on_session_closed`] has news, at most until
    /// then.
    Wait {
        /// Latest end of the wait, on the steady clock of [`super::Moment`].
        until: Duration,
        /// Whether the end of the node's session is news: it answered a moment ago.
        session: bool,
    },
    /// Probe the node; then [`super::NodeWatch::on_probe`].
    Probe,
    /// Evaluate the brake with the newest observations of all schedulers; then [`super::NodeWatch::on_standing`].
    EvaluateBrake,
    /// Ask the other schedulers to probe the node, and probe it meanwhile; then [`super::NodeWatch::on_probe`] and
    /// [`super::NodeWatch::on_peer`].
    Confirm,
    /// Evaluate the brake and have the node quarantined; said once.
    Quarantine {
        /// Human-readable reason of the order.
        reason: String,
    },
    /// Order the node to lock its accounts, at its [`super::NodeWatch::version`]; then [`super::NodeWatch::on_written`].
    OrderLock {
        /// Human-readable reason of the order.
        reason: String,
    },
    /// Get a place among the watches that write; then [`super::NodeWatch::on_turn`].
    TakeTurn,
    /// Admit the node at its [`super::NodeWatch::version`], if its host keys allow it; then [`super::NodeWatch::on_written`].
    Admit,
    /// Write the verdict at the node's [`super::NodeWatch::version`]; then [`super::NodeWatch::on_written`].
    WriteHealth(Verdict),
}

impl Action {
    /// Tells whether it is the write that [`Action::TakeTurn`] waited for. Before any other action the turn is given
    /// back: a watch that kept it while it waited for the next one would keep it for ever.
    pub const fn is_written_in_turn(&self) -> bool {
        match self {
            Self::Admit | Self::WriteHealth(_) => true,
            Self::Wait { .. }
            | Self::Probe
            | Self::TakeTurn
            | Self::EvaluateBrake
            | Self::Confirm
            | Self::Quarantine { .. }
            | Self::OrderLock { .. } => false,
        }
    }
}
