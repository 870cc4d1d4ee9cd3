//! The way in of a node: whether a lease account can log in there, by password and by key, as a probe found it.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, time::Duration};

/// Time for which a login that was seen to work counts as working.
pub const SEEN_OPEN_FOR: Duration = Duration::from_secs(90);
/// Pause between two probes of a node whose way in is open: with the longest probe and the delay of what is written
/// of it,
/// less than [`SEEN_OPEN_FOR`].
pub const PROBE_EVERY: Duration = Duration::from_secs(45);
/// Longest reason that is kept, in characters.
pub const REASON_MAX: usize = 600;
/// Difference between two clocks that is not worth mentioning.
pub const CLOCK_OFF_MIN: Duration = Duration::from_secs(5);

/// Whether lease accounts can log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Way in without a current probe result.
    Unknown,
    /// A probe account logged in by password and by key.
    Open,
    /// A probe account could not log in.
    Shut,
}

impl Way {
    /// The word in the database and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Open => "open",
            Self::Shut => "shut",
        }
    }
}

/// A node's way in as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayIn {
    /// Whether it is open.
    pub way: Way,
    /// Reason why the way in is shut, for people; none unless it is shut.
    pub reason: Option<String>,
    /// Time since which the way in has been in this state.
    pub since: Timestamp,
    /// Whether the agent reports it over the present link; if not, the scheduler probes.
    pub by_agent: bool,
}

impl WayIn {
    /// The way in of a node that was not probed yet.
    pub const fn unknown() -> Self {
        Self { way: Way::Unknown, reason: None, since: Timestamp::from_micros(0), by_agent: false }
    }
}

/// Result of a probe, as the agent's link carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayInReport {
    /// Whether the probe account could log in.
    pub open: bool,
    /// Reason why the way in is shut; empty when it is open.
    #[serde(default)]
    pub reason: String,
}

impl WayInReport {
    /// The stored word for it.
    pub const fn way(&self) -> Way {
        if self.open { Way::Open } else { Way::Shut }
    }

    /// The reason as it is kept: one line, not too long; none when the way in is open.
    pub fn kept_reason(&self) -> Option<String> {
        (!self.open).then(|| {
            let text: String = one_line(&self.reason).chars().take(REASON_MAX).collect();
            if text.is_empty() { "the probe login failed and gave no reason".to_owned() } else { text }
        })
    }
}

/// The text on one line: ends of lines become ` / `, other control characters blanks.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if is_one_line(text) {
        return Cow::Borrowed(text);
    }
    let lines = text.lines().map(|line| {
        let clean: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        clean.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    Cow::Owned(lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" / "))
}

/// Returns whether the text is words of printable ASCII with one blank between two, as most reasons are.
fn is_one_line(text: &str) -> bool {
    let mut after_blank = true;
    for byte in text.bytes() {
        match byte {
            b' ' if after_blank => return false,
            b' ' => after_blank = true,
            b'!'..=b'~' => after_blank = false,
            _ => return false,
        }
    }
    !after_blank || text.is_empty()
}

/// A reason without what stands in parentheses: values of a site's settings, which are not everybody's business.
pub fn without_details(reason: &str) -> String {
    let mut depth = 0_u32;
    let mut text = String::with_capacity(reason.len());
    for letter in reason.chars() {
        match letter {
            '(' => depth += 1,
            ')' if depth > 0 => depth -= 1,
            _ if depth == 0 => text.push(letter),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A node's way in as it may be told now: `Unknown` where it counts as open and nothing was seen of that for
/// [`SEEN_OPEN_FOR`].
pub fn told(way: Way, open_at: Option<Timestamp>, now: Timestamp) -> Way {
    match (way, open_at) {
        (Way::Open, Some(at)) if now.since(at) <= SEEN_OPEN_FOR => Way::Open,
        (Way::Open, Some(_) | None) => Way::Unknown,
        (way @ (Way::Shut | Way::Unknown), _) => way,
    }
}

/// Describes the offset of a node's clock, for people; none when the offset is not worth mentioning.
/// Positive: the node's clock is ahead.
pub fn clock_off_text(off_ms: i64) -> Option<String> {
    let off = Duration::from_millis(off_ms.unsigned_abs());
    (off >= CLOCK_OFF_MIN).then(|| {
        let direction = if off_ms > 0 { "ahead of" } else { "behind" };
        format!("the node's clock is {} s {direction} the control plane's", off.as_secs())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_readable_line() {
        let report = WayInReport { open: false, reason: "useradd: no\r\n\n\u{1b}[1mtry\tlater\n".into() };
        assert_eq!(report.kept_reason().as_deref(), Some("useradd: no / [1mtry later"));
        assert_eq!(WayInReport { open: true, reason: "x".into() }.kept_reason(), None);
        let empty = WayInReport { open: false, reason: "\n".into() };
        assert!(empty.kept_reason().is_some_and(|reason| reason.contains("no reason")));
        let long = WayInReport { open: false, reason: "x".repeat(10_000) };
        assert_eq!(long.kept_reason().map(|reason| reason.len()), Some(REASON_MAX));
    }

    #[test]
    fn a_text_that_is_one_line_already_stays_as_it_is() {
        for text in ["", "SSH answers", "SSH answers; no agent"] {
            assert!(matches!(one_line(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
        for (text, line) in [
            (" a", "a"),
            ("a ", "a"),
            ("a  b", "a b"),
            ("a\tb", "a b"),
            ("a\u{a0}b", "a b"),
            ("é", "é"),
            (" ", ""),
        ] {
            assert_eq!(one_line(text), line);
        }
    }

    #[test]
    fn values_of_a_site_s_settings_are_left_out_for_others() {
        let told = without_details("AllowUsers of sshd (root (bob)) does not take lease accounts; x");
        assert_eq!(told, "AllowUsers of sshd does not take lease accounts; x");
        assert_eq!(without_details("a) b"), "a) b");
    }

    #[test]
    fn a_clock_that_is_off_is_told_with_its_direction() {
        assert_eq!(clock_off_text(4_999), None);
        let ahead = clock_off_text(180_400).unwrap();
        assert!(ahead.contains("180 s ahead of"), "{ahead}");
        assert!(clock_off_text(-900_000).unwrap().contains("900 s behind"));
    }
}
