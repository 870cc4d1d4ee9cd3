//! The counts of a test run, read from the result line of each test program.

use crate::terminal;

/// What all test programs together reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests marked `#[ignore]`.
    pub ignored: u64,
    /// Tests that a filter left out.
    pub filtered_out: u64,
    /// Result lines seen.
    pub programs: u64,
}

impl Tally {
    /// Takes one line of output; anything but a result line is passed over.
    pub fn take(&mut self, line: &str) {
        let line = terminal::without_colour(line);
        let Some((_, counts)) =
            line.trim().strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        let mut seen = Self { programs: 1, ..Self::default() };
        for part in counts.split("; ") {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => seen.passed = number,
                "failed" => seen.failed = number,
                "ignored" => seen.ignored = number,
                "filtered out" => seen.filtered_out = number,
                _ => {}
            }
        }
        self.passed += seen.passed;
        self.failed += seen.failed;
        self.ignored += seen.ignored;
        self.filtered_out += seen.filtered_out;
        self.programs += 1;
    }

    /// What is wrong with the run, besides tests that failed. `cargo_succeeded` is cargo's own verdict.
    pub fn complaint(&self, cargo_succeeded: bool) -> Option<String> {
        if self.passed == 0 {
            return Some("no test passed".to_owned());
        }
        if self.ignored > 0 || self.filtered_out > 0 {
            return Some(format!(
                "{} tests ignored, {} filtered out: none may be",
                self.ignored, self.filtered_out
            ));
        }
        if !cargo_succeeded && self.failed == 0 {
            return Some(
                "cargo failed, but no test did: a test program crashed or did not compile".to_owned(),
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.take(line));
        tally
    }

    #[test]
    fn the_counts_of_all_test_programs_are_added() {
        let tally = tally(
            "\nrunning 2 tests\ntest a ... ok\ntest b ... FAILED\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\n\
             test result: \x1b[32mok\x1b(B\x1b[m. 12 passed; 0 failed; 3 ignored; 0 measured; 4 filtered out\n",
        );
        assert_eq!(tally, Tally { passed: 13, failed: 1, ignored: 3, filtered_out: 4, programs: 2 });
    }

    #[test]
    fn what_a_test_prints_is_no_result() {
        assert_eq!(
            tally("12 passed; 3 failed\n  result: ok. 5 passed\ntest result of mine: ok"),
            Tally::default()
        );
    }

    #[test]
    fn a_run_without_a_passed_test_is_wrong() {
        assert!(tally("test result: ok. 0 passed; 0 failed; 0 ignored").complaint(true).is_some());
        assert!(Tally::default().complaint(true).is_some());
    }

    #[test]
    fn a_run_that_left_tests_out_is_wrong() {
        assert!(
            tally("test result: ok. 9 passed; 0 failed; 1 ignored; 0 filtered out").complaint(true).is_some()
        );
        assert!(
            tally("test result: ok. 9 passed; 0 failed; 0 ignored; 1 filtered out").complaint(true).is_some()
        );
    }

    #[test]
    fn a_test_program_that_crashed_is_wrong_although_it_reported_nothing() {
        let run = tally("test result: ok. 9 passed; 0 failed; 0 ignored; 0 filtered out");
        assert!(run.complaint(false).is_some());
        assert_eq!(run.complaint(true), None);
    }
}
