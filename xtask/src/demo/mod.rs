//! `cargo xtask demo`: the whole story of a lease on this machine, with the commands that a user would type.
//!
//! Lives here: the order of things, and what happens when one fails. [`story`] and [`moving`] hold the steps,
//! [`shell`] runs and shows the commands, [`system`] starts and stops Orion and its workers, [`place`] knows
//! where the demo keeps its files and which demo was there before.

mod interrupt;
mod moving;
pub mod options;
mod place;
mod shell;
mod story;
mod summary;
mod system;

use crate::{
    failure::{Failure, Outcome},
    install, process, repo, terminal,
    test::cargo,
};
use options::DemoOptions;
use place::Place;
use std::{env, process::Command};
use story::Story;
use system::System;

/// Variables that the part of the demo that runs as root keeps.
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

/// Plays the demo; `words` are the arguments as they came.
///
/// # Errors
/// When a step fails; everything is torn down then, the logs stay.
pub fn demo(options: &DemoOptions, words: &[String]) -> Outcome {
    let why = "the demo makes network namespaces and accounts, which";
    let prefix = process::root_prefix(why, &KEPT)?;
    if !options.stop {
        install::install_missing(install::DEMO)?;
        if !options.no_build {
            build(options)?;
        }
    }
    if !prefix.is_empty() {
        return again_as_root(&prefix, words);
    }
    let place = Place::claim(options)?;
    let mut system = System::new(place, options)?;
    system.remove_former()?;
    if options.stop {
        terminal::good("nothing of a demo runs here");
        return Ok(());
    }
    interrupt::watch()?;
    install::make_sshd_directory()?;
    play(&mut system, options)
}

fn play(system: &mut System, options: &DemoOptions) -> Outcome {
    let mut story = Story::new(system)?;
    let outcome = story.play();
    let (step, times, passwords) = (story.step(), story.times(), story.passwords());
    match outcome {
        Ok(()) if options.once => {
            summary::times(&times);
            terminal::heading("Tear everything down");
            system.stop()?;
            if options.keep_dir.is_none() {
                system.place.remove_files()?;
            }
            terminal::good("every step worked; nothing is left running");
            Ok(())
        }
        Ok(()) => {
            summary::times(&times);
            summary::what_next(system, &passwords);
            Ok(())
        }
        Err(failure) => {
            let interrupted = interrupt::came();
            if interrupted {
                terminal::line("");
                terminal::bad("interrupted");
            } else {
                terminal::bad(&format!("step {step} failed"));
                terminal::line(&failure.to_string());
                summary::end_of_log(&system.place);
            }
            terminal::heading("Tear everything down");
            if let Err(failure) = system.stop() {
                terminal::bad(&failure.to_string());
            }
            summary::where_logs_are(&system.place);
            Err(Failure::told())
        }
    }
}

/// The programs: unoptimised unless asked for. On two cores the optimised ones take several times as long to
/// build, and what the demo shows waits for sshd and `useradd`, not for Orion.
fn build(options: &DemoOptions) -> Outcome {
    terminal::heading("Build");
    let mut command = cargo(&["build", "--package", "orion-cli", "--package", "orion-agent"]);
    if options.release {
        command.arg("--release");
    }
    process::run(&mut command)
}

fn again_as_root(prefix: &[String], words: &[String]) -> Outcome {
    let own = repo::program_directory("debug")?.join("xtask");
    let own = if own.is_file() { own } else { env::current_exe().unwrap_or(own) };
    let (program, rest) = prefix.split_first().ok_or_else(|| Failure::new("no sudo"))?;
    let mut command = Command::new(program);
    command.args(rest).arg(own).args(words);
    if !words.iter().any(|word| word == "--no-build") {
        command.arg("--no-build");
    }
    process::run(&mut command).map_err(|_| Failure::told())
}
