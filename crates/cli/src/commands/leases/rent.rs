//! `rent`: one request under one idempotency key, however often it has to be sent.

use crate::{
    client::{Client, LONG_TIMEOUT, Post, Repeat},
    commands::containers::variable,
    context::Context,
    duration::{self, Length},
    error::{CliError, Kind},
    model::{Rental, shape},
    output::{self, Format, Progress, Table, note},
    password,
};
use orion_domain::{
    Timestamp,
    names::{LeaseName, Tag},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// The most nodes that one rental may ask for here; the API's own limit may be lower.
const COUNT_MAX: i64 = 10_000;
/// The longest pause between two attempts of `--wait`.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Policy for a lease whose node is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnNodeLoss {
    /// Moves the lease to another node, with the same user and password.
    Migrate,
    /// Waits for the lease's own node to return.
    Wait,
    /// Ends the lease.
    End,
}

/// The arguments of `orion rent`.
#[derive(Debug, clap::Args)]
pub struct RentArgs {
    /// Length of the lease: a number of hours, or 90m, 2h, 1d
    #[arg(long, visible_alias = "for", value_name = "TIME", allow_negative_numbers = true)]
    hours: Length,
    /// Number of nodes: all of them or none
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=COUNT_MAX))]
    count: u32,
    /// Name of the lease, used in place of its number
    #[arg(long, value_name = "NAME", value_parser = checked::<LeaseName>)]
    name: Option<String>,
    /// Read the password for the node's account from standard input, instead of getting a generated one
    #[arg(long)]
    password_stdin: bool,
    /// Log in with this public key, instead of the CLI's own
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// Rent only nodes with this tag (may be repeated)
    #[arg(long = "tag", value_name = "TAG", value_parser = checked::<Tag>)]
    tags: Vec<String>,
    /// Policy for the loss of the node
    #[arg(long, value_enum, value_name = "WHAT")]
    on_node_loss: Option<OnNodeLoss>,
    /// Wait for free nodes when there are too few (at most this long)
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "24h")]
    wait: Option<Length>,
    /// The same limit for --wait, as an option of its own
    #[arg(long, value_name = "TIME", requires = "wait")]
    timeout: Option<Length>,
    /// Send this idempotency key: the same key again gives the same leases, not more
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Rent a slice of a node, with so many processor cores, such as 0.5
    #[arg(long, value_name = "CORES", requires = "memory", requires = "image")]
    cpus: Option<f64>,
    /// Memory of the slice: a number of MiB, or 512m, 4g
    #[arg(long, value_name = "SIZE", requires = "cpus", value_parser = mebibytes)]
    memory: Option<u32>,
    /// GPUs of the slice
    #[arg(long, value_name = "COUNT", requires = "cpus")]
    gpus: Option<u32>,
    /// Run a container of this image from the beginning; a slice has no login but that
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// An environment variable of the container; may be repeated
    #[arg(short, long = "env", value_name = "NAME=VALUE", requires = "image", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The container's command, in place of the image's own
    #[arg(last = true, value_name = "COMMAND", requires = "image")]
    command: Vec<String>,
}

/// Reads a size such as `512m` or `4g`; a number alone is one of MiB.
fn mebibytes(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.strip_suffix(['m', 'M']) {
        Some(number) => (number, 1),
        None => text.strip_suffix(['g', 'G']).map_or((text, 1), |number| (number, 1024)),
    };
    let size = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    size.ok_or_else(|| "a size is a number of MiB, or such as 512m or 4g".into())
}

fn checked<T: std::str::FromStr<Err = String>>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| text.to_owned())
}

