//! What is known of a node, and when it may be offered.

mod drain;
mod login;
pub mod watch;

pub use login::login_works;

use crate::{
    LeaseId, NodeId, Timestamp,
    drain::Drain,
    names::{HostAddr, Hostname, Port, Tag},
    way_in::{Way, WayIn},
};
use serde::{Deserialize, Serialize};

/// Progress in establishing trust in a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// The node gave no host key; an admin has to accept the fingerprint that was seen.
    Pending,
    /// The node reported a host key; a dial has yet to find that key at its address.
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
    /// The node has not been probed yet.
    Unknown,
    /// The node's SSH answers.
    Alive,
    /// The node's SSH failed just now; the node is being probed closely.
    Suspect,
    /// The node's SSH does not answer, but its agent does: not offered, not migrated.
    Unreachable,
    /// Both paths to the node are gone.
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
    /// The node never had an agent.
    None,
    /// The agent beats.
    Up,
    /// The agent stopped sending heartbeats.
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

/// Cause of a quarantine, which determines what ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuarantineCause {
    /// Temporary fault: account files locked by another program, no room on the disk, a tool that failed.
    /// Ends with the next reconcile that succeeds.
    Passing,
    /// Leftovers of a tenant that could not all be removed. Ends with the cleaning that succeeds.
    Cleaning,
    /// Fault that only a person can judge, such as a changed host key or two machines with one identity. Ends
    /// when an admin lifts the quarantine.
    Operator,
}

impl QuarantineCause {
    /// The word in the database and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Cleaning => "cleaning",
            Self::Operator => "operator",
        }
    }

    /// Whether a reconcile that succeeds ends the quarantine.
    pub const fn ends_by_itself(self) -> bool {
        match self {
            Self::Passing | Self::Cleaning => true,
            Self::Operator => false,
        }
    }
}

/// The order that a node locks its lease accounts, because it is about to be given up or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockOrder {
    /// Time of the order.
    pub at: Timestamp,
    /// Time of the observation on which the order rests; none: the order of an admin, which no observation
    /// takes back.
    pub observed_at: Option<Timestamp>,
}

/// Inventory of a machine as its worker reports it.
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
    /// The devices that leases can have, where the worker knows them one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu_devices: Vec<Gpu>,
    /// The MAC address of its first network card, for Wake-on-LAN.
    #[serde(default)]
    pub mac: Option<String>,
    /// The version of the agent; none for a worker registered by hand.
    #[serde(default)]
    pub agent_version: Option<String>,
}

/// A GPU device of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// The identity that the device's driver gives.
    pub uuid: String,
    /// Number of the device on its node.
    pub number: u32,
    /// The model's name.
    pub model: String,
    /// Memory of the device in MiB.
    pub memory_mb: u64,
}

/// How a node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Its sshd is dialled.
    Ssh(Sshd),
    /// It dials out, and is never dialled: it has no address.
    Pull,
}

/// A node's sshd: where it is, and how it is known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sshd {
    /// Its address.
    pub addr: HostAddr,
    /// Its port.
    pub port: Port,
    /// Pinned (or reported) host keys, `type base64` each.
    pub host_keys: Vec<String>,
}

