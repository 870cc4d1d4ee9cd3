//! Webhooks, without I/O: which events one wants, and when a delivery that failed is tried again.

use crate::time::Timestamp;
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

/// How often a delivery is tried at most.
pub const TRIES_MAX: u32 = PAUSES.len() as u32 + 1;

/// When a delivery that has failed `tries` times is tried again; none: it is given up. `chance` lies between 0
/// and 1 and moves the moment by up to a fifth either way, so that what failed together does not come back together.
pub fn next_try(tries: u32, chance: f64, now: Timestamp) -> Option<Timestamp> {
    let index = usize::try_from(tries.max(1) - 1).ok()?;
    let pause = PAUSES.get(index)?;
    Some(now.plus(pause.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0))))
}

/// Which events a webhook wants: `*` all, `lease.*` all about leases, `node.dead` one kind.
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

    /// As it was given.
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
}
