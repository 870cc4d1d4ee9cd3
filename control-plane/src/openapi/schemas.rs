//! Shapes of types whose crates know nothing of OpenAPI, and of errors.

use orion_domain::{drain::DrainState, lease, node::LinkState, way_in::Way};
use serde::Serialize;
use utoipa::ToSchema;

/// An error (RFC 9457).
#[derive(ToSchema)]
pub struct Problem {
    /// `urn:orion:problem:` and `kind`.
    pub r#type: String,
    /// Short, the same for every error of a kind.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// Description of the error, for people.
    pub detail: String,
    /// The same, for older clients.
    pub error: String,
    /// A word for programs, like `too_few_free`.
    pub kind: String,
    /// Advice on what to do about the error.
    #[schema(nullable = false)]
    pub hint: Option<String>,
    /// The field of the body that is wrong.
    #[schema(nullable = false)]
    pub field: Option<String>,
    /// `too_few_free`: how many nodes are free.
    #[schema(nullable = false)]
    pub found: Option<u64>,
    /// `too_few_free`: in how many seconds the next lease ends; `null` if none is due to end.
    pub retry_after_s: Option<u64>,
    /// `too_few_free`: when the next lease ends.
    #[schema(nullable = false, value_type = Option<String>, format = DateTime)]
    pub next_free_at: Option<String>,
    /// `quota_exceeded`: which quota.
    #[schema(nullable = false)]
    pub quota: Option<String>,
    /// `quota_exceeded`: its value.
    #[schema(nullable = false)]
    pub limit: Option<u32>,
    /// Flag in replies to a node's token: the node is not known any more, and has to register with a join
    /// token.
    #[schema(nullable = false)]
    pub forgotten: Option<bool>,
}

/// A label of a node, like `gpu` or `rack-3`.
#[derive(ToSchema)]
#[schema(min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9._=:-]+$")]
#[expect(dead_code, reason = "only its shape is wanted")]
pub struct Tag(String);

/// Pattern of event kinds: a kind such as `node.dead`, a group such as `lease.*`, or `*`.
#[derive(ToSchema)]
#[schema(min_length = 1, max_length = 64, pattern = "^(\\*|[a-z_-]+\\.(\\*|[a-z_.-]+))$")]
#[expect(dead_code, reason = "only its shape is wanted")]
pub struct KindPattern(String);

/// Rights of an account.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Access to the account's own leases.
    User,
    /// Access to everything.
    Admin,
}

/// Phase of a lease.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Lease whose account is being made.
    Provisioning,
    /// Lease whose login works.
    Active,
    /// Lease whose node is lost or given up; it is on its way to another node.
    Migrating,
    /// Lease that is over; its account is being removed.
    Releasing,
    /// Lease that is over, and whose account is gone.
    Ended,
}

impl From<lease::Phase> for LeaseState {
    fn from(phase: lease::Phase) -> Self {
        match crate::app::leases::phases::shown(phase) {
            lease::Phase::Requested
            | lease::Phase::Scheduled
            | lease::Phase::Queued
            | lease::Phase::Provisioning => Self::Provisioning,
            lease::Phase::Active => Self::Active,
            lease::Phase::Migrating | lease::Phase::Yielding => Self::Migrating,
            lease::Phase::Releasing => Self::Releasing,
            lease::Phase::Ended => Self::Ended,
        }
    }
}

/// Policy for a lease whose node is lost: it moves to another, waits for its own, or ends.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeLossPolicy {
    /// Moves the lease to another node, or back to its own if that returns first.
    Migrate,
    /// Keeps the lease `migrating` until its own node returns.
    Wait,
    /// Ends the lease.
    End,
}

impl From<lease::OnNodeLoss> for NodeLossPolicy {
    fn from(policy: lease::OnNodeLoss) -> Self {
        match policy {
            lease::OnNodeLoss::Migrate => Self::Migrate,
            lease::OnNodeLoss::Wait => Self::Wait,
            lease::OnNodeLoss::End => Self::End,
        }
    }
}

/// The link of a node's agent: `none` for a node that never had an agent, `lost` when it stopped beating.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentLink {
    /// The node never had an agent.
    None,
    /// The agent beats.
    Up,
    /// The agent stopped sending heartbeats.
    Lost,
}

impl From<LinkState> for AgentLink {
    fn from(link: LinkState) -> Self {
        match link {
            LinkState::None => Self::None,
            LinkState::Up => Self::Up,
            LinkState::Lost => Self::Lost,
        }
    }
}

/// Whether lease accounts can log in at a node. A node is offered only while it is `open`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WayIn {
    /// Node that was not probed yet, or not for more than 90 seconds.
    Unknown,
    /// A probe account logged in, by password and by key.
    Open,
    /// A probe account could not log in.
    Shut,
}