/// Rents, waits for free nodes where it was told to, and shows how to log in.
pub async fn run(context: &Context, args: RentArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let password = if args.password_stdin { Some(password::from_stdin()?) } else { None };
    let public_key = if args.cpus.is_some() { None } else { public_key(context, &args)? };
    let body = body(&args, password.as_deref(), public_key.as_deref());
    let key = args.idempotency_key.clone().unwrap_or_else(crate::commands::new_key);
    let begun = Instant::now();
    let patience = args.timeout.or(args.wait).map(Length::duration);
    let reply = send_unless_stopped(&client, &body, &key, patience).await?;
    let rentals: Vec<Rental> = shape(&reply, "leases")?;
    if let Some(public) = &args.public_key {
        // Without a private half the public one is remembered: ssh asks the agent for exactly this key.
        let identity = private_half(public).or_else(|| std::path::absolute(public).ok());
        for rental in &rentals {
            if let Some(identity) = &identity {
                context.paths.keep_identity(&context.api, rental.rental_id, identity)?;
            }
        }
        if let Some(said) = identity.as_deref().and_then(crate::identity::no_private_half) {
            note(&format!("warning: {said}"));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    super::ssh_config::renew_now(context, &client).await;
    show(context, &args, &rentals, password.is_some(), seconds, &reply)
}

async fn send(client: &Client, body: &Value, key: &str) -> Result<Value, CliError> {
    let post = Post { timeout: LONG_TIMEOUT, ..Post::new("/api/rent", body.clone()).under_key(key) };
    client.post(post).await
}

/// Sends (with `patience`: until enough nodes are free) unless Ctrl-C stops it. A request that is under way then is
/// waited for, and what it rented is given back: nobody would know of it.
async fn send_unless_stopped(
    client: &Client,
    body: &Value,
    key: &str,
    patience: Option<Duration>,
) -> Result<Value, CliError> {
    let stop = CancellationToken::new();
    let sending = async {
        match patience {
            None => send(client, body, key).await,
            Some(patience) => send_until_free(client, body, key, patience, &stop).await,
        }
    };
    tokio::pin!(sending);
    tokio::select! {
        reply = &mut sending => return reply,
        stopped = tokio::signal::ctrl_c() => {
            if stopped.is_err() {
                return sending.await;
            }
        }
    }
    stop.cancel();
    let stopped = || CliError::new(Kind::Interrupted, "stopped");
    note("stopping: what may be under way is waited for and given back; Ctrl-C again leaves at once");
    let reply = tokio::select! {
        reply = sending => reply,
        _ = tokio::signal::ctrl_c() => {
            let hint = format!("what was under way may still be rented; see orion ls (its key was {key})");
            return Err(stopped().hint(hint));
        }
    };
    // Any refusal means that nothing was rented; a lost connection that it is not known.
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) if error.problem().is_some() || error.kind() == Kind::Interrupted => {
            return Err(stopped().hint("nothing was rented"));
        }
        Err(_) => {
            let hint = format!("the API did not answer; see orion ls (the request's key was {key})");
            return Err(stopped().hint(hint));
        }
    };
    for rental in shape::<Vec<Rental>>(&reply, "leases")? {
        let path = format!("/api/release/{}", rental.rental_id);
        let post = Post { repeat: Repeat::Safe, timeout: LONG_TIMEOUT, ..Post::new(&path, json!({})) };
        client.post(post).await.map_err(|error| {
            let text = format!("stopped, but lease {} could not be given back", rental.rental_id);
            note(&error.to_string());
            CliError::new(Kind::Interrupted, text).hint(format!("orion release {}", rental.rental_id))
        })?;
    }
    Err(stopped().hint("what was rented just then is released again"))
}

