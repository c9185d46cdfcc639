//! Rate limits: how many requests of one kind come in a period, kept in a table of fixed size without a lock.
//!
//! The generic cell rate algorithm (ITU-T I.371): each key has the time at which its next request is due in an even flow;
//! one that is earlier by more than the burst allows is refused. A key is known by its place and a tag of 20 bits, so two
//! of them share a limit about once in 200,000. Where a place is full, the key that is due first gives way.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire},
};
use zonekeeper_core::model::RateLimit;

/// Keys that are remembered: 512 KiB, and more than ask within a second elsewhere.
const SLOTS: usize = 1 << 16;
/// Keys that share a place.
const WAYS: usize = 4;
/// Bits of the time, in microseconds: more than half a year, after which it wraps.
const TIME_BITS: u32 = 44;
const TIME: u64 = (1 << TIME_BITS) - 1;
/// Other threads overtake at most so often; then the request passes.
const ATTEMPTS: usize = 8;

/// The keys of all limits.
#[derive(Debug)]
pub(crate) struct Rates(Box<[AtomicU64]>);

impl Default for Rates {
    fn default() -> Rates {
        Rates((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }
}

/// Microseconds from `now` to `at`; negative when that is over.
fn ahead(at: u64, now: u64) -> i64 {
    ((at.wrapping_sub(now) << (64 - TIME_BITS)) as i64) >> (64 - TIME_BITS)
}

impl Rates {
    /// Takes a request at `now_us`, or says in how many microseconds there will be room for it.
    pub(crate) fn take(&self, limit: &RateLimit, key: u64, now_us: u64) -> Result<(), u64> {
        let now = now_us & TIME;
        let interval = u64::from(limit.per_ms) * 1000 / u64::from(limit.requests.max(1));
        let burst = (u64::from(limit.burst.max(1)) - 1) * interval;
        let tag = (key >> TIME_BITS).max(1); // 0 is an empty slot
        let place = (key as usize % (SLOTS / WAYS)) * WAYS;
        for _ in 0..ATTEMPTS {
            let (slot, seen, due) = self.find(place, tag, now);
            // A time that no request can have led to is of before the clock's last turn.
            let early = ahead(due, now).max(0) as u64;
            let early = if early > burst + interval { 0 } else { early };
            if early > burst {
                return Err(early - burst);
            }
            let next = tag << TIME_BITS | (now + early + interval) & TIME;
            if self.0[slot].compare_exchange(seen, next, AcqRel, Acquire).is_ok() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The key's slot, what it holds, and when the key is due; for a new key the slot that it gets.
    fn find(&self, place: usize, tag: u64, now: u64) -> (usize, u64, u64) {
        let mut oldest = (place, 0, i64::MAX);
        for slot in place..place + WAYS {
            let seen = self.0[slot].load(Acquire);
            if seen >> TIME_BITS == tag {
                return (slot, seen, seen & TIME);
            }
            let due = if seen == 0 { i64::MIN } else { ahead(seen & TIME, now) };
            if due < oldest.2 {
                oldest = (slot, seen, due);
            }
        }
        (oldest.0, oldest.1, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonekeeper_core::model::HashKey;

    fn limit(requests: u32, per_ms: u32, burst: u32) -> RateLimit {
        RateLimit { requests, per_ms, burst, key: HashKey::Source }
    }

    /// A number that is spread over all bits.
    fn key(n: u64) -> u64 {
        let x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x ^ (x >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (rates, limit) = (Rates::default(), limit(10, 1000, 3));
        let passed = |from: u64, to: u64| {
            (from..to).filter(|ms| rates.take(&limit, key(1), ms * 1000).is_ok()).count()
        };
        assert_eq!(passed(0, 1), 1);
        assert!((101..=103).contains(&passed(1, 10_000)), "ten a second and two more of the burst");
        assert_eq!(rates.take(&limit, key(2), 10_000_000), Ok(()), "another key has its own");
        let all = |at: u64| (0..50).filter(|_| rates.take(&limit, key(1), at).is_ok()).count();
        assert_eq!(all(60_000_000), 3, "after a pause the burst is back, and no more");
        assert_eq!(rates.take(&limit, key(1), 60_000_000), Err(100_000), "in a tenth of a second");
    }

    #[test]
    fn the_table_is_bounded_and_the_latest_stay() {
        let (rates, limit) = (Rates::default(), limit(1, 60_000, 1));
        for n in 0..1_000_000 {
            let _ = rates.take(&limit, key(n), n);
        }
        assert_eq!(rates.0.len(), SLOTS);
        let limited =
            (990_000..1_000_000).filter(|n| rates.take(&limit, key(*n), 1_000_000).is_err()).count();
        assert!(limited > 9_000, "{limited}");
    }

    #[test]
    fn the_clock_may_turn_over() {
        let (rates, limit) = (Rates::default(), limit(10, 1000, 1));
        let end = TIME - 50_000;
        assert_eq!(rates.take(&limit, key(1), end), Ok(()));
        assert_eq!(rates.take(&limit, key(1), end), Err(100_000));
        assert_eq!(rates.take(&limit, key(1), end + 100_000), Ok(()), "beyond the turn");
        assert!(rates.take(&limit, key(1), end + 100_001).is_err());
        assert_eq!(
            rates.take(&limit, key(1), end + (1 << 43)),
            Ok(()),
            "what is left of long ago limits nobody"
        );
    }

    #[test]
    fn threads_together_get_the_rate_and_no_more() {
        let (rates, limit) = (Rates::default(), limit(1000, 1000, 100));
        let take = || (0..1000).filter(|_| rates.take(&limit, key(7), 5_000_000).is_ok()).count();
        let taken: usize = std::thread::scope(|s| {
            let threads: Vec<_> = (0..4).map(|_| s.spawn(take)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert!((100..110).contains(&taken), "{taken}");
    }
}
