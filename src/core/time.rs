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

/// Log time as a leader counts it: the newest time that it stamped or applied, plus what the monotonic clock counted
/// since it did so, slewed slowly towards the wall clock.
///
/// Its own entries count from the stamp and not from their return: counted from there, log time would lose a commit's
/// latency with each entry and stand still under a steady load.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogClock {
    last: LogTime,
    at: Mono,
    /// Up to here the slew was granted.
    slewed_at: Mono,
}

impl LogClock {
    /// At most so many thousandths of the elapsed time are gained or lost on the way to the wall clock.
    pub const SLEW_PER_MILLE: u64 = 5;

    /// An entry with this time was applied at this moment.
    pub fn applied(&mut self, time: LogTime, at: Mono) {
        if time > self.last {
            *self = LogClock { last: time, at, slewed_at: at };
        }
    }

    /// The time for an entry that is proposed now.
    pub fn stamp(&mut self, now: Mono, wall_ms: u64) -> LogTime {
        let slews = self.slew(now) > 0 || self.last == LogTime(0);
        self.last = self.now(now, wall_ms);
        self.at = now;
        if slews {
            self.slewed_at = now;
        }
        self.last
    }

    fn slew(&self, now: Mono) -> u64 {
        now.since(self.slewed_at) * Self::SLEW_PER_MILLE / 1000
    }

    /// The log time at `now`, where the wall clock shows `wall_ms` since the Unix epoch.
    pub fn now(&self, now: Mono, wall_ms: u64) -> LogTime {
        if self.last == LogTime(0) {
            return LogTime(wall_ms); // the first entry of a log sets its origin
        }
        let plain = self.last.plus(now.since(self.at));
        let slew = self.slew(now);
        LogTime(wall_ms.clamp(plain.0.saturating_sub(slew).max(self.last.0), plain.0.saturating_add(slew)))
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
    fn a_steady_load_neither_stops_log_time_nor_its_slew() {
        let (mut clock, wall) = (LogClock::default(), |ms: u64| 1_000_000 + ms);
        clock.stamp(Mono(0), wall(0));
        for ms in (100..=100_000).step_by(100) {
            clock.applied(clock.last, Mono(ms)); // each entry comes back after 100 ms, when the next one goes out
            assert_eq!(clock.stamp(Mono(ms), wall(ms)), LogTime(wall(ms)));
        }
        for ms in (100_100..=200_000).step_by(100) {
            clock.stamp(Mono(ms), wall(ms) + 3_600_000);
        }
        assert_eq!(clock.last, LogTime(wall(200_000) + 500), "5 in 1000 of 100 s");
    }

    #[test]
    fn an_older_entry_does_not_turn_the_clock_back() {
        let mut clock = LogClock::default();
        clock.applied(LogTime(500), Mono(0));
        clock.applied(LogTime(400), Mono(100));
        assert_eq!(clock.now(Mono(100), 600), LogTime(600));
    }
}
