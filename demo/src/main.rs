//! `orion-demo`: the whole story of a lease, or of containers, on this machine, with the commands that a user would type. It is run by
//! `cargo xtask demo`, which builds the programs before.
//!
//! Lives here: the order of things, and the end when one fails. [`story`] and [`moving`] hold the steps, [`containers`]
//! those of containers,
//! [`shell`] runs and shows the commands, [`system`] starts and stops Orion and its workers, [`place`] knows
//! where the demo keeps its files and which demo was there before.

mod containers;
mod interrupt;
mod moving;
mod options;
mod place;
mod shell;
mod story;
mod summary;
mod system;

use options::{DemoOptions, Subject, USAGE};
use orion_console::{Failure, Outcome, terminal};
use place::Place;
use std::{env, process::ExitCode};
use story::Story;
use system::System;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help") {
        terminal::line(USAGE);
        return ExitCode::SUCCESS;
    }
    let usage = |what: String| Failure::new(what).hint("cargo xtask demo --help");
    match DemoOptions::parse(&words).map_err(usage).and_then(|options| demo(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_told() {
                eprintln!("demo: {failure}");
            }
            ExitCode::FAILURE
        }
    }
}

fn demo(options: &DemoOptions) -> Outcome {
    if options.check {
        return Ok(());
    }
    let place = Place::claim(options)?;
    let mut system = System::new(place, options)?;
    system.remove_former()?;
    if options.stop {
        terminal::good("nothing of a demo runs here");
        return Ok(());
    }
    interrupt::watch()?;
    play(&mut system, options)
}

fn play(system: &mut System, options: &DemoOptions) -> Outcome {
    let mut story = Story::new(system)?;
    let outcome = match story.system.subject {
        Subject::Lease | Subject::Fleet => story.play(),
        Subject::Containers => containers::play(&mut story),
    };
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
