//! `orion`: rent a node and log in, from the command line; and `orion up`, which runs all of Orion.
//!
//! Lives here: the list of commands and their dispatch. Does not live here: what they do
//! ([`commands`], [`up`], [`admin`]).

mod admin;
mod client;
mod commands;
mod completions;
mod config;
mod context;
mod doctor;
mod duration;
mod error;
mod examples;
mod identity;
mod model;
mod output;
mod password;
mod printable;
mod refusal;
mod sse;
mod ssh_command;
mod up;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use commands::{
    accounts::{session, tokens, users},
    containers, events, images,
    leases::{extend, list, release, rent, ssh, ssh_config},
    nodes,
    operations::{brake, status},
    webhooks,
};
use context::Context;
use error::{CliError, Kind};
use output::Format;
use std::{ffi::OsString, path::PathBuf, process::ExitCode};

/// Rent a machine and log in.
#[derive(Debug, Parser)]
#[command(name = "orion", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Exit status: 0 done, 1 failed, 2 bad arguments or input, 3 not logged in, 4 no such lease, 5 refused or not \
available now. `orion ssh` ends with the status of ssh, `orion doctor` with 1 for a violation and 2 if it could not look.
Environment: ORION_API (address), ORION_API_CA (as --api-ca), ORION_TOKEN (instead of a login), ORION_PASSWORD (for \
signup and login).")]
struct Cli {
    /// The API's address [default: that of the last login, or else http://127.0.0.1:8080]
    #[arg(long, global = true, env = "ORION_API", value_name = "URL", value_parser = client::parse_api)]
    #[arg(hide_env = true)]
    api: Option<String>,
    /// Trust the certificate authorities in this PEM file, too
    #[arg(long, global = true, env = "ORION_API_CA", hide_env = true, value_name = "FILE")]
    #[arg(value_hint = clap::ValueHint::FilePath)]
    api_ca: Option<OsString>,
    /// Format of the data on standard output
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an account and log in
    Signup(session::SignupArgs),
    /// Log in
    Login(session::LoginArgs),
    /// Log out and forget the session
    Logout,
    /// Show who is logged in, where, and for how long
    Whoami,
    /// Change your password; older logins are void
    Password(session::ChangePasswordArgs),
    /// Rent one node or more
    Rent(rent::RentArgs),
    /// List your leases
    #[command(visible_alias = "list")]
    Ls(list::LsArgs),
    /// Show one lease with its history
    Show(list::ShowArgs),
    /// Log in to the node of a lease, wherever it is by now
    Ssh(ssh::SshArgs),
    /// Let plain ssh, scp, rsync and editors know your leases by name
    SshConfig(ssh_config::SshConfigArgs),
    /// Carry the bytes of an ssh connection to the node of a lease (ssh runs it)
    #[command(hide = true)]
    SshProxy(ssh_config::ProxyArgs),
    /// Give a lease more time
    Extend(extend::ExtendArgs),
    /// End leases and clean their nodes
    Release(release::ReleaseArgs),
    /// Run a container on the node of a lease
    Run(containers::RunArgs),
    /// List the containers of a lease
    Ps(containers::PsArgs),
    /// Show the log of a container, or (-f) follow it
    Logs(containers::LogsArgs),
    /// Show what containers use, each second
    Stats(containers::stats::StatsArgs),
    /// Run a command in a container, with (-it) this terminal or in a pipe
    Exec(containers::exec::ExecArgs),
    /// Listen at a local port that leads to a container
    Forward(containers::forward::ForwardArgs),
    /// Give a URL that opens a container's port in a browser
    Open(containers::OpenArgs),
    /// Stop a container; it is kept, with its log
    Stop(containers::ContainerArgs),
    /// Stop a container, if it runs, and start it again
    Restart(containers::ContainerArgs),
    /// Remove a container, running or not
    Rm(containers::ContainerArgs),
    /// Images: whether a registry has one, and how large it is
    #[command(subcommand)]
    Image(images::ImageCommand),
    /// List the nodes, or drain them and put them back into use (admin)
    Nodes(nodes::NodesArgs),
    /// Show how Orion is: its parts, the brake, and background tasks that fail or hang
    Status,
    /// Show the brake that stops migration, or lift it (admin)
    Brake(brake::BrakeArgs),
    /// Show what happened, or (-f) what happens
    Events(events::EventsArgs),
    /// Tokens that workers join with (admin)
    #[command(subcommand)]
    Token(tokens::TokenCommand),
    /// Accounts: list, disable, enable, promote, demote, new passwords, quotas (admin)
    #[command(subcommand)]
    Users(users::UsersCommand),
    /// Invitations to sign up (admin)
    #[command(subcommand)]
    Invite(users::InviteCommand),
    /// Send events to other programs (admin)
    #[command(subcommand)]
    Webhooks(webhooks::WebhooksCommand),
    /// Work on the database itself
    #[command(subcommand)]
    Admin(admin::AdminCommand),
    /// Look whether what must hold does, in the database and on the nodes
    Doctor(doctor::DoctorArgs),
    /// Run all of Orion in one process
    Up(up::UpArgs),
    /// Print the OpenAPI document of the API that this version serves
    Openapi,
    /// Print a completion script for a shell
    Completions {
        /// Shell to print the script for
        shell: clap_complete::Shell,
    },
    /// Print what may stand in a place of a command line (completion scripts run it)
    #[command(hide = true)]
    Complete {
        /// Kind of the values to complete
        #[arg(value_enum)]
        what: completions::What,
    },
}

