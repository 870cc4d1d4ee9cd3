//! The API's replies, as far as the commands look into them.
//!
//! Lives here: tolerant shapes (what is missing or null is `None` or empty; unknown keys are ignored, so an
//! older CLI works with a newer API). Does not live here: deciding or formatting anything.

use crate::error::CliError;
use orion_domain::Timestamp;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// A lease as `GET /api/rentals`, `GET /api/rentals/{id}` and `POST /api/rent` show it.
#[derive(Clone, Debug, Deserialize)]
pub struct Rental {
    /// Number of the lease.
    pub rental_id: i64,
    /// Name that the owner gave the lease.
    #[serde(default)]
    pub name: Option<String>,
    /// `provisioning`, `active`, `migrating`, `releasing` or `ended`.
    #[serde(default)]
    pub state: String,
    /// Start of the current state.
    #[serde(default)]
    pub state_since: Option<Timestamp>,
    /// Reason of the state.
    #[serde(default)]
    pub state_reason: Option<String>,
    /// Address to log in to: an IP address or a DNS name.
    #[serde(default)]
    pub host_ip: Option<String>,
    /// The sshd's port there.
    #[serde(default)]
    pub ssh_port: Option<u16>,
    /// User to log in as.
    #[serde(default)]
    pub client_user: Option<String>,
    /// The generated password; only in the reply that issues it.
    #[serde(default)]
    pub client_pass: Option<String>,
    /// Start of the lease.
    #[serde(default)]
    pub leased_from: Option<Timestamp>,
    /// End of the lease.
    #[serde(default)]
    pub leased_until: Option<Timestamp>,
    /// The node's number.
    #[serde(default)]
    pub node_id: Option<i64>,
    /// The node's host name.
    #[serde(default)]
    pub node_name: Option<String>,
    /// Command to log in without this CLI.
    #[serde(default)]
    pub ssh_command: Option<String>,
    /// The node's host keys, one line each.
    #[serde(default, deserialize_with = "lines")]
    pub known_hosts: Vec<String>,
    /// Whether the node knows the end.
    #[serde(default)]
    pub applied: Option<bool>,
    /// Policy for the loss of the node.
    #[serde(default)]
    pub on_node_loss: Option<String>,
    /// The nodes it has been on, oldest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub nodes: Vec<Stay>,
    /// Events of the lease, oldest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub events: Vec<Event>,
    /// What it has of its node, where that is a slice.
    #[serde(default)]
    pub slice: Option<Slice>,
    /// Its containers, where one lease is shown.
    #[serde(default, deserialize_with = "null_is_default")]
    pub containers: Vec<Container>,
}

/// What a slice has of its node.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Slice {
    /// Processor cores.
    #[serde(default)]
    pub cpus: f64,
    /// Memory in MiB.
    #[serde(default)]
    pub memory_mb: u64,
    /// Number of GPUs.
    #[serde(default)]
    pub gpus: u32,
}

/// A container as `GET /api/rentals/{id}/containers` shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Container {
    /// Name of the container in its lease.
    pub name: String,
    /// `pending`, `pulling`, `running`, `exited`, `failed` or `removed`.
    #[serde(default)]
    pub state: String,
    /// Start of the current state.
    #[serde(default)]
    pub state_since: Option<Timestamp>,
    /// Reason of the state.
    #[serde(default)]
    pub state_reason: Option<String>,
    /// What is being done now.
    #[serde(default)]
    pub step: Option<String>,
    /// Bytes that the step has done.
    #[serde(default)]
    pub bytes_done: Option<u64>,
    /// Bytes of the step in all.
    #[serde(default)]
    pub bytes_total: Option<u64>,
    /// Name of the image.
    #[serde(default)]
    pub image: String,
    /// Its ports that are reached from outside.
    #[serde(default)]
    pub ports: Vec<ContainerPort>,
}

/// A port of a container.
#[derive(Clone, Debug, Deserialize)]
pub struct ContainerPort {
    /// Port of the container.
    pub port: u16,
    /// Port of its node that leads there.
    pub node_port: u16,
}

/// What a container uses.
#[derive(Clone, Debug, Deserialize)]
pub struct ContainerStats {
    /// Processor cores that are busy with it.
    pub cpus_used: f64,
    /// Memory without what is only cache.
    pub memory_bytes: u64,
    /// Limit of the memory.
    pub memory_limit_bytes: u64,
    /// Bytes that it received.
    pub received_bytes: u64,
    /// Bytes that it sent.
    pub sent_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

impl Rental {
    /// Returns the lease's name, or its number where it has none, as the user types it in commands.
    pub fn handle(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.rental_id.to_string())
    }

    /// Returns the address of the lease's sshd, `host:port`; empty while the lease has no node.
    pub fn address(&self) -> String {
        match (&self.host_ip, self.ssh_port) {
            (Some(host), Some(port)) if host.contains(':') => format!("[{host}]:{port}"),
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (_, _) => String::new(),
        }
    }
}

/// A lease's time on one node.
#[derive(Clone, Debug, Deserialize)]
pub struct Stay {
    /// The node's number.
    #[serde(default)]
    pub node_id: Option<i64>,
    /// Host name of the node.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Start of the stay.
    #[serde(default)]
    pub from: Option<Timestamp>,
    /// End of the stay; none while the lease is on the node.
    #[serde(default)]
    pub to: Option<Timestamp>,
    /// Reason of the arrival or of the departure.
    #[serde(default)]
    pub why: Option<String>,
}

