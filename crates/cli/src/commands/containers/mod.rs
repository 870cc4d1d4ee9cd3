//! `run`, `ps`, `logs`, `stop`, `restart`, `rm`, `stats`, `exec`, `forward`: containers on leased nodes.

pub mod exec;
pub mod forward;
mod lines;
pub mod stats;
mod terminal;

use super::{
    leases::{find_id, lease_argument},
    new_key,
    pulls::Watch,
};
use crate::{
    client::{Client, LONG_TIMEOUT, Post, escape},
    context::Context,
    error::{CliError, Kind},
    model::{Container, shape},
    output::{self, Format, Table, note},
};
use lines::Lines;
use serde_json::{Map, Value, json};
use std::io::Write as _;

/// The arguments of `orion run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Name (or its beginning) or number of the lease
    #[arg(value_parser = lease_argument)]
    lease: String,
    /// The image, such as debian:12
    image: String,
    /// A name for the container; its number if left out
    #[arg(long)]
    name: Option<String>,
    /// Processor cores, such as 0.5 [default: all of the lease]
    #[arg(long)]
    cpus: Option<f64>,
    /// Memory in MiB [default: all of the lease]
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// GPUs of the lease
    #[arg(long, value_name = "COUNT")]
    gpus: Option<u32>,
    /// An environment variable; may be repeated
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A port of the container that is reached from outside; may be repeated
    #[arg(short, long = "port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,
    /// Let everybody reach its ports
    #[arg(long, requires = "ports")]
    public: bool,
    /// no, on-failure, on-failure:N, always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// The command, in place of the image's own
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// A lease and one of its containers.
#[derive(Debug, clap::Args)]
pub struct ContainerArgs {
    /// Name (or its beginning) or number of the lease
    #[arg(value_parser = lease_argument)]
    lease: String,
    /// The container's name
    #[arg(value_parser = container_argument)]
    container: String,
}

/// The arguments of `orion ps`.
#[derive(Debug, clap::Args)]
pub struct PsArgs {
    /// Name (or its beginning) or number of the lease
    #[arg(value_parser = lease_argument)]
    lease: String,
}

/// The arguments of `orion logs`.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    #[command(flatten)]
    of: ContainerArgs,
    /// Go on with what is written later
    #[arg(short, long)]
    follow: bool,
    /// So many of the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
}

/// The arguments of `orion open`.
#[derive(Debug, clap::Args)]
pub struct OpenArgs {
    #[command(flatten)]
    of: ContainerArgs,
    /// Port of the container [default: its first one]
    #[arg(long)]
    port: Option<u16>,
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    pair.filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| "an environment variable is given as NAME=VALUE".into())
}

fn container_argument(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || text.len() > 40 || !text.chars().all(is_name) {
        return Err("a container is given by its name, as `orion ps` shows it".into());
    }
    Ok(text.to_owned())
}

fn path_of(lease: i64, container: &str) -> String {
    format!("/api/rentals/{lease}/containers/{}", escape(container))
}

async fn find_path(client: &Client, of: &ContainerArgs) -> Result<String, CliError> {
    Ok(path_of(find_id(client, &of.lease).await?, &of.container))
}

/// Runs a container.
///
/// # Errors
/// Those of the API; exit status 1 where it could not be started.
pub async fn run(context: &Context, args: RunArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let id = find_id(&client, &args.lease).await?;
    let mut body = Map::from_iter([("image".to_owned(), json!(args.image))]);
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("name", args.name.clone().map(Value::from));
    put("cpus", args.cpus.map(Value::from));
    put("memory_mb", args.memory.map(Value::from));
    put("gpus", args.gpus.map(Value::from));
    put("restart", args.restart.map(Value::from));
    put("ports", (!args.ports.is_empty()).then(|| json!(args.ports)));
    put("public", args.public.then_some(Value::Bool(true)));
    put("command", (!args.command.is_empty()).then(|| json!(args.command)));
    let env: Map<String, Value> =
        args.env.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
    put("env", (!env.is_empty()).then_some(Value::Object(env)));
    let (path, key) = (format!("/api/rentals/{id}/containers"), new_key());
    let post = Post { timeout: LONG_TIMEOUT, ..Post::new(&path, Value::Object(body)).under_key(&key) };
    let reply = {
        let mut watch = Watch::new(&client, &path, args.name);
        let reply = tokio::select! {
            reply = client.post(post) => reply?,
            never = watch.show() => match never {},
        };
        watch.until_settled(reply).await?
    };
    tell(context, &reply, &args.lease)
}

