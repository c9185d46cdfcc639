//! Which backend takes the next request. Exact over all threads: every choice ends in one compare-and-swap on the
//! counter that it was made by, and starts again when another thread was faster.

use crate::{health::now_us, live::LivePool, outlier};
use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed},
};
use zonekeeper_core::{
    entry::Force,
    model::{Balance, HashKey},
    route::{PoolTable, RequestHead},
};

/// One round of a backend with weight 1, in virtual time.
const STRIDE: u64 = 1 << 20;
/// Weights are counted in parts, so that a backend that is warmed up has a small share.
const PARTS: u64 = 256;
/// Up to so many backends all are compared; beyond, two picked at random (power of two choices).
const FULL_SCAN: usize = 16;
/// A choice that other threads keep overtaking settles for the last one.
const ATTEMPTS: usize = 64;

/// A place on a backend, to be given back with [`release`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The backend's index.
    pub(crate) index: usize,
    /// It is the backend's trial.
    pub(crate) trial: bool,
}

/// What a choice came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This place is taken.
    Backend(Place),
    /// Usable ones are there, all at their limit.
    Full,
    /// None is usable.
    Nothing,
}

/// Chooses a backend that is not in `exclude` and takes a place on it. `key`: what [`Balance::Hash`] chooses by.
pub(crate) fn choose(pool: &LivePool, key: u64, exclude: &[usize], now_ms: u64) -> Choice {
    let mut asked = Asked { pool, key, now_ms, beside_trials: false };
    match asked.choose(&|i| usable(pool, exclude, i, now_ms)) {
        // All were ejected for a moment: rather one of those than an error.
        Choice::Nothing => {
            asked.beside_trials = true;
            asked.choose(&|i| !exclude.contains(&i) && pool.backends[i].last_resort(&pool.table.backends[i]))
        }
        choice => choice,
    }
}

/// Takes a place on this backend, if it is usable and has one. It costs no turn: those that come back to their backend say
/// nothing of where new ones shall go.
pub(crate) fn choose_same(pool: &LivePool, index: usize, exclude: &[usize], now_ms: u64) -> Option<Choice> {
    if !usable(pool, exclude, index, now_ms) || !one_more(pool, index) {
        return None;
    }
    enter(pool, index, false).map(Choice::Backend)
}

/// Counts one more on this backend, if it has a place.
fn one_more(pool: &LivePool, index: usize) -> bool {
    let max = pool.table.max_connections;
    let next = |n: u32| (max == 0 || n < max).then_some(n + 1);
    pool.backends[index].inflight.fetch_update(AcqRel, Acquire, next).is_ok()
}

/// A place that was counted already; none where another request was faster to be the backend's trial.
fn enter(pool: &LivePool, index: usize, beside_trials: bool) -> Option<Place> {
    let backend = &pool.backends[index];
    let trial = backend.begin_trial();
    let waits = backend.tried_now() && pool.table.backends[index].force != Some(Force::Up);
    if !trial && waits && !beside_trials {
        backend.inflight.fetch_sub(1, AcqRel);
        return None;
    }
    Some(Place { index, trial })
}

/// Gives the place back, and judges the backend if its request failed.
pub(crate) fn release(pool: &LivePool, Place { index, trial }: Place) {
    let backend = &pool.backends[index];
    backend.inflight.fetch_sub(1, AcqRel);
    if trial {
        backend.end_trial();
    }
    if pool.table.max_connections > 0 {
        pool.state.queue.wake();
    }
    if backend.suspect.load(Relaxed) {
        outlier::judge(pool, index);
    }
}

/// What a hash chooses by, for a request; 0 where the pool does not hash.
pub(crate) fn key(pool: &PoolTable, request: &impl RequestHead) -> u64 {
    if pool.balance != Balance::Hash {
        return 0;
    }
    key_by(&pool.hash, request, 0)
}

/// A number of what the request has of this; of its client's address (IPv6: of its /64, where it is `of` something) where
/// it lacks it.
pub(crate) fn key_by(by: &HashKey, request: &impl RequestHead, of: u64) -> u64 {
    let mut found = None;
    match by {
        HashKey::Source => {}
        HashKey::Path => found = Some(hash(request.path().as_bytes())),
        HashKey::Header(name) => {
            request.any_header(name, &mut |v| found.replace(hash(v)).is_none());
        }
        HashKey::Cookie(name) => {
            request.any_header("cookie", &mut |v| {
                found = cookie(v, name.as_bytes()).map(hash);
                found.is_some()
            });
        }
    }
    let source = |addr: IpAddr| if of == 0 { key_of_source(addr) } else { key_of_network(addr) };
    let key = found.or_else(|| request.source().map(source)).unwrap_or_default();
    if of == 0 { key } else { mix(key ^ of) }
}

