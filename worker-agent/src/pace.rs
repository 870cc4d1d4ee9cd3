//! Patience: how long to wait before the next try, and how often to say that it still fails.

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Pauses that double from `first` to `longest`, each made up to twice as long by chance, without an end.
#[derive(Debug)]
pub struct Backoff {
    builder: ExponentialBuilder,
    running: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    /// Makes pauses between `first` and at most `longest`, chance included.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(first)
            .with_max_delay(longest / 2)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times();
        Self { builder, running: builder.build(), longest }
    }

    /// Returns the pause before the next try, longer each time.
    pub fn next_pause(&mut self) -> Duration {
        self.running.next().unwrap_or(self.longest).min(self.longest)
    }

    /// Starts again with the first.
    pub fn reset(&mut self) {
        self.running = self.builder.build();
    }
}

/// Says that something fails: at once, when the reason changes, then at intervals that double from 15 s
/// to 15 min; and once that it works again.
#[derive(Debug)]
pub struct ThrottledWarning {
    what: &'static str,
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    times: u32,
    why: String,
    say_again_at: Instant,
    interval: Duration,
}

const SAY_FIRST: Duration = Duration::from_secs(15);
const SAY_LONGEST: Duration = Duration::from_secs(900);

impl ThrottledWarning {
    /// Makes the complaint about what is tried: "the registration".
    pub const fn new(what: &'static str) -> Self {
        Self { what, failing: None }
    }

    /// Records a failure at `now`; returns whether it was logged.
    pub fn failed(&mut self, why: impl Display, now: Instant) -> bool {
        let why = why.to_string();
        let Some(failing) = &mut self.failing else {
            tracing::warn!("{} failed, trying on: {why}", self.what);
            let say_again_at = now + SAY_FIRST;
            self.failing = Some(Failing { since: now, times: 1, why, say_again_at, interval: SAY_FIRST });
            return true;
        };
        failing.times = failing.times.saturating_add(1);
        let changed = failing.why != why;
        if !changed && now < failing.say_again_at {
            return false;
        }
        if !changed {
            failing.interval = (failing.interval * 2).min(SAY_LONGEST);
        }
        failing.say_again_at = now + failing.interval;
        let for_s = now.duration_since(failing.since).as_secs();
        tracing::warn!("{} still fails after {} tries in {for_s} s: {why}", self.what, failing.times);
        failing.why = why;
        true
    }

    /// Records a success at `now`; logs it if there were failures before.
    pub fn works(&mut self, now: Instant) {
        if let Some(failing) = self.failing.take() {
            let for_s = now.duration_since(failing.since).as_secs();
            tracing::info!("{} works again, after {} failed tries in {for_s} s", self.what, failing.times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_between_their_bounds_and_never_end() {
        let (first, longest) = (Duration::from_millis(500), Duration::from_secs(30));
        let mut pauses = Backoff::new(first, longest);
        let taken: Vec<_> = (0..1000).map(|_| pauses.next_pause()).collect();
        assert!(taken.iter().all(|&pause| first <= pause && pause <= longest));
        assert!(taken[0] <= first * 2 && taken[999] >= longest / 2);
        assert!(taken[500..].windows(2).any(|two| two[0] != two[1]), "there is no jitter");
        pauses.reset();
        assert!(pauses.next_pause() <= first * 2);
    }

    #[test]
    fn the_same_failure_is_said_ever_more_rarely() {
        let (mut complaint, start) = (ThrottledWarning::new("it"), Instant::now());
        let said =
            (0..3600).filter(|&s| complaint.failed("no route", start + Duration::from_secs(s))).count();
        assert!((5..=10).contains(&said), "{said} times in an hour");
        assert!(complaint.failed("another reason", start + Duration::from_secs(3600)));
    }
}
