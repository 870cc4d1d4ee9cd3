//! `orion admin …`: what is done with the database itself, without the API.

use crate::{
    error::{CliError, Kind},
    output::note,
    password,
    up::{DatabaseArgs, OwnSettings},
};
use orion_control_plane::{App, Config};
use orion_domain::Secret;
use orion_service::{assemble::assemble, keys::TOKEN_KEY};
use orion_store::{AfterRestore, RestoreSettled};
use std::net::SocketAddr;
use tokio_util::sync::CancellationToken;

/// The subcommands of `orion admin`.
#[derive(Debug, clap::Subcommand)]
pub enum AdminCommand {
    /// Make an admin account (or give an existing account a new password and an admin's rights), directly in
    /// the database, which must be there.
    Create(CreateArgs),
    /// Make a database that was restored from a backup fit to be used, directly in the database. Stop all of Orion
    /// first. Nodes are looked at before they are offered, no uid or number is given out twice, everybody has to log
    /// in anew. May be repeated.
    AfterRestore(AfterRestoreArgs),
}

/// The arguments of `orion admin after-restore`.
#[derive(Debug, clap::Args)]
pub struct AfterRestoreArgs {
    /// Number of account uids to leave out: more than the number of leases made since the backup. Nodes
    /// refuse a uid that they have seen, so a number that is too small only costs time.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub uids_left_out: u32,
    /// Location of the database.
    #[command(flatten)]
    pub database: DatabaseArgs,
}

/// The arguments of `orion admin create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The admin's user name.
    pub name: String,
    /// Read the password from standard input.
    #[arg(long)]
    pub password_stdin: bool,
    /// Location of the database.
    #[command(flatten)]
    pub database: DatabaseArgs,
}

/// Runs the subcommand.
///
/// # Errors
/// When the database cannot be opened, or the name or the password breaks a rule.
pub async fn run(command: AdminCommand) -> Result<(), CliError> {
    match command {
        AdminCommand::Create(args) => create(args).await,
        AdminCommand::AfterRestore(args) => after_restore(args).await,
    }
}

/// A new database in place of the one that is meant would take the work, and nobody would see it.
fn existing(database: &DatabaseArgs) -> Result<OwnSettings, CliError> {
    let own = database.own_settings_of_existing(Kind::Failed)?;
    note(&format!("the database is {}", own.database()));
    Ok(own)
}

async fn after_restore(args: AfterRestoreArgs) -> Result<(), CliError> {
    let settings = existing(&args.database)?.settings;
    let assembled = assemble(&settings).await.map_err(|error| CliError::failed(error.to_string()))?;
    let fleet = assembled.fleet;
    let order = AfterRestore {
        uids_left_out: args.uids_left_out,
        uids: fleet.uids(),
        token_key: TOKEN_KEY,
        now: fleet.now(),
    };
    let failed = |text: String, hint: &str| Err(CliError::failed(text).hint(hint));
    match fleet.store.admin().after_restore(&order).await {
        Ok(RestoreSettled::Settled { nodes, leases, uid_before, next_uid }) => {
            if (nodes, leases) == (0, 0) {
                note(
                    "warning: there are no nodes and no leases in it; is it the database that was restored?",
                );
            }
            eprintln!("{nodes} nodes will be looked at before they are offered; {leases} leases live");
            eprintln!("account uids go on at {next_uid} (the backup says {uid_before})");
            eprintln!("all access tokens are void: everybody has to log in anew");
            eprintln!("now start Orion, and watch `orion nodes` until no node is cleaning");
            Ok(())
        }
        Ok(RestoreSettled::InUse(running)) => {
            let names: Vec<String> =
                running.iter().map(|replica| format!("{} ({})", replica.name, replica.kind)).collect();
            failed(
                format!("the database is in use by {}", names.join(", ")),
                "stop every control plane and scheduler, wait 10 s, and run this again",
            )
        }
        Ok(RestoreSettled::TooFewUids { left }) => failed(
            format!("only {left} account uids are left"),
            "leave fewer out with --uids-left-out: more than leases were made since the backup",
        ),
        Err(error) => Err(CliError::failed(error.to_string())),
    }
}

async fn create(args: CreateArgs) -> Result<(), CliError> {
    let settings = existing(&args.database)?.settings;
    let password = Secret::new(password::account_password(args.password_stdin, password::Ask::Twice)?);
    let assembled = assemble(&settings).await.map_err(|error| CliError::failed(error.to_string()))?;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config::new(nowhere, settings.master_key);
    let app = App::new(config, assembled.fleet, &assembled.keys, CancellationToken::new());
    let id = app
        .accounts()
        .make_admin(&args.name, password)
        .await
        .map_err(|error| CliError::failed(error.to_string()))?;
    eprintln!("'{}' is an admin (user {id})", args.name);
    Ok(())
}
