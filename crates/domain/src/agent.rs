//! The words that an agent and the control plane exchange over the link, one JSON text message each.
//!
//! The agent dials `GET /api/workers/link` with its node token, says [`FromAgent::Hello`] and beats every
//! [`BEAT_EVERY`]. Unknown messages are ignored by both sides, so that either may be the newer one.

use crate::{LeaseId, Timestamp, node::Facts, way_in::WayInReport};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Interval between two heartbeats of the agent.
pub const BEAT_EVERY: Duration = Duration::from_secs(5);
/// Beats that may be missed before a link is lost.
pub const BEATS_MISSED_MAX: u32 = 2;
/// Time from a lease's end until the node itself closes the login, in seconds: the control plane, which
/// does more than lock, comes first.
pub const DEADLINE_GRACE_S: u64 = 10;

/// Seconds from `now` until the node itself closes the login of a lease that ends at `until`; 0 when that
/// moment has passed.
pub fn seconds_to_deadline(until: Timestamp, grace_s: u64, now: Timestamp) -> u64 {
    until.plus(Duration::from_secs(grace_s)).since(now).as_secs()
}

/// Message from the agent.
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
        /// Result of the last probe of the way in; none before the first, and from older agents.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        way_in: Option<WayInReport>,
        /// Seconds since the end of that probe; none from older agents.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        way_in_age_s: Option<u64>,
        /// The node's wall clock, in milliseconds since 1970; none from older agents.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clock_ms: Option<i64>,
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

/// Message from the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// A beat arrived.
    Ack {
        /// The beat's number.
        seq: u64,
    },
    /// Leases that the node should hold.
    Leases {
        /// The node's desired version.
        desired_version: i64,
        /// Leases of the node with their deadlines. Only deadlines of accounts that exist are taken over;
        /// accounts are made and removed over SSH alone.
        leases: Vec<LeaseDeadline>,
    },
    /// The control plane does not know this node (any more): register again.
    RegisterAgain,
    /// Lock every lease account and end its sessions: the node is about to be given up.
    LockAccounts {
        /// The beat over this link by which the agent said that its sshd is down, if the order rests on that: an agent
        /// that has seen its sshd answer since does not obey.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rests_on_beat: Option<u64>,
    },
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

    /// Message as agents up to 0.1.0 know it.
    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case")]
    enum OldToAgent {
        LockAccounts,
    }

    #[test]
    fn an_order_to_lock_is_understood_by_older_agents_and_from_older_control_planes() {
        for rests_on_beat in [None, Some(7)] {
            let text = serde_json::to_string(&ToAgent::LockAccounts { rests_on_beat }).unwrap();
            assert_eq!(
                serde_json::from_str::<OldToAgent>(&text).unwrap(),
                OldToAgent::LockAccounts,
                "{text}"
            );
        }
        let old = serde_json::from_str::<ToAgent>(r#"{"type":"lock_accounts"}"#).unwrap();
        assert_eq!(old, ToAgent::LockAccounts { rests_on_beat: None });
    }

    #[test]
    fn messages_are_tagged_json() {
        let beat = FromAgent::Beat {
            seq: 7,
            load_percent: 12,
            sshd: true,
            way_in: None,
            way_in_age_s: None,
            clock_ms: None,
        };
        let text = serde_json::to_string(&beat).unwrap();
        assert_eq!(text, r#"{"type":"beat","seq":7,"load_percent":12,"sshd":true}"#);
        assert_eq!(serde_json::from_str::<FromAgent>(&text).unwrap(), beat);
    }

    #[test]
    fn a_beat_of_an_older_or_newer_agent_is_understood() {
        let old = r#"{"type":"beat","seq":7,"load_percent":12,"sshd":true}"#;
        let FromAgent::Beat { way_in: None, clock_ms: None, .. } = serde_json::from_str(old).unwrap() else {
            panic!("{old}")
        };
        let new = r#"{"type":"beat","seq":7,"load_percent":12,"sshd":true,"way_in":{"open":true},"clock_ms":5,"more":1}"#;
        let FromAgent::Beat { way_in: Some(told), clock_ms: Some(5), .. } =
            serde_json::from_str(new).unwrap()
        else {
            panic!("{new}")
        };
        assert!(told.open && told.reason.is_empty());
    }
}
