//! Which measurement runs and how far it is, on standard error.

use std::io::{IsTerminal as _, Write as _};

/// One measurement's progress. On a terminal one line that changes, else one line at the start and the end.
pub struct Progress {
    what: String,
    total: usize,
    done: usize,
    terminal: bool,
}

impl Progress {
    /// Says that `what` begins and has so many steps.
    pub fn start(what: &str, total: usize) -> Self {
        let progress =
            Self { what: what.to_owned(), total, done: 0, terminal: std::io::stderr().is_terminal() };
        if !progress.terminal {
            eprintln!("{what} …");
        }
        progress.show("");
        progress
    }

    /// One step more; `last` says what it gave.
    pub fn step(&mut self, last: &str) {
        self.done += 1;
        self.show(last);
        if self.done == self.total && !self.terminal {
            eprintln!("{} {}/{} {last}", self.what, self.done, self.total);
        }
    }

    fn show(&self, last: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{} {}/{} {last}", self.what, self.done, self.total);
            // nobody is told less when a progress line comes late
            let _ = std::io::stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            eprintln!();
        }
    }
}
