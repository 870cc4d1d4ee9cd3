//! `nodes show`: all that is known of one node.

use super::drain;
use crate::{
    context::Context,
    error::CliError,
    model::{Event, Node, shape},
    output::{self, Format, Table},
};
use orion_domain::{Timestamp, credentials::SshPublicKey, way_in::clock_off_text};
use serde::Deserialize;
use serde_json::Value;

/// The arguments of `orion nodes show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Number or host name
    #[arg(value_name = "NODE", value_parser = drain::node_argument)]
    node: String,
}

/// Fields that only `GET /api/nodes/{id}` has.
#[derive(Debug, Default, Deserialize)]
struct More {
    #[serde(default)]
    offerable: bool,
    #[serde(default)]
    agent: String,
    #[serde(default)]
    way_in: String,
    #[serde(default)]
    way_in_since: Option<Timestamp>,
    #[serde(default)]
    way_in_at: Option<Timestamp>,
    #[serde(default)]
    way_in_reason: Option<String>,
    #[serde(default)]
    admin: Option<Admin>,
}

/// Fields that an admin sees.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Admin {
    ssh: String,
    ssh_reason: String,
    agent_since: Option<Timestamp>,
    agent_sees_sshd: Option<bool>,
    clock_off_ms: Option<i64>,
    mac: Option<String>,
    agent_version: Option<String>,
    host_keys: Vec<String>,
    seen_fingerprint: Option<String>,
    desired_version: i64,
    applied_version: i64,
    reconcile_failures: u32,
    last_clean_report: Option<Value>,
    registered_at: Option<Timestamp>,
    events: Vec<Event>,
}

/// Shows one node.
pub async fn show(context: &Context, args: ShowArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let [node] = &drain::find_all(&client, std::slice::from_ref(&args.node)).await?[..] else {
        return Err(CliError::failed(format!("'{}' is more than one node", args.node)));
    };
    let value = client.get(&format!("/api/nodes/{}", node.node_id)).await?;
    match context.format {
        Format::Json => output::json(&value),
        Format::Table => {
            output::data(&details(context.now(), &shape(&value, "node")?, shape(&value, "node")?))
        }
    }
}

/// Whether a new lease could have it. One with slices is not offered as a whole, and what is free of it is.
fn offered(node: &Node, is_offerable: bool) -> &'static str {
    let has_room = node.capacity.as_ref().is_some_and(|of| of.cpus.free > 0.0 && of.memory_mb.free > 0.0);
    let has_engine = node.containers.as_ref().is_some_and(|engine| engine.offered);
    if is_offerable {
        "yes"
    } else if node.allocated == Some(true) && node.status == "alive" && has_room && has_engine {
        "what is free of it, as slices"
    } else {
        "no"
    }
}

