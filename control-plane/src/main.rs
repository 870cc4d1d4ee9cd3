//! `orion-control-plane`: one replica of the HTTP API. Any number of them run on one MariaDB.

use orion_control_plane::{App, Config, app::accounts::FirstAdmin, serve::serve};
use orion_service::{
    process::{self, ServiceError},
    settings::{SettingsError, Sources},
};
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    process::main("orion-control-plane", run)
}

async fn run(sources: Sources, check: bool) -> Result<(), ServiceError> {
    let settings = process::database_settings(&sources)?;
    let config = Config::from_sources(&sources, settings.master_key.clone())?;
    let first_admin = sources.secret("admin_password")?;
    let patience = process::database_wait(&sources)?;
    // The address before the database: it is the likeliest to fail, and nothing has been touched yet.
    let listener = if check { None } else { Some(process::listen("listen", config.listen).await?) };
    let shutdown = CancellationToken::new();
    process::stop_on_signal(shutdown.clone())?;
    let assembled = tokio::select! {
        assembled = process::assemble_patiently(&settings, patience) => assembled?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let Some(listener) = listener else {
        println!("settings, database and keys are in order");
        return Ok(());
    };
    let app = App::new(config, assembled.fleet, &assembled.keys, shutdown);
    match app.accounts().first_admin(first_admin).await {
        Ok(FirstAdmin::Made) => tracing::info!("made the first admin, 'admin', with ORION_ADMIN_PASSWORD"),
        Ok(FirstAdmin::None) => {
            tracing::warn!("there is no admin yet; make one with `orion admin create NAME`")
        }
        Ok(FirstAdmin::Known) => {}
        Err(error) if error.status().is_client_error() => {
            return Err(SettingsError::about("admin_password", error).into());
        }
        // A database that has just gone away comes back: nobody has to change a setting.
        Err(error) => return Err(ServiceError::Machine(format!("the first admin: {error}"))),
    }
    match listener.local_addr() {
        Ok(address) => tracing::info!(%address, "the API is up"),
        Err(error) => return Err(ServiceError::Machine(error.to_string())),
    }
    serve(app, listener).await.map_err(|error| ServiceError::Machine(format!("the API stopped: {error}")))
}
