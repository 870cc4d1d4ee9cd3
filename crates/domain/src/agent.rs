//! The words that an agent and the control plane exchange over the link, one JSON text message each.
//!
//! The agent dials `GET /api/workers/link` with its node token, says [`FromAgent::Hello`] and beats every
//! [`BEAT_EVERY`]. Unknown messages are ignored by both sides, so that either may be the newer one.

use crate::{LeaseId, Timestamp, node::Facts};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often the agent beats.
pub const BEAT_EVERY: Duration = Duration::from_secs(5);
/// Beats that may be missed before a link is lost.
pub const BEATS_MISSED_MAX: u32 = 2;
/// How long after a lease's end the node itself closes the login, in seconds: the control plane, which
/// does more than lock, comes first.
pub const DEADLINE_GRACE_S: u64 = 10;

/// Seconds from `now` until the node itself closes the login of a lease that ends at `until`; 0 when that
/// moment has passed.
pub fn seconds_to_deadline(until: Timestamp, grace_s: u64, now: Timestamp) -> u64 {
    until.plus(Duration::from_secs(grace_s)).since(now).as_secs()
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromAgent {
    /// The first message of a link.
    Hello {
        /// The agent's version.
        agent_version: String,
        /// `/proc/sys/kernel/random/boot_id`.
        boot_id: String,
    },
    /// Still there.
    Beat {
        /// Counts up within a link.
        seq: u64,
        /// Load average over a minute, in hundredths.
        load_percent: u32,
        /// Whether the node's own sshd answered just now.
        sshd: bool,
    },
    /// The machine changed.
    Inventory {
        /// All of it.
        facts: Facts,
    },
    /// The deadlines that the node keeps now.
    Deadlines {
        /// Each known lease account.
        kept: Vec<KeptDeadline>,
    },
}

/// A deadline as the node keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptDeadline {
    /// The account's uid.
    pub uid: u32,
    /// Seconds until it is locked.
    pub remaining_s: u64,
    /// Whether it has been locked.
    pub locked: bool,
}

/// What the control plane says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// A beat arrived.
    Ack {
        /// The beat's number.
        seq: u64,
    },
    /// What the node should hold.
    Leases {
        /// The node's desired version.
        desired_version: i64,
        /// Its leases with their deadlines. Only deadlines of accounts that exist are taken over; accounts
        /// are made and removed over SSH alone.
        leases: Vec<LeaseDeadline>,
    },
    /// The control plane does not know this node (any more): register again.
    RegisterAgain,
    /// Lock every lease account and end its sessions: the node is about to be given up.
    LockAccounts,
}

/// A lease's deadline on the wire: as seconds remaining, so that clocks need not agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseDeadline {
    /// The lease.
    pub lease_id: LeaseId,
    /// The account's name.
    pub user: String,
    /// The account's uid.
    pub uid: u32,
    /// Seconds until the login must be closed, grace included.
    pub remaining_s: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_tagged_json() {
        let beat = FromAgent::Beat { seq: 7, load_percent: 12, sshd: true };
        let text = serde_json::to_string(&beat).unwrap();
        assert_eq!(text, r#"{"type":"beat","seq":7,"load_percent":12,"sshd":true}"#);
        assert_eq!(serde_json::from_str::<FromAgent>(&text).unwrap(), beat);
    }
}
