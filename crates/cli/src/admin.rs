//! `orion admin …`: what is done with the database itself, without the API.

use crate::{error::CliError, password, up::DatabaseArgs};
use orion_control_plane::{App, Config};
use orion_domain::Secret;
use orion_service::assemble::assemble;
use std::{collections::BTreeMap, net::SocketAddr};
use tokio_util::sync::CancellationToken;

/// The subcommands of `orion admin`.
#[derive(Debug, clap::Subcommand)]
pub enum AdminCommand {
    /// Make an admin account (or give an existing account a new password and an admin's rights), directly in
    /// the database.
    Create(CreateArgs),
}

/// The arguments of `orion admin create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The admin's user name.
    pub name: String,
    /// Read the password from standard input.
    #[arg(long)]
    pub password_stdin: bool,
    /// Where the database is.
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
    }
}

async fn create(args: CreateArgs) -> Result<(), CliError> {
    let settings = args.database.own_settings(BTreeMap::new())?.settings;
    let password = Secret::new(password::account_password(args.password_stdin, password::Ask::Twice)?);
    let assembled = assemble(&settings).await.map_err(|error| CliError::failed(error.to_string()))?;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config::new(nowhere, settings.master_key);
    let app = App::new(config, assembled.fleet, &assembled.keys, CancellationToken::new());
    let id =
        app.make_admin(&args.name, password).await.map_err(|error| CliError::failed(error.to_string()))?;
    eprintln!("'{}' is an admin (user {id})", args.name);
    Ok(())
}
