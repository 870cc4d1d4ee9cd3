//! How `launch_workers.sh` is called for one set of workers, and what it tells their agents.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::run_or_panic;

/// Settings of the workers' `orion-agent`.
#[derive(Clone, Debug)]
pub struct Agent {
    binary: PathBuf,
    api_port: u16,
    join_token: String,
    authority: Option<PathBuf>,
    settings: Vec<(String, String)>,
}

impl Agent {
    /// `binary` is copied into each worker when it boots; the control plane listens on `api_port` at
    /// [`crate::Workers::gateway`] and speaks plain http; the token goes into a root-only file of the worker.
    #[must_use]
    pub fn new(binary: &Path, api_port: u16, join_token: &str) -> Self {
        Self {
            binary: binary.to_owned(),
            api_port,
            join_token: join_token.to_owned(),
            authority: None,
            settings: Vec::new(),
        }
    }

    /// The same with https, which the certificates in this PEM file vouch for.
    #[must_use]
    pub fn over_tls(mut self, authority: &Path) -> Self {
        self.authority = Some(authority.to_owned());
        self
    }

    /// One more environment variable of the agent: `ORION_WORKER_TAGS`, `RUST_LOG`, `MY_HOST_PORT` or
    /// `ORION_REFUSED_RETRY_S` (launch_workers.sh passes no other).
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Kind of system that a worker runs (`launch_workers/kinds.sh`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Debian's defaults.
    #[default]
    Debian,
    /// sshd, login.defs, umask and mounts after a hardening guide; /home is btrfs with a qgroup limit.
    Hardened,
    /// A root of BusyBox's tools, sshd without PAM.
    BusyBox,
    /// systemd is PID 1, with logind, user managers and a journal.
    Systemd,
    /// Holds accounts, ids, processes and files that are not Orion's, in the range of Orion's uids.
    Foreign,
}

impl Kind {
    /// The word for `launch_workers.sh --kind`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Hardened => "hardened",
            Self::BusyBox => "busybox",
            Self::Systemd => "systemd",
            Self::Foreign => "foreign",
        }
    }
}

/// Variables that must not be taken from the caller's environment.
const FOREIGN_SETTINGS: [&str; 14] = [
    "API_ENDPOINT",
    "MY_HOST_PORT",
    "NSW_IMAGES_SIZE",
    "NSW_SIZE",
    "ORION_AGENT",
    "ORION_API_CA",
    "ORION_BUSYBOX",
    "ORION_JOIN_TOKEN",
    "ORION_JOIN_TOKEN_FILE",
    "ORION_REFUSED_RETRY_S",
    "ORION_WORKERS_KIND",
    "ORION_WORKERS_REGISTRY",
    "ORION_WORKER_TAGS",
    "RUST_LOG",
];

/// Arguments and environment of `launch_workers.sh` for one set.
pub(crate) struct Script {
    path: PathBuf,
    pub(crate) number: u8,
    directory: PathBuf,
    agent: Option<Agent>,
    kind: Kind,
    has_engines: bool,
}

impl Script {
    /// `kind` is what new workers become.
    pub(crate) fn new(number: u8, agent: Option<Agent>, kind: Kind, has_engines: bool) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../launch_workers.sh");
        let path = path.canonicalize().expect("launch_workers.sh is at the root of the repository");
        Self {
            path,
            number,
            directory: format!("/var/tmp/orion-testkit-{number}").into(),
            agent,
            kind,
            has_engines,
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(["--engine", "namespace", "--kind", self.kind.as_str()])
            .env("ORION_WORKERS_DIR", &self.directory)
            .env("ORION_WORKERS_BRIDGE", self.bridge())
            .env("ORION_WORKERS_NET", format!("10.{}", self.number))
            .env("ORION_WORKERS_PREFIX", format!("t{}-w", self.number));
        if self.has_engines {
            command.arg("--containers");
        }
        for name in FOREIGN_SETTINGS {
            command.env_remove(name);
        }
        if let Some(agent) = &self.agent {
            let scheme = if agent.authority.is_some() { "https" } else { "http" };
            command
                .env("ORION_AGENT", &agent.binary)
                .env("API_ENDPOINT", format!("{scheme}://10.{}.0.1:{}", self.number, agent.api_port))
                .envs(agent.authority.iter().map(|path| ("ORION_API_CA", path)))
                .env("ORION_JOIN_TOKEN", &agent.join_token)
                .envs(agent.settings.iter().map(|(name, value)| (name, value)));
        } else if arguments.first() != Some(&"--sh") {
            command.arg("--no-agent");
        }
        command.args(arguments);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        run_or_panic(&mut self.command(arguments))
    }

    /// Returns the directory of the set's logs and disks.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name of worker 1 and so on.
    pub(crate) fn worker_name(&self, ordinal: usize) -> String {
        format!("t{}-w{ordinal}", self.number)
    }

    /// The set's bridge.
    pub(crate) fn bridge(&self) -> String {
        format!("otk{}", self.number)
    }
}
