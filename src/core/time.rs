//! The two clocks that decisions know, both as arguments.

use serde::{Deserialize, Serialize};

/// Milliseconds of a node's own monotonic clock, from an origin of its choice. Never leaves the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Mono(pub u64);

impl Mono {
    /// Milliseconds from `earlier` to `self`; 0 when `earlier` is later.
    pub fn since(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
    /// `self` plus some milliseconds.
    pub fn plus(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms))
    }
}

/// Milliseconds of log time: the time that entries carry. It never goes back and a wall clock that jumps does not move
/// it by more than [`LogClock::SLEW_PER_MILLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LogTime(pub u64);

impl LogTime {
    /// Milliseconds from `earlier` to `self`; 0 when `earlier` is later.
    pub fn since(self, earlier: LogTime) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
    /// `self` plus some milliseconds.
    pub fn plus(self, ms: u64) -> LogTime {
        LogTime(self.0.saturating_add(ms))
    }
}

/// Log time as a leader counts it: the last entry's time plus what the monotonic clock counted since that entry was
/// applied here, slewed slowly towards the wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogClock {
    last: LogTime,
    applied_at: Mono,
}

impl LogClock {
    /// At most so many thousandths of the elapsed time are gained or lost on the way to the wall clock.
    pub const SLEW_PER_MILLE: u64 = 5;

    /// An entry with this time was applied at this moment.
    pub fn applied(&mut self, time: LogTime, at: Mono) {
        if time >= self.last {
            *self = LogClock { last: time, applied_at: at };
        }
    }

    /// The log time at `now`, where the wall clock shows `wall_ms` since the Unix epoch.
    pub fn now(&self, now: Mono, wall_ms: u64) -> LogTime {
        if self.last == LogTime(0) {
            return LogTime(wall_ms); // the first entry of a log sets its origin
        }
        let elapsed = now.since(self.applied_at);
        let plain = self.last.plus(elapsed);
        let slew = elapsed * Self::SLEW_PER_MILLE / 1000;
        LogTime(wall_ms.clamp(plain.0.saturating_sub(slew), plain.0.saturating_add(slew)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_jumps_an_hour_moves_log_time_by_the_slew_only() {
        let mut clock = LogClock::default();
        assert_eq!(clock.now(Mono(5), 1_000_000), LogTime(1_000_000));
        clock.applied(LogTime(1_000_000), Mono(10));
        assert_eq!(clock.now(Mono(10_010), 1_000_000 + 10_000 + 3_600_000), LogTime(1_010_050));
        assert_eq!(clock.now(Mono(10_010), 0), LogTime(1_009_950));
        assert_eq!(clock.now(Mono(10_010), 1_010_001), LogTime(1_010_001));
    }

    #[test]
    fn an_older_entry_does_not_turn_the_clock_back() {
        let mut clock = LogClock::default();
        clock.applied(LogTime(500), Mono(0));
        clock.applied(LogTime(400), Mono(100));
        assert_eq!(clock.now(Mono(100), 600), LogTime(600));
    }
}
