//! `cargo xtask test`: installs what the tests need, builds once, runs all of them, and counts.

use crate::{install, tally::Tally};
use orion_console::{Failure, Outcome, failed_to, process, repo, terminal};
use std::{
    env,
    io::{BufRead as _, BufReader},
    num::NonZero,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Variable with the directory of `orion` and `orion-agent` for the tests.
const BIN_DIR: &str = "ORION_BIN_DIR";

/// Reason why the tests need root.
const WHY_ROOT: &str = "making namespaces, accounts and networks, as the tests do,";

/// Variable for the number of tests of a program that run at once.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

/// Variables that a test program run by `sudo` still needs.
const KEPT: &str =
    "ORION_BIN_DIR,RUST_TEST_THREADS,PATH,HOME,RUST_BACKTRACE,RUST_LOG,CARGO_MANIFEST_DIR,LD_LIBRARY_PATH";

/// Runs everything; the last line is `N passed, N failed`.
///
/// # Errors
/// When something cannot be installed or built, when a test fails, or when any was left out.
pub fn test() -> Outcome {
    check_root()?;
    let mut phases = Phases::default();
    phases.time("install", || install::install_missing(install::Use::Tests))?;
    let outcome = build_and_run(&mut phases);
    finish(&phases, outcome)
}

/// Says at once, not after the build, that the tests could not run.
///
/// # Errors
/// When we are not root and there is no sudo.
pub fn check_root() -> Outcome {
    process::root_prefix(WHY_ROOT, KEPT).map(drop)
}

/// Times of the phases.
#[derive(Default)]
pub struct Phases(Vec<(&'static str, Duration)>);

impl Phases {
    /// Runs one phase.
    pub fn time<T>(&mut self, name: &'static str, phase: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let begun = Instant::now();
        let outcome = phase();
        self.0.push((name, begun.elapsed()));
        outcome
    }

    /// One line: every phase with its time.
    pub fn line(&self) -> String {
        let total: Duration = self.0.iter().map(|(_, time)| *time).sum();
        let parts = self.0.iter().map(|(name, time)| format!("{name} {}", terminal::seconds(*time)));
        format!("{}; {} in total", parts.collect::<Vec<_>>().join(", "), terminal::seconds(total))
    }
}

/// The two phases that CI has in common with `cargo xtask test`.
pub fn build_and_run(phases: &mut Phases) -> Outcome<(Tally, bool)> {
    terminal::heading("Build the workspace and its tests");
    phases.time("build", || {
        process::run(&mut cargo(&["build", "--workspace", "--all-targets"]))?;
        build_static_agent()
    })?;
    terminal::heading("Run the tests");
    phases.time("tests", run_tests)
}

/// Prints the times, then the counts as the last line.
///
/// # Errors
/// When a test failed, none passed, or any was left out.
pub fn finish(phases: &Phases, outcome: Outcome<(Tally, bool)>) -> Outcome {
    terminal::heading("Summary");
    terminal::note(&phases.line());
    let (tally, succeeded) = outcome?;
    let complaint = tally.complaint(succeeded);
    if let Some(complaint) = &complaint {
        terminal::bad(complaint);
    }
    terminal::line(&tally.counts(succeeded));
    if complaint.is_some() { Err(Failure::told()) } else { Ok(()) }
}

/// cargo, in the repository. Without what the cargo that runs this program says of it: build scripts that look at
/// that (ring's) would compile anew with each change between `cargo xtask …` and `cargo …`.
pub fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(words).current_dir(repo::root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

fn run_tests() -> Outcome<(Tally, bool)> {
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
    command.env(BIN_DIR, repo::program_directory("debug")?);
    if env::var_os(TEST_THREADS).is_none() {
        // Most of a test's time is waiting for nodes, databases and timers.
        let cores = thread::available_parallelism().map_or(2, NonZero::get);
        command.env(TEST_THREADS, (2 * cores).to_string());
    }
    // The tests make namespaces, accounts and networks. cargo stays who it is, only the tests are root's.
    let prefix = process::root_prefix(WHY_ROOT, KEPT)?;
    if !prefix.is_empty() {
        command.arg("--config").arg(format!("target.'cfg(all())'.runner = {prefix:?}"));
    }
    terminal::command(&process::shown(&command));
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed_to("run cargo test"))?;
    let mut tally = Tally::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.map_err(failed_to("read what cargo test says"))?;
            let line = String::from_utf8_lossy(&line);
            terminal::line(&line);
            tally.take(&line);
        }
    }
    let status = child.wait().map_err(failed_to("wait for cargo test"))?;
    Ok((tally, status.success()))
}

/// The agent for workers without glibc, as the tests of containers take it: built here, so that they do not
/// compile beside tests that measure time.
fn build_static_agent() -> Outcome {
    let place = ["--target", "host-tuple", "--target-dir", "target/static-agent"];
    let mut command = cargo(&["build", "--package", "orion-agent"]);
    command.args(place);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static").env("CARGO_PROFILE_DEV_DEBUG", "0");
    process::run(command.env_remove("CARGO_ENCODED_RUSTFLAGS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_are_listed_with_their_sum() {
        let phases = Phases(vec![("build", Duration::from_secs(61)), ("tests", Duration::from_millis(500))]);
        assert_eq!(phases.line(), "build 1 min 1 s, tests 500 ms; 1 min 2 s in total");
    }
}