/// A node as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Number of the node.
    pub id: NodeId,
    /// Host name that the worker reports; unique.
    pub hostname: Hostname,
    /// How it is reached.
    pub transport: Transport,
    /// The fingerprint that was seen at a pending node.
    pub seen_fingerprint: Option<String>,
    /// Progress in establishing trust in the node.
    pub admission: Admission,
    /// Whether it answers.
    pub health: Health,
    /// Human-readable reason of the health.
    pub health_reason: String,
    /// Start of the current health.
    pub health_since: Timestamp,
    /// Reason of the quarantine, if there is one.
    pub quarantine: Option<String>,
    /// Cause of the quarantine, which determines what ends it; none without a quarantine.
    pub quarantine_cause: Option<QuarantineCause>,
    /// Start of the quarantine.
    pub quarantine_since: Option<Timestamp>,
    /// Whether it is being emptied: then it takes no new leases.
    pub drain: Option<Drain>,
    /// The agent's link.
    pub link: LinkState,
    /// Start of the link's current state.
    pub link_since: Timestamp,
    /// The replica that holds the link.
    pub link_replica: Option<String>,
    /// Whether the agent says that its sshd answers; none if it did not say.
    pub agent_sees_sshd: Option<bool>,
    /// The order to lock every lease account, if it was given.
    pub lock_order: Option<LockOrder>,
    /// Whether lease accounts can log in.
    pub way_in: WayIn,
    /// Its container engine as it was last seen; none where it has none.
    pub engine: Option<String>,
    /// Start of the silence of its container engine; none where that answers, or there is none.
    pub engine_down_since: Option<Timestamp>,
    /// Milliseconds by which the node's clock is ahead of the control plane's, where that was seen and is
    /// worth mentioning.
    pub clock_off_ms: Option<i64>,
    /// Inventory of the worker.
    pub facts: Facts,
    /// Tags of the node.
    pub tags: Vec<Tag>,
    /// Subordinate uid ranges on it, `(start, count)`.
    pub subordinate_uids: Vec<(u32, u32)>,
    /// Goes up with every change of what it should hold.
    pub desired_version: i64,
    /// The last version that was applied to it.
    pub applied_version: i64,
    /// The whole-node lease that has it.
    pub whole_lease: Option<LeaseId>,
    /// Processors and memory for slices, and the part that slices hold.
    pub capacity: Capacity,
    /// Whether something of an earlier life may be on it: then no slice is placed there.
    pub unclean: bool,
    /// Why the disk of its container engine is too full for containers; none where it is not.
    pub disk_full: Option<String>,
    /// Time of the first registration.
    pub registered_at: Timestamp,
    /// Report of the last cleaning (JSON): what it found and removed, and when.
    pub last_clean_report: Option<serde_json::Value>,
    /// End of the claim on the node's row, if the row is claimed.
    pub claimed_until: Option<Timestamp>,
    /// Number of failures in a row to reconcile the node; sets the pause before the next try.
    pub reconcile_failures: u32,
    /// Grows with every write.
    pub version: i64,
}

/// Processors and memory of a node for leases that hold a slice of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a processor core.
    pub cpu_milli: i64,
    /// The part of them that slices hold.
    pub cpu_held: i64,
    /// Memory in MiB.
    pub memory_mb: i64,
    /// The part of it that slices hold.
    pub memory_held_mb: i64,
    /// Thousandths of a core that the node has for leases by its last report; less than `cpu_milli` where leases hold more.
    pub cpu_reported: i64,
    /// MiB that it has for leases by its last report.
    pub memory_reported_mb: i64,
}

/// The part of each node that is kept for the node itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a processor core.
    pub cpu_milli: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
}

impl std::str::FromStr for Reserved {
    type Err = String;

    /// Cores and MiB: `0.5,512`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a number of cores and one of MiB, such as 0.5,512");
        let (cores, memory) = text.split_once(',').ok_or_else(wrong)?;
        let milli = cores.trim().parse::<f64>().map_err(|_| wrong())? * 1000.0;
        if !(0.0..=1_000_000.0).contains(&milli) {
            return Err(wrong());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the range")]
        let cpu_milli = milli.round() as u32;
        Ok(Self { cpu_milli, memory_mb: memory.trim().parse().map_err(|_| wrong())? })
    }
}

impl Facts {
    /// Returns what the machine has for leases: thousandths of a core, and MiB.
    pub fn for_leases(&self, reserved: Reserved) -> (i64, i64) {
        let memory_mb = i64::try_from(self.memory_mb.unwrap_or(0)).unwrap_or(i64::MAX);
        let cpu_milli = i64::from(self.cpu_cores.unwrap_or(0)) * 1000;
        let less = |amount: i64, reserved: u32| amount.saturating_sub(i64::from(reserved)).max(0);
        (less(cpu_milli, reserved.cpu_milli), less(memory_mb, reserved.memory_mb))
    }
}