fn details(now: Timestamp, node: &Node, more: More) -> String {
    let mut facts = Table::without_heads();
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            facts.row([name.to_owned(), value]);
        }
    };
    let admin = more.admin.unwrap_or_default();
    fact("node", Some(format!("{} ({})", node.hostname, node.node_id)));
    fact("status", Some(format!("{} for {}", node.status, output::age(now, node.since))));
    fact("reason", node.status_reason.clone());
    fact("offered", Some(offered(node, more.offerable).to_owned()));
    let reason = |reason: &str| if reason.is_empty() { String::new() } else { format!(": {reason}") };
    fact("ssh", (!admin.ssh.is_empty()).then(|| format!("{}{}", admin.ssh, reason(&admin.ssh_reason))));
    let since = admin.agent_since.map(|since| format!(" since {}", output::moment(now, since)));
    let sshd = match admin.agent_sees_sshd {
        Some(true) => ", it says that sshd answers",
        Some(false) => ", it says that sshd does not answer",
        None => "",
    };
    let agent =
        (!more.agent.is_empty()).then(|| format!("link {}{}{sshd}", more.agent, since.unwrap_or_default()));
    fact("agent", agent);
    let since = more.way_in_since.map(|since| format!(" since {}", output::moment(now, since)));
    let why = more.way_in_reason.as_deref().map(|why| format!(": {why}"));
    let seen = more.way_in_at.filter(|_| more.way_in == "open");
    let seen = seen.map(|at| format!(", seen {}", output::moment(now, at)));
    let parts = [since, seen, why].map(Option::unwrap_or_default).concat();
    let way_in = format!("{}{parts}", more.way_in);
    fact("way in", (!more.way_in.is_empty()).then_some(way_in));
    fact("clock", admin.clock_off_ms.and_then(clock_off_text));
    fact("drain", node.drain.as_ref().map(|drain| drain::progress(drain, now)));
    let until = |until: Option<Timestamp>| until.map(|at| format!(" until {}", output::moment(now, at)));
    for lease in node.leases() {
        fact("lease", Some(format!("{}{}", lease.rental_id, until(lease.leased_until).unwrap_or_default())));
    }
    if node.leases().is_empty() {
        let held = if node.allocated == Some(true) { "somebody else's" } else { "none" };
        fact("lease", Some(held.to_owned()));
    }
    fact("free", node.capacity.as_ref().map(super::free));
    fact(
        "containers",
        node.containers.as_ref().and_then(|engine| match engine.offered {
            true => engine.engine.clone(),
            false => engine.reason.as_ref().map(|why| format!("no: {why}")),
        }),
    );
    fact("address", node.ip.as_ref().zip(node.ssh_port).map(|(ip, port)| format!("{ip} port {port}")));
    let machine = [
        node.cpu_cores.map(|cores| format!("{cores} cores")),
        node.memory_mb.map(super::memory),
        Some(super::gpus(&node.gpus)).filter(|gpus| !gpus.is_empty()).map(|gpus| format!("{gpus} GPUs")),
        admin.mac.clone(),
    ];
    fact("machine", Some(machine.into_iter().flatten().collect::<Vec<_>>().join(", ")));
    fact("tags", Some(node.tags.join(", ")));
    fact("agent is", admin.agent_version.clone());
    fact("registered", admin.registered_at.map(|at| output::moment(now, at)));
    if admin.desired_version > 0 {
        let state = if admin.applied_version < admin.desired_version { "not clean" } else { "clean" };
        let (wanted, applied) = (admin.desired_version, admin.applied_version);
        fact("versions", Some(format!("{state}: {applied} of {wanted} applied")));
    }
    let failures = admin.reconcile_failures;
    fact(
        "failures",
        (failures > 0).then(|| format!("bringing it in order failed {failures} times in a row")),
    );
    for key in &admin.host_keys {
        fact("host key", Some(fingerprint(key)));
    }
    fact("seen key", admin.seen_fingerprint.clone());
    let mut text = facts.text();
    if let Some(report) = &admin.last_clean_report {
        text.push_str(&format!("\n\n{}", cleaned(report)));
    }
    if !admin.events.is_empty() {
        text.push_str(&format!("\n\n{}", history(now, &admin.events)));
    }
    text
}

/// `ssh-ed25519 SHA256:…`
fn fingerprint(key: &str) -> String {
    let kind = key.split_whitespace().next().unwrap_or_default();
    match key.parse::<SshPublicKey>() {
        Ok(parsed) => format!("{kind} {}", parsed.fingerprint()),
        Err(_) => format!("{kind} (unreadable)"),
    }
}

/// Formats what the last cleaning removed, one line per account.
fn cleaned(report: &Value) -> String {
    let mut table = Table::new(&["LAST CLEANED", "UID", "FOUND AND REMOVED"]);
    let removed = report.get("removed").and_then(Value::as_array).cloned().unwrap_or_default();
    for entry in removed.iter().filter_map(Value::as_object) {
        let text = |key: &str| entry.get(key).map(plain).unwrap_or_default();
        let rest: Vec<String> = entry
            .iter()
            .filter(|(key, _)| !matches!(key.as_str(), "user" | "uid"))
            .map(|(key, value)| format!("{key} {}", plain(value)))
            .collect();
        table.row([text("user"), text("uid"), rest.join(", ")]);
    }
    table.text()
}

fn history(now: Timestamp, events: &[Event]) -> String {
    let mut table = Table::new(&["WHEN", "EVENT", "LEASE", "DETAILS"]);
    for event in events {
        table.row([
            event.at.map(|at| output::moment(now, at)).unwrap_or_default(),
            event.kind.clone(),
            event.lease_id.map(|lease| lease.to_string()).unwrap_or_default(),
            event.data.get("reason").map(plain).unwrap_or_default(),
        ]);
    }
    table.text()
}

/// A text without its quotes, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
