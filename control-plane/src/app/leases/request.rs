//! What a client asks for when it rents, and its check.

use crate::{
    app::containers::request::{ContainerBody, milli},
    error::ApiError,
};
use orion_domain::{
    Secret,
    container::{AllowedRegistries, ContainerSpec, limits},
    credentials::{SSH_PASSWORD_MIN, SshPublicKey, check_password},
    lease::{Holding, OnNodeLoss, cores},
    names::{LeaseName, Tag},
    node::Capacity,
    time::Hours,
};
use serde::Deserialize;
use std::time::Duration;
use utoipa::ToSchema;

/// Properties of the requested rental.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RentBody {
    /// Length of the lease in hours: more than 0, a fraction is fine; at most what the operator allows
    /// (`ORION_LEASE_HOURS_MAX`, 720).
    #[schema(minimum = 0.000278)]
    duration_hours: f64,
    /// Number of nodes; at most what the operator allows (`ORION_RENT_COUNT_MAX`, 100).
    #[schema(minimum = 1, default = 1)]
    count: Option<i64>,
    /// The login's password on every node, 8 characters to 128 bytes; made for each node if left out.
    #[schema(value_type = Option<String>, format = Password, min_length = 8, max_length = 128)]
    ssh_password: Option<Secret>,
    /// One line of an OpenSSH public key, without options, at most 4096 characters and a comment; it may log in, too.
    ssh_public_key: Option<String>,
    /// Tags that each node has to have.
    #[schema(value_type = Option<Vec<crate::openapi::schemas::Tag>>)]
    tags: Option<Vec<String>>,
    /// Number of a cluster; there are no clusters yet: any number is refused.
    cluster_id: Option<i64>,
    /// Policy for the loss of the node; `migrate` if left out.
    #[schema(value_type = Option<crate::openapi::schemas::NodeLossPolicy>)]
    on_node_loss: Option<OnNodeLoss>,
    /// A name of your own for the lease, unique among your leases: a letter, then `a-z`, `0-9` and `-`.
    #[schema(min_length = 1, max_length = 40, pattern = "^[a-z][a-z0-9-]*$")]
    name: Option<String>,
    /// Processor cores of a slice, such as 1.5. With `cpus` and `memory_mb` the lease is a slice of a node, beside those of
    /// others, and has no login but its `container`.
    #[schema(minimum = 0.01)]
    cpus: Option<f64>,
    /// Memory of a slice in MiB.
    #[schema(minimum = 8)]
    memory_mb: Option<u32>,
    /// GPUs of a slice, each for this lease alone; 0 if left out.
    #[schema(minimum = 0, maximum = 64)]
    gpus: Option<u32>,
    /// Container that runs on each node from the beginning; a slice needs one.
    container: Option<ContainerBody>,
}

/// The same, checked.
pub struct RentRequest {
    pub(super) length: Duration,
    pub(super) count: u32,
    pub(super) password: Option<Secret>,
    pub(super) public_key: Option<SshPublicKey>,
    pub(super) tags: Vec<Tag>,
    pub(super) on_node_loss: OnNodeLoss,
    pub(super) name: Option<LeaseName>,
    pub(super) holding: Holding,
    pub(super) container: Option<ContainerSpec>,
}

impl RentBody {
    /// Checks the body against the limits; images must come from one of these registries.
    ///
    /// # Errors
    /// 400 that names the first field that is wrong, and why.
    pub fn check(
        self,
        hours_max: f64,
        count_max: u32,
        registries: &AllowedRegistries,
    ) -> Result<RentRequest, ApiError> {
        let length = Hours::new(self.duration_hours, hours_max)
            .map_err(|rule| ApiError::field("duration_hours", rule))?
            .duration();
        let count = match self.count.unwrap_or(1) {
            count if count < 1 => {
                return Err(ApiError::field("count", format!("must be at least 1, not {count}")));
            }
            count => u32::try_from(count).ok().filter(|&count| count <= count_max).ok_or_else(|| {
                ApiError::field("count", format!("must be at most {count_max}, not {count}"))
            })?,
        };
        let holding = self.holding()?;
        let container = self.container.map(|container| container.check(registries)).transpose();
        let container = container.map_err(|error| error.inside("container"))?;
        match (holding, &container) {
            (Holding::WholeNode, _) => {}
            (Holding::Slice { .. }, None) => {
                return Err(ApiError::field(
                    "container",
                    "is missing: a slice has no login, and runs a container",
                ));
            }
            (Holding::Slice { .. }, Some(spec)) => {
                let share = holding.share_of(Capacity::default());
                let within = share.check(spec).map_err(|error| ApiError::field(error.field, error.problem));
                within.map_err(|error| error.inside("container"))?;
            }
        }
        if let Some(password) = &self.ssh_password {
            check_password(password, SSH_PASSWORD_MIN)
                .map_err(|rule| ApiError::field("ssh_password", rule))?;
        }
        let public_key = self
            .ssh_public_key
            .map(|text| text.parse::<SshPublicKey>().map_err(|rule| ApiError::field("ssh_public_key", rule)))
            .transpose()?;
        let tags = self
            .tags
            .unwrap_or_default()
            .iter()
            .map(|tag| tag.parse::<Tag>().map_err(|rule| ApiError::field("tags", rule)))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(cluster) = self.cluster_id {
            return Err(ApiError::field(
                "cluster_id",
                format!("there is no cluster {cluster}; leave it out"),
            ));
        }
        let name = self
            .name
            .map(|name| name.parse::<LeaseName>().map_err(|rule| ApiError::field("name", rule)))
            .transpose()?;
        Ok(RentRequest {
            length,
            count,
            password: self.ssh_password,
            public_key,
            tags,
            on_node_loss: self.on_node_loss.unwrap_or_default(),
            name,
            holding,
            container,
        })
    }

    /// Returns what each lease holds: a slice where a size is given.
    fn holding(&self) -> Result<Holding, ApiError> {
        if self.cpus.is_none() && self.memory_mb.is_none() && self.gpus.is_none() {
            return Ok(Holding::WholeNode);
        }
        for (name, is_given) in
            [("ssh_password", self.ssh_password.is_some()), ("ssh_public_key", self.ssh_public_key.is_some())]
        {
            if is_given {
                let why = "a slice (cpus, memory_mb, gpus) has no login; leave it out, or rent a whole node";
                return Err(ApiError::field(name, why));
            }
        }
        let missing = |name: &str| ApiError::field(name, "is missing: a slice has cpus and memory_mb");
        let cpu_milli = milli(self.cpus.ok_or_else(|| missing("cpus"))?)?;
        let memory_mb = self.memory_mb.ok_or_else(|| missing("memory_mb"))?;
        let gpus = self.gpus.unwrap_or(0);
        let (cpu_min, memory_min) = (limits::CPU_MILLI_MIN, limits::MEMORY_MB_MIN);
        if cpu_milli < cpu_min {
            return Err(ApiError::field("cpus", format!("must be at least {}", cores(cpu_min))));
        }
        if memory_mb < memory_min {
            return Err(ApiError::field("memory_mb", format!("must be at least {memory_min}")));
        }
        if gpus > limits::GPUS_MAX {
            return Err(ApiError::field("gpus", format!("must be at most {}", limits::GPUS_MAX)));
        }
        Ok(Holding::Slice { cpu_milli, memory_mb, gpus })
    }
}
