//! `LocalHealth`: what this node knows of single backends. It chooses among backends and never says who is assigned.
//!
//! Everything that the request path touches is an atomic of one backend, on its own cache lines. The map is only read
//! when the configuration changes, by the prober, and by whoever shows it.

use crate::latency::Latency;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, OnceLock, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::sync::watch;
use zonekeeper_core::{
    entry::Force,
    id::PoolId,
    route::{BackendTable, PoolTable, ProxyTable},
};

/// Milliseconds of this process's monotonic clock, from its first use; never 0.
pub fn now_ms() -> u64 {
    now_us() / 1000 + 1
}

/// Microseconds of the same clock.
pub(crate) fn now_us() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ORIGIN.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// What active checks say of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Not checked yet: usable.
    Unknown,
    /// The last checks succeeded.
    Up,
    /// The last checks failed.
    Down,
}

/// One backend of one pool. Padded, so that two backends never share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct BackendHealth {
    /// The address.
    pub addr: SocketAddr,
    checked: AtomicU8,
    ejected_until: AtomicU64,
    /// Requests (L7) or connections (L4) in flight, over all threads: exact.
    pub(crate) inflight: AtomicU32,
    /// Its place in the weighted round-robin.
    pub(crate) pass: AtomicU64,
    pub(crate) latency: Latency,
    pub(crate) totals: Totals,
}

/// What a backend did so far.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) requests: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) ejections: AtomicU64,
}

impl BackendHealth {
    fn new(addr: SocketAddr) -> BackendHealth {
        BackendHealth {
            addr,
            checked: AtomicU8::new(0),
            ejected_until: AtomicU64::new(0),
            inflight: AtomicU32::new(0),
            pass: AtomicU64::new(0),
            latency: Latency::default(),
            totals: Totals::default(),
        }
    }

    /// What active checks say.
    pub fn checked(&self) -> Checked {
        match self.checked.load(Relaxed) {
            1 => Checked::Up,
            2 => Checked::Down,
            _ => Checked::Unknown,
        }
    }

    /// Left out after a hard failure, at `now` (milliseconds of [`now_ms`]).
    pub fn ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Relaxed) > now
    }

    /// Requests or connections in flight.
    pub fn inflight(&self) -> u32 {
        self.inflight.load(Relaxed)
    }

    /// Time to first byte, decayed, in microseconds; 0 when nothing was measured.
    pub fn latency_us(&self) -> u64 {
        self.latency.value_us() as u64
    }

    /// Takes new traffic at `now`: not closed by an operator, not down by checks, not ejected.
    pub fn usable(&self, table: &BackendTable, now: u64) -> bool {
        !table.closed()
            && (table.force == Some(Force::Up) || (self.checked() != Checked::Down && !self.ejected(now)))
    }

    /// May be tried when nothing better is left: ejected for a moment, but not known to be down.
    pub(crate) fn last_resort(&self, table: &BackendTable) -> bool {
        !table.closed() && (table.force == Some(Force::Up) || self.checked() != Checked::Down)
    }
}

/// One pool's place in virtual time: a backend that returns does not catch up on what it missed.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct PoolClock(pub(crate) AtomicU64);

#[derive(Debug, Default)]
struct Known {
    backends: BTreeMap<PoolId, BTreeMap<SocketAddr, Arc<BackendHealth>>>,
    clocks: BTreeMap<PoolId, Arc<PoolClock>>,
}

/// The health of every backend, as this node sees it.
#[derive(Debug)]
pub struct LocalHealth {
    known: RwLock<Known>,
    version: watch::Sender<u64>,
}

impl Default for LocalHealth {
    fn default() -> LocalHealth {
        LocalHealth { known: RwLock::default(), version: watch::Sender::new(0) }
    }
}

impl LocalHealth {
    /// Nothing known: every backend is usable.
    pub fn new() -> Arc<LocalHealth> {
        Arc::default()
    }

    /// Tells of every change: a check's verdict, an ejection, its end.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The entry of a backend, made when it is new.
    pub fn backend(&self, pool: &PoolId, addr: SocketAddr) -> Arc<BackendHealth> {
        if let Some(found) = self.get(pool, addr) {
            return found;
        }
        let mut known = self.write();
        let of_pool = known.backends.entry(pool.clone()).or_default();
        of_pool.entry(addr).or_insert_with(|| Arc::new(BackendHealth::new(addr))).clone()
    }

