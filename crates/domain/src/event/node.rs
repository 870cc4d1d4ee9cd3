//! The events about a node.

use crate::{
    LeaseId, Timestamp,
    node::{Facts, Health, LinkState, QuarantineCause},
};
use serde::Serialize;
use serde_json::Value;
use strum::{IntoStaticStr, VariantNames};

/// An event about a node.
#[derive(Clone, Debug, PartialEq, Serialize, IntoStaticStr, VariantNames)]
#[serde(untagged)]
#[strum(serialize_all = "snake_case", prefix = "node.")]
pub enum NodeEvent {
    /// A worker registered for the first time.
    Registered {
        /// Host name of the node.
        hostname: String,
        /// Address of the node.
        addr: String,
        /// The port of its sshd.
        ssh_port: u16,
        /// The fingerprint of its host key, if it has told one.
        fingerprint: Option<String>,
    },
    /// A worker registered again, with news.
    Updated {
        /// Host name of the node.
        hostname: String,
        /// Address of the node.
        addr: String,
        /// The port of its sshd.
        ssh_port: u16,
        /// Whether the address or the port is another one.
        address_changed: bool,
    },
    /// Further host keys were proved, over a session that showed an accepted one.
    KeyAdded {
        /// Fingerprints of the keys.
        fingerprints: Vec<String>,
    },
    /// A host key was seen at a node without a pinned one.
    KeySeen {
        /// Fingerprint of the key.
        fingerprint: String,
    },
    /// The node may be offered once it is clean.
    Admitted {
        /// The fingerprint that an admin accepted.
        #[serde(skip_serializing_if = "Option::is_none")]
        fingerprint: Option<String>,
    },
    /// The node has not been probed yet.
    Unknown(HealthChange),
    /// The node answers.
    Alive(HealthChange),
    /// The node failed to answer.
    Suspect(HealthChange),
    /// The node does not answer over SSH, and is not given up.
    Unreachable(HealthChange),
    /// The node is given up.
    Dead(HealthChange),
    /// The agent says of a lease's account what the database does not.
    Differs {
        /// Difference between the agent's report and the database.
        reason: String,
        /// The lease.
        lease_id: LeaseId,
    },
    /// The agent names another kernel than before.
    Rebooted {
        /// The boot id of that kernel.
        boot_id: String,
    },
    /// An admin declared the node dead.
    DeclaredDead {
        /// The reason that the admin gave.
        reason: String,
    },
    /// The agent is to lock the lease accounts, since the sshd is down.
    Locking {
        /// Observation for which the node counts as lost.
        reason: String,
    },
    /// The agent has a link.
    LinkUp(LinkChange),
    /// The agent lost its link.
    LinkLost(LinkChange),
    /// The agent has no link.
    LinkNone(LinkChange),
    /// The agent sees its sshd answer, or not.
    AgentSshd {
        /// Whether the sshd answers; none: not known.
        answers: Option<bool>,
    },
    /// A probe account can log in.
    WayInOpen {
        /// Whether the agent tried it.
        by_agent: bool,
    },
    /// A probe account cannot log in.
    WayInShut {
        /// Obstacle to the login.
        reason: Option<String>,
        /// Whether the agent tried it.
        by_agent: bool,
    },
    /// The login is unverified: none was seen to work for a long time.
    WayInUnknown {},
    /// The difference of the node's clock changed.
    ClockOff {
        /// Milliseconds ahead of the control plane's; none: no difference worth telling.
        off_ms: Option<i64>,
    },
    /// The agent told what the machine has.
    Inventory {
        /// Inventory of the machine.
        facts: Facts,
    },
    /// The node was brought in order; the data is the report of what was found and removed.
    Cleaned(Value),
    /// The disk of the node's container engine is too full for more containers.
    DiskFull {
        /// Free space in MiB.
        free_mb: u64,
        /// Free and used space in MiB.
        total_mb: u64,
    },
    /// The disk of the node's container engine has room again.
    DiskFree {
        /// Free space in MiB.
        free_mb: u64,
        /// Free and used space in MiB.
        total_mb: u64,
    },
    /// An image that nobody used was removed, because the disk was too full.
    ImageRemoved {
        /// Whole name of the image.
        image: String,
    },
    /// Bringing the node in order failed.
    ReconcileFailed {
        /// Description of what failed.
        reason: String,
    },
    /// The node's container engine does not answer; the node does.
    EngineSilent {
        /// What was seen of it.
        reason: String,
    },
    /// The node's container engine answers again.
    EngineAnswers {},
    /// The node is out of use.
    Quarantined {
        /// Reason of the quarantine.
        reason: String,
        /// The cause, which says what ends the quarantine.
        cause: QuarantineCause,
        /// The lease whose account the node refused to make.
        #[serde(skip_serializing_if = "Option::is_none")]
        lease_id: Option<LeaseId>,
    },
    /// The work succeeded: the quarantine is over.
    QuarantineEnded {
        /// Reason of the quarantine that ended.
        reason: String,
        /// Cause of the quarantine that ended.
        cause: Option<QuarantineCause>,
        /// Start of the quarantine.
        since: Option<Timestamp>,
    },
    /// An admin ended the quarantine.
    QuarantineLifted {},
    /// The node is being emptied.
    Draining {
        /// The reason that the admin gave.
        reason: String,
        /// Time by which the node has to be empty; none: no limit.
        deadline: Option<Timestamp>,
    },
    /// The node is empty.
    Drained {
        /// The reason of the drain.
        reason: Option<String>,
        /// The node's health.
        health: Health,
    },
    /// The node takes leases again.
    Undrained {},
    /// The node had seen a later epoch than the database knew.
    EpochRaised {
        /// The epoch before.
        from: u64,
        /// The epoch now.
        to: u64,
        /// The epoch that the node had seen.
        seen_by_node: u64,
    },
    /// The node was removed from the database.
    Forgotten {
        /// Host name of the node.
        hostname: String,
        /// Whether an admin forced it; none: the node was found clean.
        #[serde(skip_serializing_if = "Option::is_none")]
        force: Option<bool>,
    },
}

/// A change of a node's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthChange {
    /// Observation on which the change rests.
    pub reason: String,
    /// The health before.
    pub was: Health,
}

/// A change of the link to a node's agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkChange {
    /// The replica that has, or had, the link.
    pub replica: String,
    /// The number of the connection.
    pub link_epoch: i64,
}

impl NodeEvent {
    /// Tells that the health is another one.
    pub const fn of_health(health: Health, change: HealthChange) -> Self {
        match health {
            Health::Unknown => Self::Unknown(change),
            Health::Alive => Self::Alive(change),
            Health::Suspect => Self::Suspect(change),
            Health::Unreachable => Self::Unreachable(change),
            Health::Dead => Self::Dead(change),
        }
    }

    /// Tells that the agent's link is another one.
    pub const fn of_link(link: LinkState, change: LinkChange) -> Self {
        match link {
            LinkState::None => Self::LinkNone(change),
            LinkState::Up => Self::LinkUp(change),
            LinkState::Lost => Self::LinkLost(change),
        }
    }
}
