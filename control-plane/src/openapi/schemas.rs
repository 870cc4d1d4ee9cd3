//! Shapes of types whose crates know nothing of OpenAPI, and of errors.

use orion_domain::{drain::DrainState, lease, node::LinkState};
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
    /// What is wrong, for people.
    pub detail: String,
    /// The same, for older clients.
    pub error: String,
    /// A word for programs, like `too_few_free`.
    pub kind: String,
    /// What to do about it.
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
    /// To a node's token: the node is not known any more, and has to register with a join token.
    #[schema(nullable = false)]
    pub forgotten: Option<bool>,
}

/// What an account may do.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Its own leases.
    User,
    /// Everything.
    Admin,
}

/// How far a lease is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Its account is being made.
    Provisioning,
    /// Its login works.
    Active,
    /// Its node is lost or given up; it is on its way to another.
    Migrating,
    /// It is over; its account is being removed.
    Releasing,
    /// It is over, and its account is gone.
    Ended,
}

impl From<lease::Phase> for LeaseState {
    fn from(phase: lease::Phase) -> Self {
        match phase {
            lease::Phase::Provisioning => Self::Provisioning,
            lease::Phase::Active => Self::Active,
            lease::Phase::Migrating => Self::Migrating,
            lease::Phase::Releasing => Self::Releasing,
            lease::Phase::Ended => Self::Ended,
        }
    }
}

/// What happens to a lease when its node is lost: it moves to another, waits for its own, or ends.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeLossPolicy {
    /// It moves to another node, or back to its own if that returns first.
    Migrate,
    /// It stays `migrating` until its own node returns.
    Wait,
    /// It ends.
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
    /// This node never had an agent.
    None,
    /// The agent beats.
    Up,
    /// It stopped beating.
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

/// How far a drain is: what it does now, or waits for.
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

/// What a machine is made of.
#[derive(ToSchema)]
pub struct MachineFacts {
    /// Logical CPUs.
    pub cpu_cores: Option<u32>,
    /// Memory in MiB.
    pub memory_mb: Option<u64>,
    /// Names of its GPUs, one entry each, at most 64.
    #[schema(required = false)]
    pub gpus: Vec<String>,
    /// The MAC address of its first network card, for Wake-on-LAN.
    pub mac: Option<String>,
    /// The version of the agent; none for a worker registered by hand.
    pub agent_version: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease::{OnNodeLoss, Phase};
    use serde_json::to_value;

    #[test]
    fn the_words_are_those_of_the_domain() {
        for phase in [Phase::Provisioning, Phase::Active, Phase::Migrating, Phase::Releasing, Phase::Ended] {
            assert_eq!(to_value(LeaseState::from(phase)).unwrap(), to_value(phase).unwrap());
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
    }
}
