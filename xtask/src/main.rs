//! `cargo xtask`: what one does with this repository, beyond what cargo does by itself.
//!
//! Lives here: the demo, the test run, the checks of CI. Does not live here: anything that Orion needs to run.
//!
//! ```text
//! demo/     the whole story of a lease, with real curl and real ssh   install   what is missing from Debian
//! test      build, run and count all tests                            checks    rules no compiler knows
//! ci        every check, then the tests                               tally     result lines of test programs
//! bench     builds and runs the benchmark of bench/                generated what is generated and checked in
//! ```

mod bench;
mod checks;
mod ci;
mod demo;
mod event_kinds;
mod failure;
mod generated;
mod install;
mod process;
mod repo;
mod tally;
mod terminal;
mod test;

use demo::options::DemoOptions;
use failure::{Failure, Outcome};
use std::{env, process::ExitCode};

const USAGE: &str = "\
usage: cargo xtask TASK

  demo    start Orion and 3 workers on this machine and play the story of a lease; it keeps running
          --once            tear everything down at the end
          --stop            only tear down what an earlier demo left running
          --port PORT       where the API listens (8080)
          --public          listen on every address of this machine, not only on the workers' bridge
          --keep-dir DIR    data and logs in DIR instead of .orion/demo; they stay there after --once
          --release         optimised programs: slower to build, faster to run
          --no-build        the programs as they were built before
  test    install what the tests need, build, run all tests, and count them
  check   the checks of CI that compile nothing: format, files, documents, scripts, licences
  ci      every check of .ci/run, then the tests
  gen     write what is generated: the OpenAPI document, the TypeScript client's types, docs/API.md
          --check           write nothing: is it what the code gives, and does the client work with it?
  bench   measure Orion beside its floors, with optimised programs (several minutes)
          --json FILE       also write one JSON object a figure, one a line
          --quick           a smoke run
          --only FIGURE     only this figure; may be repeated";

/// A task with its arguments.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Demo(DemoOptions),
    Test,
    Check,
    Ci,
    Gen,
    GenCheck,
    Bench(Vec<String>),
    Help,
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let outcome = task(&words).and_then(|task| match task {
        Task::Demo(options) => demo::demo(&options, &words),
        Task::Test => test::test(),
        Task::Check => ci::check(),
        Task::Ci => ci::ci(),
        Task::Gen => generated::generate(),
        Task::GenCheck => generated::build_and_check(),
        Task::Bench(arguments) => bench::bench(&arguments),
        Task::Help => {
            terminal::line(USAGE);
            Ok(())
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_told() {
                eprintln!("xtask: {failure}");
            }
            ExitCode::FAILURE
        }
    }
}

fn task(words: &[String]) -> Outcome<Task> {
    let usage = |what: String| Failure::new(what).hint("cargo xtask help");
    let (first, rest) = match words.split_first() {
        Some((first, rest)) => (first.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    let bare = |task: Task| match rest.first() {
        None => Ok(task),
        Some(word) => Err(usage(format!("{first} takes no '{word}'"))),
    };
    match first {
        "demo" => DemoOptions::parse(rest).map(Task::Demo).map_err(usage),
        "test" => bare(Task::Test),
        "check" => bare(Task::Check),
        "ci" => bare(Task::Ci),
        "gen" if rest == ["--check"] => Ok(Task::GenCheck),
        "gen" => bare(Task::Gen),
        "bench" => Ok(Task::Bench(rest.to_vec())),
        "help" | "--help" | "-h" => Ok(Task::Help),
        other => Err(usage(format!("there is no task '{other}'"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Outcome<Task> {
        task(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn every_task_is_found_by_its_name() {
        assert_eq!(parsed("test").unwrap(), Task::Test);
        assert_eq!(parsed("check").unwrap(), Task::Check);
        assert_eq!(parsed("ci").unwrap(), Task::Ci);
        assert_eq!(parsed("gen").unwrap(), Task::Gen);
        assert_eq!(parsed("gen --check").unwrap(), Task::GenCheck);
        assert_eq!(parsed("bench --quick").unwrap(), Task::Bench(vec!["--quick".to_owned()]));
        assert_eq!(parsed("").unwrap(), Task::Help);
        assert!(matches!(parsed("demo --once").unwrap(), Task::Demo(options) if options.once));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for wrong in
            ["tset", "test --ignored", "ci 1", "demo --twice", "demo --port", "demo --port 0", "demo x"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