    /// The entry of a backend, if there is one.
    pub fn get(&self, pool: &PoolId, addr: SocketAddr) -> Option<Arc<BackendHealth>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.backends.get(pool)?.get(&addr).cloned()
    }

    pub(crate) fn clock(&self, pool: &PoolId) -> Arc<PoolClock> {
        self.write().clocks.entry(pool.clone()).or_default().clone()
    }

    /// The verdict of the node's own checks, told after each probe. A success ends an ejection.
    pub fn set(&self, pool: &PoolId, addr: SocketAddr, up: bool) {
        let backend = self.backend(pool, addr);
        let before = backend.checked.swap(if up { 1 } else { 2 }, Relaxed);
        let ejection = if up { backend.ejected_until.swap(0, Relaxed) } else { 0 };
        if (before == 2) == up || ejection > now_ms() {
            self.bump();
        }
    }

    /// A hard failure: the backend is left out for `for_ms`.
    pub(crate) fn eject(&self, backend: &BackendHealth, for_ms: u32) {
        let now = now_ms();
        let before = backend.ejected_until.fetch_max(now + u64::from(for_ms), Relaxed);
        if before <= now && for_ms > 0 {
            backend.totals.ejections.fetch_add(1, Relaxed);
            self.bump();
        }
    }

    /// Ends the ejections that are over and returns when the next one will be.
    pub(crate) fn settle(&self, now: u64) -> Option<u64> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (mut next, mut ended) = (None::<u64>, false);
        for backend in known.backends.values().flat_map(BTreeMap::values) {
            match backend.ejected_until.load(Relaxed) {
                0 => {}
                t if t > now => next = Some(next.map_or(t, |n| n.min(t))),
                t => ended |= backend.ejected_until.compare_exchange(t, 0, Relaxed, Relaxed).is_ok(),
            }
        }
        drop(known);
        if ended {
            self.bump();
        }
        next
    }

    /// Healthy and all backends of a pool at this site: what the site reports of itself.
    pub fn healthy_count(&self, pool: &PoolTable) -> (u32, u32) {
        let now = now_ms();
        let usable = |b: &&BackendTable| match self.get(&pool.id, b.addr) {
            Some(health) => health.usable(b, now),
            None => !b.closed(),
        };
        (pool.backends.iter().filter(usable).count() as u32, pool.backends.len() as u32)
    }

    /// Forgets the backends that the table no longer has.
    pub(crate) fn retain(&self, table: &ProxyTable) {
        let mut known = self.write();
        known.clocks.retain(|id, _| table.pools.contains_key(id));
        known.backends.retain(|id, backends| {
            let Some(pool) = table.pools.get(id) else { return false };
            let addrs: BTreeSet<SocketAddr> = pool.backends.iter().map(|b| b.addr).collect();
            backends.retain(|addr, _| addrs.contains(addr));
            true
        });
    }

    /// All entries, to show them.
    pub fn all(&self) -> Vec<(PoolId, Arc<BackendHealth>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let each = |(id, backends): (&PoolId, &BTreeMap<SocketAddr, Arc<BackendHealth>>)| {
            backends.values().map(|b| (id.clone(), b.clone())).collect::<Vec<_>>()
        };
        known.backends.iter().flat_map(each).collect()
    }

    fn bump(&self) {
        self.version.send_modify(|v| *v += 1);
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonekeeper_core::model::Balance;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn pool(backends: &[(u16, Option<Force>)]) -> PoolTable {
        let backend =
            |&(port, force): &(u16, Option<Force>)| BackendTable { addr: addr(port), weight: 1, force };
        PoolTable {
            id: "web".parse().unwrap(),
            backends: backends.iter().map(backend).collect(),
            balance: Balance::RoundRobin,
            check: None,
            connect_timeout_ms: 1000,
            response_timeout_ms: 1000,
            max_connections: 0,
            retries: 2,
            eject_ms: 1000,
        }
    }

    #[test]
    fn an_unknown_backend_is_usable_and_a_failed_check_is_seen_at_once() {
        let health = LocalHealth::new();
        let pool = pool(&[(1, None), (2, Some(Force::Drain)), (3, None)]);
        assert_eq!(health.healthy_count(&pool), (2, 3));
        let mut seen = health.subscribe();
        health.set(&pool.id, addr(1), true);
        health.set(&pool.id, addr(3), false);
        assert!(seen.has_changed().unwrap());
        assert_eq!(health.healthy_count(&pool), (1, 3));
        seen.mark_unchanged();
        health.set(&pool.id, addr(3), false);
        assert!(!seen.has_changed().unwrap(), "the same verdict again is no news");
    }

    #[test]
    fn an_ejection_ends_by_time_or_by_a_check_that_succeeds() {
        let health = LocalHealth::new();
        let pool = pool(&[(1, None)]);
        let backend = health.backend(&pool.id, addr(1));
        health.eject(&backend, 60_000);
        assert_eq!(health.healthy_count(&pool), (0, 1));
        assert!(health.settle(now_ms()).is_some());
        health.set(&pool.id, addr(1), true);
        assert_eq!(health.healthy_count(&pool), (1, 1));
        health.eject(&backend, 1000);
        assert_eq!(health.settle(now_ms() + 1001), None);
        assert_eq!(health.healthy_count(&pool), (1, 1));
    }

    #[test]
    fn a_forced_backend_is_what_the_operator_says() {
        let health = LocalHealth::new();
        let pool = pool(&[(1, Some(Force::Up)), (2, Some(Force::Down))]);
        health.set(&pool.id, addr(1), false);
        health.set(&pool.id, addr(2), true);
        assert_eq!(health.healthy_count(&pool), (1, 2));
    }
}
