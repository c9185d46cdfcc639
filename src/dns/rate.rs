//! Response rate limiting: a server that answers forged questions must not become somebody's flood.
//!
//! Answers over UDP are counted per client network (/24, /56) and kind of answer; NSD and BIND count by name too. So
//! one network's resolvers share the rate, whatever they ask; cookies take them out of it. Beyond the rate every `slip`-th answer is cut to a header with TC, so that a real client comes back over TCP, and the others are
//! not sent. Clients with a valid cookie, and TCP, are never limited. The table is of fixed size, shared by all workers
//! and without locks: an entry is one word, and what two workers lose by writing it at once is one answer.

use crate::cookie::siphash;
use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

/// Entries that a network may be found in.
const WAYS: usize = 4;
/// Bits of an entry for the time; the others are the tag.
const TIME_BITS: u32 = 48;
/// How much may come at once: what the rate allows in this time.
const BURST: u64 = 1_000_000;
/// Excess is remembered for so long: a flood gets nothing but slips until it pauses.
const MEMORY: u64 = 2_000_000;

/// How answers are limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateConfig {
    /// Answers a second to one network, of one kind; 1 to 1,000,000.
    pub rate: u32,
    /// Every how many limited answers one goes out, cut to nothing with TC; 1: all of them, 0: none.
    pub slip: u32,
    /// Networks that are remembered at once; rounded up to a power of two, 1024 to 16,777,216. 8 bytes each.
    pub size: usize,
}

impl Default for RateConfig {
    /// NSD's rate and slip.
    fn default() -> RateConfig {
        RateConfig { rate: 200, slip: 2, size: 1 << 16 }
    }
}

/// What kind of answer it is; each has a rate of its own, so that a flood of one does not silence the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Positive = 1,
    NoData,
    NxDomain,
    Referral,
    Error,
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Send,
    /// Cut to a header and a question, with TC.
    Slip,
    Drop,
}

/// The table.
pub struct RateLimit {
    entries: Box<[AtomicU64]>,
    key: [u8; 16],
    /// Microseconds that one answer costs.
    cost: u64,
    slip: u32,
    started: Instant,
}

impl RateLimit {
    /// An empty table.
    pub fn new(config: &RateConfig) -> RateLimit {
        let size = config.size.clamp(1 << 10, 1 << 24).next_power_of_two();
        let mut key = [0; 16];
        // Without randomness the table still works; only could one choose networks that share an entry.
        let _ = getrandom::fill(&mut key);
        RateLimit {
            entries: (0..size).map(|_| AtomicU64::new(0)).collect(),
            key,
            cost: 1_000_000 / u64::from(config.rate.clamp(1, 1_000_000)),
            slip: config.slip,
            started: Instant::now(),
        }
    }

    /// Counts an answer; `turn` counts the limited answers of one worker.
    pub(crate) fn count(&self, to: IpAddr, kind: Kind, turn: &mut u32) -> Limit {
        let now = MEMORY + self.started.elapsed().as_micros() as u64;
        if self.fits(to, kind, now) {
            return Limit::Send;
        }
        *turn = turn.wrapping_add(1);
        if self.slip > 0 && turn.is_multiple_of(self.slip) { Limit::Slip } else { Limit::Drop }
    }

    /// A leaky bucket by the time at which it will be empty.
    fn fits(&self, to: IpAddr, kind: Kind, now: u64) -> bool {
        let hash = siphash(&self.key, &network(to, kind));
        let tag = (hash >> TIME_BITS).max(1) << TIME_BITS;
        let time = |e: u64| e & ((1 << TIME_BITS) - 1);
        let at = (hash as usize & (self.entries.len() - 1)) & !(WAYS - 1);
        let ways = &self.entries[at..at + WAYS];
        let mine = ways.iter().find(|e| e.load(Relaxed) >> TIME_BITS == tag >> TIME_BITS);
        // A newcomer takes the place of the one that has been quiet for longest.
        let Some(entry) = mine.or_else(|| ways.iter().min_by_key(|e| time(e.load(Relaxed)))) else {
            return true;
        };
        let empty = if mine.is_some() { time(entry.load(Relaxed)).max(now) } else { now };
        let fits = empty + self.cost <= now + BURST.max(self.cost);
        let empty = (empty + self.cost).min(now + MEMORY);
        entry.store(tag | empty, Relaxed);
        fits
    }
}

impl std::fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RateLimit({} entries, one answer in {} us)", self.entries.len(), self.cost)
    }
}

/// /24 or /56, and the kind.
fn network(ip: IpAddr, kind: Kind) -> [u8; 8] {
    let mut key = [0; 8];
    match ip.to_canonical() {
        IpAddr::V4(ip) => key[4..7].copy_from_slice(&ip.octets()[..3]),
        IpAddr::V6(ip) => key[..7].copy_from_slice(&ip.octets()[..7]),
    }
    key[7] = kind as u8 | if ip.to_canonical().is_ipv4() { 0x80 } else { 0 };
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(rate: u32, slip: u32) -> RateLimit {
        RateLimit::new(&RateConfig { rate, slip, size: 1024 })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const NOW: u64 = 60_000_000;

    #[test]
    fn a_network_gets_its_rate_and_not_more() {
        let l = limit(100, 2);
        let sent = |from: u64, n: u64, step: u64| {
            (0..n).filter(|i| l.fits(ip("192.0.2.7"), Kind::Positive, from + i * step)).count()
        };
        assert_eq!(sent(NOW, 1000, 0), 100, "a burst is what one second allows");
        assert_eq!(sent(NOW + 100_000, 1000, 1000), 0, "a flood that goes on gets nothing");
        assert_eq!(sent(NOW + 5_000_000, 300, 10_000), 300, "its rate, all the time");
        assert_eq!(
            sent(NOW + 60_000_000, 2000, 5_000) / 10,
            19,
            "twice its rate: the burst, then nothing but the end"
        );
    }

    #[test]
    fn others_and_other_kinds_do_not_suffer() {
        let l = limit(10, 2);
        while l.fits(ip("192.0.2.1"), Kind::Positive, NOW) {}
        assert!(!l.fits(ip("192.0.2.200"), Kind::Positive, NOW), "the same /24");
        assert!(!l.fits(ip("::ffff:192.0.2.3"), Kind::Positive, NOW), "the same, as an IPv6 socket sees it");
        assert!(l.fits(ip("192.0.3.1"), Kind::Positive, NOW));
        assert!(l.fits(ip("192.0.2.1"), Kind::NxDomain, NOW));
        while l.fits(ip("2001:db8:1:200::1"), Kind::Error, NOW) {}
        assert!(!l.fits(ip("2001:db8:1:2ff::9"), Kind::Error, NOW), "the same /56");
        assert!(l.fits(ip("2001:db8:1:300::1"), Kind::Error, NOW));
    }

    #[test]
    fn every_second_limited_answer_slips() {
        for (slip, slips) in [(2, 50), (1, 100), (0, 0), (10, 10)] {
            let (l, mut turn) = (limit(1, slip), 0);
            let all: Vec<Limit> =
                (0..101).map(|_| l.count(ip("192.0.2.1"), Kind::Positive, &mut turn)).collect();
            assert_eq!(all[0], Limit::Send);
            assert_eq!(all.iter().filter(|a| **a == Limit::Slip).count(), slips, "slip {slip}");
        }
    }

    #[test]
    fn more_networks_than_entries_are_no_harm() {
        let l = limit(5, 2);
        for i in 0..100_000u32 {
            assert!(l.fits(IpAddr::from((i << 8).to_be_bytes()), Kind::Positive, NOW + u64::from(i)));
        }
    }
}
