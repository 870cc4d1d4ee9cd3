//! `cargo xtask demo`: installs what the demo needs, builds the programs, and runs it (`demo/`).

use crate::{install, test::cargo};
use orion_console::{Failure, Outcome, process, repo::program_directory, terminal};

/// Variables that the demo, run by `sudo`, still needs.
const KEPT: [&str; 9] = [
    "PATH",
    "TERM",
    "NO_COLOR",
    "RUST_LOG",
    "NSW_SIZE",
    "ORION_WORKERS_DIR",
    "ORION_WORKERS_PREFIX",
    "ORION_WORKERS_BRIDGE",
    "ORION_WORKERS_NET",
];

/// Runs the demo with these arguments.
///
/// # Errors
/// When something cannot be installed or built, or when a step of the demo fails.
pub fn demo(arguments: &[String]) -> Outcome {
    let has = |option: &str| arguments.iter().any(|argument| argument == option);
    let demo = program_directory("debug")?.join("orion-demo").display().to_string();
    let words: Vec<&str> = std::iter::once(&demo).chain(arguments).map(String::as_str).collect();
    process::capture(cargo(&["build", "--quiet", "--package", "orion-demo"]).arg("--color=never"))?;
    let mut prefix = Vec::new();
    if !has("--help") {
        let why = "the demo makes network namespaces and accounts, which";
        prefix = process::root_prefix(why, &KEPT)?;
        if !has("--stop") {
            let fleet: &[_] = if has("--fleet") { install::FLEET } else { &[] };
            install::install_missing(install::DEMO).and_then(|()| install::install_missing(fleet))?;
            install::make_sshd_directory()?;
            if !has("--no-build") {
                build(has("--release"))?;
            }
        }
    }
    let status = process::command_of(&prefix, &words)?.status();
    match status.map_err(orion_console::failed_to("run the demo"))?.success() {
        true => Ok(()),
        false => Err(Failure::told()),
    }
}

/// The programs: unoptimised unless asked for. On two cores the optimised ones take several times as long to
/// build, and the demo waits for sshd and `useradd`, not for Orion.
fn build(release: bool) -> Outcome {
    terminal::heading("Build");
    let mut command = cargo(&["build", "--package", "orion-cli", "--package", "orion-agent"]);
    command.args(release.then_some("--release"));
    process::run(&mut command)
}