/// Shows what became of a container.
fn tell(context: &Context, reply: &Value, lease: &str) -> Result<(), CliError> {
    let container: Container = shape(reply, "container")?;
    if container.state == "failed" {
        let why = container.state_reason.unwrap_or_default();
        return Err(CliError::failed(format!("{} could not be started: {why}", container.name))
            .hint(format!("remove it: orion rm {lease} {}", container.name)));
    }
    if context.format == Format::Json {
        return output::json(reply);
    }
    let why = container.state_reason.or(container.step).map(|why| format!(" ({why})")).unwrap_or_default();
    note(&format!("✔ {} is {}{why}", container.name, container.state));
    output::data(&container.name)
}

/// Lists the containers of a lease.
///
/// # Errors
/// Those of the API.
pub async fn list(context: &Context, args: PsArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let id = find_id(&client, &args.lease).await?;
    let reply = client.get(&format!("/api/rentals/{id}/containers")).await?;
    if context.format == Format::Json {
        return output::json(&reply);
    }
    let containers: Vec<Container> = shape(&reply, "containers")?;
    if containers.is_empty() {
        note("no containers; run one: orion run LEASE IMAGE");
        return Ok(());
    }
    let mut table = Table::new(&["NAME", "STATE", "AGE", "IMAGE", "PORTS", "WHY"]);
    for container in containers {
        let why = container.state_reason.or(container.step).unwrap_or_default();
        let age = output::age(context.now(), container.state_since);
        let ports: Vec<String> =
            container.ports.iter().map(|port| format!("{}->{}", port.node_port, port.port)).collect();
        table.row([container.name, container.state, age, container.image, ports.join(","), why]);
    }
    output::data(&table.text())
}

/// Stops a container, starts it again, or removes it.
///
/// # Errors
/// Those of the API.
pub async fn change(context: &Context, of: ContainerArgs, how: &str) -> Result<(), CliError> {
    let client = context.client()?;
    let path = format!("{}/{how}", find_path(&client, &of).await?);
    let reply = client.post(Post { timeout: LONG_TIMEOUT, ..Post::new(&path, json!({})) }).await?;
    tell(context, &reply, &of.lease)
}

/// Removes a container.
///
/// # Errors
/// Those of the API.
pub async fn remove(context: &Context, of: ContainerArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let reply = client.delete(&find_path(&client, &of).await?).await?;
    if context.format == Format::Json {
        return output::json(&reply);
    }
    note(&format!("✔ {} is removed", of.container));
    Ok(())
}

/// Prints a URL that opens a container's port in a browser, once.
///
/// # Errors
/// Those of the API.
pub async fn open(context: &Context, args: OpenArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let path = format!("{}/open", find_path(&client, &args.of).await?);
    let body = args.port.map_or_else(|| json!({}), |port| json!({ "port": port }));
    let reply = client.post(Post::new(&path, body)).await?;
    if context.format == Format::Json {
        return output::json(&reply);
    }
    note("✔ works once, within a minute, and lets whoever has it in");
    output::data(reply["url"].as_str().unwrap_or_default())
}

/// Writes the log of a container, its two streams to those of this process.
///
/// # Errors
/// Those of the API; exit status 1 where the stream breaks.
pub async fn logs(context: &Context, args: LogsArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let mut path = format!("{}/logs?follow={}", find_path(&client, &args.of).await?, args.follow);
    if let Some(tail) = args.tail {
        path = format!("{path}&tail={tail}");
    }
    let mut lines = Lines::open(&client, &path, "log").await?;
    while let Some(line) = lines.next().await? {
        write_line(&line)?;
    }
    Ok(())
}

fn write_line(line: &Value) -> Result<(), CliError> {
    let text = line["text"].as_str().unwrap_or_default();
    let written = match line["stream"].as_str() {
        Some("stdout") => {
            std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush())
        }
        Some("stderr") => std::io::stderr().write_all(text.as_bytes()),
        Some(_) | None => return Err(CliError::failed(text.to_owned())),
    };
    written.map_err(|_| CliError::new(Kind::ReaderGone, "nobody reads the log any more"))
}
