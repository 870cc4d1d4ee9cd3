//! `cargo xtask bench`: installs what the benchmark needs, builds optimised programs, runs it (`bench/`).

use crate::{
    failure::Outcome,
    install, process,
    repo::{self, program_directory},
    terminal,
};
use std::process::Command;

/// Runs the benchmark with these arguments; its table is on standard output.
///
/// # Errors
/// When something cannot be installed or built, or when a figure could not be measured. A missed goal is
/// none.
pub fn bench(arguments: &[String]) -> Outcome {
    let prefix = process::root_prefix("making workers, as the benchmark does,", &["PATH", "RUST_LOG"])?;
    install::install_missing(install::BENCH)?;
    install::make_sshd_directory()?;
    terminal::heading("Build the optimised programs");
    let services = ["-p", "orion-control-plane", "-p", "orion-scheduler"];
    let programs = ["-p", "orion-cli", "-p", "orion-agent", "-p", "orion-bench"];
    let mut build = Command::new("cargo");
    process::run(build.args(["build", "--release"]).args(services).args(programs).current_dir(repo::root()))?;
    terminal::heading("Measure");
    let directory = program_directory("release")?;
    let (program, bin_dir) = (directory.join("orion-bench").display().to_string(), directory.display());
    let words = [program, "--bin-dir".to_owned(), bin_dir.to_string()];
    let words: Vec<&str> = words.iter().chain(arguments).map(String::as_str).collect();
    process::run(&mut process::command_of(&prefix, &words)?)
}
