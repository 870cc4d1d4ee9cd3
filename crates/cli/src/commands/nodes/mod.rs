//! `nodes`: their list, and what is done with them.

mod drain;
mod show;

use crate::{
    context::Context,
    error::CliError,
    model::{Capacity, Node, NodeLease, shape},
    output::{self, Format, Table, note},
};
use drain::{DeclareDeadArgs, DrainArgs, ForgetArgs, NodeArgs};
use orion_domain::Timestamp;
use serde_json::Value;

/// The arguments of `orion nodes`.
#[derive(Debug, clap::Args)]
pub struct NodesArgs {
    #[command(subcommand)]
    command: Option<NodesCommand>,
}

/// The subcommands of `orion nodes`; without one they are listed.
#[derive(Debug, clap::Subcommand)]
enum NodesCommand {
    /// Show one node: health, lease, reasons, last clean report, history
    Show(show::ShowArgs),
    /// Empty nodes: no new leases, and those that may move to other nodes (admin)
    Drain(DrainArgs),
    /// Put drained nodes back into use (admin)
    Undrain(NodeArgs),
    /// Put quarantined nodes back into use (admin)
    Lift(NodeArgs),
    /// Forget nodes whose machines are gone or were set up anew (admin)
    Forget(ForgetArgs),
    /// Give nodes up that do not answer: their leases move or end, by their policy (admin)
    DeclareDead(DeclareDeadArgs),
}

/// Runs the subcommand.
pub async fn run(context: &Context, args: NodesArgs) -> Result<(), CliError> {
    match args.command {
        None => list(context).await,
        Some(NodesCommand::Show(args)) => show::show(context, args).await,
        Some(NodesCommand::Drain(args)) => drain::drain(context, args).await,
        Some(NodesCommand::Undrain(args)) => drain::undrain(context, args).await,
        Some(NodesCommand::Lift(args)) => drain::lift(context, args).await,
        Some(NodesCommand::Forget(args)) => drain::forget(context, args).await,
        Some(NodesCommand::DeclareDead(args)) => drain::declare_dead(context, args).await,
    }
}

/// Lists the nodes.
async fn list(context: &Context) -> Result<(), CliError> {
    let list = context.client()?.list("/api/nodes").await?;
    if context.format == Format::Json {
        return output::json(&Value::Array(list));
    }
    if list.is_empty() {
        note("no nodes have registered yet; an admin makes their join token: orion token create");
        return Ok(());
    }
    let nodes = list.iter().map(|value| shape(value, "node")).collect::<Result<Vec<Node>, _>>()?;
    output::data(&table(context.now(), &nodes))
}

fn table(now: Timestamp, nodes: &[Node]) -> String {
    let heads = [
        "NODE", "ID", "STATUS", "FOR", "LEASE", "CORES", "MEMORY", "GPUS", "FREE", "ADDRESS", "TAGS",
        "REASON",
    ];
    let mut table = Table::new(&heads);
    for node in nodes {
        let shown = |lease: &NodeLease| match lease.leased_until {
            Some(until) => format!("{} until {}", lease.rental_id, output::clock_time(now, until)),
            None => lease.rental_id.to_string(),
        };
        let leases: Vec<String> = node.leases().iter().map(shown).collect();
        let lease = match (leases.is_empty(), node.allocated) {
            (false, _) => leases.join(", "),
            (true, Some(true)) => "leased".to_owned(),
            (true, Some(false)) => "free".to_owned(),
            (true, None) => String::new(),
        };
        let address = match (&node.ip, node.ssh_port) {
            (Some(ip), Some(port)) if ip.contains(':') => format!("[{ip}]:{port}"),
            (Some(ip), Some(port)) => format!("{ip}:{port}"),
            (_, _) => String::new(),
        };
        table.row([
            node.hostname.clone(),
            node.node_id.to_string(),
            node.status.clone(),
            output::age(now, node.since),
            lease,
            node.cpu_cores.map(|cores| cores.to_string()).unwrap_or_default(),
            node.memory_mb.map(memory).unwrap_or_default(),
            gpus(&node.gpus),
            node.capacity.as_ref().map(free).unwrap_or_default(),
            address,
            node.tags.join(","),
            reason(node),
        ]);
    }
    table.text()
}

