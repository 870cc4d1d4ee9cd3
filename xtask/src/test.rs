//! `cargo xtask test`: installs what the tests need, builds once, runs all of them, and counts.

use crate::{
    failure::{Failure, Outcome, failed_to},
    install, process, repo,
    tally::Tally,
    terminal,
};
use std::{
    env,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Where the tests find `orion` and `orion-agent`.
const BIN_DIR: &str = "ORION_BIN_DIR";

/// Why the tests cannot run as anybody else.
const WHY_ROOT: &str = "making namespaces, accounts and networks, as the tests do,";

/// Variables that a test program run by `sudo` still needs.
const KEPT: [&str; 7] =
    [BIN_DIR, "PATH", "HOME", "RUST_BACKTRACE", "RUST_LOG", "CARGO_MANIFEST_DIR", "LD_LIBRARY_PATH"];

/// Runs everything; the last line is `N passed, N failed`.
///
/// # Errors
/// When something cannot be installed or built, when a test fails, or when any was left out.
pub fn test() -> Outcome {
    check_root()?;
    let mut phases = Phases::default();
    phases.time("install", || {
        install::install_missing(install::TESTS)?;
        install::make_sshd_directory()
    })?;
    let outcome = build_and_run(&mut phases);
    finish(&phases, outcome)
}

/// Says at once, not after the build, that the tests could not run.
///
/// # Errors
/// When we are not root and there is no sudo.
pub fn check_root() -> Outcome {
    process::root_prefix(WHY_ROOT, &KEPT).map(drop)
}

/// How long each phase took.
#[derive(Default)]
pub struct Phases(Vec<(&'static str, Duration)>);

impl Phases {
    /// Runs one phase.
    ///
    /// # Errors
    /// What the phase returns.
    pub fn time<T>(&mut self, name: &'static str, phase: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let begun = Instant::now();
        let outcome = phase();
        self.0.push((name, begun.elapsed()));
        outcome
    }

    /// One line: every phase with its time.
    pub fn line(&self) -> String {
        let total: Duration = self.0.iter().map(|(_, time)| *time).sum();
        let parts: Vec<String> =
            self.0.iter().map(|(name, time)| format!("{name} {}", terminal::seconds(*time))).collect();
        format!("{}; {} in total", parts.join(", "), terminal::seconds(total))
    }
}

/// The two phases that CI has in common with `cargo xtask test`.
///
/// # Errors
/// When the workspace does not build.
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
    let verdict = Verdict::new(tally, succeeded);
    if let Some(complaint) = &verdict.complaint {
        terminal::bad(complaint);
    }
    terminal::line(&verdict.counts);
    if verdict.complaint.is_some() { Err(Failure::told()) } else { Ok(()) }
}

/// What a test run comes to.
struct Verdict {
    counts: String,
    complaint: Option<String>,
}

impl Verdict {
    fn new(tally: Tally, cargo_succeeded: bool) -> Self {
        // Of a test program that crashed nobody knows how many would have failed: at least one.
        let failed = tally.failed.max(u64::from(!cargo_succeeded));
        let complaint = tally.complaint(cargo_succeeded);
        Self {
            counts: format!("{} passed, {failed} failed", tally.passed),
            complaint: complaint
                .or_else(|| (failed > 0).then(|| format!("{failed} tests failed, see above"))),
        }
    }
}

/// cargo, in the repository.
pub fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(words).current_dir(repo::root());
    command
}

fn run_tests() -> Outcome<(Tally, bool)> {
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
    command.env(BIN_DIR, repo::program_directory("debug")?);
    // The tests make namespaces, accounts and networks. cargo stays who it is, only the tests are root's.
    let prefix = process::root_prefix(WHY_ROOT, &KEPT)?;
    if !prefix.is_empty() {
        command.env(runner_variable()?, prefix.join(" "));
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
    let target = host_triple()?;
    let words =
        ["build", "--package", "orion-agent", "--target", &target, "--target-dir", "target/static-agent"];
    let mut command = cargo(&words);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static").env("CARGO_PROFILE_DEV_DEBUG", "0");
    process::run(command.env_remove("CARGO_ENCODED_RUSTFLAGS"))
}

/// What cargo calls this machine.
fn host_triple() -> Outcome<String> {
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = process::capture(Command::new(&compiler).arg("-vV"))?;
    let triple = version.lines().find_map(|line| line.strip_prefix("host: "));
    triple
        .map(str::to_owned)
        .ok_or_else(|| Failure::new(format!("{} does not name its host", Path::new(&compiler).display())))
}

/// `CARGO_TARGET_<TRIPLE>_RUNNER`: what cargo puts in front of a test program.
fn runner_variable() -> Outcome<String> {
    Ok(format!("CARGO_TARGET_{}_RUNNER", host_triple()?.to_uppercase().replace(['-', '.'], "_")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_are_listed_with_their_sum() {
        let phases = Phases(vec![("build", Duration::from_secs(61)), ("tests", Duration::from_millis(500))]);
        assert_eq!(phases.line(), "build 1 min 1 s, tests 500 ms; 1 min 2 s in total");
    }

    #[test]
    fn a_run_that_failed_counts_as_failed_even_without_a_failed_test() {
        let tally = Tally { passed: 3, ..Tally::default() };
        let verdict = |tally, succeeded| {
            let verdict = Verdict::new(tally, succeeded);
            (verdict.counts, verdict.complaint.is_none())
        };
        assert_eq!(verdict(tally, true), ("3 passed, 0 failed".to_owned(), true));
        assert_eq!(verdict(tally, false), ("3 passed, 1 failed".to_owned(), false));
        assert_eq!(verdict(Tally { failed: 2, ..tally }, false), ("3 passed, 2 failed".to_owned(), false));
    }

    #[test]
    fn the_runner_is_named_as_cargo_reads_it() {
        let name = runner_variable().unwrap();
        assert!(name.starts_with("CARGO_TARGET_") && name.ends_with("_LINUX_GNU_RUNNER"), "{name}");
    }
}
