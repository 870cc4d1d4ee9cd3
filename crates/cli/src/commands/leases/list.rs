//! `ls` and `show`.

use crate::{
    context::Context,
    duration,
    error::CliError,
    model::{Event, Rental, Stay, shape},
    output::{self, Format, Table, note},
};
use orion_domain::Timestamp;
use serde_json::Value;

/// The arguments of `orion ls`.
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Include leases that have ended
    #[arg(short, long)]
    all: bool,
}

/// The arguments of `orion show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Name (or its beginning) or number
    #[arg(value_parser = super::lease_argument)]
    lease: String,
}

/// Lists the caller's leases.
pub async fn list(context: &Context, args: LsArgs) -> Result<(), CliError> {
    let path = if args.all { "/api/rentals?all=true" } else { "/api/rentals" };
    let list = context.client()?.list(path).await?;
    if !args.all {
        super::ssh_config::renew(context, &list);
    }
    if context.format == Format::Json {
        return output::json(&Value::Array(list));
    }
    if list.is_empty() {
        note("no leases; rent a node: orion rent --hours 1 --name first");
        return Ok(());
    }
    let rentals = list.iter().map(|value| shape(value, "lease")).collect::<Result<Vec<Rental>, _>>()?;
    output::data(&table(context.now(), &rentals))
}

/// Shows one lease with its history.
pub async fn show(context: &Context, args: ShowArgs) -> Result<(), CliError> {
    let value = super::find(&context.client()?, &args.lease).await?;
    match context.format {
        Format::Json => output::json(&value),
        Format::Table => output::data(&details(context.now(), &shape(&value, "lease")?)),
    }
}

fn table(now: Timestamp, rentals: &[Rental]) -> String {
    let mut table = Table::new(&["NAME", "ID", "STATE", "FOR", "NODE", "ADDRESS", "UNTIL", "REASON"]);
    for rental in rentals {
        table.row([
            rental.name.clone().unwrap_or_default(),
            rental.rental_id.to_string(),
            rental.state.clone(),
            output::age(now, rental.state_since),
            node(rental),
            rental.address(),
            rental.leased_until.map(|until| output::moment(now, until)).unwrap_or_default(),
            rental.state_reason.clone().unwrap_or_default(),
        ]);
    }
    table.text()
}

fn node(rental: &Rental) -> String {
    rental.node_name.clone().or_else(|| rental.node_id.map(|id| format!("node {id}"))).unwrap_or_default()
}

fn details(now: Timestamp, rental: &Rental) -> String {
    let mut facts = Table::without_heads();
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            facts.row([name.to_owned(), value]);
        }
    };
    fact("lease", Some(rental.rental_id.to_string()));
    fact("name", rental.name.clone());
    fact("state", Some(super::state(now, rental)));
    fact("node", Some(node(rental)));
    fact("address", Some(rental.address()));
    fact("account", rental.client_user.clone());
    fact("from", rental.leased_from.map(|from| output::moment(now, from)));
    let known = if rental.applied == Some(false) { ", the node does not know it yet" } else { "" };
    fact("until", rental.leased_until.map(|until| format!("{}{known}", output::moment(now, until))));
    fact("on loss", rental.on_node_loss.clone());
    fact(
        "slice",
        rental.slice.map(|slice| {
            let gpus = if slice.gpus > 0 { format!(", {} GPUs", slice.gpus) } else { String::new() };
            format!("{} cores, {} MiB{gpus}", slice.cpus, slice.memory_mb)
        }),
    );
    for container in &rental.containers {
        let why = container.state_reason.as_deref().or(container.step.as_deref());
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        fact("container", Some(format!("{} is {}{why}", container.name, container.state)));
    }
    fact("log in", rental.slice.is_none().then(|| format!("orion ssh {}", rental.handle())));
    fact("or", rental.ssh_command.clone());
    let mut text = facts.text();
    if !rental.nodes.is_empty() {
        text.push_str(&format!("\n\n{}", stays(now, &rental.nodes)));
    }
    if !rental.events.is_empty() {
        text.push_str(&format!("\n\n{}", happened(now, &rental.events)));
    }
    text
}

fn stays(now: Timestamp, stays: &[Stay]) -> String {
    let mut table = Table::new(&["NODE", "FROM", "TO", "FOR", "WHY"]);
    for stay in stays {
        let name = stay.hostname.clone().or_else(|| stay.node_id.map(|id| format!("node {id}")));
        let length = stay.from.map(|from| duration::show(stay.to.unwrap_or(now).since(from)));
        table.row([
            name.unwrap_or_default(),
            stay.from.map(|from| output::clock_time(now, from)).unwrap_or_default(),
            stay.to.map_or_else(|| "now".to_owned(), |to| output::clock_time(now, to)),
            length.unwrap_or_default(),
            stay.why.clone().unwrap_or_default(),
        ]);
    }
    table.text()
}

fn happened(now: Timestamp, events: &[Event]) -> String {
    let mut table = Table::new(&["WHEN", "EVENT", "NODE", "DETAILS"]);
    for event in events {
        table.row([
            event.at.map(|at| output::moment(now, at)).unwrap_or_default(),
            event.kind.clone(),
            event.node_id.map(|id| id.to_string()).unwrap_or_default(),
            crate::commands::events::pairs(&event.data),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-11-21T14:50:00Z".parse().unwrap()
    }

    fn moved() -> Rental {
        let value = json!({
            "rental_id": 42, "name": "train", "state": "migrating", "state_since": "2026-11-21T14:48:00Z",
            "state_reason": "node-17 is dead; no free node", "node_id": 3, "node_name": "node-17",
            "host_ip": "10.0.0.3", "ssh_port": 22, "client_user": "alice", "applied": false,
            "leased_from": "2026-11-21T14:00:00Z", "leased_until": "2026-11-21T18:02:00Z",
            "nodes": [{"node_id": 3, "hostname": "node-17", "from": "2026-11-21T14:00:00Z", "to": null, "why": "rented"}],
            "events": [{"id": 1, "at": "2026-11-21T14:48:00Z", "kind": "lease.migrating", "data": {"why": "dead"}}],
        });
        shape(&value, "lease").unwrap()
    }

    #[test]
    fn a_state_is_listed_with_its_age_and_its_reason() {
        assert_eq!(
            table(now(), &[moved()]),
            "NAME   ID  STATE      FOR    NODE     ADDRESS      UNTIL                      REASON\n\
             train  42  migrating  2 min  node-17  10.0.0.3:22  18:02 UTC (in 3 h 12 min)  node-17 is dead; no free node"
        );
    }

    #[test]
    fn the_details_show_the_state_the_nodes_and_the_events() {
        let text = details(now(), &moved());
        for line in [
            "state    migrating for 2 min: node-17 is dead; no free node",
            "until    18:02 UTC (in 3 h 12 min), the node does not know it yet",
            "log in   orion ssh train",
            "node-17  14:00 UTC  now  50 min  rented",
            "14:48 UTC (2 min ago)  lease.migrating  -     why=dead",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
        }
    }
}
