//! `cargo xtask demo`: installs what the demo needs, builds the programs, and runs it (`demo/`).

use crate::{install, test::cargo};
use orion_console::{Failure, Outcome, failed_to, process, repo::program_directory, terminal};
use std::{os::unix::process::CommandExt as _, process::Command};

/// Variables that the demo, run by `sudo`, still needs.
const KEPT: &str = "PATH,TERM,NO_COLOR,RUST_LOG,NSW_SIZE,NSW_IMAGES_SIZE,\
    ORION_WORKERS_DIR,ORION_WORKERS_PREFIX,ORION_WORKERS_BRIDGE,ORION_WORKERS_NET";

/// Runs the demo with these arguments.
///
/// # Errors
/// When something cannot be installed or built, or when a step of the demo fails.
pub fn demo(arguments: &[&str]) -> Outcome {
    let has = |option| arguments.contains(&option);
    let demo = program_directory("debug")?.join("orion-demo").display().to_string();
    process::capture(cargo(&["build", "--quiet", "--package", "orion-demo"]).arg("--color=never"))?;
    let mut prefix = Vec::new();
    if !has("--help") {
        let checked = Command::new(&demo).args(arguments).arg("--check").status();
        if !checked.map_err(failed_to("run the demo"))?.success() {
            return Err(Failure::told());
        }
        let why = "the demo makes network namespaces and accounts, which";
        prefix = process::root_prefix(why, KEPT)?;
        if !has("--stop") {
            install::install_missing(install::Use::Demo)?;
            for (word, needs) in [("--fleet", install::Use::Fleet), ("containers", install::Use::Containers)]
            {
                if has(word) {
                    install::install_missing(needs)?;
                }
            }
            if !has("--no-build") {
                terminal::heading("Build");
                // Unoptimised unless asked for. On two cores the optimised programs take several times as long to
                // build, and the demo waits for sshd and `useradd`, not for Orion.
                let mut build = cargo(&["build", "--package", "orion-cli", "--package", "orion-agent"]);
                process::run(build.args(has("--release").then_some("--release")))?;
            }
        }
    }
    // In place of this process: a Ctrl-C is then for the demo alone, which tears down before the prompt is back.
    let error = process::command_of(&prefix, &[&demo])?.args(arguments).exec();
    Err(failed_to("run the demo")(error))
}
