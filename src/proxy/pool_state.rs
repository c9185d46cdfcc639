//! What belongs to a pool and not to one of its backends: its place in virtual time, who waits for it, and how many of
//! its requests were tried again. It outlives changes of the configuration.

use crate::{
    histogram::{Histogram, Times},
    live::LivePool,
    queue::Queue,
};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// Retries that are always allowed within 5 to 10 seconds: a backend that dies in a quiet hour costs nobody an error.
const RETRIES: u64 = 50;

/// One pool's state, shared by all workers.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct PoolState {
    /// Virtual time of the weighted round-robin: a backend that returns does not catch up on what it missed.
    pub(crate) clock: AtomicU64,
    pub(crate) queue: Queue,
    pub(crate) totals: Totals,
    /// Retries so far.
    retries: AtomicU32,
    /// Times of backends that are gone: the pool's sum never falls.
    gone: Mutex<Times>,
    /// As counted up to 10 and up to 5 seconds ago.
    marks: [AtomicU32; 2],
}

/// What happened to a pool's requests beside being served.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Waited for a place.
    pub(crate) queued: AtomicU64,
    /// Found no place in the queue.
    pub(crate) overflowed: AtomicU64,
    /// Waited for too long.
    pub(crate) timed_out: AtomicU64,
    /// Were not tried again because too many were.
    pub(crate) unretried: AtomicU64,
}

impl PoolState {
    /// A backend is gone.
    pub(crate) fn keep_times(&self, of_backend: &Histogram) {
        of_backend.move_to(&mut self.gone.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The times of all backends, where those that are there have these.
    pub(crate) fn times(&self, mut present: Times) -> Times {
        present.add(&self.gone.lock().unwrap_or_else(PoisonError::into_inner));
        present
    }

    pub(crate) fn turn_window(&self) {
        self.marks[0].store(self.marks[1].load(Relaxed), Relaxed);
        self.marks[1].store(self.retries.load(Relaxed), Relaxed);
    }
}

/// Takes a retry out of the pool's budget: a share of what was asked lately, so that a pool which fails as a whole is not
/// asked several times as often as it would be in health.
pub(crate) fn may_retry(pool: &LivePool) -> bool {
    let may = can_retry(pool);
    if may {
        pool.state.retries.fetch_add(1, Relaxed);
    }
    may
}

/// Whether the budget has a retry; one that it does not have is counted.
pub(crate) fn can_retry(pool: &LivePool) -> bool {
    let state = &pool.state;
    let lately = state.retries.load(Relaxed).wrapping_sub(state.marks[0].load(Relaxed));
    let requests: u64 = pool.backends.iter().map(|b| u64::from(b.recent().requests)).sum();
    let allowed = RETRIES + requests * u64::from(pool.table.retry_budget) / 100;
    let can = u64::from(lately) < allowed;
    if !can {
        state.totals.unretried.fetch_add(1, Relaxed);
    }
    can
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::LocalHealth;
    use std::{net::SocketAddr, sync::Arc};
    use zonekeeper_core::{
        model::Pool,
        route::{BackendTable, PoolTable},
    };

    #[test]
    fn retries_are_a_share_of_the_requests_and_some_more() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let spec = Pool { retry_budget: 10, ..Pool::default() };
        let table = PoolTable {
            backends: vec![BackendTable { addr, weight: 1, force: None }],
            ..PoolTable::empty(&"web".parse().unwrap(), spec)
        };
        let health = LocalHealth::new();
        let pool = LivePool::new(Arc::new(table), &[], &health, None);
        let taken = || (0..1000).filter(|_| may_retry(&pool)).count();
        assert_eq!(taken(), 50, "without a request");
        pool.backends[0].totals.requests.fetch_add(1000, Relaxed);
        assert_eq!(taken(), 100, "a tenth of them");
        assert_eq!(pool.state.totals.unretried.load(Relaxed), 950 + 900);
        pool.state.turn_window();
        assert_eq!(taken(), 0, "the last seconds count");
        pool.state.turn_window();
        assert!(taken() >= 50, "and no more than they");
    }
}
