//! `cargo xtask`: what one does with this repository, beyond what cargo does by itself.
//!
//! Lives here: the test run, the checks of CI, the files that are generated and kept, and what has to be installed
//! and built before `demo/` and `bench/` run. Does not live here: anything that Orion needs to run.

mod bench;
mod checks;
mod ci;
mod circles;
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
          --only FIGURE     only this figure; may be repeated. README.md says what years_mariadb, years_sqlite,
                            upgrade_mariadb_s, upgrade_sqlite_s, coverage_domain and coverage_store are, which
                            are measured only when they are named";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_told() {
                eprintln!("xtask: {failure}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Outcome {
    match words {
        ["demo", arguments @ ..] => demo::demo(arguments),
        ["test"] => test::test(),
        ["check"] => ci::check(),
        ["ci"] => ci::ci(),
        ["gen"] => generated::generate(),
        ["gen", "--check"] => generated::build_and_check(),
        ["bench", arguments @ ..] => bench::bench(arguments),
        [] | ["help" | "--help" | "-h"] => {
            terminal::line(USAGE);
            Ok(())
        }
        other => {
            let absent = format!("there is no task '{}'", other.join(" "));
            Err(Failure::new(absent).hint("cargo xtask help"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_refused() {
        for wrong in [&["tset"][..], &["test", "--ignored"], &["ci", "1"], &["gen", "--all"]] {
            assert!(run(wrong).is_err_and(|failure| failure.to_string().contains(&wrong.join(" "))));
        }
    }
}
