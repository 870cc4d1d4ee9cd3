//! `orion-scheduler`: watches nodes, moves and ends leases. Any number of them share the nodes of one MariaDB.

use orion_scheduler::{Scheduler, SchedulerConfig};
use orion_service::{
    probe_page,
    process::{self, ServiceError},
    settings::Sources,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
};
use tokio_util::sync::CancellationToken;

/// Default address of `/metrics`.
const DEFAULT_METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

fn main() -> ExitCode {
    process::main("orion-scheduler", run)
}

async fn run(sources: Sources, check: bool) -> Result<(), ServiceError> {
    let settings = process::database_settings(&sources)?;
    let mut config = SchedulerConfig::from_sources(&sources)?;
    config.master_key = Some(settings.master_key.clone());
    let metrics_address = sources.address("metrics_listen")?.unwrap_or(DEFAULT_METRICS);
    let patience = process::database_wait(&sources)?;
    let listener = if check { None } else { Some(process::listen("metrics_listen", metrics_address).await?) };
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
    let fleet = assembled.fleet;
    tracing::info!(name = fleet.config.holder, metrics = %metrics_address, "the scheduler is up");
    let page = tokio::spawn(probe_page::serve(listener, fleet.clone(), shutdown.clone()));
    Scheduler::new(fleet, config, shutdown).run().await;
    let _ = page.await;
    Ok(())
}
