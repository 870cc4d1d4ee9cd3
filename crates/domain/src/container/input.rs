//! A container as it is asked for, before it is checked.

use crate::Secret;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Limits of a container's specification.
pub mod limits {
    /// Largest number of words of `command` and `args` together.
    pub const WORDS_MAX: usize = 1_000;
    /// Largest length of `command` and `args` together; the kernel itself takes no word of more than 128 KiB.
    pub const COMMAND_BYTES_MAX: usize = 64 * 1024;
    /// Largest number of environment variables.
    pub const ENV_MAX: usize = 500;
    /// Largest length of all environment variables together.
    pub const ENV_BYTES_MAX: usize = 128 * 1024;
    /// Least processor time, in thousandths of a core.
    pub const CPU_MILLI_MIN: u32 = 10;
    /// Largest processor time, in thousandths of a core.
    pub const CPU_MILLI_MAX: u32 = 1_024_000;
    /// Least memory in MiB: an engine takes no less than 6 MiB.
    pub const MEMORY_MB_MIN: u32 = 8;
    /// Largest memory in MiB.
    pub const MEMORY_MB_MAX: u32 = 64 * 1024 * 1024;
    /// Largest number of GPUs.
    pub const GPUS_MAX: u32 = 64;
    /// Largest number of published ports.
    pub const PORTS_MAX: usize = 16;
    /// Largest number of files.
    pub const FILES_MAX: usize = 64;
    /// Largest length of all files together.
    pub const FILES_BYTES_MAX: usize = 1024 * 1024;
    /// Size of /dev/shm in MiB where none is asked for; Docker's own default.
    pub const SHM_MB_DEFAULT: u32 = 64;
}

/// A container as a client asks for it. [`super::ContainerSpec::check`] makes a specification of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerRequest {
    /// Name of the image.
    pub image: String,
    /// Replaces the image's entrypoint.
    #[serde(default)]
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment variables. Their values may be secrets.
    #[serde(default)]
    pub env: BTreeMap<String, Secret>,
    /// Processor time in thousandths of a core; all that the lease has where none is given.
    pub cpu_milli: Option<u32>,
    /// Memory in MiB; all that the lease has where none is given.
    pub memory_mb: Option<u32>,
    /// Number of GPUs.
    #[serde(default)]
    pub gpus: u32,
    /// TCP ports of the container that can be reached from outside.
    #[serde(default)]
    pub ports: Vec<u32>,
    /// Name of the container in its lease.
    pub name: Option<String>,
    /// Restart policy, as Docker writes it.
    pub restart: Option<String>,
    /// Files that are put into the container before it starts: path and content. They may hold secrets.
    #[serde(default)]
    pub files: BTreeMap<String, Secret>,
    /// Size of /dev/shm in MiB.
    pub shm_mb: Option<u32>,
    /// Whether everybody may reach the ports; else the owner alone.
    #[serde(default)]
    pub public: bool,
    /// Whether it may start on a new node before it has ended on the old one.
    #[serde(default)]
    pub overlap: bool,
}

/// A field of a container's specification that is not as it has to be. No value of `env` or `files` is shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct SpecError {
    /// Name of the field, as in the API.
    pub field: &'static str,
    /// What is wrong with it, and the limit.
    pub problem: String,
}

impl SpecError {
    pub(crate) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}
