//! `orion-bench`: Orion's figures beside their floors, measured in one run on this machine.
//!
//! Lives here: the command line, the order of the measurements, the exit status. Does not live here: what is
//! measured (`measure/`), what it is compared with (`floor.rs`, `ansible.rs`, `bare/`), and what is measured on:
//! a real `orion up` with real workers (`site.rs`), or the services on a MariaDB of their own (`ground.rs`) with a
//! simulated fleet (`fake_fleet/`). All is torn down however the run ends.
//!
//! The samples of a figure and of its floor alternate, so that the noise of a shared machine hits both.
//! The table goes to standard output, progress to standard error. Exit status: 0 when everything was
//! measured, whether or not a goal was missed; 1 when something could not be.

mod ansible;
mod api;
mod bare;
mod broken;
mod child;
mod coverage;
mod fake_fleet;
mod figure;
mod floor;
mod ground;
mod measure;
mod plan;
mod process;
mod progress;
mod site;
mod upgrade;
mod years;

use broken::{Broken, Context as _};
use clap::Parser as _;
use figure::Figure;
use floor::Floor;
use measure::{claims, clients, containers, eight, fleet, followed, logs, memory, moved, pages, single};
use plan::{Options, Part, Plan};
use site::Site;
use std::{path::Path, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let options = Options::parse();
    // It only fails where one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // What is started here inherits it.
    orion_service::process::raise_open_files();
    if let Some(part) = &options.part {
        return play(part);
    }
    // One thread: children get a signal when the thread that started them ends, so it must be the main one.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Broken::new(format!("cannot start the runtime: {error}"))),
    };
    match runtime.block_on(run_until_signal(&options)) {
        Ok(figures) => {
            println!("{}", figure::table(&figures));
            let missed: Vec<&str> =
                figures.iter().filter(|figure| !figure.met()).map(|figure| figure.name).collect();
            if figures.is_empty() {
                println!("nothing was measured");
            } else if missed.is_empty() {
                println!("every goal is met");
            } else {
                println!("MISSED: {}", missed.join(", "));
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

/// Runs as one of the processes beside the measurement.
fn play(part: &Part) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Broken::new(format!("cannot start the runtime: {error}"))),
    };
    let played = match part {
        Part::FakeFleet(options) => runtime.block_on(fake_fleet::process::play(options)),
        Part::BareApi(options) => runtime.block_on(bare::api::serve(options)),
    };
    played.map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}

fn fail(error: &Broken) -> ExitCode {
    eprintln!("orion-bench: {error}");
    ExitCode::FAILURE
}

/// The figures; or an error at once when SIGINT or SIGTERM comes. Either way the system is gone afterwards.
async fn run_until_signal(options: &Options) -> Result<Vec<Figure>, Broken> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    tokio::select! {
        figures = run(options) => figures,
        _ = interrupt.recv() => Err(Broken::new("interrupted")),
        _ = terminate.recv() => Err(Broken::new("terminated")),
    }
}

async fn run(options: &Options) -> Result<Vec<Figure>, Broken> {
    let plan = Plan::of(options);
    let mut figures = Vec::new();
    if plan.needs_site() {
        let mut site = Site::start(options, plan::IDLE_WORKERS).await?;
        let measured = measure_all(&plan, &mut site, &mut figures).await;
        if let Err(error) = measured {
            return Err(error.with_log(&site.log_tail()));
        }
    }
    if plan.any(&plan::CONTAINERS) {
        let site = Site::start_with_engine(options).await?;
        let measured = measure_containers(&plan, &site, &mut figures).await;
        measured.map_err(|error| error.with_log(&site.log_tail()))?;
    }
    if plan.any(&plan::CLAIMS) {
        figures.extend(claims::measure(&plan).await?);
    }
    if plan.any(&["nodes_page_ms"]) {
        figures.push(pages::measure(&plan, options).await?);
    }
    if plan.any(&plan::FLEET) {
        figures.extend(fleet::measure(&plan, options).await?);
    }
    if plan.any(&plan::FOLLOWED) {
        figures.extend(followed::measure(&plan, options).await?);
    }
    if plan.any(&plan::CLIENTS) {
        figures.extend(clients::measure(&plan, options).await?);
    }
    if plan.names(&plan::YEARS) {
        figures.extend(years::measure(&plan).await?);
    }
    if plan.names(&plan::UPGRADE) {
        figures.extend(upgrade::measure(&plan).await?);
    }
    if plan.names(&plan::COVERAGE) {
        figures.extend(coverage::measure(&plan).await?);
    }
    figures.retain(|figure| plan.any(&[figure.name]));
    if let Some(path) = &options.json {
        write_json(path, &figures)?;
    }
    Ok(figures)
}

async fn measure_all(plan: &Plan, site: &mut Site, figures: &mut Vec<Figure>) -> Result<(), Broken> {
    if plan.any(&["orion_up_rss_mib", "orion_agent_rss_mib"]) {
        figures.extend(memory::measure(plan, site).await?);
    }
    if plan.needs_all_workers() {
        site.grow_to(plan::WORKERS).await?;
    }
    if plan.any(&["rent_warm_ms", "rent_vs_ansible", "release_ms", "rent_8_ms"]) {
        let floor = Floor::open(site).await?;
        if plan.any(&["rent_warm_ms", "rent_vs_ansible", "release_ms"]) {
            figures.extend(single::measure(plan, site, &floor).await?);
        }
        if plan.any(&["rent_8_ms"]) {
            figures.push(eight::measure(plan, site, &floor).await?);
        }
    }
    for fault in [moved::Fault::Killed, moved::Fault::Cut] {
        if plan.any(&[fault.figure()]) {
            figures.push(moved::measure(plan, site, fault).await?);
        }
    }
    Ok(())
}

async fn measure_containers(plan: &Plan, site: &Site, figures: &mut Vec<Figure>) -> Result<(), Broken> {
    if plan.any(&plan::CONTAINERS[..3]) {
        figures.extend(containers::measure(plan, site).await?);
    }
    if plan.any(&plan::CONTAINERS[3..]) {
        figures.extend(logs::measure(plan, site).await?);
    }
    Ok(())
}

/// One JSON object a line.
fn write_json(path: &Path, figures: &[Figure]) -> Result<(), Broken> {
    let lines: String = figures.iter().map(|figure| format!("{}\n", figure.to_json())).collect();
    std::fs::write(path, lines).context(&path.display().to_string())
}
