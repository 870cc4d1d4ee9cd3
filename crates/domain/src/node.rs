//! What is known of a node, and when it may be offered.

use crate::{
    LeaseId, NodeId, Timestamp,
    drain::Drain,
    names::{HostAddr, Hostname, Port, Tag},
};
use serde::{Deserialize, Serialize};

/// How far a node has come in being trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// It gave no host key; an admin has to accept the fingerprint that was seen.
    Pending,
    /// It reported a host key; a dial has yet to find that key there.
    Reported,
    /// The reported key was found at its address.
    Admitted,
}

impl Admission {
    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Reported => "reported",
            Self::Admitted => "admitted",
        }
    }
}

/// Whether a node answers; see [`crate::health`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not looked at yet.
    Unknown,
    /// Its SSH answers.
    Alive,
    /// Its SSH failed just now; it is being looked at closely.
    Suspect,
    /// Its SSH does not answer, but its agent does: not offered, not migrated.
    Unreachable,
    /// Both paths to it are gone.
    Dead,
}

impl Health {
    /// The word in the database and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Unreachable => "unreachable",
            Self::Dead => "dead",
        }
    }
}

/// The agent's link as the database has it (the replica that holds it writes only its changes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// This node never had an agent.
    None,
    /// The agent beats.
    Up,
    /// It stopped beating.
    Lost,
}

impl LinkState {
    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Up => "up",
            Self::Lost => "lost",
        }
    }
}

/// What a worker says of its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Logical CPUs.
    #[serde(default)]
    pub cpu_cores: Option<u32>,
    /// Memory in MiB.
    #[serde(default)]
    pub memory_mb: Option<u64>,
    /// Names of its GPUs, one entry each.
    #[serde(default)]
    pub gpus: Vec<String>,
    /// The MAC address of its first network card, for Wake-on-LAN.
    #[serde(default)]
    pub mac: Option<String>,
    /// The version of the agent; none for a worker registered by hand.
    #[serde(default)]
    pub agent_version: Option<String>,
}

/// A node as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// What it calls itself; unique.
    pub hostname: Hostname,
    /// Where its sshd is dialled.
    pub addr: HostAddr,
    /// Its sshd's port.
    pub ssh_port: Port,
    /// Pinned (or reported) host keys, `type base64` each.
    pub host_keys: Vec<String>,
    /// The fingerprint that was seen at a pending node.
    pub seen_fingerprint: Option<String>,
    /// How far it is trusted.
    pub admission: Admission,
    /// Whether it answers.
    pub health: Health,
    /// Why it is in this health, for people.
    pub health_reason: String,
    /// Since when.
    pub health_since: Timestamp,
    /// Why it is kept out of use, if it is.
    pub quarantine: Option<String>,
    /// Whether it is being emptied: then it takes no new leases.
    pub drain: Option<Drain>,
    /// The agent's link.
    pub link: LinkState,
    /// Since when the link is so.
    pub link_since: Timestamp,
    /// The replica that holds the link.
    pub link_replica: Option<String>,
    /// Whether the agent says that its sshd answers; none if it did not say.
    pub agent_sees_sshd: Option<bool>,
    /// Its inventory.
    pub facts: Facts,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// Subordinate uid ranges on it, `(start, count)`.
    pub subordinate_uids: Vec<(u32, u32)>,
    /// Goes up with every change of what it should hold.
    pub desired_version: i64,
    /// The last version that was applied to it.
    pub applied_version: i64,
    /// The whole-node lease that has it.
    pub lease: Option<LeaseId>,
    /// When it registered first.
    pub registered_at: Timestamp,
    /// What the last cleaning found and removed (JSON), and when.
    pub last_clean_report: Option<serde_json::Value>,
    /// Until when its row is claimed, if it is.
    pub claimed_until: Option<Timestamp>,
    /// How often in a row reconciling failed; sets the pause before the next try.
    pub reconcile_failures: u32,
    /// Grows with every write.
    pub version: i64,
}

impl Node {
    /// Whether what it should hold has not been applied yet.
    pub const fn is_dirty(&self) -> bool {
        self.applied_version < self.desired_version
    }

    /// Whether a new lease may be placed on it (I7). The placement query says the same in SQL.
    pub fn is_offerable(&self) -> bool {
        self.admission == Admission::Admitted
            && self.health == Health::Alive
            && self.quarantine.is_none()
            && self.drain.is_none()
            && self.lease.is_none()
            && !self.is_dirty()
    }

    /// One word for people: the strongest reason first.
    pub const fn status(&self) -> &'static str {
        if self.quarantine.is_some() {
            return "quarantined";
        }
        match self.admission {
            Admission::Pending => return "pending",
            Admission::Reported => return "confirming",
            Admission::Admitted => {}
        }
        match (self.health, &self.drain) {
            (Health::Alive, Some(drain)) if drain.drained_at.is_some() => "drained",
            (Health::Alive, Some(_)) => "draining",
            (Health::Alive, None) if self.is_dirty() && self.lease.is_none() => "cleaning",
            (Health::Unknown | Health::Alive | Health::Suspect | Health::Unreachable | Health::Dead, _) => {
                self.health.as_str()
            }
        }
    }
}
