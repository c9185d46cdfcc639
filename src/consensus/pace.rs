//! How much goes to a peer in one call, and how long the call may take.
//!
//! openraft gives a call with entries the time of a heartbeat, whatever it carries, and sends the same again when that
//! is over. An entry of 64 KiB needs 52 ms at 10 Mbit/s, and a LAN's heartbeat is 50 ms: such a line would carry the
//! same entry for ever. So the time of a call grows with its size, and its size follows what the line carries in about
//! a heartbeat, which also bounds how long a heartbeat waits behind it on a line that both share.

use std::time::Duration;

/// Bytes a second of the slowest line that is given the time that it needs (half a megabit).
const SLOWEST: u64 = 64 << 10;
/// What a call carries at the beginning: one entry of the largest size.
const FIRST: usize = 64 << 10;
/// What a call carries at the least; a single entry is always sent, whatever its size.
const LEAST: usize = 16 << 10;

/// The pace of one peer on one lane.
#[derive(Debug)]
pub(crate) struct Pace {
    room: usize,
    most: usize,
    heartbeat: Duration,
}

impl Pace {
    /// For calls of at most `most` bytes. A heartbeat is at least twice the round trip (see [`crate::config`]).
    pub(crate) fn new(most: usize, heartbeat: Duration) -> Pace {
        Pace { room: FIRST.min(most), most, heartbeat }
    }

    /// Bytes that the next call should carry.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// The time that a call has: its own, and what its bytes take on the slowest line.
    pub(crate) fn deadline(own: Duration, bytes: usize) -> Duration {
        own + Duration::from_millis(bytes as u64 * 1000 / SLOWEST)
    }

    /// A call of so many bytes took so long, answered or given up.
    pub(crate) fn took(&mut self, bytes: usize, elapsed: Duration) {
        if elapsed > self.heartbeat * 5 / 4 {
            self.room = (self.room.min(bytes) / 2).clamp(LEAST, self.most);
        } else if elapsed < self.heartbeat * 3 / 4 && bytes >= self.room / 2 {
            self.room = (self.room * 2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_millis(50);
    const MOST: usize = 768 << 10;

    /// Calls as large as allowed over a line of so many bytes a second; where the size settles.
    fn settle(line: u64, rtt: Duration) -> (usize, usize) {
        let mut pace = Pace::new(MOST, BEAT);
        let sizes: Vec<usize> = (0..50)
            .map(|_| {
                let bytes = pace.room();
                pace.took(bytes, rtt + Duration::from_micros(bytes as u64 * 1_000_000 / line));
                bytes
            })
            .collect();
        (*sizes[20..].iter().min().unwrap(), *sizes[20..].iter().max().unwrap())
    }

    #[test]
    fn a_call_fills_about_a_heartbeat_of_its_line() {
        let ms = Duration::from_millis;
        assert_eq!(settle(1_250_000_000, ms(0)), (MOST, MOST), "10 Gbit/s: as much as there is");
        assert_eq!(settle(125_000_000, ms(20)), (MOST, MOST), "1 Gbit/s with a round trip of 20 ms");
        let (least, most) = settle(1_250_000, ms(1));
        assert!(least >= 32 << 10 && most <= 128 << 10, "10 Mbit/s: {least}..{most}");
        assert_eq!(settle(64 << 10, ms(10)), (LEAST, LEAST), "half a megabit");
    }

    #[test]
    fn small_calls_that_are_slow_leave_room_for_a_batch() {
        let mut pace = Pace::new(MOST, BEAT);
        for _ in 0..100 {
            pace.took(300, BEAT * 4); // a slow disk at the other end
        }
        assert_eq!(pace.room(), LEAST);
        pace.took(300, Duration::from_millis(1));
        assert_eq!(pace.room(), LEAST, "a small call says nothing of large ones");
    }

    #[test]
    fn the_deadline_leaves_time_for_the_bytes() {
        assert_eq!(Pace::deadline(BEAT, 0), BEAT);
        assert_eq!(Pace::deadline(BEAT, 64 << 10), BEAT + Duration::from_secs(1));
    }
}
