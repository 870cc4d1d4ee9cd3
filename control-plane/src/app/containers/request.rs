//! What a client asks for when it runs a container, and its check.

use crate::error::ApiError;
use orion_domain::{
    Secret,
    container::{AllowedRegistries, ContainerRequest, ContainerSpec},
};
use serde::Deserialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A container to run.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ContainerBody {
    /// Name of the image, such as `debian:12` or `registry.example:5000/team/app@sha256:…`.
    #[schema(min_length = 1, max_length = 512)]
    image: String,
    /// Replaces the image's entrypoint.
    #[schema(value_type = Option<Vec<String>>)]
    command: Option<Vec<String>>,
    /// Replaces the image's arguments; at most 1000 words and 64 KiB with `command`.
    #[schema(value_type = Option<Vec<String>>)]
    args: Option<Vec<String>>,
    /// Environment variables, at most 500 and 128 KiB. Values are sealed, and shown nowhere.
    #[schema(value_type = Option<Object>)]
    env: Option<BTreeMap<String, Secret>>,
    /// Processor cores, such as 0.5; all that the lease has if left out.
    #[schema(minimum = 0.01)]
    cpus: Option<f64>,
    /// Memory in MiB, with no swap; all that the lease has if left out.
    #[schema(minimum = 8)]
    memory_mb: Option<u32>,
    /// Number of GPUs of the lease.
    #[schema(minimum = 0, default = 0)]
    gpus: Option<u32>,
    /// TCP ports of the container that are reached from outside, at most 16.
    #[schema(value_type = Option<Vec<u16>>, example = json!([8080]))]
    ports: Option<Vec<u32>>,
    /// Whether everybody may reach its ports; else the operator's proxies alone, and by these its owner.
    #[schema(default = false)]
    public: Option<bool>,
    /// A name of your own, unique in the lease: a letter, then `a-z`, `0-9` and `-`; its number if left out.
    #[schema(min_length = 1, max_length = 40)]
    name: Option<String>,
    /// `no`, `on-failure`, `on-failure:N`, `always` or `unless-stopped`; `no` if left out.
    restart: Option<String>,
    /// Files that are put into it before it starts: path and content, at most 64 and 1 MiB. Sealed, as `env`.
    #[schema(value_type = Option<Object>)]
    files: Option<BTreeMap<String, Secret>>,
    /// Size of /dev/shm in MiB; 64 if left out.
    #[schema(minimum = 1, default = 64)]
    shm_mb: Option<u32>,
    /// Whether it may start on a new node before it has ended on the old one, as in a drain; false if left out.
    #[schema(default = false)]
    overlap: Option<bool>,
}

impl ContainerBody {
    /// Checks the body; its image must come from one of these registries.
    ///
    /// # Errors
    /// 400 that names the first field that is wrong, and its limit.
    pub fn check(self, registries: &AllowedRegistries) -> Result<ContainerSpec, ApiError> {
        let cpu_milli = self.cpus.map(milli).transpose()?;
        let request = ContainerRequest {
            image: self.image,
            command: self.command.unwrap_or_default(),
            args: self.args.unwrap_or_default(),
            env: self.env.unwrap_or_default(),
            cpu_milli,
            memory_mb: self.memory_mb,
            gpus: self.gpus.unwrap_or(0),
            ports: self.ports.unwrap_or_default(),
            name: self.name,
            restart: self.restart,
            files: self.files.unwrap_or_default(),
            shm_mb: self.shm_mb,
            public: self.public.unwrap_or(false),
            overlap: self.overlap.unwrap_or(false),
        };
        let spec =
            ContainerSpec::check(request).map_err(|error| ApiError::field(error.field, error.problem))?;
        registries.check(&spec.image).map_err(|why| ApiError::field("image", why))?;
        Ok(spec)
    }
}

/// Thousandths of a core.
pub(in crate::app) fn milli(cpus: f64) -> Result<u32, ApiError> {
    let milli = (cpus * 1000.0).round();
    if milli.is_finite() && (1.0..=f64::from(u32::MAX)).contains(&milli) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within the range of u32"
        )]
        return Ok(milli as u32);
    }
    Err(ApiError::field("cpus", format!("must be a number of cores above 0, not {cpus}")))
}
