//! Which backend takes the next request. Exact over all threads: every choice ends in one compare-and-swap on the
//! counter that it was made by, and starts again when another thread was faster.

use crate::{
    health::{BackendHealth, now_us},
    live::LivePool,
};
use std::{
    cell::Cell,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed},
};
use zonekeeper_core::model::Balance;

/// One round of a backend with weight 1, in virtual time.
const STRIDE: u64 = 1 << 20;
/// Up to so many backends all are compared; beyond, two picked at random (power of two choices).
const FULL_SCAN: usize = 16;
/// A choice that other threads keep overtaking settles for the last one.
const ATTEMPTS: usize = 16;

/// What a choice came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This one; a place on it is taken and must be given back with [`release`].
    Backend(usize),
    /// Usable ones are there, all at their limit.
    Full,
    /// None is usable.
    Nothing,
}

/// Chooses a backend that is not in `exclude` and takes a place on it.
pub(crate) fn choose(pool: &LivePool, exclude: &[usize], now_ms: u64) -> Choice {
    match choose_among(pool, &|i| usable(pool, exclude, i, now_ms)) {
        // All were ejected for a moment: rather one of those than an error.
        Choice::Nothing => choose_among(pool, &|i| {
            !exclude.contains(&i) && pool.backends[i].last_resort(&pool.table.backends[i])
        }),
        choice => choice,
    }
}

/// Gives the place back.
pub(crate) fn release(backend: &BackendHealth) {
    backend.inflight.fetch_sub(1, AcqRel);
}

fn usable(pool: &LivePool, exclude: &[usize], i: usize, now_ms: u64) -> bool {
    !exclude.contains(&i) && pool.backends[i].usable(&pool.table.backends[i], now_ms)
}

fn choose_among(pool: &LivePool, may: &dyn Fn(usize) -> bool) -> Choice {
    let mut last = Choice::Nothing;
    for _ in 0..ATTEMPTS {
        let best = match pool.table.balance {
            Balance::RoundRobin => scan(pool, may, |_, _| 0.0),
            Balance::LeastConnections => {
                scan(pool, may, |i, inflight| f64::from(inflight) / weight(pool, i) as f64)
            }
            Balance::ResponseTime => by_response_time(pool, may),
        };
        match best {
            Best::None(choice) => return choice,
            Best::At(c) => {
                if take(pool, c) {
                    return Choice::Backend(c.index);
                }
                last = Choice::Full; // overtaken: look again
            }
        }
    }
    last
}

/// A candidate as it was seen.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    index: usize,
    inflight: u32,
    pass: u64,
    due: u64,
    cost: f64,
}

enum Best {
    At(Candidate),
    None(Choice),
}

fn weight(pool: &LivePool, i: usize) -> u64 {
    u64::from(pool.table.backends[i].weight).max(1)
}

/// The lowest cost; among equals the one that is due first, which alone is smooth weighted round-robin.
fn scan(pool: &LivePool, may: &dyn Fn(usize) -> bool, cost: impl Fn(usize, u32) -> f64) -> Best {
    let now = pool.clock.0.load(Relaxed);
    let (mut best, mut full): (Option<Candidate>, bool) = (None, false);
    for (i, backend) in pool.backends.iter().enumerate() {
        if !may(i) {
            continue;
        }
        let inflight = backend.inflight.load(Acquire);
        if pool.table.max_connections > 0 && inflight >= pool.table.max_connections {
            full = true;
            continue;
        }
        let pass = backend.pass.load(Relaxed);
        // A new or returning backend is due now, half a round in, and does not catch up on what it missed.
        let due = if pass < now { now + STRIDE / weight(pool, i) / 2 } else { pass };
        let c = Candidate { index: i, inflight, pass, due, cost: cost(i, inflight) };
        if best.is_none_or(|b| (c.cost, c.due) < (b.cost, b.due)) {
            best = Some(c);
        }
    }
    match best {
        Some(c) => Best::At(c),
        None => Best::None(if full { Choice::Full } else { Choice::Nothing }),
    }
}

/// Takes a place if nobody was faster.
fn take(pool: &LivePool, c: Candidate) -> bool {
    let backend = &pool.backends[c.index];
    if backend.inflight.compare_exchange(c.inflight, c.inflight + 1, AcqRel, Relaxed).is_err() {
        return false;
    }
    let next = c.due + STRIDE / weight(pool, c.index);
    let turn = backend.pass.compare_exchange(c.pass, next, Relaxed, Relaxed);
    if turn.is_err() && pool.table.balance == Balance::RoundRobin {
        release(backend);
        return false;
    }
    pool.clock.0.fetch_max(c.due, Relaxed);
    true
}

fn by_response_time(pool: &LivePool, may: &dyn Fn(usize) -> bool) -> Best {
    let now = now_us();
    let median = median(pool, may);
    let cost = |i: usize, inflight: u32| {
        let expected = pool.backends[i].latency.expected_us(now, median);
        expected * f64::from(inflight + 1) / weight(pool, i) as f64
    };
    if pool.backends.len() <= FULL_SCAN {
        return scan(pool, may, cost);
    }
    let n = pool.backends.len();
    let (a, b) = (random() as usize % n, random() as usize % n);
    match scan(pool, &|i| (i == a || i == b) && may(i), cost) {
        Best::None(_) => scan(pool, may, cost), // neither is usable
        found => found,
    }
}

/// The (lower) median of what was measured, where one that is new begins; of the first few in a large pool.
fn median(pool: &LivePool, may: &dyn Fn(usize) -> bool) -> f64 {
    let mut values = [0.0f64; FULL_SCAN];
    let mut n = 0;
    for (i, backend) in pool.backends.iter().enumerate() {
        let value = backend.latency.value_us();
        if n < FULL_SCAN && value > 0.0 && may(i) {
            values[n] = value;
            n += 1;
        }
    }
    values[..n].sort_unstable_by(f64::total_cmp);
    values[..n].get(n.saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// xorshift64: cheap, per thread, and good enough to pick two of many.
fn random() -> u64 {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0) });
    STATE.with(|s| {
        let mut x = if s.get() == 0 { now_us() | 1 } else { s.get() };
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        s.set(x);
        x
    })
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
