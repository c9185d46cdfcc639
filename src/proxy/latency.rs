//! The response time of one backend: decayed by time, raised by failures, and by silence while requests wait.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, Release},
};

/// How fast an old value is forgotten.
const TAU_US: f64 = 10e6;
/// A failure counts as an answer that took this long.
const PENALTY_US: f64 = 5e6;
/// A slower answer moves the value at least by this share, so that trouble is seen within a few requests.
const RISE: f64 = 0.25;

/// Time to first byte of one backend.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    /// `f32` microseconds in the upper half, milliseconds of the clock in the lower half; 0: nothing measured.
    packed: AtomicU64,
    /// Requests that wait for their first byte.
    waiting: AtomicU32,
    /// Since when nothing came while some waited, in microseconds of the clock.
    quiet_since: AtomicU64,
}

fn unpack(packed: u64) -> (f64, u64) {
    (f64::from(f32::from_bits((packed >> 32) as u32)), packed & 0xffff_ffff)
}

/// Microseconds from `at` to `now_ms`, both on a clock of 32 bits; 0 when another thread's clock was read later.
fn age_us(now_ms: u64, at: u64) -> f64 {
    f64::from((now_ms as u32).wrapping_sub(at as u32).cast_signed().max(0)) * 1000.0
}

impl Latency {
    /// A request goes out at `now_us`.
    pub(crate) fn begin(&self, now_us: u64) {
        if self.waiting.fetch_add(1, Relaxed) == 0 {
            self.quiet_since.store(now_us, Release);
        }
    }

    /// A request's wait is over; `took_us` is none for one that nobody answered.
    pub(crate) fn end(&self, now_us: u64, took_us: Option<u64>) {
        self.waiting.fetch_sub(1, Relaxed);
        if took_us.is_some() {
            self.quiet_since.store(now_us, Release);
        }
    }

    /// A measured time.
    pub(crate) fn record(&self, now_us: u64, took_us: u64) {
        self.sample(now_us, (took_us as f64).max(1.0));
    }

    /// A failure after `took_us`: never a fast sample.
    pub(crate) fn penalise(&self, now_us: u64, took_us: u64) {
        self.sample(now_us, (took_us as f64).max(PENALTY_US));
    }

    fn sample(&self, now_us: u64, value: f64) {
        let now_ms = (now_us / 1000) & 0xffff_ffff;
        let next = |packed: u64| {
            let (old, at) = unpack(packed);
            let age_us = age_us(now_ms, at);
            let decay = 1.0 - (-age_us / TAU_US).exp();
            let alpha = if packed == 0 { 1.0 } else { decay.max(if value > old { RISE } else { 0.01 }) };
            let new = old + alpha * (value - old);
            Some((u64::from((new as f32).to_bits()) << 32) | now_ms)
        };
        let _ = self.packed.fetch_update(Relaxed, Relaxed, next);
    }

    /// The decayed value in microseconds; 0 when nothing was measured.
    pub(crate) fn value_us(&self) -> f64 {
        unpack(self.packed.load(Relaxed)).0
    }

    /// What a choice counts with: the value, drawn to the peers' median while nothing is measured, and never less than
    /// the age of the quiet while requests wait.
    pub(crate) fn expected_us(&self, now_us: u64, median: f64) -> f64 {
        let packed = self.packed.load(Relaxed);
        let (value, at) = unpack(packed);
        let age = age_us((now_us / 1000) & 0xffff_ffff, at);
        let drawn = if packed == 0 { median } else { median + (value - median) / (1.0 + age / TAU_US) };
        let quiet = match self.waiting.load(Relaxed) {
            0 => 0.0,
            _ => now_us.saturating_sub(self.quiet_since.load(Relaxed)) as f64,
        };
        drawn.max(quiet).max(100.0) // below a tenth of a millisecond differences are noise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_never_a_fast_sample() {
        let (ok, bad) = (Latency::default(), Latency::default());
        for i in 0..20 {
            ok.record(i * 1000, 20_000);
            bad.penalise(i * 1000, 50);
        }
        assert!(bad.value_us() > 50.0 * ok.value_us());
    }

    #[test]
    fn a_clock_that_another_thread_read_earlier_does_not_age_a_value() {
        let fast = Latency::default();
        fast.record(10_000, 500);
        assert!(fast.expected_us(8_000, 5e6) < 600.0);
    }

    #[test]
    fn a_hung_request_counts_by_its_age() {
        let hung = Latency::default();
        hung.record(0, 1000);
        hung.begin(1000);
        assert!(hung.expected_us(2_001_000, 1000.0) >= 2_000_000.0);
        hung.end(2_001_000, None);
        assert!(hung.expected_us(2_001_000, 1000.0) < 2000.0);
    }

    #[test]
    fn a_slow_backend_recovers_and_an_unknown_one_starts_at_the_median() {
        let slow = Latency::default();
        slow.record(0, 1_000_000);
        assert!(
            slow.expected_us(100_000_000, 1000.0) < 100_000.0,
            "unasked for a while it is drawn to its peers"
        );
        for i in 1..=20u64 {
            slow.record(i * 1_000_000, 1000);
        }
        assert!(slow.value_us() < 200_000.0, "within two time constants: {}", slow.value_us());
        assert_eq!(Latency::default().expected_us(0, 1234.0), 1234.0);
    }
}
