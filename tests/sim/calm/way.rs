//! The way of a probe there and back, with TCP's own retransmissions (RFC 6298: 1 s for a SYN; Linux: 200 ms beyond
//! the round trip for data).

use super::trouble::Trouble;
use crate::rng::Rng;
use std::iter;
use zonekeeper_core::detector::{Observation, Pace};

/// First retransmission of a SYN.
const SYN_MS: u64 = 1_000;
/// First retransmission of data.
const DATA_MS: u64 = 200;

/// What an observer sees of a probe that goes out now, and when. `late`: when a try of the probe before it is answered.
pub(super) fn probe(
    trouble: &mut Trouble,
    rng: &mut Rng,
    (from, to): (usize, usize),
    beat: bool,
    now: u64,
    (pace, late): (Pace, &mut Option<u64>),
) -> (Observation, u64) {
    let end = now + pace.within_ms;
    let mut first = late.take().map(|at| (Observation::Answer, at));
    let others = (now + pace.again_ms..end).step_by(pace.more_ms as usize);
    for begins in iter::once(now).chain(others) {
        // a program that stands still tries nothing; one that has its answer tries no more
        if trouble.free(from, begins) > begins || first.is_some_and(|(_, at)| at <= begins) {
            break;
        }
        let ended = attempt(trouble, rng, (from, to), beat, begins, end);
        let lives = |at: u64| at <= begins + pace.life_ms || at <= trouble.free(from, begins + pace.life_ms);
        first = [first, ended.filter(|(_, at)| lives(*at))].into_iter().flatten().min_by_key(|(_, at)| *at);
    }
    // a program that stood still sees what came in the meantime before its own timeout
    let awake = |t: u64| trouble.free(from, t);
    match first {
        Some((seen, at)) if at <= end || at <= awake(end) => (seen, awake(at.max(now))),
        other => {
            *late = other.filter(|(seen, _)| !beat && *seen == Observation::Answer).map(|(_, at)| at);
            (Observation::Silence, awake(end))
        }
    }
}

fn attempt(
    trouble: &mut Trouble,
    rng: &mut Rng,
    (from, to): (usize, usize),
    beat: bool,
    now: u64,
    deadline: u64,
) -> Option<(Observation, u64)> {
    // packets after the deadline help nobody, but for an observer that stands still; it has not long to wait either
    let until = deadline + 6_000;
    let mut at = now;
    if !beat {
        // the kernel answers a SYN, also for a program that stands still
        at = there_and_back(trouble, rng, (from, to), at, SYN_MS, until)?;
    }
    if trouble.away(to, at) {
        return Some((Observation::Refused, at));
    }
    at = one_way(trouble, rng, (from, to), at, until)?;
    let free = trouble.free(to, at);
    if trouble.away(to, at) || trouble.away(to, free) {
        return Some((Observation::Refused, at));
    }
    at = one_way(trouble, rng, (to, from), free, until)?;
    Some((Observation::Answer, at))
}

/// A SYN and its answer: when either is lost, the SYN goes out again.
fn there_and_back(
    trouble: &mut Trouble,
    rng: &mut Rng,
    (from, to): (usize, usize),
    mut at: u64,
    mut wait: u64,
    until: u64,
) -> Option<u64> {
    while at < until {
        if let Some(there) = trouble.packet(from, to, at, rng)
            && let Some(back) = trouble.packet(to, from, at + there, rng)
        {
            return Some(at + there + back);
        }
        at += wait;
        wait *= 2;
    }
    None
}

/// A segment of data, sent again until it is there.
fn one_way(
    trouble: &mut Trouble,
    rng: &mut Rng,
    (from, to): (usize, usize),
    mut at: u64,
    until: u64,
) -> Option<u64> {
    let mut wait = DATA_MS;
    while at < until {
        if let Some(delay) = trouble.packet(from, to, at, rng) {
            return Some(at + delay);
        }
        at += wait;
        wait *= 2;
    }
    None
}
