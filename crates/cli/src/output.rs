//! What the user sees: tables and JSON on stdout, everything else on stderr.
//!
//! Lives here: the two formats, tables without colour, times in words, the progress line. Does not live
//! here: what is in them. Text that came from the API passes [`printable`] before a terminal sees it.

pub use crate::printable::printable;
use crate::{
    duration,
    error::{CliError, Kind},
};
use orion_domain::Timestamp;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// Format of the data on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Human-readable text.
    #[default]
    Table,
    /// JSON as the API sends it, for programs.
    Json,
}

/// Writes `text` and a newline to stdout.
///
/// # Errors
/// [`Kind::ReaderGone`] when the other end of the pipe is closed.
pub fn data(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).map_err(
        |error| {
            let kind =
                if error.kind() == io::ErrorKind::BrokenPipe { Kind::ReaderGone } else { Kind::Failed };
            CliError::new(kind, format!("cannot write to standard output: {error}"))
        },
    )
}

/// Writes `value` to stdout, indented.
///
/// # Errors
/// As [`data`].
pub fn json(value: &Value) -> Result<(), CliError> {
    data(&format!("{value:#}"))
}

/// Writes a line for the user to stderr. A stderr that cannot be written to is nobody's concern.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(text));
}

/// A table of left-aligned columns, two spaces apart, without colour.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|&head| head.to_owned()).collect()] }
    }

    /// A table of names and values, without heads.
    pub const fn without_heads() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { printable(&cell) };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// The table's text, lines without spaces at their ends.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
            line.truncate(line.trim_end().len());
            line
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// An instant as a clock shows it, UTC: `18:02 UTC`, with its date when that is not today's.
pub fn clock_time(now: Timestamp, at: Timestamp) -> String {
    let (today, text) = (now.to_string(), at.to_string());
    match (text.get(..10), text.get(11..16)) {
        (Some(date), Some(minute)) if today.get(..10) == Some(date) => format!("{minute} UTC"),
        (Some(date), Some(minute)) => format!("{date} {minute} UTC"),
        (_, _) => text,
    }
}

/// An instant as a clock shows it and how far away it is: `18:02 UTC (in 3 h 12 min)`.
pub fn moment(now: Timestamp, at: Timestamp) -> String {
    let clock = clock_time(now, at);
    if at > now {
        format!("{clock} (in {})", duration::show(at.since(now)))
    } else {
        format!("{clock} ({} ago)", duration::show(now.since(at)))
    }
}

/// Returns the time that has passed since `since`, or `?` when it is unknown.
pub fn age(now: Timestamp, since: Option<Timestamp>) -> String {
    since.map_or_else(|| "?".to_owned(), |since| duration::show(now.since(since)))
}

/// Returns an amount of bytes with its unit: `48.5 MB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1_000.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        // What would be shown as 1000.0 is one of the next.
        if amount < 999.95 {
            break;
        }
        amount /= 1_000.0;
        unit = larger;
    }
    format!("{amount:.1} {unit}")
}

/// A line on stderr that says what is being waited for. On a terminal it is rewritten in place and removed
/// when dropped; elsewhere each stage is one line.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    stage: String,
}

impl Progress {
    /// Shows nothing yet.
    pub fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), stage: String::new() }
    }

    /// Shows `stage`, and on a terminal `detail` behind it (a counter, say).
    pub fn show(&mut self, stage: &str, detail: &str) {
        if self.terminal {
            let _ = write!(io::stderr().lock(), "\r\x1b[K{} {}", printable(stage), printable(detail));
        } else if self.stage != stage {
            note(stage);
        }
        stage.clone_into(&mut self.stage);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && !self.stage.is_empty() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn columns_line_up_and_lines_have_no_spaces_at_their_ends() {
        let mut table = Table::new(&["NAME", "ID", "REASON"]);
        table.row(["träning".to_owned(), "4".to_owned(), String::new()]);
        table.row(["x".to_owned(), "112".to_owned(), "rented".to_owned()]);
        assert_eq!(table.text(), "NAME     ID   REASON\nträning  4    -\nx        112  rented");
    }

    #[test]
    fn bytes_have_a_unit_that_fits() {
        let shown = [0, 999, 1_000, 48_480_000, 999_960, 3_000_000_000_000_000].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "48.5 MB", "1.0 MB", "3000.0 TB"]);
    }

    #[test]
    fn a_cell_cannot_break_out_of_its_line() {
        let mut table = Table::without_heads();
        table.row(["a\nb\u{1b}[31m\u{202e}c".to_owned()]);
        assert_eq!(table.text(), "a\u{fffd}b\u{fffd}[31m\u{fffd}c");
    }

    #[test]
    fn moments_name_the_date_only_when_it_is_another_day() {
        let now = at("2026-11-21T14:50:00Z");
        assert_eq!(moment(now, at("2026-11-21T18:02:00Z")), "18:02 UTC (in 3 h 12 min)");
        assert_eq!(moment(now, at("2026-11-22T18:02:30Z")), "2026-11-22 18:02 UTC (in 1 d 3 h)");
        assert_eq!(moment(now, at("2026-11-21T14:38:00Z")), "14:38 UTC (12 min ago)");
    }

    #[test]
    fn an_unknown_beginning_is_said_and_not_invented() {
        let now = at("2026-11-21T14:50:00Z");
        assert_eq!(age(now, None), "?");
        assert_eq!(age(now, Some(at("2026-11-21T14:49:00Z"))), "1 min");
    }
}
