//! The checked specification of a container, and how it is kept.

use super::{
    ContainerName, ContainerRequest, EnvName, FilePath, ImageName, RestartPolicy, SpecError, limits,
};
use crate::{Secret, names::Port};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, ops::RangeInclusive};

/// A container that can be made: every value is checked. Only [`ContainerSpec::check`] and [`ContainerSpec::restore`]
/// give one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerSpec {
    /// Name of the image.
    pub image: ImageName,
    /// Replaces the image's entrypoint; empty for the image's own.
    pub command: Vec<String>,
    /// Replaces the image's arguments; empty for the image's own (none where `command` is given).
    pub args: Vec<String>,
    /// Environment variables, by name.
    pub env: Vec<(EnvName, Secret)>,
    /// Processor time in thousandths of a core; none for all that the lease has.
    pub cpu_milli: Option<u32>,
    /// Memory in MiB; none for all that the lease has.
    pub memory_mb: Option<u32>,
    /// Number of GPUs.
    pub gpus: u32,
    /// TCP ports of the container, in the order given, each once.
    pub ports: Vec<Port>,
    /// Name of the container in its lease.
    pub name: Option<ContainerName>,
    /// Restart policy.
    pub restart: RestartPolicy,
    /// Files that are put into the container before it starts.
    pub files: Vec<SpecFile>,
    /// Size of /dev/shm in MiB.
    pub shm_mb: u32,
    /// Whether everybody may reach the ports.
    pub public: bool,
    /// Whether it may start on a new node before it has ended on the old one, when its lease leaves a node that lives.
    pub overlap: bool,
}

/// A file that is put into a container before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecFile {
    /// Path in the container.
    pub path: FilePath,
    /// Content; it may be a secret.
    pub content: Secret,
}

/// A specification as it is kept: what may be shown, and what has to be sealed first. Both are JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSpec {
    /// All but the values of `env` and `files`.
    pub open: String,
    /// The values of `env` and `files`.
    pub sealed: Secret,
}

#[derive(Serialize, Deserialize)]
struct OpenPart {
    image: ImageName,
    command: Vec<String>,
    args: Vec<String>,
    cpu_milli: Option<u32>,
    memory_mb: Option<u32>,
    gpus: u32,
    ports: Vec<u16>,
    name: Option<ContainerName>,
    restart: RestartPolicy,
    shm_mb: u32,
    public: bool,
    #[serde(default)]
    overlap: bool,
}

#[derive(Serialize, Deserialize)]
struct SealedPart<Text> {
    env: BTreeMap<String, Text>,
    files: BTreeMap<String, Text>,
}

impl ContainerSpec {
    /// Checks each field of a request.
    ///
    /// # Errors
    /// The first field that is not as it has to be, with its limit.
    pub fn check(request: ContainerRequest) -> Result<Self, SpecError> {
        let image = request.image.parse().map_err(|problem| SpecError::new("image", problem))?;
        check_words(&request.command, &request.args)?;
        let within =
            |field, value: Option<u32>, range| value.map_or(Ok(()), |value| check_range(field, value, range));
        within("cpus", request.cpu_milli, limits::CPU_MILLI_MIN..=limits::CPU_MILLI_MAX)?;
        within("memory_mb", request.memory_mb, limits::MEMORY_MB_MIN..=limits::MEMORY_MB_MAX)?;
        check_range("gpus", request.gpus, 0..=limits::GPUS_MAX)?;
        let shm_mb = request.shm_mb.unwrap_or(limits::SHM_MB_DEFAULT);
        check_range(
            "shm_mb",
            shm_mb,
            1..=request.memory_mb.unwrap_or(limits::MEMORY_MB_MAX).max(limits::SHM_MB_DEFAULT),
        )?;
        let name = request.name.map(|name| name.parse()).transpose();
        let restart = request.restart.map(|policy| policy.parse()).transpose();
        Ok(Self {
            image,
            env: checked_env(request.env)?,
            ports: checked_ports(&request.ports)?,
            files: checked_files(request.files)?,
            name: name.map_err(|problem: String| SpecError::new("name", problem))?,
            restart: restart
                .map_err(|problem: String| SpecError::new("restart", problem))?
                .unwrap_or_default(),
            command: request.command,
            args: request.args,
            cpu_milli: request.cpu_milli,
            memory_mb: request.memory_mb,
            gpus: request.gpus,
            shm_mb,
            public: request.public,
            overlap: request.overlap,
        })
    }

    /// Returns the specification as it is kept.
    ///
    /// # Errors
    /// Never with a checked specification.
    pub fn to_stored(&self) -> Result<StoredSpec, serde_json::Error> {
        let open = OpenPart {
            image: self.image.clone(),
            command: self.command.clone(),
            args: self.args.clone(),
            cpu_milli: self.cpu_milli,
            memory_mb: self.memory_mb,
            gpus: self.gpus,
            ports: self.ports.iter().map(|port| port.get()).collect(),
            name: self.name.clone(),
            restart: self.restart,
            shm_mb: self.shm_mb,
            public: self.public,
            overlap: self.overlap,
        };
        let sealed = SealedPart {
            env: self.env.iter().map(|(name, value)| (name.to_string(), value.expose())).collect(),
            files: self.files.iter().map(|file| (file.path.to_string(), file.content.expose())).collect(),
        };
        let sealed = Secret::new(serde_json::to_string(&sealed)?);
        Ok(StoredSpec { open: serde_json::to_string(&open)?, sealed })
    }

