//! The counts of a test run, read from the result line of each test program.

use orion_console::terminal;

/// Sum of the results of all test programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
    pub filtered_out: u64,
}

impl Tally {
    /// Takes one line of output; anything but a result line is passed over.
    pub fn take(&mut self, line: &str) {
        let line = terminal::without_colour(line);
        let result = line.trim().strip_prefix("test result: ").and_then(|rest| rest.split_once(". "));
        for part in result.map_or("", |(_, counts)| counts).split("; ") {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                "filtered out" => self.filtered_out += number,
                _ => {}
            }
        }
    }

    /// The counts in words. Of a test program that crashed nobody knows how many would have failed: at least one.
    pub fn counts(&self, cargo_succeeded: bool) -> String {
        format!("{} passed, {} failed", self.passed, self.failed.max(u64::from(!cargo_succeeded)))
    }

    /// The fault of the run, if it has one. `cargo_succeeded` is cargo's own verdict.
    pub fn complaint(&self, cargo_succeeded: bool) -> Option<String> {
        let (ignored, filtered_out, failed) = (self.ignored, self.filtered_out, self.failed);
        match self {
            Self { passed: 0, .. } => Some("no test passed".to_owned()),
            _ if ignored > 0 || filtered_out > 0 => {
                Some(format!("{ignored} tests ignored, {filtered_out} filtered out: none may be"))
            }
            _ if failed > 0 => Some(format!("{failed} tests failed, see above")),
            _ if !cargo_succeeded => {
                Some("cargo failed, but no test did: a test program crashed or did not compile".to_owned())
            }
            _ => None,
        }
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
    fn the_counts_of_all_test_programs_are_added_and_what_a_test_prints_is_no_result() {
        let all = tally(
            "\nrunning 2 tests\ntest a ... ok\ntest b ... FAILED\n12 passed; 3 failed\ntest result of mine: ok\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\n\
             test result: \x1b[32mok\x1b(B\x1b[m. 12 passed; 0 failed; 3 ignored; 0 measured; 4 filtered out\n",
        );
        assert_eq!(all, Tally { passed: 13, failed: 1, ignored: 3, filtered_out: 4 });
    }

    #[test]
    fn a_run_is_wrong_where_none_passed_some_were_left_out_or_a_program_crashed() {
        for (counts, succeeded, is_wrong) in [
            ("0 passed; 0 failed; 0 ignored", true, true),
            ("9 passed; 0 failed; 1 ignored; 0 filtered out", true, true),
            ("9 passed; 0 failed; 0 ignored; 1 filtered out", true, true),
            ("9 passed; 0 failed; 0 ignored; 0 filtered out", false, true),
            ("9 passed; 0 failed; 0 ignored; 0 filtered out", true, false),
        ] {
            let run = tally(&format!("test result: ok. {counts}"));
            assert_eq!(run.complaint(succeeded).is_some(), is_wrong, "{counts}");
        }
        assert!(Tally::default().complaint(true).is_some());
    }

    #[test]
    fn a_run_that_failed_counts_as_failed_even_without_a_failed_test() {
        let tally = Tally { passed: 3, ..Tally::default() };
        let verdict =
            |tally: Tally, succeeded| (tally.counts(succeeded), tally.complaint(succeeded).is_none());
        assert_eq!(verdict(tally, true), ("3 passed, 0 failed".to_owned(), true));
        assert_eq!(verdict(tally, false), ("3 passed, 1 failed".to_owned(), false));
        assert_eq!(verdict(Tally { failed: 2, ..tally }, false), ("3 passed, 2 failed".to_owned(), false));
    }
}
