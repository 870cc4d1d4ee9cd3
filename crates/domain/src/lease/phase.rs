//! The names of a lease's states.

use serde::{Deserialize, Serialize};

/// The name of a state: what the database stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// See [`super::LeaseState::Requested`].
    Requested,
    /// See [`super::LeaseState::Scheduled`].
    Scheduled,
    /// See [`super::LeaseState::Queued`].
    Queued,
    /// See [`super::LeaseState::Provisioning`].
    Provisioning,
    /// See [`super::LeaseState::Active`].
    Active,
    /// See [`super::LeaseState::Migrating`].
    Migrating,
    /// See [`super::LeaseState::Yielding`].
    Yielding,
    /// See [`super::LeaseState::Releasing`].
    Releasing,
    /// See [`super::LeaseState::Ended`].
    Ended,
}

impl Phase {
    /// Every phase, in the order of a lease's life.
    pub const ALL: [Self; 9] = [
        Self::Requested,
        Self::Scheduled,
        Self::Queued,
        Self::Provisioning,
        Self::Active,
        Self::Migrating,
        Self::Yielding,
        Self::Releasing,
        Self::Ended,
    ];

    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Migrating => "migrating",
            Self::Yielding => "yielding",
            Self::Releasing => "releasing",
            Self::Ended => "ended",
        }
    }

    /// Returns whether the lease is not over.
    pub const fn is_live(self) -> bool {
        !matches!(self, Self::Ended)
    }

    /// Returns whether the lease holds capacity of a node.
    pub const fn holds_node(self) -> bool {
        match self {
            Self::Provisioning | Self::Active | Self::Migrating | Self::Yielding | Self::Releasing => true,
            Self::Requested | Self::Scheduled | Self::Queued | Self::Ended => false,
        }
    }

    /// Returns whether the lease ends when its time is up.
    pub const fn expires(self) -> bool {
        match self {
            Self::Requested
            | Self::Scheduled
            | Self::Queued
            | Self::Provisioning
            | Self::Active
            | Self::Migrating
            | Self::Yielding => true,
            Self::Releasing | Self::Ended => false,
        }
    }
}
