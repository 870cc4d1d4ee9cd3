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
