//! `cargo xtask`: what one does with this repository, beyond what cargo does by itself.
//!
//! Lives here: the test run, the checks of CI, the files that are generated and kept, and what has to be installed
//! and built before `demo/` and `bench/` run. Does not live here: anything that Orion needs to run.

mod bench;
mod checks;
mod ci;
mod demo;
mod doc_comments;
mod generated;
mod install;
mod tally;
mod test;

use orion_console::{Failure, Outcome, terminal};
use std::{env, process::ExitCode};

const USAGE: &str = "\
usage: cargo xtask TASK

  demo    start Orion and 3 workers on this machine and play the story of a lease; --help lists its options
          containers      that of containers on leased nodes, with real Docker engines
  test    install what the tests need, build, run all tests, and count them
  check   the checks of CI that compile nothing: format, files, documents, scripts, licences
  ci      every check of .ci/run, then the tests
  gen     write what is generated: the OpenAPI document and the TypeScript client's types
          --check           write nothing: is it what the code gives, and does the client work with it?
  bench   measure Orion beside its floors, with optimised programs (several minutes)
          --json FILE       also write one JSON object a figure, one a line
          --quick           a smoke run
          --only FIGURE     only this figure; may be repeated. years_mariadb and years_sqlite (every route and task
                            with ten million events) are measured only when they are named, and so are
                            upgrade_mariadb_s, upgrade_sqlite_s (an older database with two million events
                            comes up), coverage_domain and coverage_store (cargo llvm-cov)";

/// A task with its arguments.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Demo(Vec<String>),
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
        Task::Demo(arguments) => demo::demo(&arguments),
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
        "demo" => Ok(Task::Demo(rest.to_vec())),
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
        let bare = [("test", Task::Test), ("check", Task::Check), ("ci", Task::Ci), ("", Task::Help)];
        for (line, task) in [("gen", Task::Gen), ("gen --check", Task::GenCheck)].into_iter().chain(bare) {
            assert_eq!(parsed(line).unwrap(), task, "{line}");
        }
        assert_eq!(parsed("bench --quick").unwrap(), Task::Bench(vec!["--quick".to_owned()]));
        assert_eq!(parsed("demo --once").unwrap(), Task::Demo(vec!["--once".to_owned()]));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for wrong in ["tset", "test --ignored", "ci 1"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