/// Returns the reason of the node's status, and the progress of its drain.
fn reason(node: &Node) -> String {
    let reason = node.status_reason.clone().unwrap_or_default();
    match &node.drain {
        Some(drain) if drain.state == node.status => reason,
        Some(drain) => format!("{reason} ({})", drain.state),
        None => reason,
    }
}

/// Returns what is free of a node, such as `1.5 cores, 3 GiB`.
fn free(capacity: &Capacity) -> String {
    if capacity.cpus.total <= 0.0 {
        return String::new();
    }
    let gpus = match capacity.gpus.total {
        total if total > 0.0 => format!(", {} GPUs", capacity.gpus.free),
        _ => String::new(),
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an amount of memory")]
    let memory = memory(capacity.memory_mb.free.max(0.0) as u64);
    format!("{} cores, {memory}{gpus}", capacity.cpus.free)
}

fn memory(mebibytes: u64) -> String {
    if mebibytes >= 1024 { format!("{} GiB", (mebibytes + 512) / 1024) } else { format!("{mebibytes} MiB") }
}

fn gpus(value: &Value) -> String {
    match value {
        Value::Array(list) => list.len().to_string(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Object(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_are_listed_with_status_age_reason_and_lease() {
        let nodes: Vec<Node> = [
            json!({"node_id": 1, "hostname": "node-1", "status": "alive", "since": "2026-11-21T14:00:00Z",
                "status_reason": "reported clean", "allocated": true, "ip": "10.0.0.3", "ssh_port": 22,
                "lease": {"rental_id": 42, "leased_until": "2026-11-21T18:02:00Z"}, "cpu_cores": 16,
                "memory_mb": 65536, "gpus": [{"name": "x"}], "tags": ["gpu", "rack-3"], "capacity": {
                    "cpus": {"total": 16.0, "held": 14.5, "free": 1.5}, "gpus": {"total": 1, "held": 1, "free": 0},
                    "memory_mb": {"total": 65536, "held": 62464, "free": 3072}}}),
            json!({"node_id": 2, "hostname": "node-2", "status": "quarantined", "allocated": false, "lease": null,
                "gpus": 0, "memory_mb": 512}),
            json!({"node_id": 3, "hostname": "node-3", "status": "draining", "status_reason": "fans",
                "allocated": true, "drain": {"reason": "fans", "state": "waiting for a free node", "leases_left": 1}}),
            json!({"node_id": 4, "hostname": "node-4", "status": "alive", "allocated": true,
                "lease": {"rental_id": 7}, "leases": [{"rental_id": 7}, {"rental_id": 9, "leased_until": null}]}),
        ]
        .iter()
        .map(|value| shape(value, "node").unwrap())
        .collect();
        let text = table("2026-11-21T14:50:00Z".parse().unwrap(), &nodes);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").filter(|c| !c.is_empty()).map(str::trim).collect())
            .collect();
        assert_eq!(
            rows[1],
            [
                "node-1",
                "1",
                "alive",
                "50 min",
                "42 until 18:02 UTC",
                "16",
                "64 GiB",
                "1",
                "1.5 cores, 3 GiB, 0 GPUs",
                "10.0.0.3:22",
                "gpu,rack-3",
                "reported clean"
            ]
        );
        assert_eq!(
            rows[2],
            ["node-2", "2", "quarantined", "?", "free", "-", "512 MiB", "0", "-", "-", "-", "-"]
        );
        assert_eq!((rows[3][2], rows[3].last()), ("draining", Some(&"fans (waiting for a free node)")));
        assert_eq!(rows[4][4], "7, 9", "each slice's");
    }
}
