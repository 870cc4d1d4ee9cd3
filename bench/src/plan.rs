//! What is measured, and how often.

use clap::Parser;
use std::{path::PathBuf, time::Duration};

/// Workers while the memory of an idle system is read.
pub const IDLE_WORKERS: usize = 3;
/// Workers for everything else: a rental of 8 takes them all.
pub const WORKERS: usize = 8;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "orion-bench", about = "Measures Orion beside its floors. Needs root and ansible-core.")]
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
    /// Keep the log of `orion up` in this file (its detail is set by RUST_LOG)
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// Every figure, in the order of the table.
pub const FIGURES: [&str; 8] = [
    "orion_up_rss_mib",
    "orion_agent_rss_mib",
    "rent_warm_ms",
    "rent_vs_ansible",
    "release_ms",
    "rent_8_ms",
    "move_killed_s",
    "move_cut_s",
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
}

impl Plan {
    /// The plan that the command line asks for.
    pub fn of(options: &Options) -> Self {
        let only = options.only.clone();
        if options.quick {
            let idle = Duration::from_secs(5);
            Self { only, idle, rents: 5, ansible_runs: 1, eights: 2, kills: 1, cuts: 1 }
        } else {
            let idle = Duration::from_secs(20);
            Self { only, idle, rents: 40, ansible_runs: 6, eights: 15, kills: 7, cuts: 3 }
        }
    }

    /// Whether any of these figures is wanted.
    pub fn any(&self, figures: &[&str]) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| figures.contains(&wanted.as_str()))
    }

    /// Whether more than the idle system is needed.
    pub fn needs_fleet(&self) -> bool {
        self.any(&FIGURES[2..])
    }
}
