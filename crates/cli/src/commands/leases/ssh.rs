//! `ssh`: asks where the lease is now, pins that node's host keys, and becomes OpenSSH's client.

use crate::{
    client::Client,
    context::Context,
    duration,
    error::{CliError, Kind},
    model::{Rental, shape},
    output::{Progress, note},
    ssh_command::{self, Extras, Login},
};
use std::{
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

/// Interval at which the API is asked whether a lease has arrived.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The arguments of `orion ssh`.
#[derive(Debug, clap::Args)]
pub struct SshArgs {
    /// Seconds to wait while the lease is on its way to another node
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// Log in with this private key
    #[arg(short, long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Ask for a terminal even with a command
    #[arg(short = 't', long = "tty")]
    terminal: bool,
    /// Forward a local port, as ssh -L does (may be repeated)
    #[arg(short = 'L', long = "forward", value_name = "PORT:HOST:PORT")]
    forwards: Vec<String>,
    /// Name (or its beginning) or number
    #[arg(value_parser = super::lease_argument)]
    lease: String,
    /// Command to run on the node, instead of a shell
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Becomes `ssh`; only returns when it could not.
pub async fn run(context: &Context, args: SshArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let rental = usable(context, &client, &args.lease, args.wait).await?;
    let (Some(host), Some(port), Some(user)) = (&rental.host_ip, rental.ssh_port, &rental.client_user) else {
        return Err(CliError::new(
            Kind::Unavailable,
            format!("lease {} has no address now", rental.handle()),
        )
        .hint(format!("see why: orion show {}", rental.handle())));
    };
    let known_hosts = ssh_command::known_hosts(rental.rental_id, &rental.known_hosts)?;
    let known_hosts = context.paths.keep_known_hosts(&context.api, rental.rental_id, &known_hosts)?;
    let key = args.identity.unwrap_or_else(|| context.paths.identity(&context.api, rental.rental_id));
    if let Some(said) = crate::identity::no_private_half(&key) {
        note(&format!("warning: {said}"));
    }
    let login = Login { lease_id: rental.rental_id, user, host, port, key: &key, known_hosts: &known_hosts };
    let extras = Extras { terminal: args.terminal, forwards: args.forwards, command: args.command };
    let error = Command::new("ssh").args(ssh_command::arguments(&login, &extras)?).exec();
    Err(CliError::failed(format!("cannot run ssh: {error}"))
        .hint("install OpenSSH's client (Debian: apt install openssh-client)"))
}

/// The lease as soon as it can be logged in to.
pub(super) async fn usable(
    context: &Context,
    client: &Client,
    lease: &str,
    wait_s: u64,
) -> Result<Rental, CliError> {
    let begun = Instant::now();
    let patience = Duration::from_secs(wait_s);
    let mut progress = Progress::new();
    let mut rental: Rental = shape(&super::find(client, lease).await?, "lease")?;
    if rental.slice.is_some() {
        let handle = rental.handle();
        return Err(CliError::new(
            Kind::Usage,
            format!("lease {handle} is a slice of a node and has no login"),
        )
        .hint(format!("its containers: orion ps {handle}")));
    }
    loop {
        let handle = rental.handle();
        let state = super::state(context.now(), &rental);
        match rental.state.as_str() {
            "releasing" | "ended" => {
                return Err(CliError::new(Kind::Unavailable, format!("lease {handle} is over ({state})"))
                    .hint("rent again: orion rent --hours 1"));
            }
            "migrating" | "provisioning" if begun.elapsed() >= patience => {
                return Err(CliError::new(Kind::Unavailable, format!("lease {handle} is {state}"))
                    .hint(format!("wait longer: orion ssh --wait {} {handle}", wait_s.max(30) * 10)));
            }
            "migrating" | "provisioning" => {
                let reason = rental.state_reason.as_deref().filter(|reason| !reason.is_empty());
                let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
                let stage = format!("lease {handle} is {}{reason}; waiting up to {wait_s} s", rental.state);
                progress.show(&stage, &duration::show(begun.elapsed()));
            }
            _ => return Ok(rental),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        rental = shape(&client.get(&format!("/api/rentals/{}", rental.rental_id)).await?, "lease")?;
    }
}
