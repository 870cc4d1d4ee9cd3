//! What the reader sees: headings, commands, their output, and what is waited for. Colour and movement only
//! on a terminal.

use std::{
    env,
    io::{IsTerminal as _, Write as _, stdout},
    time::{Duration, Instant},
};

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const CYAN: &str = "36";

/// Whether the reader sees a terminal on which lines may move.
pub fn is_terminal() -> bool {
    stdout().is_terminal() && env::var_os("TERM").is_some_and(|terminal| terminal != "dumb")
}

fn styled(style: &str, text: &str) -> String {
    match is_terminal() && env::var_os("NO_COLOR").is_none() {
        true => format!("\x1b[{style}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// A line as it is. Nobody reading any more is no reason to stop.
pub fn line(text: &str) {
    let _ = writeln!(stdout(), "{text}");
}

/// Begins a section.
pub fn heading(text: &str) {
    line(&format!("\n{}", styled(BOLD, &format!("== {text}"))));
}

/// A command, as a user would type it.
pub fn command(text: &str) {
    line(&styled(CYAN, &format!("$ {text}")));
}

/// Prints a line about something that is right.
pub fn good(text: &str) {
    line(&format!("{} {text}", styled(GREEN, "✔")));
}

/// Prints a line about something that is wrong.
pub fn bad(text: &str) {
    line(&format!("{} {text}", styled(RED, "✘")));
}

/// A remark.
pub fn note(text: &str) {
    line(&styled(DIM, text));
}

/// A span of time for people: `43 ms`, `1.9 s`, `2 min 5 s`.
pub fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        short if short < 0.9995 => format!("{:.0} ms", short * 1000.0),
        middle if middle < 59.95 => format!("{middle:.1} s"),
        _ => {
            let whole = time.as_secs_f64().round() as u64;
            format!("{} min {} s", whole / 60, whole % 60)
        }
    }
}

/// Returns at most `width` characters, the last one `…` when something is missing.
pub fn cut(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// The line without ANSI escape sequences (`ESC [ … letter`).
pub fn without_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
        rest = rest.get(1..).unwrap_or_default();
    }
    plain + rest
}

/// Shows that something is waited for: a line that moves on a terminal, otherwise a dot each second. Gone, or
/// ended, when dropped.
pub struct Waiting {
    what: String,
    since: Instant,
    frame: usize,
    dots: u64,
    is_line_open: bool,
    moving: bool,
}

const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

impl Waiting {
    /// Begins to wait for `what`.
    pub fn begin(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            since: Instant::now(),
            frame: 0,
            dots: 0,
            is_line_open: false,
            moving: is_terminal(),
        }
    }

    /// Returns the time since the wait began.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Updates the display with the current state; to be called often.
    pub fn tick(&mut self, state: &str) {
        let elapsed = self.elapsed();
        if self.moving {
            self.frame = (self.frame + 1) % FRAMES.len();
            let time = format!("{:.1} s", elapsed.as_secs_f64());
            let text = format!("{} {}  {time}  {state}", FRAMES[self.frame], self.what);
            self.write(&format!("\r\x1b[K{}", styled(DIM, &cut(&text, 100))));
        } else if elapsed.as_secs() > self.dots {
            if !self.is_line_open {
                self.write(&format!("  {} ", self.what));
                self.is_line_open = true;
            }
            self.dots = elapsed.as_secs();
            self.write(".");
        }
    }

    /// A line of its own between the movements.
    pub fn say(&mut self, text: &str) {
        self.end_line();
        line(text);
    }

    fn write(&self, text: &str) {
        let mut out = stdout();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn end_line(&mut self) {
        if self.moving {
            self.write("\r\x1b[K");
        } else if self.is_line_open {
            self.write(
                "
",
            );
            self.is_line_open = false;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.end_line();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_the_unit_that_suits_them() {
        for (milliseconds, text) in [
            (0, "0 ms"),
            (43, "43 ms"),
            (999, "999 ms"),
            (1940, "1.9 s"),
            (59_960, "1 min 0 s"),
            (125_000, "2 min 5 s"),
        ] {
            assert_eq!(seconds(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn a_cut_text_ends_with_an_ellipsis_and_keeps_whole_characters() {
        assert_eq!(cut("äöüß", 4), "äöüß");
        assert_eq!(cut("äöüßx", 4), "äöü…");
    }
}
