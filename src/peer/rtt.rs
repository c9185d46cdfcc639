//! Measured round trips of one peer's Heartbeat lane.

use std::time::Duration;

/// Samples kept: about a minute of pings.
const SAMPLES: usize = 128;

/// Round trips of transport pings (no handler's time in them) over the last 128 samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RttStats {
    /// Smoothed as TCP does it (RFC 6298 §2: 7/8 old, 1/8 new).
    pub smoothed: Duration,
    /// The shortest.
    pub min: Duration,
    /// The mean.
    pub mean: Duration,
    /// 99 of 100 were at most this long.
    pub p99: Duration,
    /// How many samples these numbers stand on, 1 to 128.
    pub samples: usize,
}

/// The ring of samples.
#[derive(Debug, Default)]
pub(crate) struct Rtt {
    ring: Vec<Duration>,
    next: usize,
    smoothed: Option<Duration>,
}

impl Rtt {
    /// One more sample.
    pub(crate) fn add(&mut self, sample: Duration) {
        self.smoothed = Some(self.smoothed.map_or(sample, |old| (old * 7 + sample) / 8));
        match self.ring.get_mut(self.next) {
            Some(slot) => *slot = sample,
            None => self.ring.push(sample),
        }
        self.next = (self.next + 1) % SAMPLES;
    }

    /// The numbers, if there was a sample.
    pub(crate) fn stats(&self) -> Option<RttStats> {
        let mut sorted = self.ring.clone();
        sorted.sort_unstable();
        let samples = sorted.len();
        let min = *sorted.first()?;
        let p99 = *sorted.get((samples * 99).div_ceil(100) - 1)?;
        let mean = sorted.iter().sum::<Duration>() / samples as u32;
        Some(RttStats { smoothed: self.smoothed?, min, mean, p99, samples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_hundred_samples() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.stats(), None);
        for ms in 1..=100 {
            rtt.add(Duration::from_millis(ms));
        }
        let stats = rtt.stats().unwrap();
        assert_eq!((stats.min.as_millis(), stats.p99.as_millis(), stats.samples), (1, 99, 100));
        assert_eq!(stats.mean, Duration::from_micros(50_500));
        assert!(stats.smoothed > Duration::from_millis(90) && stats.smoothed < Duration::from_millis(94));
    }

    #[test]
    fn old_samples_are_forgotten() {
        let mut rtt = Rtt::default();
        (0..10).for_each(|_| rtt.add(Duration::from_secs(9)));
        (0..SAMPLES).for_each(|_| rtt.add(Duration::from_millis(1)));
        let stats = rtt.stats().unwrap();
        assert_eq!((stats.p99, stats.samples), (Duration::from_millis(1), SAMPLES));
    }
}