/// A state change.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// Position in the order of all events.
    #[serde(default)]
    pub id: Option<i64>,
    /// Time of the event.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// Kind of the event, such as `lease.moved`.
    #[serde(default)]
    pub kind: String,
    /// Number of the lease that the event is about.
    #[serde(default)]
    pub lease_id: Option<i64>,
    /// Number of the node that the event is about.
    #[serde(default)]
    pub node_id: Option<i64>,
    /// Number of the user that the event is about.
    #[serde(default)]
    pub user_id: Option<i64>,
    /// The rest.
    #[serde(default)]
    pub data: Value,
}

/// A node as `GET /api/nodes` shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Number of the node.
    pub node_id: i64,
    /// Host name that the worker reports.
    #[serde(default)]
    pub hostname: String,
    /// Address of the node.
    #[serde(default)]
    pub ip: Option<String>,
    /// Port of the node's sshd.
    #[serde(default)]
    pub ssh_port: Option<u16>,
    /// State of the node.
    #[serde(default)]
    pub status: String,
    /// Reason of the state.
    #[serde(default)]
    pub status_reason: Option<String>,
    /// Start of the state.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Whether a lease holds it.
    #[serde(default)]
    pub allocated: Option<bool>,
    /// The leases that the caller may see.
    #[serde(default)]
    pub leases: Vec<NodeLease>,
    /// The first of them; an older API shows no other.
    #[serde(default)]
    pub lease: Option<NodeLease>,
    /// Number of processor cores.
    #[serde(default)]
    pub cpu_cores: Option<u64>,
    /// Memory in mebibytes.
    #[serde(default)]
    pub memory_mb: Option<u64>,
    /// GPUs: a number, or a list of them.
    #[serde(default)]
    pub gpus: Value,
    /// Total, held and free of it.
    #[serde(default)]
    pub capacity: Option<Capacity>,
    /// Whether its engine takes containers.
    #[serde(default)]
    pub containers: Option<Engine>,
    /// Labels of the node.
    #[serde(default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    /// Progress of the drain, if the node is being emptied.
    #[serde(default)]
    pub drain: Option<Drain>,
}

/// Capacity of a node.
#[derive(Clone, Debug, Deserialize)]
pub struct Capacity {
    /// Processor cores.
    pub cpus: Amount,
    /// Memory in mebibytes.
    pub memory_mb: Amount,
    /// GPU devices.
    pub gpus: Amount,
}

/// An amount of a node.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Amount {
    /// All of it.
    pub total: f64,
    /// What is free now.
    pub free: f64,
}

/// Container engine of a node.
#[derive(Clone, Debug, Deserialize)]
pub struct Engine {
    /// Whether it takes containers.
    #[serde(default)]
    pub offered: bool,
    /// Why it does not.
    #[serde(default)]
    pub reason: Option<String>,
    /// Kind and version.
    #[serde(default)]
    pub engine: Option<String>,
}

impl Node {
    /// Returns the leases on it that the caller may see.
    pub fn leases(&self) -> &[NodeLease] {
        if self.leases.is_empty() { self.lease.as_slice() } else { &self.leases }
    }
}

/// A node that is emptied.
#[derive(Clone, Debug, Deserialize)]
pub struct Drain {
    /// Progress of the drain: `moving`, `waiting for a free node`, … `drained`.
    #[serde(default)]
    pub state: String,
    /// Leases that are not off it yet.
    #[serde(default)]
    pub leases_left: u64,
    /// Time at which the remaining leases lose the node.
    #[serde(default)]
    pub deadline: Option<Timestamp>,
}

/// The lease on a node.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeLease {
    /// Number of the lease.
    pub rental_id: i64,
    /// End of the lease.
    #[serde(default)]
    pub leased_until: Option<Timestamp>,
}

/// The reply to an extension.
#[derive(Clone, Debug, Deserialize)]
pub struct Extended {
    /// The new end.
    pub new_end_at: Timestamp,
    /// Whether the node knows it already.
    #[serde(default)]
    pub applied: bool,
}

/// `value` as the shape a command expects; `what` names the reply for the error.
///
/// # Errors
/// When it has another shape.
pub fn shape<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T, CliError> {
    T::deserialize(value).map_err(|error| {
        CliError::failed(format!("the API's reply ({what}) is not as expected: {error}"))
            .hint("is this orion as new as the API? compare: orion --version")
    })
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// Lines, whether they come as one text or as a list.
fn lines<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        List(Vec<String>),
    }
    let lines = match Option::<Either>::deserialize(from)? {
        Some(Either::Text(text)) => text.lines().map(str::to_owned).collect(),
        Some(Either::List(list)) => list,
        None => Vec::new(),
    };
    Ok(lines.into_iter().filter(|line| !line.trim().is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reply_with_missing_null_and_unknown_keys_is_still_understood() {
        let value = json!({"rental_id": 4, "name": null, "nodes": null, "events": null, "known_hosts": "a b c\n\nd e f\n", "new": 1});
        let rental: Rental = shape(&value, "lease").unwrap();
        assert_eq!((rental.handle(), rental.address()), ("4".to_owned(), String::new()));
        assert_eq!(rental.known_hosts, ["a b c", "d e f"]);
    }

    #[test]
    fn an_ipv6_address_keeps_its_brackets() {
        let value = json!({"rental_id": 4, "host_ip": "fd00::1", "ssh_port": 22});
        let rental: Rental = shape(&value, "lease").unwrap();
        assert_eq!(rental.address(), "[fd00::1]:22");
    }
}
