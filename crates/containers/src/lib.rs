//! The container engine of a node, Docker's or Podman's, spoken to through the node's pooled SSH session.
//!
//! Lives here: the way to the engine's socket, the calls of the Engine API that Orion needs, each with a deadline and a
//! bound on what is read, and an error type that says what a failure means.
//!
//! Does not live here: starting a container (a playbook does that on the node, under its lock and epoch), what
//! should be on a node (`orion_domain::container`), leases, SQL, and retries.

mod archive;
mod connection;
mod engine;
mod error;
mod http;
mod route;

pub use engine::{
    ContainerEvent, ContainerPlacement, ContainerState, CreatedContainer, Engine, EngineInfo, Engines,
    EventAction, Events, Exec, ExecInput, ExecOutput, ExecRequest, GpuDevice, ImageInfo, LogChunk,
    LogOptions, LogSource, LogStream, PublishedPort, Pull, PullProgress, RegistryCredentials, RemoteImage,
    Stats, StatsStream, Terminal, TtySize,
};
pub use error::{EngineError, EngineMeaning};
pub use route::EngineKind;
