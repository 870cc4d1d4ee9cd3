//! Lengths of time: how a user writes them and how they are shown.
//!
//! Lives here: `2h`, `90m`, `1.5` → hours, and `3 h 12 min` back. Does not live here: what the operator
//! allows (the API says so), instants (see [`orion_domain::Timestamp`]).

use std::{str::FromStr, time::Duration};

/// The longest length that is accepted here, in seconds (ten years); the API's own limit is far lower.
const SECONDS_MAX: f64 = 10.0 * 365.0 * 86_400.0;

/// A length of time as the user gave it: more than zero, at most ten years.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Length {
    seconds: f64,
}

impl Length {
    /// Returns the length in hours, as the API takes it.
    pub fn hours(self) -> f64 {
        self.seconds / 3600.0
    }

    /// Returns the length as a [`Duration`].
    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

impl FromStr for Length {
    type Err = String;

    /// A number of hours (`1.5`), or numbers with units: `45s`, `90m`, `2h`, `1h30m`, `2d`, `1w`.
    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = seconds_of(text.trim()).ok_or_else(|| {
            format!("'{text}' is no length of time; write 2h, 90m, 1h30m, 2d, or a number of hours like 1.5")
        })?;
        if seconds <= 0.0 {
            return Err(format!("must be more than zero, not '{text}'"));
        }
        if seconds > SECONDS_MAX {
            return Err(format!("'{text}' is more than ten years"));
        }
        Ok(Self { seconds })
    }
}

fn seconds_of(text: &str) -> Option<f64> {
    if text.is_empty() || !text.is_ascii() {
        return None;
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().ok()?;
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let seconds = match unit.trim() {
            // A bare number means hours, but only as the whole text: `1h30` could mean anything.
            "" if total == 0.0 && next.is_empty() && rest.len() == text.len() => 3600.0,
            "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 7.0 * 86_400.0,
            _ => return None,
        };
        total += number * seconds;
        rest = next;
    }
    total.is_finite().then_some(total)
}

/// A length for people, in its two largest units: `8 s`, `12 min`, `3 h 12 min`, `2 d 4 h`.
pub fn show(length: Duration) -> String {
    let seconds = length.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => two(hours, "h", minutes, "min"),
        (_, _, _) => two(days, "d", hours, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(text: &str) -> Result<f64, String> {
        text.parse::<Length>().map(Length::hours)
    }

    #[test]
    fn lengths_are_read_in_every_unit() {
        for (text, expected) in [
            ("2h", 2.0),
            ("90m", 1.5),
            ("1.5", 1.5),
            ("2d", 48.0),
            ("1h30m", 1.5),
            ("0.5h", 0.5),
            ("36s", 0.01),
            ("1w", 168.0),
            ("15min", 0.25),
            (" 4 ", 4.0),
            ("2 h", 2.0),
        ] {
            assert_eq!(hours(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_length_is_refused() {
        for wrong in [
            "", "h", "2x", "-1", "-1h", "0", "0h", "nan", "inf", "1h30", "1e3h", "2h-", "١h", "..",
            "99999999",
        ] {
            assert!(wrong.parse::<Length>().is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn lengths_are_shown_in_their_two_largest_units() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (11_520, "3 h 12 min"),
            (86_400, "1 d"),
            (187_200, "2 d 4 h"),
        ] {
            assert_eq!(show(Duration::from_secs(seconds)), expected);
        }
    }
}
