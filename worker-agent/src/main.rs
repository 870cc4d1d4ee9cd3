//! The agent of a worker: registers the machine, keeps a link to the control plane, and closes logins at
//! their deadline even when nobody is there to ask.
//!
//! Lives here: what runs on a node by itself. Does not live here: making and removing accounts (the control
//! plane does that over SSH, `playbooks/`), and any decision about leases.
//!
//! ```text
//! cli       the commands
//! config    flags and environment          register  POST /api/workers/register, forever
//! facts     what the machine is            link      GET /api/workers/link, beats, orders
//! state     what is kept on disk           deadline  enforces /var/lib/orion/leases, own thread
//! sshd      the control plane's CA, probe  accounts  locks and reopens one account
//! watcher   an eye on sshd
//! dial      TCP, TLS, one HTTP request     process   runs commands, ends processes of a uid
//! install   puts the agent on a machine, and takes it off again
//! containers  a port for a booking system that starts containers itself; off by default
//! ```

mod accounts;
mod banner;
mod check;
mod cli;
mod config;
mod containers;
mod deadline;
mod dial;
mod facts;
mod gpus;
mod install;
mod link;
mod pace;
mod process;
mod register;
mod service;
mod sshd;
mod state;
mod watcher;
mod way_in;

use clap::Parser as _;
use cli::{Cli, Command};
use config::{Config, Options};
use std::{io::IsTerminal, process::ExitCode};
use tracing_subscriber::{EnvFilter, fmt};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    fmt()
        .compact()
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let options = cli.options;
    let outcome = match cli.command.unwrap_or(Command::Run) {
        Command::Run => with_config(options, async |config| service::run(config).await),
        Command::Facts => with_config(options, async |config| register::print_body(&config).await),
        Command::Check => with_config(options, async |config| check::check(&config).await),
        Command::Install(args) => install::install(&args, &options),
        Command::Uninstall(args) => install::uninstall(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("orion-agent: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn with_config(options: Options, work: impl AsyncFnOnce(Config) -> Result<(), String>) -> Result<(), String> {
    let config = Config::from_options(options)?;
    // One thread for the network is plenty, and the smallest.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(work(config))
}
