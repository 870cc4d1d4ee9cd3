//! The command line: what the agent is asked to do, and with which settings.

use crate::{
    config::Options,
    install::{InstallArgs, UninstallArgs},
};
use clap::{Parser, Subcommand};

/// The command line.
#[derive(Parser)]
#[command(
    name = "orion-agent",
    version,
    about = "Registers this machine as a worker of Orion and keeps the deadlines of its leases.",
    after_help = "The join token comes from the environment variable ORION_JOIN_TOKEN or from --join-token-file.\n\
                  It is needed until the first registration has succeeded."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub options: Options,
}

/// Task of this run.
#[derive(Subcommand)]
pub enum Command {
    /// Register, keep the link, enforce deadlines (the default)
    Run,
    /// Print the registration as JSON and exit
    Facts,
    /// Say what the agent would do and what is in its way; changes nothing
    Check,
    /// Make the agent start at boot: binary, settings, service, sshd's authority; again = upgrade in place
    Install(InstallArgs),
    /// Stop the agent and remove what `install` and the agent put on this machine
    Uninstall(UninstallArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let cli =
            Cli::try_parse_from([&["orion-agent"], args].concat()).map_err(|error| error.to_string())?;
        Config::from_options(cli.options)
    }

    #[test]
    fn flags_may_stand_before_and_after_the_command() {
        for args in [
            ["--api", "http://127.0.0.1:1", "check", "--tags", "a,b"],
            ["check", "--api", "http://127.0.0.1:1", "--tags", "a,b"],
        ] {
            let config = parse(&args).unwrap();
            assert_eq!(config.tags.len(), 2);
            assert_eq!(config.ssh_port, 22);
        }
    }

    #[test]
    fn impossible_ports_names_and_addresses_are_refused() {
        for wrong in [
            ["--ssh-port", "0"],
            ["--ssh-port", "70000"],
            ["--hostname", "a_b"],
            ["--ip", "0.0.0.0"],
            ["--tags", "a b"],
        ] {
            assert!(parse(&[&["--api", "http://127.0.0.1:1"], &wrong[..]].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn there_is_no_flag_for_the_join_token_itself() {
        let problem = parse(&["--api", "http://127.0.0.1:1", "--join-token", "x"]).unwrap_err();
        assert!(problem.contains("unexpected argument"), "{problem}");
    }
}
