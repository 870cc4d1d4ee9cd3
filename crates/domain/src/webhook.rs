//! Webhooks, without I/O: which events one wants, and when a delivery that failed is tried again.

use crate::{event::kinds, time::Timestamp};
use std::{fmt, str::FromStr, time::Duration};

/// The kind of the event that `POST /api/admin/webhooks/{id}/test` sends to one webhook, and to no other.
pub const TEST_KIND: &str = "webhook.test";

/// Pauses after the first failed try, the second, and so on; after the last of them the delivery is given up,
/// about a day after the first.
const PAUSES: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(2 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(3600),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(4 * 3600),
    Duration::from_secs(8 * 3600),
    Duration::from_secs(8 * 3600),
];

/// Largest number of tries of a delivery.
pub const TRIES_MAX: u32 = PAUSES.len() as u32 + 1;

/// Returns the time of the next try of a delivery that has failed `tries` times; none if the delivery is
/// given up. `chance` lies between 0 and 1 and shifts the time by up to a fifth either way, so that
/// deliveries that failed together are not retried together.
pub fn next_try(tries: u32, chance: f64, now: Timestamp) -> Option<Timestamp> {
    let index = usize::try_from(tries.max(1) - 1).ok()?;
    let pause = PAUSES.get(index)?;
    Some(now.plus(pause.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0))))
}

/// Pattern for the event kinds that a webhook receives: `*` for all, `lease.*` for all about leases,
/// `node.dead` for one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindPattern(String);

impl KindPattern {
    /// Whether events of this kind are wanted.
    pub fn matches(&self, kind: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => kind.starts_with(beginning),
            None => kind == self.0,
        }
    }

    /// Refuses a pattern that no kind of event matches. A stored one may be of another version of Orion.
    ///
    /// # Errors
    /// Says that no event would ever be sent.
    pub fn known(&self) -> Result<(), String> {
        if kinds().any(|kind| self.matches(kind)) {
            return Ok(());
        }
        Err(format!(
            "'{self}' is no kind of event, and no group of them such as `node.*`: see docs/EVENTS.md"
        ))
    }

    /// Returns the pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KindPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KindPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is no kind of event; give one such as `node.dead`, `lease.*` for a group, or `*` for all"
            )
        };
        if text == "*" {
            return Ok(Self(text.to_owned()));
        }
        let (noun, verb) = text.split_once('.').ok_or_else(wrong)?;
        let is_word = |word: &str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b"_-.".contains(&b))
        };
        if text.len() > 64 || !is_word(noun) || !(verb == "*" || is_word(verb)) {
            return Err(wrong());
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_kind_a_group_or_all() {
        let wants = |pattern: &str, kind: &str| pattern.parse::<KindPattern>().unwrap().matches(kind);
        assert!(
            wants("*", "lease.active") && wants("lease.*", "lease.active") && wants("node.dead", "node.dead")
        );
        assert!(
            !wants("lease.*", "node.dead")
                && !wants("node.dead", "node.deadly")
                && !wants("lease.*", "leases.x")
        );
    }

    #[test]
    fn what_is_no_kind_is_refused_with_an_example() {
        for wrong in [
            "",
            "lease",
            "lease.",
            ".dead",
            "lease*",
            "*.dead",
            "Lease.*",
            "a b.c",
            "lease.**",
            &"x".repeat(99),
        ] {
            let error = wrong.parse::<KindPattern>().unwrap_err();
            assert!(error.contains("`node.dead`"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_kind_that_no_event_has_is_refused() {
        for wrong in ["node.deadly", "leases.*", "never.happens"] {
            let error = wrong.parse::<KindPattern>().unwrap().known().unwrap_err();
            assert!(error.starts_with(&format!("'{wrong}'")) && error.contains("EVENTS.md"), "{error}");
        }
        for right in [TEST_KIND, "lease.*", "node.dead", "*"] {
            let pattern = right.parse::<KindPattern>().unwrap();
            assert_eq!((pattern.known(), pattern.as_str()), (Ok(()), right));
        }
    }

    #[test]
    fn a_delivery_is_tried_again_later_and_later_and_given_up_after_about_a_day() {
        let start = Timestamp::from_micros(0);
        for chance in [0.0, 0.5, 1.0] {
            let mut now = start;
            let mut pauses = Vec::new();
            for tries in 1.. {
                let Some(at) = next_try(tries, chance, now) else { break };
                pauses.push(at.since(now));
                now = at;
            }
            assert_eq!(pauses.len(), TRIES_MAX as usize - 1);
            assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]), "{pauses:?}");
            let all = now.since(start).as_secs_f64() / 3600.0;
            assert!((18.0..=28.0).contains(&all), "{all} hours in all");
        }
        let first = |chance| next_try(1, chance, start).unwrap().since(start);
        assert_eq!((first(0.0), first(1.0)), (Duration::from_secs(4), Duration::from_secs(6)));
    }

    #[test]
    fn a_pattern_is_shown_as_it_was_given() {
        let pattern: KindPattern = "lease.*".parse().unwrap();
        assert_eq!((pattern.as_str(), pattern.to_string()), ("lease.*", "lease.*".to_owned()));
    }

    #[test]
    fn a_delivery_is_given_up_about_a_day_after_its_first_try() {
        let start = Timestamp::from_micros(0);
        let last = (1..TRIES_MAX).fold(start, |now, tries| next_try(tries, 0.5, now).unwrap());
        let hours = last.since(start).as_secs() / 3600;
        assert!((22..=25).contains(&hours), "{hours} h");
        let third = next_try(3, 0.5, start).unwrap();
        assert_eq!(third.as_secs(), 120);
        assert_eq!(next_try(TRIES_MAX, 0.5, last), None);
    }

    #[test]
    fn a_kind_has_a_group_and_a_name() {
        for wrong in ["lease", "lease.", ".active", "lease.**", "Lease.active", "a.b.c d"] {
            assert!(wrong.parse::<KindPattern>().is_err(), "{wrong:?}");
        }
        let of_length = |length: usize| format!("a.{}", "b".repeat(length - 2)).parse::<KindPattern>();
        assert!(of_length(64).is_ok() && of_length(65).is_err());
    }
}