    /// Reads a specification that was kept, and checks it again.
    ///
    /// # Errors
    /// The field that does not hold; `open` or `sealed` for what is no such JSON.
    pub fn restore(stored: &StoredSpec) -> Result<Self, SpecError> {
        let open: OpenPart = serde_json::from_str(&stored.open)
            .map_err(|error| SpecError::new("open", format!("is no specification: {error}")))?;
        // The parser's own words could repeat a value.
        let sealed: SealedPart<Secret> = serde_json::from_str(stored.sealed.expose())
            .map_err(|_| SpecError::new("sealed", "is no sealed part of a specification"))?;
        Self::check(ContainerRequest {
            image: open.image.to_string(),
            command: open.command,
            args: open.args,
            env: sealed.env,
            cpu_milli: open.cpu_milli,
            memory_mb: open.memory_mb,
            gpus: open.gpus,
            ports: open.ports.into_iter().map(u32::from).collect(),
            name: open.name.map(|name| name.to_string()),
            restart: Some(open.restart.to_string()),
            files: sealed.files,
            shm_mb: Some(open.shm_mb),
            public: open.public,
            overlap: open.overlap,
        })
    }
}

fn check_range(field: &'static str, value: u32, range: RangeInclusive<u32>) -> Result<(), SpecError> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    // The API has cores, not thousandths.
    let shown = |number: u32| match field {
        "cpus" => format!("{}", f64::from(number) / 1000.0),
        _ => number.to_string(),
    };
    Err(SpecError::new(
        field,
        format!("is {} and has to lie between {} and {}", shown(value), shown(least), shown(most)),
    ))
}

fn check_words(command: &[String], args: &[String]) -> Result<(), SpecError> {
    for (field, words) in [("command", command), ("args", args)] {
        if words.iter().any(|word| word.contains('\0')) {
            return Err(SpecError::new(field, "contains a NUL character"));
        }
    }
    let field = if command.is_empty() { "args" } else { "command" };
    let words = command.len() + args.len();
    if words > limits::WORDS_MAX {
        return Err(SpecError::new(
            field,
            format!("has {words} words with args; at most {}", limits::WORDS_MAX),
        ));
    }
    let bytes: usize = command.iter().chain(args).map(String::len).sum();
    if bytes > limits::COMMAND_BYTES_MAX {
        let max = limits::COMMAND_BYTES_MAX;
        return Err(SpecError::new(
            field,
            format!("has {bytes} bytes with args; at most {max}; put a script into files"),
        ));
    }
    if command.first().is_some_and(String::is_empty) {
        return Err(SpecError::new("command", "begins with an empty word"));
    }
    Ok(())
}

fn checked_env(env: BTreeMap<String, Secret>) -> Result<Vec<(EnvName, Secret)>, SpecError> {
    if env.len() > limits::ENV_MAX {
        return Err(SpecError::new(
            "env",
            format!("has {} variables; at most {}", env.len(), limits::ENV_MAX),
        ));
    }
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.expose().len()).sum();
    if bytes > limits::ENV_BYTES_MAX {
        return Err(SpecError::new(
            "env",
            format!("has {bytes} bytes in all; at most {}", limits::ENV_BYTES_MAX),
        ));
    }
    let checked = |(name, value): (String, Secret)| {
        let name: EnvName = name.parse().map_err(|problem: String| SpecError::new("env", problem))?;
        // A line break would be two variables for the tools that read `NAME=value` lines.
        if value.expose().chars().any(|c| matches!(c, '\0' | '\n' | '\r')) {
            let problem =
                format!("{name} contains a line break or NUL; put the text into files, or encode it");
            return Err(SpecError::new("env", problem));
        }
        Ok((name, value))
    };
    env.into_iter().map(checked).collect()
}

fn checked_ports(ports: &[u32]) -> Result<Vec<Port>, SpecError> {
    if ports.len() > limits::PORTS_MAX {
        return Err(SpecError::new(
            "ports",
            format!("has {} ports; at most {}", ports.len(), limits::PORTS_MAX),
        ));
    }
    let mut checked: Vec<Port> = Vec::with_capacity(ports.len());
    for &number in ports {
        let port = Port::try_from(i64::from(number))
            .map_err(|_| SpecError::new("ports", format!("has {number}; a port lies between 1 and 65535")))?;
        if checked.contains(&port) {
            return Err(SpecError::new("ports", format!("has {number} twice")));
        }
        checked.push(port);
    }
    Ok(checked)
}

fn checked_files(files: BTreeMap<String, Secret>) -> Result<Vec<SpecFile>, SpecError> {
    if files.len() > limits::FILES_MAX {
        return Err(SpecError::new(
            "files",
            format!("has {} files; at most {}", files.len(), limits::FILES_MAX),
        ));
    }
    let bytes: usize = files.values().map(|content| content.expose().len()).sum();
    if bytes > limits::FILES_BYTES_MAX {
        let max = limits::FILES_BYTES_MAX;
        return Err(SpecError::new("files", format!("has {bytes} bytes in all; at most {max}")));
    }
    let checked = |(path, content): (String, Secret)| {
        let path = path.parse().map_err(|problem: String| SpecError::new("files", problem))?;
        Ok(SpecFile { path, content })
    };
    let checked: Vec<SpecFile> = files.into_iter().map(checked).collect::<Result<_, SpecError>>()?;
    for file in &checked {
        let below = format!("{}/", file.path);
        if checked.iter().any(|other| other.path.as_str().starts_with(&below)) {
            return Err(SpecError::new("files", format!("has {} as a file and as a directory", file.path)));
        }
    }
    Ok(checked)
}

#[cfg(test)]
mod tests;
