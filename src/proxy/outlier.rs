//! Passive ejection: a backend that cannot be connected to is left out for a while, at once; one that breaks off, is late,
//! or whose requests fail more often than those of its peers, too, as long as most of its pool is there.
//!
//! A success costs nothing here: the rate is that of counters which exist anyway, over the last 5 to 10 seconds, and it is
//! looked at when a request failed. Where every backend fails alike, it is the application, and nobody is ejected.

use crate::{
    health::{BackendHealth, Fault, now_ms},
    live::LivePool,
};
use std::sync::atomic::Ordering::Relaxed;

/// Failures before a rate means something.
const FAILURES: u32 = 5;

/// Requests and failures since some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) requests: u32,
    pub(crate) failures: u32,
}

impl Counted {
    fn rate(self) -> f64 {
        if self.requests == 0 { 0.0 } else { f64::from(self.failures) / f64::from(self.requests) }
    }

    pub(crate) fn pack(self) -> u64 {
        u64::from(self.requests) << 32 | u64::from(self.failures)
    }

    pub(crate) fn unpack(packed: u64) -> Counted {
        Counted { requests: (packed >> 32) as u32, failures: packed as u32 }
    }

    /// What was counted since an earlier count.
    pub(crate) fn since(self, earlier: Counted) -> Counted {
        Counted {
            requests: self.requests.wrapping_sub(earlier.requests),
            failures: self.failures.wrapping_sub(earlier.failures),
        }
    }
}

/// A backend failed a request. What it met once it was sent may be due to what was asked for: one address that is slow, or
/// that a backend dies of, must not take a pool out.
pub(crate) fn failed(pool: &LivePool, index: usize, fault: Fault) {
    let backend = &pool.backends[index];
    if fault == Fault::Requests && !room(pool, index) {
        return suspect(backend);
    }
    backend.totals.failures.fetch_add(1, Relaxed);
    pool.health.eject(backend, fault, pool.table.eject_ms);
}

/// A request failed in a way that only counts with others.
pub(crate) fn suspect(backend: &BackendHealth) {
    backend.totals.failures.fetch_add(1, Relaxed);
    backend.suspect.store(true, Relaxed);
}

/// Whether this one may be left out for what is no proof: few enough are, and another one is usable.
fn room(pool: &LivePool, index: usize) -> bool {
    let now = now_ms();
    let ejected = pool.backends.iter().filter(|b| b.ejected(now)).count();
    let mut others = pool.backends.iter().zip(&pool.table.backends).enumerate().filter(|(i, _)| *i != index);
    ejected < (pool.backends.len() * usize::from(pool.table.max_ejected) / 100).max(1)
        && others.any(|(_, (backend, table))| backend.usable(table, now))
}

/// Looks at a backend whose request failed.
pub(crate) fn judge(pool: &LivePool, index: usize) {
    let (table, backend) = (&pool.table, &pool.backends[index]);
    backend.suspect.store(false, Relaxed);
    if table.eject_errors == 0 || table.eject_ms == 0 || backend.ejected(now_ms()) {
        return;
    }
    if room(pool, index) && (backend.on_trial() || worse_than_peers(pool, index)) {
        pool.health.eject(backend, Fault::Requests, table.eject_ms);
    }
}

fn worse_than_peers(pool: &LivePool, index: usize) -> bool {
    let own = pool.backends[index].recent();
    if own.failures < FAILURES {
        return false;
    }
    let mut peers = Counted::default();
    let others = pool.backends.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, b)| b);
    for recent in others.map(|b| BackendHealth::recent(b)) {
        peers.requests += recent.requests;
        peers.failures += recent.failures;
    }
    (own.rate() - peers.rate()) * 100.0 >= f64::from(pool.table.eject_errors)
}
