//! What was last seen of a container.

use serde::{Deserialize, Serialize};

/// Phase in the life of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerPhase {
    /// It is to be made: on the node of its lease, or on the next one.
    Pending,
    /// Its image is being pulled.
    Pulling,
    /// It runs.
    Running,
    /// It ended, or was stopped, and is kept.
    Exited,
    /// It could not be made or started; the reason says why.
    Failed,
    /// It was removed.
    Removed,
}

impl ContainerPhase {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Pulling, Self::Running, Self::Exited, Self::Failed, Self::Removed];

    /// The word in the database and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Pulling => "pulling",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Failed => "failed",
            Self::Removed => "removed",
        }
    }

    /// Returns whether nothing more has to happen before a client that waits for the container is answered.
    pub const fn is_settled(self) -> bool {
        match self {
            Self::Running | Self::Exited | Self::Failed | Self::Removed => true,
            Self::Pending | Self::Pulling => false,
        }
    }
}