fn main() -> ExitCode {
    let matches = examples::within(Cli::command()).get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error.kind(), Kind::ReaderGone | Kind::Command(_)) {
                // Each of the two lines was made printable by itself.
                let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{error}\n"));
            }
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn start(cli: Cli) -> Result<(), CliError> {
    // It only fails where one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let serving = matches!(cli.command, Command::Up(_));
    let mut builder = if serving {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder
        .enable_all()
        .thread_stack_size(orion_service::process::STACK_BYTES)
        .build()
        .map_err(|error| CliError::failed(format!("cannot start the runtime: {error}")))?;
    let done = runtime.block_on(dispatch(cli));
    runtime.shutdown_background();
    done
}

async fn dispatch(cli: Cli) -> Result<(), CliError> {
    let Cli { api, api_ca, output, command } = cli;
    // An empty variable is as good as none.
    let api_ca = api_ca.filter(|file| !file.is_empty()).map(PathBuf::from);
    let context = || Context::new(api, api_ca, output);
    match command {
        Command::Signup(args) => session::signup(&context()?, args).await,
        Command::Login(args) => session::login(&context()?, args).await,
        Command::Logout => session::logout(&context()?).await,
        Command::Whoami => session::whoami(&context()?).await,
        Command::Password(args) => session::change_password(&context()?, args).await,
        Command::Users(command) => users::run(&context()?, command).await,
        Command::Invite(command) => users::invite(&context()?, command).await,
        Command::Rent(args) => rent::run(&context()?, args).await,
        Command::Ls(args) => list::list(&context()?, args).await,
        Command::Show(args) => list::show(&context()?, args).await,
        Command::Ssh(args) => ssh::run(&context()?, args).await,
        Command::SshConfig(args) => ssh_config::run(&context()?, args).await,
        Command::SshProxy(args) => ssh_config::proxy(&context()?, args).await,
        Command::Extend(args) => extend::extend(&context()?, args).await,
        Command::Release(args) => release::release(&context()?, args).await,
        Command::Run(args) => containers::run(&context()?, args).await,
        Command::Ps(args) => containers::list(&context()?, args).await,
        Command::Logs(args) => containers::logs(&context()?, args).await,
        Command::Stats(args) => containers::stats::run(&context()?, args).await,
        Command::Exec(args) => containers::exec::run(&context()?, args).await,
        Command::Forward(args) => containers::forward::run(&context()?, args).await,
        Command::Open(args) => containers::open(&context()?, args).await,
        Command::Stop(args) => containers::change(&context()?, args, "stop").await,
        Command::Restart(args) => containers::change(&context()?, args, "restart").await,
        Command::Rm(args) => containers::remove(&context()?, args).await,
        Command::Image(command) => images::run(&context()?, command).await,
        Command::Nodes(args) => nodes::run(&context()?, args).await,
        Command::Status => status::run(&context()?).await,
        Command::Brake(args) => brake::run(&context()?, args).await,
        Command::Events(args) => events::run(&context()?, args).await,
        Command::Token(command) => tokens::run(&context()?, command).await,
        Command::Webhooks(command) => webhooks::run(&context()?, command).await,
        Command::Admin(command) => admin::run(command).await,
        Command::Doctor(args) => doctor::run(output, args).await,
        Command::Up(args) => up::run(args).await,
        Command::Openapi => output::data(&format!("{:#}", orion_control_plane::router::document())),
        Command::Completions { shell } => output::data(completions::script(shell, Cli::command()).trim_end()),
        Command::Complete { what } => completions::complete(&context()?, what).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_that_it_takes() {
        fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
            for sub in command.get_subcommands().filter(|sub| !matches!(sub.get_name(), "help" | "complete"))
            {
                let path = format!("{path} {}", sub.get_name()).trim().to_owned();
                if sub.get_subcommands().next().is_none() || !sub.is_subcommand_required_set() {
                    found.push(path.clone());
                }
                leaves(sub, &path, found);
            }
        }
        let mut commands = Vec::new();
        leaves(&Cli::command(), "", &mut commands);
        for command in &commands {
            let (_, example) = examples::EXAMPLES
                .iter()
                .find(|(of, _)| of == command)
                .unwrap_or_else(|| panic!("no example of 'orion {command}'"));
            assert!(parsed(example).is_ok(), "{example}: {}", parsed(example).unwrap_err());
            let words: Vec<&str> = example.split_whitespace().filter(|word| !word.starts_with('-')).collect();
            assert!(words.join(" ").contains(command.as_str()), "{example} is no example of {command}");
        }
        assert_eq!(commands.len(), examples::EXAMPLES.len(), "an example of a command that is none");
    }

    #[test]
    fn what_follows_the_lease_of_ssh_is_the_command() {
        for (line, expected) in [
            ("orion ssh train", vec![]),
            ("orion ssh train -- ls -l --wait 3", vec!["ls", "-l", "--wait", "3"]),
            ("orion ssh --wait 3 -t train -- top", vec!["top"]),
            ("orion ssh train uptime -p", vec!["uptime", "-p"]),
        ] {
            let Ok(Cli { command: Command::Ssh(args), .. }) = parsed(line) else { panic!("{line}") };
            assert_eq!(args.command, expected, "{line}");
        }
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused_before_anything_is_sent() {
        for wrong in [
            "orion rent",
            "orion rent --hours 0",
            "orion rent --hours -1",
            "orion rent --hours 1 --count 0",
            "orion rent --hours 1 --name 12",
            "orion rent --hours 1 --name A_b",
            "orion rent --hours 1 --on-node-loss explode",
            "orion rent --hours 1 --tag a;b",
            "orion extend train",
            "orion extend train 2x",
            "orion release",
            "orion nodes drain",
            "orion nodes undrain",
            "orion nodes lift a/b",
            "orion nodes forget --force",
            "orion ls --api ftp://x",
            "orion ls -o yaml",
        ] {
            let error = parsed(wrong).expect_err(wrong);
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn global_options_work_on_either_side_of_the_command() {
        let before = parsed("orion -o json --api http://h:1/ ls").unwrap();
        let after = parsed("orion ls --api http://h:1 -o json").unwrap();
        assert_eq!((before.output, before.api), (after.output, after.api));
    }
}
