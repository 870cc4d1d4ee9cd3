//! Containers of leases: what a tenant may ask for, and what has to be done on a node so that its engine holds
//! what it should.
//!
//! Pure: checked values, the difference between what is wanted and what was found, and the words for an exit. Talking
//! to an engine is the work of `orion-containers`.

mod app;
mod disk;
mod event;
mod exit;
mod image;
mod input;
mod label;
mod names;
mod phase;
mod plan;
mod restart;
mod spec;

pub use app::{APP_COOKIE, AppsDomain};
pub use disk::{Disk, DiskPolicy};
pub use event::ContainerEvent;
pub use exit::ContainerExit;
pub use image::{AllowedRegistries, DOCKER_HUB, ImageName, RegistryHost, RegistryStanding};
pub use input::{ContainerRequest, SpecError, limits};
pub use label::{
    CONTAINER_LABEL, EPOCH_LABEL, LEASE_LABEL, bridge_name, container_name, is_container_name,
    is_network_name, network_name,
};
pub use names::{ContainerName, EnvName, FilePath};
pub use phase::ContainerPhase;
pub use plan::{
    ContainerAction, ContainerPlan, DesiredContainer, EngineState, FoundContainer, FoundNetwork,
    FoundOnEngine, FoundVolume, LeaseContainers, WantedState, plan_containers,
};
pub use restart::RestartPolicy;
pub use spec::{ContainerSpec, SpecFile, StoredSpec};