/// A number of a client's address; of an IPv6 address, which clients have many of, its /64.
pub(crate) fn key_of_network(addr: IpAddr) -> u64 {
    match addr.to_canonical() {
        IpAddr::V4(v4) => hash(&v4.octets()),
        IpAddr::V6(v6) => hash(&v6.octets()[..8]),
    }
}

/// What a hash chooses by, for a client.
pub(crate) fn key_of_source(addr: IpAddr) -> u64 {
    match addr.to_canonical() {
        IpAddr::V4(v4) => hash(&v4.octets()),
        IpAddr::V6(v6) => hash(&v6.octets()),
    }
}

/// The backend that the request's sticky cookie names, and whether the cookie is one of now.
pub(crate) fn sticky(pool: &LivePool, request: &impl RequestHead) -> Option<(usize, bool)> {
    let name = pool.table.sticky.as_ref()?;
    let mut found = None;
    request.any_header("cookie", &mut |v| {
        found = cookie(v, name.as_bytes()).and_then(|said| pool.sticky.find(said));
        found.is_some()
    });
    found
}

/// The value of a cookie in one `Cookie` field (RFC 6265 §4.2.1).
fn cookie<'v>(field: &'v [u8], name: &[u8]) -> Option<&'v [u8]> {
    field.split(|b| *b == b';').find_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))
}

/// FNV-1a, mixed: the same on every node and in every version, so that all sites choose alike.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The finalizer of splitmix64.
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn usable(pool: &LivePool, exclude: &[usize], i: usize, now_ms: u64) -> bool {
    let (backend, table) = (&pool.backends[i], &pool.table.backends[i]);
    let waits = backend.tried_now() && table.force != Some(Force::Up);
    !exclude.contains(&i) && backend.usable(table, now_ms) && !waits
}

/// A choice that is being made.
struct Asked<'p> {
    pool: &'p LivePool,
    key: u64,
    now_ms: u64,
    /// A backend may be taken that has its trial now.
    beside_trials: bool,
}

impl Asked<'_> {
    fn choose(&self, may: &dyn Fn(usize) -> bool) -> Choice {
        let mut overtaken = None;
        for _ in 0..ATTEMPTS {
            let best = match self.pool.table.balance {
                Balance::RoundRobin => self.scan(may, |_, _| 0.0),
                Balance::LeastConnections => self.scan(may, |i, inflight| self.load(i, inflight)),
                Balance::ResponseTime => self.by_response_time(may),
                Balance::TwoChoices => self.of_two(may, |i, inflight| self.load(i, inflight)),
                Balance::Hash => self.scan(may, |i, _| self.distance(i)),
            };
            match best {
                Best::None(choice) => return choice,
                Best::At(c) => {
                    if self.take(c)
                        && let Some(place) = enter(self.pool, c.index, self.beside_trials)
                    {
                        return Choice::Backend(place);
                    }
                    overtaken = Some(c.index);
                }
            }
        }
        // Other threads were faster each time: the best one of a moment ago is better than none.
        let place = overtaken.filter(|i| one_more(self.pool, *i));
        let place = place.and_then(|i| enter(self.pool, i, self.beside_trials));
        place.map_or(Choice::Full, Choice::Backend)
    }

    /// The weight in parts. A backend that came back begins with a tenth of it.
    fn weight(&self, i: usize) -> u64 {
        let whole = u64::from(self.pool.table.backends[i].weight).max(1) * PARTS;
        whole * self.warmth(i) / 100
    }

    /// How much of its share a backend gets, in percent.
    fn warmth(&self, i: usize) -> u64 {
        let slow = u64::from(self.pool.table.slow_start_ms);
        if slow == 0 {
            return 100;
        }
        match self.pool.backends[i].returned_at.load(Relaxed) {
            0 => 100,
            at => (self.now_ms.saturating_sub(at) * 100 / slow).clamp(10, 100),
        }
    }

    /// Requests in flight per weight. One that is warmed up counts the next one too, or it would be the idlest for ever.
    fn load(&self, i: usize, inflight: u32) -> f64 {
        let next = u32::from(self.warmth(i) < 100);
        f64::from(inflight + next) / self.weight(i) as f64
    }

    /// Weighted rendezvous hashing: each backend draws a number for the key, and the lowest wins. One that goes leaves only
    /// its own keys to others.
    fn distance(&self, i: usize) -> f64 {
        let draw = mix(self.key ^ self.pool.backends[i].seed) >> 11;
        let uniform = (draw as f64 + 1.0) / (1u64 << 53) as f64;
        -uniform.ln() / self.weight(i) as f64
    }

    /// A backend at random, by weight; never the one that is `but`.
    fn draw(&self, but: Option<usize>) -> Option<usize> {
        let backends = &self.pool.table.backends;
        let weight = |i: usize| if but == Some(i) { 0 } else { u64::from(backends[i].weight) };
        let total: u64 = (0..backends.len()).map(weight).sum();
        let mut at = random().checked_rem(total)?;
        (0..backends.len()).find(|i| match at.checked_sub(weight(*i)) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        })
    }

    /// The cheaper one of two at random, where each is drawn as often as its weight says.
    fn of_two(&self, may: &dyn Fn(usize) -> bool, cost: impl Fn(usize, u32) -> f64) -> Best {
        let first = self.draw(None);
        let two = [first, self.draw(first)];
        // Of equals the first: those that are idle share by their weights.
        let ordered = |i: usize, inflight: u32| match cost(i, inflight) {
            cost if first == Some(i) => cost,
            cost => cost.next_up(),
        };
        match self.scan(&|i| two.contains(&Some(i)) && may(i), ordered) {
            Best::None(_) => self.scan(may, &cost), // neither is usable
            found => found,
        }
    }
}

