//! `cargo xtask bench`: installs what the benchmark needs, builds optimised programs, runs it (`bench/`).

use crate::{install, test::cargo};
use orion_console::{Outcome, process, repo::program_directory, terminal};

/// Variables that the benchmark, run by `sudo`, still needs; cargo is run by it for the coverage alone.
const KEPT: &str = "PATH,RUST_LOG,HOME,CARGO_HOME,RUSTUP_HOME,LLVM_COV,LLVM_PROFDATA";

/// Runs the benchmark with these arguments; its table is on standard output.
///
/// # Errors
/// When something cannot be installed or built, or when a figure could not be measured. A missed goal is
/// none.
pub fn bench(arguments: &[&str]) -> Outcome {
    let prefix = process::root_prefix("making workers, as the benchmark does,", KEPT)?;
    install::install_missing(install::Use::Bench)?;
    terminal::heading("Build the optimised programs");
    let services = ["-p", "orion-control-plane", "-p", "orion-scheduler"];
    let programs = ["-p", "orion-cli", "-p", "orion-agent", "-p", "orion-bench"];
    process::run(cargo(&["build", "--release"]).args(services).args(programs))?;
    terminal::heading("Measure");
    let directory = program_directory("release")?;
    let program = directory.join("orion-bench").display().to_string();
    let mut bench = process::command_of(&prefix, &[&program, "--bin-dir"])?;
    process::run(bench.arg(directory).args(arguments))
}
