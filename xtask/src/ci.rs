//! `cargo xtask ci`: every check, the cheap ones first, then the tests.

use crate::{
    checks, circles, doc_comments, generated, install,
    test::{self, Phases, cargo},
};
use orion_console::{Failure, Outcome, process, repo, terminal};

/// The longest that the advisories' database may take to arrive, in seconds, as timeout(1) reads it.
const FETCH_TIMEOUT_S: &str = "60";

/// Runs every check even after one has failed, so that one run tells all; then the tests. The last line is
/// `N passed, N failed`.
///
/// # Errors
/// When any check or test failed.
pub fn ci() -> Outcome {
    test::check_root()?;
    let mut run = Run::default();
    run.phases.time("install", || {
        install::install_missing(install::Use::Checks)?;
        install::install_missing(install::Use::Tests)
    })?;
    run.cheap_checks();
    run.check("clippy", "Clippy", || {
        let words = "clippy --workspace --all-targets --keep-going -- -D warnings";
        process::run(&mut cargo(&words.split(' ').collect::<Vec<_>>()))
    });
    run.check("doc", "Documentation", || {
        let words = ["doc", "--workspace", "--no-deps", "--keep-going"];
        process::run(cargo(&words).env("RUSTDOCFLAGS", "-D warnings"))
    });
    let tests = test::build_and_run(&mut run.phases);
    run.check("client", "Generated files and the TypeScript client", generated::check);
    let verdict = run.verdict();
    test::finish(&run.phases, tests)?;
    verdict
}

/// Runs only the checks that compile nothing.
pub fn check() -> Outcome {
    let mut run = Run::default();
    run.phases.time("install", || install::install_missing(install::Use::Checks))?;
    run.cheap_checks();
    terminal::heading("Summary");
    terminal::note(&run.phases.line());
    run.verdict()
}

#[derive(Default)]
struct Run {
    phases: Phases,
    failed: Vec<&'static str>,
}

impl Run {
    fn cheap_checks(&mut self) {
        self.check("fmt", "Format", || process::run(&mut cargo(&["fmt", "--all", "--check"])));
        self.check("files", "Lengths of files, and of xtask", checks::file_lengths);
        self.check("circles", "No circle of files", circles::check);
        self.check("documents", "Documents name what exists", checks::documents);
        self.check("comments", "Doc comments say what they define", doc_comments::check);
        self.check("shellcheck", "Shell scripts", checks::shell_scripts);
        self.check("deny", "Licences, bans, sources", deny);
        self.check("advisories", "Advisories", advisories);
    }

    fn verdict(&self) -> Outcome {
        if self.failed.is_empty() {
            return Ok(());
        }
        terminal::bad(&format!("failed: {}", self.failed.join(", ")));
        Err(Failure::told())
    }

    fn check(&mut self, name: &'static str, title: &str, check: impl FnOnce() -> Outcome) {
        terminal::heading(title);
        match self.phases.time(name, check) {
            Ok(()) => terminal::good(name),
            Err(failure) => {
                terminal::bad(&failure.to_string());
                self.failed.push(name);
            }
        }
    }
}

fn deny() -> Outcome {
    if process::find_program("cargo-deny").is_none() {
        terminal::note("cargo-deny is missing: it is built once, unoptimised, which is fast enough for it");
        process::run(&mut cargo(&["install", "--locked", "--debug", "cargo-deny"]))?;
    }
    let words = ["deny", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
    process::run(&mut cargo(&words))
}

/// A database that cannot be fetched is no failure; an advisory that is found is one.
fn advisories() -> Outcome {
    let cargo_fetch = cargo(&["deny", "fetch", "db"]);
    let mut fetch = std::process::Command::new("timeout");
    fetch.arg(FETCH_TIMEOUT_S).arg(cargo_fetch.get_program()).args(cargo_fetch.get_args());
    fetch.current_dir(repo::root());
    terminal::command(&process::shown(&fetch));
    let fetched = process::output(&mut fetch)?;
    if !fetched.status.success() {
        let said = process::said(&fetched);
        let why = said.lines().last().unwrap_or("no answer in time");
        terminal::note(&format!("advisories were NOT checked, their database cannot be fetched: {why}"));
        return Ok(());
    }
    terminal::note("the advisories' database was fetched");
    process::run(&mut cargo(&["deny", "check", "advisories"]))
}
