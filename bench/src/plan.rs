//! What is measured, and how often.

use crate::{bare::api::Serve, fake_fleet::process::Play};
use clap::{Parser, Subcommand};
use std::{path::PathBuf, time::Duration};

/// Workers while the memory of an idle system is read.
pub const IDLE_WORKERS: usize = 3;
/// Workers for everything else: a rental of 8 takes them all.
pub const WORKERS: usize = 8;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "orion-bench", about = "Measures Orion beside its floors. Needs root and ansible-core.")]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    /// Write one JSON object a figure, one a line, to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A smoke run: everything once or a few times; the figures say little
    #[arg(long)]
    pub quick: bool,
    /// Only these figures, such as release_ms; may be repeated
    #[arg(long, value_name = "FIGURE", value_parser = clap::builder::PossibleValuesParser::new(FIGURES))]
    pub only: Vec<String>,
    /// Where `orion` and `orion-agent` are
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    pub bin_dir: PathBuf,
    /// How many simulated nodes (10000, or 500 with --quick)
    #[arg(long, value_name = "COUNT")]
    pub fleet_nodes: Option<usize>,
    /// Keep the log of `orion up` in this file, and those of the services beside it (RUST_LOG sets the detail)
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// What this program starts of itself
    #[command(subcommand)]
    pub part: Option<Part>,
}

/// A process of its own beside the measurement.
#[derive(Debug, Subcommand)]
pub enum Part {
    /// Plays a fleet of SSH nodes
    #[command(hide = true)]
    FakeFleet(Play),
    /// Answers HTTP without Orion
    #[command(hide = true)]
    BareApi(Serve),
}

/// Figures of a real `orion up` with real workers.
pub const SITE: [&str; 8] = [
    "orion_up_rss_mib",
    "orion_agent_rss_mib",
    "rent_warm_ms",
    "rent_vs_ansible",
    "release_ms",
    "rent_8_ms",
    "move_killed_s",
    "move_cut_s",
];
/// Figures of the simulated fleet.
pub const FLEET: [&str; 5] =
    ["fleet_open_s", "fleet_cpu_cores", "fleet_rss_mib", "fleet_probe_gap_s", "fleet_moved_s"];
/// Figures of many clients at the API.
pub const CLIENTS: [&str; 4] =
    ["api_rentals_per_s", "api_rentals_p99_ms", "api_health_per_s", "api_health_p99_ms"];

/// Every figure, in the order of the table.
pub const FIGURES: [&str; 19] = [
    SITE[0],
    SITE[1],
    SITE[2],
    SITE[3],
    SITE[4],
    SITE[5],
    SITE[6],
    SITE[7],
    "store_claim_per_s",
    "nodes_page_ms",
    FLEET[0],
    FLEET[1],
    FLEET[2],
    FLEET[3],
    FLEET[4],
    CLIENTS[0],
    CLIENTS[1],
    CLIENTS[2],
    CLIENTS[3],
];

/// How many samples of each, and of which.
#[derive(Debug)]
pub struct Plan {
    only: Vec<String>,
    /// How long the system is left alone before its memory is read.
    pub idle: Duration,
    /// Pairs of rental and floor.
    pub rents: usize,
    /// Runs of ansible-playbook among them.
    pub ansible_runs: usize,
    /// Pairs of a rental of 8 and its floor.
    pub eights: usize,
    /// Workers killed under a lease.
    pub kills: usize,
    /// Workers cut off under a lease.
    pub cuts: usize,
    /// Rounds of claims by the store, and by hand.
    pub claim_rounds: usize,
    /// Times that all nodes are read page by page.
    pub page_rounds: usize,
    /// Nodes in the database for that.
    pub page_nodes: usize,
    /// Nodes of the simulated fleet.
    pub fleet_nodes: usize,
    /// How long the simulated fleet is watched while nothing happens, and while some of it hangs.
    pub fleet_window: Duration,
    /// Rounds of many clients.
    pub client_rounds: usize,
    /// How long one of those rounds takes.
    pub client_round: Duration,
}

impl Plan {
    /// The plan that the command line asks for.
    pub fn of(options: &Options) -> Self {
        let only = options.only.clone();
        let seconds = Duration::from_secs;
        if options.quick {
            Self {
                only,
                idle: seconds(5),
                rents: 5,
                ansible_runs: 1,
                eights: 2,
                kills: 1,
                cuts: 1,
                claim_rounds: 2,
                page_rounds: 3,
                page_nodes: 2_000,
                fleet_nodes: options.fleet_nodes.unwrap_or(500),
                fleet_window: seconds(10),
                client_rounds: 1,
                client_round: seconds(2),
            }
        } else {
            Self {
                only,
                idle: seconds(20),
                rents: 40,
                ansible_runs: 6,
                eights: 15,
                kills: 7,
                cuts: 3,
                claim_rounds: 15,
                page_rounds: 30,
                page_nodes: 10_000,
                fleet_nodes: options.fleet_nodes.unwrap_or(10_000),
                fleet_window: seconds(60),
                client_rounds: 5,
                client_round: seconds(5),
            }
        }
    }

    /// Whether any of these figures is wanted.
    pub fn any(&self, figures: &[&str]) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| figures.contains(&wanted.as_str()))
    }

    /// Whether a system with real workers is needed.
    pub fn needs_site(&self) -> bool {
        self.any(&SITE)
    }

    /// Whether more than its idle memory is needed.
    pub fn needs_all_workers(&self) -> bool {
        self.any(&SITE[2..])
    }
}