/// A candidate as it was seen.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    index: usize,
    inflight: u32,
    due: u64,
    cost: f64,
}

enum Best {
    At(Candidate),
    None(Choice),
}

impl Asked<'_> {
    /// The lowest cost; among equals the one that is due first, which alone is smooth weighted round-robin.
    fn scan(&self, may: &dyn Fn(usize) -> bool, cost: impl Fn(usize, u32) -> f64) -> Best {
        let pool = self.pool;
        let now = pool.state.clock.load(Relaxed);
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
            let c = Candidate { index: i, inflight, due: self.due(i, now), cost: cost(i, inflight) };
            if best.is_none_or(|b| (c.cost, c.due) < (b.cost, b.due)) {
                best = Some(c);
            }
        }
        match best {
            Some(c) => Best::At(c),
            None => Best::None(if full { Choice::Full } else { Choice::Nothing }),
        }
    }

    fn stride(&self, i: usize) -> u64 {
        STRIDE * PARTS / self.weight(i).max(1)
    }

    /// When a backend's turn is, in virtual time. One that is new, or that time has left behind, gets a turn within its next
    /// round, and does not catch up on what it missed. Each at another point of it, so that light ones do not come all at
    /// once: multiples of the golden ratio fill a range evenly.
    fn due(&self, i: usize, now: u64) -> u64 {
        let pass = &self.pool.backends[i].pass;
        match pass.load(Relaxed) {
            due if due >= now && due != 0 => due,
            behind => {
                let into = u64::from((i as u32).wrapping_mul(0x9e37_79b9)); // of 2^32
                let due = now + ((self.stride(i) * into) >> 32); // a stride has less than 2^29 parts
                // Kept, or it would go away as time goes on.
                pass.compare_exchange(behind, due, Relaxed, Relaxed).map_or_else(|faster| faster, |_| due)
            }
        }
    }

    /// Takes a place if nobody was faster.
    fn take(&self, c: Candidate) -> bool {
        let backend = &self.pool.backends[c.index];
        if backend.inflight.compare_exchange(c.inflight, c.inflight + 1, AcqRel, Relaxed).is_err() {
            return false;
        }
        let next = c.due + self.stride(c.index);
        let turn = backend.pass.compare_exchange(c.due, next, Relaxed, Relaxed);
        if turn.is_err() && self.pool.table.balance == Balance::RoundRobin {
            backend.inflight.fetch_sub(1, AcqRel);
            return false;
        }
        self.pool.state.clock.fetch_max(c.due, Relaxed);
        true
    }

    fn by_response_time(&self, may: &dyn Fn(usize) -> bool) -> Best {
        let now = now_us();
        let median = median(self.pool, may);
        let cost = |i: usize, inflight: u32| {
            let expected = self.pool.backends[i].latency.expected_us(now, median);
            expected * f64::from(inflight + 1) / self.weight(i) as f64
        };
        if self.pool.backends.len() <= FULL_SCAN { self.scan(may, cost) } else { self.of_two(may, cost) }
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

/// xorshift64: cheap, per thread, begun anywhere; good enough to pick two of many and to name a request.
pub(crate) fn random() -> u64 {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0) });
    STATE.with(|s| {
        let mut x = if s.get() == 0 { RandomState::new().hash_one(now_us()) | 1 } else { s.get() };
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
