//! `stats`: what containers use.

use super::{Lines, container_argument, path_of};
use crate::{
    client::Client,
    commands::leases::{find_id, lease_argument},
    context::Context,
    error::CliError,
    model::{Container, ContainerStats, shape},
    output::{self, Format, note},
};
use futures_util::{StreamExt as _, future::try_join_all, stream};
use serde_json::{Value, json};

/// The arguments of `orion stats`.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// Name (or its beginning) or number of the lease
    #[arg(value_parser = lease_argument)]
    lease: String,
    /// The container's name [default: all that run]
    #[arg(value_parser = container_argument)]
    container: Option<String>,
    /// Look once
    #[arg(long)]
    no_stream: bool,
}

/// Shows what containers use, each second, or once.
///
/// # Errors
/// Those of the API.
pub async fn run(context: &Context, args: StatsArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let id = find_id(&client, &args.lease).await?;
    let names = match args.container {
        Some(name) => vec![name],
        None => running(&client, id).await?,
    };
    if names.is_empty() {
        note("no container runs; run one: orion run LEASE IMAGE");
        return Ok(());
    }
    let paths: Vec<(String, String)> =
        names.into_iter().map(|name| (format!("{}/stats", path_of(id, &name)), name)).collect();
    if context.format == Format::Table {
        output::data(&row(
            ["NAME", "CPUS", "MEMORY", "LIMIT", "RECEIVED", "SENT", "PIDS"].map(str::to_owned)
        ))?;
    }
    if args.no_stream {
        let looks = paths.iter().map(|(path, _)| client.get(path));
        let replies = try_join_all(looks).await?;
        return paths.iter().zip(replies).try_for_each(|((_, name), reply)| show(context, name, reply));
    }
    follow(context, &client, paths).await
}

async fn running(client: &Client, id: i64) -> Result<Vec<String>, CliError> {
    let reply = client.get(&format!("/api/rentals/{id}/containers")).await?;
    let containers: Vec<Container> = shape(&reply, "containers")?;
    let running = containers.into_iter().filter(|container| container.state == "running");
    Ok(running.map(|container| container.name).collect())
}

async fn follow(context: &Context, client: &Client, paths: Vec<(String, String)>) -> Result<(), CliError> {
    let mut streams = Vec::with_capacity(paths.len());
    for (path, name) in paths {
        let lines = Lines::open(client, &format!("{path}?stream=true"), "stream of stats").await?;
        streams.push(Box::pin(stream::unfold(Some((lines, name)), |state| async move {
            let (mut lines, name) = state?;
            match lines.next().await {
                Ok(line) => line.map(|line| (Ok((name.clone(), line)), Some((lines, name)))),
                Err(error) => Some((Err(error), None)),
            }
        })));
    }
    let mut all = stream::select_all(streams);
    while let Some(line) = all.next().await {
        let (name, line) = line?;
        show(context, &name, line)?;
    }
    Ok(())
}

fn show(context: &Context, name: &str, mut line: Value) -> Result<(), CliError> {
    if let Some(error) = line["error"].as_str() {
        return Err(CliError::failed(error.to_owned()));
    }
    if context.format == Format::Json {
        line["name"] = json!(name);
        return output::data(&line.to_string());
    }
    let stats: ContainerStats = shape(&line, "stats")?;
    output::data(&row([
        name.to_owned(),
        format!("{:.2}", stats.cpus_used),
        size(stats.memory_bytes),
        size(stats.memory_limit_bytes),
        size(stats.received_bytes),
        size(stats.sent_bytes),
        stats.pids.to_string(),
    ]))
}

/// Cells of fixed widths: rows come one after the other.
fn row(cells: [String; 7]) -> String {
    let [name, cpus, memory, limit, received, sent, pids] = cells;
    format!("{name:<20} {cpus:>6} {memory:>10} {limit:>10} {received:>10} {sent:>10} {pids:>5}")
}

/// A number of bytes with its unit: `1.5 MiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while value >= 1024.0
        && let Some(next) = units.next()
    {
        value /= 1024.0;
        unit = Some(next);
    }
    let unit = unit.copied().unwrap_or_default();
    if bytes < 1024 { format!("{bytes} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_its_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (73_400_320, "70.0 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
