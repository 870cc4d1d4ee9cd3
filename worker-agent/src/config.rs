//! How the agent is told what to do: flags or environment, checked once at the start.
//!
//! The join token is taken from `ORION_JOIN_TOKEN` or from a file, never from a flag: everyone on the
//! machine can read the arguments of a process.

use crate::{containers::Listen, dial::Api, gpus};
use clap::Args;
use orion_domain::{
    Secret,
    names::{HostAddr, Hostname, Tag},
    node::Gpu,
    way_in::PROBE_EVERY,
};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// Port on which sshd listens by default.
pub const SSH_PORT: u16 = 22;

/// Flags, each with its environment variable.
#[derive(Args)]
pub struct Options {
    /// Address of the control plane, such as `https://orion.example`
    #[arg(long, env = "API_ENDPOINT", value_name = "URL", global = true)]
    pub api: Option<String>,
    /// Port under which the control plane reaches this machine's sshd; 22 if it is not given
    #[arg(long, env = "MY_HOST_PORT", value_name = "PORT", global = true,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub ssh_port: Option<u16>,
    /// Address or DNS name under which it reaches it; by default the source address of the route to the API
    #[arg(long, env = "MY_HOST_IP", value_name = "ADDRESS", global = true)]
    pub ip: Option<HostAddr>,
    /// Name of this worker; by default the machine's host name
    #[arg(long, env = "MY_HOSTNAME", value_name = "NAME", global = true)]
    pub hostname: Option<Hostname>,
    /// File with the join token, readable by root only
    #[arg(long, env = "ORION_JOIN_TOKEN_FILE", value_name = "FILE", global = true)]
    pub join_token_file: Option<PathBuf>,
    /// Certificates (PEM) that may vouch for the API, in place of the system's
    #[arg(long, env = "ORION_API_CA", value_name = "FILE", global = true)]
    pub api_ca: Option<PathBuf>,
    /// Speak plain http to an API that is not on this machine: tokens can be read on the way
    #[arg(long, env = "ORION_INSECURE_HTTP", global = true, num_args = 0..=1, default_missing_value = "true",
          value_parser = clap::builder::BoolishValueParser::new(), require_equals = true)]
    pub insecure_http: Option<bool>,
    /// Labels that a rental can ask for
    #[arg(long, env = "ORION_WORKER_TAGS", value_name = "A,B", value_delimiter = ',', global = true)]
    pub tags: Vec<Tag>,
    /// GPUs that leases can have, in place of what nvidia-smi lists: uuid=/dev/nvidia0,model=Tesla T4,memory_mb=15360;…
    #[arg(long, env = "ORION_AGENT_GPUS", value_name = "LIST", global = true)]
    pub gpus: Option<String>,
    /// Directory in which the agent keeps its identity
    #[arg(
        long,
        env = "ORION_AGENT_STATE",
        value_name = "DIR",
        default_value = "/var/lib/orion-agent",
        global = true
    )]
    state_dir: PathBuf,
    /// Directory in which the playbooks keep leases and their deadlines
    #[arg(long, value_name = "DIR", default_value = "/var/lib/orion", global = true)]
    node_dir: PathBuf,
    /// Directory in which the playbooks keep their lock
    #[arg(long, value_name = "DIR", default_value = "/run/orion", global = true)]
    run_dir: PathBuf,
    /// Directory of sshd's configuration and host keys
    #[arg(long, value_name = "DIR", default_value = "/etc/ssh", global = true)]
    sshd_config_dir: PathBuf,
    /// File in which sshd keeps its process id
    #[arg(long, value_name = "FILE", default_value = "/run/sshd.pid", global = true)]
    sshd_pid_file: PathBuf,
    /// Seconds between tries after the control plane refused the registration
    #[arg(long, env = "ORION_REFUSED_RETRY_S", value_name = "SECONDS", default_value_t = 60, global = true,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    refused_retry_s: u64,
    /// Seconds between two probe logins that prove that lease accounts can log in
    #[arg(long, env = "ORION_WAY_IN_EVERY_S", value_name = "SECONDS", default_value_t = PROBE_EVERY.as_secs(), global = true,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    way_in_every_s: u64,
    /// Address and port of the container routes for a booking system; off if it is not given
    #[arg(long, env = "ORION_CONTAINERS_LISTEN", value_name = "ADDRESS:PORT", global = true)]
    pub containers_listen: Option<SocketAddr>,
    /// Certificate (PEM) of the container routes; needed where they are not on loopback
    #[arg(long, env = "ORION_CONTAINERS_CERT", value_name = "FILE", global = true)]
    pub containers_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, env = "ORION_CONTAINERS_KEY", value_name = "FILE", global = true)]
    pub containers_key: Option<PathBuf>,
}

impl Options {
    /// Whether everything is where an installed agent has it.
    pub fn has_usual_places(&self) -> bool {
        [
            (&self.state_dir, "/var/lib/orion-agent"),
            (&self.node_dir, "/var/lib/orion"),
            (&self.run_dir, "/run/orion"),
            (&self.sshd_config_dir, "/etc/ssh"),
            (&self.sshd_pid_file, "/run/sshd.pid"),
        ]
        .iter()
        .all(|(dir, usual)| *dir == Path::new(usual))
    }
}