/// Sends until enough nodes are free. A 503 is not kept under the key, so the same key serves throughout.
async fn send_until_free(
    client: &Client,
    body: &Value,
    key: &str,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<Value, CliError> {
    let begun = Instant::now();
    let mut progress = Progress::new();
    loop {
        let error = match send(client, body, key).await {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        // The same key makes it safe to ask on after a lost connection, too.
        let away = error.problem().is_none() && error.kind() == Kind::Unavailable;
        let problem = error.problem().cloned().unwrap_or_default();
        if problem.status != 503 && !away {
            return Err(error);
        }
        let left = patience.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(error);
        }
        let stage = match problem.found {
            Some(found) => format!("waiting for free nodes ({found} now)"),
            None if away => "waiting for the API to answer".to_owned(),
            None => "waiting for the API to be able to rent".to_owned(),
        };
        let next = problem.retry_after_s.map(Duration::from_secs);
        // Without a number of free nodes it is not leases that are waited for.
        let lease_ends = next.filter(|_| problem.found.is_some());
        progress.show(&stage, &waited(begun.elapsed(), lease_ends));
        let pause = next.unwrap_or(PAUSE_MAX / 5).clamp(Duration::from_millis(500), PAUSE_MAX).min(left);
        let next_try = Instant::now() + pause;
        loop {
            let left = next_try.saturating_duration_since(Instant::now());
            tokio::select! {
                () = stop.cancelled() => return Err(CliError::new(Kind::Interrupted, "stopped")),
                () = tokio::time::sleep(left.min(Duration::from_secs(1))) => {}
            }
            if left.is_zero() {
                break;
            }
            let lease_ends = lease_ends.map(|ends| ends.saturating_sub(pause.saturating_sub(left)));
            progress.show(&stage, &waited(begun.elapsed(), lease_ends));
        }
    }
}

/// `12 min, next lease ends in 3 h`
fn waited(so_far: Duration, next: Option<Duration>) -> String {
    let next = next.map(|next| format!(", next lease ends in {}", duration::show(next)));
    format!("{}{}", duration::show(so_far), next.unwrap_or_default())
}

fn body(args: &RentArgs, password: Option<&str>, public_key: Option<&str>) -> Value {
    let mut body = json!({"duration_hours": args.hours.hours(), "count": args.count});
    if let Value::Object(keys) = &mut body {
        let mut set =
            |key: &str, value: Option<Value>| keys.extend(value.map(|value| (key.to_owned(), value)));
        set("name", args.name.clone().map(Value::from));
        set("ssh_password", password.map(Value::from));
        set("ssh_public_key", public_key.map(Value::from));
        set("tags", (!args.tags.is_empty()).then(|| args.tags.clone().into()));
        let word = args.on_node_loss.map(|what| match what {
            OnNodeLoss::Migrate => "migrate",
            OnNodeLoss::Wait => "wait",
            OnNodeLoss::End => "end",
        });
        set("on_node_loss", word.map(Value::from));
        set("cpus", args.cpus.map(Value::from));
        set("memory_mb", args.memory.map(Value::from));
        set("gpus", args.gpus.map(Value::from));
        set("container", container(args));
    }
    body
}

/// The container that the lease begins with.
fn container(args: &RentArgs) -> Option<Value> {
    let mut container = json!({ "image": args.image.as_ref()? });
    if !args.env.is_empty() {
        let env = args.env.iter().map(|(name, value)| (name.clone(), Value::from(value.clone())));
        container["env"] = Value::Object(env.collect());
    }
    if !args.command.is_empty() {
        container["command"] = json!(args.command);
    }
    Some(container)
}

/// The public key to send: the file's, or the CLI's own. A machine without `ssh-keygen` rents by password.
fn public_key(context: &Context, args: &RentArgs) -> Result<Option<String>, CliError> {
    let Some(path) = &args.public_key else {
        return Ok(context.paths.public_key().map_or_else(
            |error| {
                note(&format!("{error}").replace("error: ", "warning: no SSH key, so a password only: "));
                None
            },
            Some,
        ));
    };
    let text = fs::read_to_string(path).map_err(|error| CliError::file("cannot read", path, &error))?;
    let text = text.trim();
    if text.contains("PRIVATE KEY") {
        return Err(CliError::new(
            Kind::Usage,
            format!("{} is a private key; it stays here", path.display()),
        )
        .hint(format!("give the public one: --public-key {}.pub", path.display())));
    }
    if text.is_empty() || text.lines().count() != 1 {
        return Err(CliError::new(
            Kind::Usage,
            format!("{} does not hold exactly one public key", path.display()),
        ));
    }
    Ok(Some(text.to_owned()))
}

/// The private key beside `key.pub`, if there is one.
fn private_half(public: &std::path::Path) -> Option<PathBuf> {
    let private = std::path::absolute(public.with_extension("")).ok()?;
    (public.extension().is_some_and(|extension| extension == "pub") && private.is_file()).then_some(private)
}

fn show(
    context: &Context,
    args: &RentArgs,
    rentals: &[Rental],
    own_password: bool,
    seconds: f64,
    reply: &Value,
) -> Result<(), CliError> {
    let now = context.now();
    for rental in rentals {
        let node = rental.node_name.clone().or_else(|| rental.node_id.map(|id| format!("node {id}")));
        let node = node.unwrap_or_else(|| rental.address());
        let until = rental.leased_until.map(|until| format!(" · until {}", output::moment(now, until)));
        let until = until.unwrap_or_default();
        let login =
            rental.client_user.as_deref().map(|user| format!(" · login {user} ready, host key pinned"));
        let login = login.unwrap_or_default();
        note(&format!("✔ {node}{until}{login} · {seconds:.1} s"));
        for container in &rental.containers {
            let why = container.state_reason.as_deref().or(container.step.as_deref());
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            note(&format!("  container {} is {}{why}", container.name, container.state));
        }
    }
    if context.format == Format::Json {
        return output::json(reply);
    }
    if args.cpus.is_some() {
        return output::data(&slices(now, rentals));
    }
    let mut table = Table::new(&["NAME", "ID", "ADDRESS", "USER", "PASSWORD", "UNTIL", "LOG IN"]);
    for rental in rentals {
        // A single lease bears the name that was asked for, also where the reply does not repeat it.
        let name = rental.name.clone().or_else(|| args.name.clone().filter(|_| rentals.len() == 1));
        let handle = name.clone().unwrap_or_else(|| rental.rental_id.to_string());
        let password = rental.client_pass.clone().filter(|_| !own_password);
        table.row([
            name.unwrap_or_default(),
            rental.rental_id.to_string(),
            rental.address(),
            rental.client_user.clone().unwrap_or_default(),
            password.unwrap_or_else(|| if own_password { "(yours)".into() } else { String::new() }),
            rental.leased_until.map(|until| output::clock_time(now, until)).unwrap_or_default(),
            format!("orion ssh {handle}"),
        ]);
    }
    output::data(&table.text())
}

/// A table of slices, which have no login.
fn slices(now: Timestamp, rentals: &[Rental]) -> String {
    let mut table = Table::new(&["NAME", "ID", "NODE", "CONTAINER", "UNTIL", "LOG"]);
    for rental in rentals {
        let handle = rental.handle();
        let first = rental.containers.first();
        table.row([
            rental.name.clone().unwrap_or_default(),
            rental.rental_id.to_string(),
            rental.node_name.clone().unwrap_or_default(),
            first.map(|container| container.state.clone()).unwrap_or_default(),
            rental.leased_until.map(|until| output::clock_time(now, until)).unwrap_or_default(),
            first.map(|container| format!("orion logs -f {handle} {}", container.name)).unwrap_or_default(),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: RentArgs,
    }

    fn args(line: &str) -> RentArgs {
        <Line as clap::Parser>::try_parse_from(line.split_whitespace()).unwrap().args
    }

    #[test]
    fn the_body_holds_what_was_asked_for_and_nothing_else() {
        assert_eq!(body(&args("rent --hours 90m"), None, None), json!({"duration_hours": 1.5, "count": 1}));
        let all = args("rent --for 2h --count 3 --name train --tag gpu --tag rack-3 --on-node-loss end");
        assert_eq!(
            body(&all, Some("s3cret"), Some("ssh-ed25519 AAAA")),
            json!({"duration_hours": 2.0, "count": 3, "name": "train", "tags": ["gpu", "rack-3"],
                "on_node_loss": "end", "ssh_password": "s3cret", "ssh_public_key": "ssh-ed25519 AAAA"})
        );
    }

    #[test]
    fn a_slice_has_a_size_and_a_container_and_no_key() {
        let line = "rent --for 2h --cpus 0.5 --memory 4g --gpus 1 --image debian:12 -e A=b -- sleep 60";
        assert_eq!(
            body(&args(line), None, None),
            json!({"duration_hours": 2.0, "count": 1, "cpus": 0.5, "memory_mb": 4096, "gpus": 1,
                "container": {"image": "debian:12", "env": {"A": "b"}, "command": ["sleep", "60"]}})
        );
        let refused = |line: &str| <Line as clap::Parser>::try_parse_from(line.split_whitespace()).is_err();
        for line in
            ["--cpus 1", "--memory 1g --image a", "--cpus 1 --memory 1x --image a", "-e A=b", "-- sleep"]
        {
            assert!(refused(&format!("rent --for 2h {line}")), "{line}");
        }
    }

    #[test]
    fn waiting_has_a_limit_even_when_none_is_given() {
        assert_eq!(args("rent --hours 1").wait, None);
        assert_eq!(args("rent --hours 1 --wait").wait.map(Length::hours), Some(24.0));
        assert_eq!(args("rent --hours 1 --wait=30m").wait.map(Length::hours), Some(0.5));
    }
}