impl From<Way> for WayIn {
    fn from(way: Way) -> Self {
        match way {
            Way::Unknown => Self::Unknown,
            Way::Open => Self::Open,
            Way::Shut => Self::Shut,
        }
    }
}

/// One word on a node, the strongest reason first.
///
/// `quarantined`: kept out of use, an admin has to look. `pending`: an admin has to accept its host key.
/// `confirming`: its reported host key has yet to be found there. `unknown`: not looked at yet. `alive`: its SSH
/// answers. `draining`: it takes no new leases, those on it move away. `drained`: it was emptied, and may be
/// switched off. `cleaning`: it is being cleaned before it is offered. `suspect`: its SSH failed just now.
/// `unreachable`: its SSH does not answer, but there is another sign of life. `dead`: both paths to it are gone.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words are explained together, as the document shows them")]
pub enum NodeStatus {
    Quarantined,
    Pending,
    Confirming,
    Unknown,
    Alive,
    Draining,
    Drained,
    Cleaning,
    Suspect,
    Unreachable,
    Dead,
}

/// Present step of a drain: what it does now, or waits for.
#[derive(Serialize, ToSchema)]
#[expect(missing_docs, reason = "the words say it")]
pub enum DrainProgress {
    #[serde(rename = "moving")]
    Moving,
    #[serde(rename = "waiting for a free node")]
    WaitingForNode,
    #[serde(rename = "waiting for its deadline")]
    WaitingForDeadline,
    #[serde(rename = "waiting for its lease to end")]
    WaitingForEnd,
    #[serde(rename = "cleaning")]
    Cleaning,
    #[serde(rename = "drained")]
    Drained,
}

impl From<DrainState> for DrainProgress {
    fn from(state: DrainState) -> Self {
        match state {
            DrainState::Moving => Self::Moving,
            DrainState::WaitingForNode => Self::WaitingForNode,
            DrainState::WaitingForDeadline => Self::WaitingForDeadline,
            DrainState::WaitingForEnd => Self::WaitingForEnd,
            DrainState::Cleaning => Self::Cleaning,
            DrainState::Drained => Self::Drained,
        }
    }
}

/// Hardware of a machine, and the version of its agent.
#[derive(ToSchema)]
pub struct MachineFacts {
    /// Logical CPUs.
    pub cpu_cores: Option<u32>,
    /// Memory in MiB.
    pub memory_mb: Option<u64>,
    /// Names of its GPUs, one entry each, at most 64.
    #[schema(required = false)]
    pub gpus: Vec<String>,
    /// The devices that leases can have, each by its uuid; at most 64.
    #[schema(required = false)]
    pub gpu_devices: Vec<MachineGpu>,
    /// The MAC address of its first network card, for Wake-on-LAN.
    pub mac: Option<String>,
    /// The version of the agent; none for a worker registered by hand.
    pub agent_version: Option<String>,
}

/// A GPU device, as its worker reports it.
#[derive(ToSchema)]
pub struct MachineGpu {
    /// The identity that the device's driver gives, or the path of its device file.
    pub uuid: String,
    /// Number of the device on its node.
    pub number: u32,
    /// The model's name.
    pub model: String,
    /// Memory of the device in MiB.
    pub memory_mb: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease::{OnNodeLoss, Phase};
    use serde_json::to_value;

    #[test]
    fn the_words_are_those_of_the_domain() {
        for phase in Phase::ALL {
            let shown = crate::app::leases::phases::shown(phase);
            assert_eq!(to_value(LeaseState::from(phase)).unwrap(), to_value(shown).unwrap());
        }
        for policy in [OnNodeLoss::Migrate, OnNodeLoss::Wait, OnNodeLoss::End] {
            assert_eq!(to_value(NodeLossPolicy::from(policy)).unwrap(), to_value(policy).unwrap());
        }
        for state in [
            DrainState::Moving,
            DrainState::WaitingForNode,
            DrainState::WaitingForDeadline,
            DrainState::WaitingForEnd,
            DrainState::Cleaning,
            DrainState::Drained,
        ] {
            assert_eq!(to_value(DrainProgress::from(state)).unwrap(), to_value(state).unwrap());
        }
        for link in [LinkState::None, LinkState::Up, LinkState::Lost] {
            assert_eq!(to_value(AgentLink::from(link)).unwrap(), to_value(link).unwrap());
        }
        for way in [Way::Unknown, Way::Open, Way::Shut] {
            assert_eq!(to_value(WayIn::from(way)).unwrap(), to_value(way).unwrap());
        }
    }
}