/// Settings of the agent: [`Options`], checked.
#[derive(Debug)]
pub struct Config {
    /// The control plane.
    pub api: Api,
    /// Port under which sshd is reached from outside.
    pub ssh_port: u16,
    /// Address from outside, if it was given.
    pub ip: Option<HostAddr>,
    /// Name of this worker.
    pub hostname: Hostname,
    join_token: Option<Secret>,
    join_token_file: Option<PathBuf>,
    /// Labels of this worker.
    pub tags: Vec<Tag>,
    /// GPUs that are given, not found.
    pub gpus: Vec<Gpu>,
    /// Agent's own state.
    pub state_dir: PathBuf,
    /// Leases and deadlines.
    pub node_dir: PathBuf,
    /// Directory of the playbooks' lock.
    pub run_dir: PathBuf,
    /// sshd's configuration.
    pub sshd_config_dir: PathBuf,
    /// sshd's process id.
    pub sshd_pid_file: PathBuf,
    /// Pause after a refusal.
    pub refused_retry: Duration,
    /// Pause between two probes of a way in that is open.
    pub probe_every: Duration,
    /// Where the container routes are served, if they are.
    pub containers: Option<Listen>,
}

impl Config {
    /// Checks `options` and adds what the environment and the machine say.
    ///
    /// # Errors
    /// A sentence with a hint, for a person.
    pub fn from_options(options: Options) -> Result<Self, String> {
        let url = options.api.ok_or(
            "no control plane is named\n\
             hint: set API_ENDPOINT or --api, for example --api https://orion.example",
        )?;
        let api = Api::parse(&url, options.api_ca, options.insecure_http.unwrap_or(false))?;
        let hostname = match options.hostname {
            Some(hostname) => hostname,
            None => machine_name()?,
        };
        let (certificate, key) = (options.containers_cert.as_deref(), options.containers_key.as_deref());
        let containers =
            options.containers_listen.map(|address| Listen::check(address, certificate, key)).transpose()?;
        let join_token = std::env::var("ORION_JOIN_TOKEN").ok().filter(|token| !token.trim().is_empty());
        Ok(Self {
            api,
            ssh_port: options.ssh_port.unwrap_or(SSH_PORT),
            ip: options.ip,
            hostname,
            join_token: join_token.map(|token| Secret::new(token.trim())),
            join_token_file: options.join_token_file,
            tags: options.tags,
            gpus: gpus::parse(options.gpus.as_deref().unwrap_or_default())
                .map_err(|problem| format!("ORION_AGENT_GPUS: {problem}"))?,
            state_dir: options.state_dir,
            node_dir: options.node_dir,
            run_dir: options.run_dir,
            sshd_config_dir: options.sshd_config_dir,
            sshd_pid_file: options.sshd_pid_file,
            refused_retry: Duration::from_secs(options.refused_retry_s),
            probe_every: Duration::from_secs(options.way_in_every_s),
            containers,
        })
    }

    /// The join token; a file is read each time, so that it can be replaced while the agent runs.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub fn join_token(&self) -> Result<Secret, String> {
        match (&self.join_token, &self.join_token_file) {
            (Some(token), _) => usable_token(token.expose()),
            (None, Some(file)) => {
                let text = fs::read_to_string(file).map_err(|error| {
                    format!("the join token cannot be read from {}: {error}", file.display())
                })?;
                warn_if_others_can_read(file);
                usable_token(text.trim()).map_err(|problem| format!("{problem} (in {})", file.display()))
            }
            (None, None) => Err("there is no join token; set ORION_JOIN_TOKEN or --join-token-file \
                                 (`orion token create` makes one)"
                .into()),
        }
    }
}

/// A join token as it may stand in a header.
///
/// # Errors
/// It is empty, or has something else than printable characters in it.
pub fn usable_token(text: &str) -> Result<Secret, String> {
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err("the join token is not one line of printable characters".into());
    }
    Ok(Secret::new(text))
}

fn warn_if_others_can_read(file: &Path) {
    if let Ok(found) = fs::metadata(file)
        && found.permissions().mode() & 0o077 != 0
    {
        tracing::warn!("{} can be read by others than root; chmod 600 it", file.display());
    }
}

fn machine_name() -> Result<Hostname, String> {
    let text = fs::read_to_string("/proc/sys/kernel/hostname")
        .map_err(|error| format!("the host name cannot be read: {error}"))?;
    let name = text.trim();
    name.parse().map_err(|problem| {
        format!("this machine's name '{name}' cannot be used: {problem}\nhint: set MY_HOSTNAME or --hostname")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_with_a_line_break_inside_is_refused() {
        assert!(usable_token("abc\ndef").is_err());
        assert!(usable_token("").is_err());
        assert_eq!(usable_token("abc").unwrap().expose(), "abc");
    }
}
