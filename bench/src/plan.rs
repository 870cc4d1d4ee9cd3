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
    /// Measure only these figures, such as release_ms; may be repeated
    #[arg(long, value_name = "FIGURE", value_parser = clap::builder::PossibleValuesParser::new(FIGURES))]
    pub only: Vec<String>,
    /// Directory of `orion` and `orion-agent`
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    pub bin_dir: PathBuf,
    /// Number of simulated nodes (10000, or 500 with --quick)
    #[arg(long, value_name = "COUNT")]
    pub fleet_nodes: Option<usize>,
    /// Number of events in the database with years of data (10000000, or 100000 with --quick)
    #[arg(long, value_name = "COUNT")]
    pub years_events: Option<usize>,
    /// How many events the database of an older version has (2000000, or 100000 with --quick)
    #[arg(long, value_name = "COUNT")]
    pub upgrade_events: Option<usize>,
    /// Keep the log of `orion up` in this file, and those of the services beside it (RUST_LOG sets the detail)
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Process that this program starts from its own executable
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
/// Figures of a container on a real engine.
pub const CONTAINERS: [&str; 5] = [
    "container_start_ms",
    "container_start_above_ms",
    "container_list_ms",
    "container_log_mib_per_s",
    "container_log_rss_mib",
];
/// Figures of the store's placements.
pub const CLAIMS: [&str; 2] = ["store_claim_per_s", "store_slice_per_s"];
/// Figures of the simulated fleet.
pub const FLEET: [&str; 5] =
    ["fleet_open_s", "fleet_cpu_cores", "fleet_rss_mib", "fleet_probe_gap_s", "fleet_moved_s"];
/// Figures of the simulated fleet with containers.
pub const FOLLOWED: [&str; 3] = ["followed_cpu_cores", "followed_rss_mib", "followed_exits_s"];
/// Figures of many clients at the API.
pub const CLIENTS: [&str; 4] =
    ["api_rentals_per_s", "api_rentals_p99_ms", "api_health_per_s", "api_health_p99_ms"];

/// Figures of a database with years of data; only when they are asked for: to make it takes long.
pub const YEARS: [&str; 2] = ["years_mariadb", "years_sqlite"];

/// A database of an older version with millions of events that is brought up to date; only when they are asked for.
pub const UPGRADE: [&str; 2] = ["upgrade_mariadb_s", "upgrade_sqlite_s"];

/// Lines that tests run; only when they are asked for: the tests are compiled once more.
pub const COVERAGE: [&str; 2] = ["coverage_domain", "coverage_store"];

/// Every figure, in the order of the table.
pub const FIGURES: [&str; 34] = [
    SITE[0],
    SITE[1],
    SITE[2],
    SITE[3],
    SITE[4],
    SITE[5],
    SITE[6],
    SITE[7],
    CONTAINERS[0],
    CONTAINERS[1],
    CONTAINERS[2],
    CONTAINERS[3],
    CONTAINERS[4],
    CLAIMS[0],
    CLAIMS[1],
    "nodes_page_ms",
    FLEET[0],
    FLEET[1],
    FLEET[2],
    FLEET[3],
    FLEET[4],
    FOLLOWED[0],
    FOLLOWED[1],
    FOLLOWED[2],
    CLIENTS[0],
    CLIENTS[1],
    CLIENTS[2],
    CLIENTS[3],
    YEARS[0],
    YEARS[1],
    UPGRADE[0],
    UPGRADE[1],
    COVERAGE[0],
    COVERAGE[1],
];

/// Figures to measure, and number of samples of each.
#[derive(Debug)]
pub struct Plan {
    only: Vec<String>,
    /// Time for which the system is left idle before its memory is read.
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
    /// Containers started by the API, and by Docker's own client.
    pub container_starts: usize,
    /// Times that a log is read by the API, and over ssh.
    pub log_reads: usize,
    /// Rounds of claims by the store, and by hand.
    pub claim_rounds: usize,
    /// Times that all nodes are read page by page.
    pub page_rounds: usize,
    /// Nodes in the database for that.
    pub page_nodes: usize,
    /// Nodes of the simulated fleet.
    pub fleet_nodes: usize,
    /// Time for which the simulated fleet is watched while nothing happens, and while some of its nodes hang.
    pub fleet_window: Duration,
    /// Nodes of the simulated fleet with containers.
    pub followed_nodes: usize,
    /// Rounds of many clients.
    pub client_rounds: usize,
    /// Duration of one round of many clients.
    pub client_round: Duration,
    /// Events of the database with years of data.
    pub years_events: usize,
    /// Events of the database of an older version.
    pub upgrade_events: usize,
    /// Times that each route and task is asked there.
    pub years_rounds: usize,
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
                container_starts: 3,
                log_reads: 2,
                claim_rounds: 2,
                page_rounds: 3,
                page_nodes: 2_000,
                fleet_nodes: options.fleet_nodes.unwrap_or(500),
                fleet_window: seconds(10),
                followed_nodes: 100,
                client_rounds: 1,
                client_round: seconds(2),
                years_events: options.years_events.unwrap_or(100_000),
                upgrade_events: options.upgrade_events.unwrap_or(100_000),
                years_rounds: 10,
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
                container_starts: 30,
                log_reads: 10,
                claim_rounds: 15,
                page_rounds: 30,
                page_nodes: 10_000,
                fleet_nodes: options.fleet_nodes.unwrap_or(10_000),
                fleet_window: seconds(60),
                followed_nodes: 1_000,
                client_rounds: 5,
                client_round: seconds(5),
                years_events: options.years_events.unwrap_or(10_000_000),
                upgrade_events: options.upgrade_events.unwrap_or(2_000_000),
                years_rounds: 40,
            }
        }
    }

    /// Whether any of these figures is wanted.
    pub fn any(&self, figures: &[&str]) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| figures.contains(&wanted.as_str()))
    }

    /// Whether any of these is wanted and named: they are not part of a run of everything.
    pub fn names(&self, figures: &[&str]) -> bool {
        !self.only.is_empty() && self.any(figures)
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