impl Capacity {
    /// Returns whether leases hold more than the node has by its last report: it has become smaller.
    pub const fn is_shrunk(self) -> bool {
        self.cpu_reported < self.cpu_held || self.memory_reported_mb < self.memory_held_mb
    }

    /// Returns whether slices hold something of it.
    pub const fn is_held(self) -> bool {
        self.cpu_held > 0 || self.memory_held_mb > 0
    }
}

impl Node {
    /// Returns whether any lease holds something of it.
    pub const fn is_held(&self) -> bool {
        self.whole_lease.is_some() || self.capacity.is_held()
    }

    /// Returns its sshd; none of a node that only dials out.
    pub const fn sshd(&self) -> Option<&Sshd> {
        match &self.transport {
            Transport::Ssh(sshd) => Some(sshd),
            Transport::Pull => None,
        }
    }

    /// Whether what it should hold has not been applied yet.
    pub const fn is_dirty(&self) -> bool {
        self.applied_version < self.desired_version
    }

    /// The order to lock that an admin gave: it rests on no observation, and stands until the node is clean.
    pub fn lock_order_of_admin(&self) -> Option<LockOrder> {
        self.lock_order.filter(|order| order.observed_at.is_none())
    }

    /// Returns what decides whether it is offered.
    pub const fn availability(&self) -> Availability {
        Availability {
            admission: self.admission,
            health: self.health,
            is_quarantined: self.quarantine.is_some(),
            is_drained: match &self.drain {
                Some(drain) => Some(drain.drained_at.is_some()),
                None => None,
            },
            has_whole_lease: self.whole_lease.is_some(),
            is_held: self.is_held(),
            is_dirty: self.is_dirty(),
            way_in: self.way_in.way,
            is_dialled: self.sshd().is_some(),
        }
    }

    /// Whether a new lease may be placed on it (I7).
    pub const fn is_offerable(&self) -> bool {
        self.availability().is_offerable()
    }

    /// One word for people: the strongest reason first.
    pub const fn status(&self) -> &'static str {
        self.availability().status()
    }
}

/// The part of a node's state that decides whether it is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Availability {
    /// Progress in establishing trust in it.
    pub admission: Admission,
    /// Whether it answers.
    pub health: Health,
    /// Whether it is quarantined.
    pub is_quarantined: bool,
    /// Whether a drain has emptied it; none without a drain.
    pub is_drained: Option<bool>,
    /// Whether a whole-node lease has it.
    pub has_whole_lease: bool,
    /// Whether any lease holds something of it.
    pub is_held: bool,
    /// Whether what it should hold has not been applied yet.
    pub is_dirty: bool,
    /// Whether lease accounts can log in.
    pub way_in: Way,
    /// Whether its sshd is dialled.
    pub is_dialled: bool,
}

impl Availability {
    /// Whether a new lease may be placed on the node (I7). The placement query says the same in SQL.
    pub const fn is_offerable(self) -> bool {
        matches!(self.admission, Admission::Admitted)
            && matches!(self.health, Health::Alive)
            && !self.is_quarantined
            && self.is_drained.is_none()
            && !self.is_held
            && !self.is_dirty
            && matches!(self.way_in, Way::Open)
            && self.is_dialled
    }

    /// One word for people: the strongest reason first.
    pub const fn status(self) -> &'static str {
        if self.is_quarantined {
            return "quarantined";
        }
        match self.admission {
            Admission::Pending => return "pending",
            Admission::Reported => return "confirming",
            Admission::Admitted => {}
        }
        match (self.health, self.is_drained) {
            (Health::Alive, Some(true)) => "drained",
            (Health::Alive, Some(false)) => "draining",
            (Health::Alive, None) if self.is_dirty && !self.has_whole_lease => "cleaning",
            (Health::Unknown | Health::Alive | Health::Suspect | Health::Unreachable | Health::Dead, _) => {
                self.health.as_str()
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
