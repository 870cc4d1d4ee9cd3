//! How long nodes were left alone between two looks: a histogram of milliseconds.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Longest gap that is told apart, in milliseconds.
const LONGEST_MS: usize = 120_000;

/// Number and percentiles of the gaps in a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of gaps that have ended.
    pub count: u64,
    /// The middle one, in milliseconds.
    pub p50_ms: u64,
    /// 99 in 100 are not longer, in milliseconds.
    pub p99_ms: u64,
    /// The longest, in milliseconds.
    pub max_ms: u64,
}

/// Gaps, a bucket for each millisecond.
pub struct Gaps {
    buckets: Vec<AtomicU64>,
}

impl Default for Gaps {
    fn default() -> Self {
        Self { buckets: (0..=LONGEST_MS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Gaps {
    /// One gap more.
    pub fn record(&self, gap_ms: u64) {
        let bucket = usize::try_from(gap_ms).unwrap_or(usize::MAX).min(LONGEST_MS);
        self.buckets[bucket].fetch_add(1, Relaxed);
    }

    /// Forgets all gaps.
    pub fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Relaxed);
        }
    }

    /// Returns the summary of the gaps; `pending` are gaps that have not ended yet.
    pub fn summary(&self, pending: impl IntoIterator<Item = u64>) -> Summary {
        let mut counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let finished: u64 = counts.iter().sum();
        for gap_ms in pending {
            counts[usize::try_from(gap_ms).unwrap_or(usize::MAX).min(LONGEST_MS)] += 1;
        }
        let total: u64 = counts.iter().sum();
        let at = |rank: u64| {
            let mut seen = 0;
            let found = counts.iter().position(|count| {
                seen += count;
                *count > 0 && seen >= rank
            });
            u64::try_from(found.unwrap_or_default()).unwrap_or(u64::MAX)
        };
        Summary {
            count: finished,
            p50_ms: at(total.div_ceil(2)),
            p99_ms: at((total * 99).div_ceil(100)),
            max_ms: at(total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_that_has_not_ended_counts() {
        let gaps = Gaps::default();
        for gap in 1..=99 {
            gaps.record(gap * 10);
        }
        assert_eq!(gaps.summary([]), Summary { count: 99, p50_ms: 500, p99_ms: 990, max_ms: 990 });
        assert_eq!(gaps.summary([7_000]), Summary { count: 99, p50_ms: 500, p99_ms: 990, max_ms: 7_000 });
        gaps.clear();
        assert_eq!(gaps.summary([]), Summary::default());
    }

    #[test]
    fn what_is_longer_than_the_histogram_is_its_longest() {
        let gaps = Gaps::default();
        gaps.record(u64::MAX);
        assert_eq!(gaps.summary([]).max_ms, 120_000);
    }
}
