//! The events about a container.

use serde::Serialize;
use strum::{IntoStaticStr, VariantNames};

/// An event about a container of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, IntoStaticStr, VariantNames)]
#[serde(untagged)]
#[strum(serialize_all = "snake_case", prefix = "container.")]
pub enum ContainerEvent {
    /// It was asked for.
    Created {
        /// Name of the container in its lease.
        container: String,
    },
    /// Somebody asked for its stop.
    Stopping {
        /// Name of the container in its lease.
        container: String,
    },
    /// Somebody asked for a restart.
    Restarting {
        /// Name of the container in its lease.
        container: String,
    },
    /// It runs.
    Running {
        /// Name of the container in its lease.
        container: String,
    },
    /// It ended, or was stopped.
    Exited {
        /// Name of the container in its lease.
        container: String,
        /// Reason in words, such as `out of memory (exit code 137)`.
        reason: String,
        /// Exit code, if there is one.
        code: Option<i64>,
    },
    /// It could not be made or started.
    Failed {
        /// Name of the container in its lease.
        container: String,
        /// Reason of the failure.
        reason: String,
    },
    /// It was removed.
    Removed {
        /// Name of the container in its lease.
        container: String,
    },
}
