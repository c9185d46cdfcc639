//! Times in buckets, counted by whoever measures one and summed when read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper ends of the buckets in microseconds; one more takes what is longer.
pub const BOUNDS_US: [u64; 13] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// How often a time fell into each bucket.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What a histogram held when it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Per bucket, not added up.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// All times together, in microseconds.
    pub sum_us: u64,
}

impl Times {
    /// Adds others.
    pub(crate) fn add(&mut self, others: &Times) {
        self.counts.iter_mut().zip(others.counts).for_each(|(sum, n)| *sum += n);
        self.sum_us += others.sum_us;
    }
}

impl Histogram {
    /// Counts a time, from any thread.
    pub(crate) fn record(&self, us: u64) {
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// Moves what it holds.
    pub(crate) fn move_to(&self, times: &mut Times) {
        for (sum, count) in times.counts.iter_mut().zip(&self.counts) {
            *sum += count.swap(0, Relaxed);
        }
        times.sum_us += self.sum_us.swap(0, Relaxed);
    }

    /// Adds what it holds.
    pub(crate) fn add_to(&self, times: &mut Times) {
        for (sum, count) in times.counts.iter_mut().zip(&self.counts) {
            *sum += count.load(Relaxed);
        }
        times.sum_us += self.sum_us.load(Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_bucket_that_ends_behind_it() {
        let histogram = Histogram::default();
        for us in [0, 500, 501, 10_000_000, 10_000_001] {
            histogram.record(us);
        }
        let mut times = Times::default();
        histogram.add_to(&mut times);
        assert_eq!((times.counts[0], times.counts[1], times.counts[12], times.counts[13]), (2, 1, 1, 1));
        assert_eq!(times.sum_us, 20_001_002);
    }
}
