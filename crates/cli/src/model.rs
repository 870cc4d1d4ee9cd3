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
    /// Its number.
    pub rental_id: i64,
    /// What its owner calls it.
    #[serde(default)]
    pub name: Option<String>,
    /// `provisioning`, `active`, `migrating`, `releasing` or `ended`.
    #[serde(default)]
    pub state: String,
    /// Since when it is in that state.
    #[serde(default)]
    pub state_since: Option<Timestamp>,
    /// Why it is in that state.
    #[serde(default)]
    pub state_reason: Option<String>,
    /// Where to log in: an IP address or a DNS name.
    #[serde(default)]
    pub host_ip: Option<String>,
    /// The sshd's port there.
    #[serde(default)]
    pub ssh_port: Option<u16>,
    /// As whom.
    #[serde(default)]
    pub client_user: Option<String>,
    /// The generated password; only in the reply that issues it.
    #[serde(default)]
    pub client_pass: Option<String>,
    /// When it began.
    #[serde(default)]
    pub leased_from: Option<Timestamp>,
    /// When it ends.
    #[serde(default)]
    pub leased_until: Option<Timestamp>,
    /// The node's number.
    #[serde(default)]
    pub node_id: Option<i64>,
    /// The node's host name.
    #[serde(default)]
    pub node_name: Option<String>,
    /// What a user without this CLI types.
    #[serde(default)]
    pub ssh_command: Option<String>,
    /// The node's host keys, one line each.
    #[serde(default, deserialize_with = "lines")]
    pub known_hosts: Vec<String>,
    /// Whether the node knows the end.
    #[serde(default)]
    pub applied: Option<bool>,
    /// What happens when the node is lost.
    #[serde(default)]
    pub on_node_loss: Option<String>,
    /// The nodes it has been on, oldest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub nodes: Vec<Stay>,
    /// What happened to it, oldest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub events: Vec<Event>,
}

impl Rental {
    /// Its name, or its number where it has none: what the user types to mean it.
    pub fn handle(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.rental_id.to_string())
    }

    /// Where its sshd listens, `host:port`; empty while it has no node.
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
    /// Its host name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// From when.
    #[serde(default)]
    pub from: Option<Timestamp>,
    /// Until when; none while it is there.
    #[serde(default)]
    pub to: Option<Timestamp>,
    /// Why it came there, or left.
    #[serde(default)]
    pub why: Option<String>,
}

/// A state change.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// Its place in the order of all events.
    #[serde(default)]
    pub id: Option<i64>,
    /// When.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// What, as `lease.moved`.
    #[serde(default)]
    pub kind: String,
    /// Which lease.
    #[serde(default)]
    pub lease_id: Option<i64>,
    /// Which node.
    #[serde(default)]
    pub node_id: Option<i64>,
    /// Whose.
    #[serde(default)]
    pub user_id: Option<i64>,
    /// The rest.
    #[serde(default)]
    pub data: Value,
}

/// A node as `GET /api/nodes` shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Its number.
    pub node_id: i64,
    /// What it calls itself.
    #[serde(default)]
    pub hostname: String,
    /// Its address.
    #[serde(default)]
    pub ip: Option<String>,
    /// Its sshd's port.
    #[serde(default)]
    pub ssh_port: Option<u16>,
    /// Its state.
    #[serde(default)]
    pub status: String,
    /// Why it is in that state.
    #[serde(default)]
    pub status_reason: Option<String>,
    /// Since when.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Whether a lease holds it.
    #[serde(default)]
    pub allocated: Option<bool>,
    /// The lease, where the caller may see it.
    #[serde(default)]
    pub lease: Option<NodeLease>,
    /// CPU cores.
    #[serde(default)]
    pub cpu_cores: Option<u64>,
    /// Memory in mebibytes.
    #[serde(default)]
    pub memory_mb: Option<u64>,
    /// GPUs: a number, or a list of them.
    #[serde(default)]
    pub gpus: Value,
    /// Its labels.
    #[serde(default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    /// How far it is emptied, if it is.
    #[serde(default)]
    pub drain: Option<Drain>,
}

/// A node that is emptied.
#[derive(Clone, Debug, Deserialize)]
pub struct Drain {
    /// How far it is: `moving`, `waiting for a free node`, … `drained`.
    #[serde(default)]
    pub state: String,
    /// Leases that are not off it yet.
    #[serde(default)]
    pub leases_left: u64,
    /// When what is left loses the node.
    #[serde(default)]
    pub deadline: Option<Timestamp>,
}

/// The lease on a node.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeLease {
    /// Its number.
    pub rental_id: i64,
    /// When it ends.
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
