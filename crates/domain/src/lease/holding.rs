//! What a lease holds of its node.

use crate::{
    container::{ContainerSpec, SpecError, limits},
    node::Capacity,
};

/// A whole node, or a slice of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Holding {
    /// The node, and nobody else has anything of it.
    #[default]
    WholeNode,
    /// A part of it, beside the slices of others.
    Slice {
        /// Thousandths of a processor core; at least 1.
        cpu_milli: u32,
        /// Memory in MiB; at least 1.
        memory_mb: u32,
        /// GPU devices, each for this lease alone.
        gpus: u32,
    },
}

impl Holding {
    /// Returns whether the lease has the whole node.
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::WholeNode)
    }
    /// Returns what containers of the lease may use of a node of this capacity.
    pub fn share_of(self, node: Capacity) -> Share {
        let known = |amount: i64, floor: u32| u32::try_from(amount).ok().filter(|amount| *amount >= floor);
        match self {
            Self::Slice { cpu_milli, memory_mb, gpus } => {
                Share { cpu_milli: Some(cpu_milli), memory_mb: Some(memory_mb), gpus: Some(gpus) }
            }
            Self::WholeNode => Share {
                cpu_milli: known(node.cpu_milli, 1),
                memory_mb: known(node.memory_mb, limits::MEMORY_MB_MIN),
                gpus: None,
            },
        }
    }
}

/// What containers of a lease may use of its node; none where that is not known, as of a node that reported nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Thousandths of a processor core.
    pub cpu_milli: Option<u32>,
    /// Memory in MiB.
    pub memory_mb: Option<u32>,
    /// GPU devices.
    pub gpus: Option<u32>,
}

impl Share {
    /// Refuses a container that asks for more.
    ///
    /// # Errors
    /// The first field that is too large, with its limit.
    pub fn check(self, spec: &ContainerSpec) -> Result<(), SpecError> {
        let exceeds = |asked: Option<u32>, have: Option<u32>| matches!((asked, have), (Some(asked), Some(have)) if asked > have);
        let refuse = |field, have: String| {
            Err(SpecError::new(field, format!("must be at most {have}, which is what the lease has")))
        };
        if exceeds(spec.cpu_milli, self.cpu_milli) {
            return refuse("cpus", cores(self.cpu_milli.unwrap_or_default()));
        }
        if exceeds(spec.memory_mb, self.memory_mb) {
            return refuse("memory_mb", self.memory_mb.unwrap_or_default().to_string());
        }
        if exceeds(Some(spec.gpus), self.gpus) {
            return refuse("gpus", self.gpus.unwrap_or_default().to_string());
        }
        Ok(())
    }

    /// Returns the limits of a container in thousandths of a core and MiB: what it asks for, or else all of the share.
    pub fn limits_of(self, spec: &ContainerSpec) -> (u32, u32) {
        let limit = |asked: Option<u32>, have: Option<u32>| match (asked, have) {
            (Some(asked), Some(have)) => asked.min(have),
            (Some(amount), None) | (None, Some(amount)) => amount,
            (None, None) => 0,
        };
        (limit(spec.cpu_milli, self.cpu_milli), limit(spec.memory_mb, self.memory_mb))
    }
}

/// Returns thousandths of a core as a number of cores, such as `0.5`.
pub fn cores(cpu_milli: u32) -> String {
    (f64::from(cpu_milli) / 1000.0).to_string()
}
