//! `LocalHealth`: what this node knows of single backends. It chooses among backends and never says who is assigned.
//!
//! Everything that the request path touches is an atomic of one backend, on its own cache lines. The map is only read
//! when the configuration changes, by the prober, and by whoever shows it.

use crate::{histogram::Histogram, latency::Latency, outlier::Counted, pool_state::PoolState};
use rustix::time::{ClockId, clock_gettime};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::watch;
use zonekeeper_core::{
    entry::Force,
    id::PoolId,
    route::{BackendTable, PoolTable, ProxyTable},
};

/// Milliseconds of the monotonic clock; never 0.
pub fn now_ms() -> u64 {
    now_us() / 1000 + 1
}

/// Microseconds of the same clock.
pub(crate) fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// Half the time over which errors are counted.
const WINDOW_MS: u64 = 5000;

/// It has its share.
const NO_TRIAL: u8 = 0;
/// The next request is its trial: it comes back with one at a time, until one succeeds.
const TO_BE_TRIED: u8 = 1;
/// A request is its trial now. What was in flight before is none.
const TRIED: u8 = 2;

/// Why a backend is left out; of several, the last in this order counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Fault {
    /// Its requests fail, which no check sees, and which may be due to what was asked for.
    Requests = 1,
    /// It takes connections and fails the handshake on them, which no check that connects sees.
    Handshake = 2,
    /// It takes no connections, as a check sees, too.
    Connect = 3,
}

/// A number of an address, the same on every node.
fn seed(addr: SocketAddr) -> u64 {
    let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
    addr.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, step)
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
    /// When it came back, in milliseconds of [`now_ms`]; 0: it was never away.
    pub(crate) returned_at: AtomicU64,
    /// How it comes back: [`NO_TRIAL`], [`TO_BE_TRIED`] or [`TRIED`].
    trial: AtomicU8,
    /// The [`Fault`] that it was ejected for; 0: none.
    fault: AtomicU8,
    /// Ejections without a success between them.
    in_row: AtomicU8,
    /// A request failed and nobody looked at it yet.
    pub(crate) suspect: AtomicBool,
    /// What a hash knows it by.
    pub(crate) seed: u64,
    /// Counts of up to 10 and of up to 5 seconds ago.
    marks: [AtomicU64; 2],
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
    /// Requests without an answer, or answered with 500 and above.
    pub(crate) failures: AtomicU64,
    /// Times to the first byte of an answer.
    pub(crate) times: Histogram,
}

impl BackendHealth {
    fn new(addr: SocketAddr) -> BackendHealth {
        BackendHealth {
            addr,
            checked: AtomicU8::new(0),
            ejected_until: AtomicU64::new(0),
            inflight: AtomicU32::new(0),
            pass: AtomicU64::new(0),
            returned_at: AtomicU64::new(0),
            trial: AtomicU8::new(NO_TRIAL),
            fault: AtomicU8::new(0),
            in_row: AtomicU8::new(0),
            suspect: AtomicBool::new(false),
            seed: seed(addr),
            marks: Default::default(),
            latency: Latency::default(),
            totals: Totals::default(),
        }
    }

    /// It comes back after it was gone from the configuration: nothing is known of it but what it has in flight and has done.
    fn forget(&self) {
        self.checked.store(0, Relaxed);
        self.ejected_until.store(0, Relaxed);
        self.trial.store(NO_TRIAL, Relaxed);
        self.fault.store(0, Relaxed);
        self.in_row.store(0, Relaxed);
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

    /// Comes back with one request at a time, until one succeeds.
    pub fn on_trial(&self) -> bool {
        self.trial.load(Relaxed) != NO_TRIAL
    }

    /// Takes the trial for a request; false when there is none to be taken.
    pub(crate) fn begin_trial(&self) -> bool {
        self.trial.compare_exchange(TO_BE_TRIED, TRIED, Relaxed, Relaxed).is_ok()
    }

    /// The trial is over; where it succeeded or failed, that was said before.
    pub(crate) fn end_trial(&self) {
        let _ = self.trial.compare_exchange(TRIED, TO_BE_TRIED, Relaxed, Relaxed);
    }

    /// A request was answered (L7) or a connection stands (L4, as 200). A good answer ends a trial, but not while the backend
    /// is left out: then it belongs to a request from before.
    pub(crate) fn answered(&self, status: u16) {
        if status >= 500 {
            self.totals.failures.fetch_add(1, Relaxed);
            self.suspect.store(true, Relaxed);
        } else if self.on_trial() && !self.ejected(now_ms()) {
            self.readmit();
        }
    }

    fn readmit(&self) {
        self.trial.store(NO_TRIAL, Relaxed);
        self.fault.store(0, Relaxed);
        self.in_row.store(0, Relaxed);
        self.returned_at.store(now_ms(), Relaxed);
    }

    fn counted(&self) -> Counted {
        let (requests, failures) =
            (self.totals.requests.load(Relaxed) as u32, self.totals.failures.load(Relaxed) as u32);
        Counted { requests, failures }
    }

    /// Requests and failures of the last 5 to 10 seconds.
    pub(crate) fn recent(&self) -> Counted {
        self.counted().since(Counted::unpack(self.marks[0].load(Relaxed)))
    }

    fn turn_window(&self) {
        self.marks[0].store(self.marks[1].load(Relaxed), Relaxed);
        self.marks[1].store(self.counted().pack(), Relaxed);
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
        self.stands(table, self.ejected(now))
    }

    /// Counts as healthy in what the site says of itself at `now`: as [`BackendHealth::usable`], and also where it is
    /// ejected for its requests alone. One client may be the reason, and all others would be sent away.
    fn healthy(&self, table: &BackendTable, now: u64) -> bool {
        let for_requests = self.fault.load(Relaxed) == Fault::Requests as u8;
        self.stands(table, self.ejected(now) && !for_requests)
    }

    fn stands(&self, table: &BackendTable, ejected: bool) -> bool {
        !table.closed() && (table.force == Some(Force::Up) || (self.checked() != Checked::Down && !ejected))
    }

    /// Goes on with what it has at `now`: one that takes no new traffic does, unless an operator forces it down.
    pub(crate) fn keeps(&self, table: &BackendTable, now: u64) -> bool {
        match table.force {
            Some(Force::Up) => true,
            Some(Force::Down) => false,
            Some(Force::Drain) | None => self.checked() != Checked::Down && !self.ejected(now),
        }
    }

    /// Has the one request already that is its trial. It counts as usable nevertheless: it shows itself to a listener and
    /// to the site's own report as what it is going to be.
    pub(crate) fn tried_now(&self) -> bool {
        self.trial.load(Relaxed) == TRIED
    }

    /// May be tried when nothing better is left: ejected for a moment, but not known to be down.
    pub(crate) fn last_resort(&self, table: &BackendTable) -> bool {
        !table.closed() && (table.force == Some(Force::Up) || self.checked() != Checked::Down)
    }
}

#[derive(Debug, Default)]
struct Known {
    backends: BTreeMap<PoolId, BTreeMap<SocketAddr, Arc<BackendHealth>>>,
    pools: BTreeMap<PoolId, Arc<PoolState>>,
    /// Backends that the configuration no longer has, and that have requests or connections still: where one comes back,
    /// those count.
    gone: BTreeMap<(PoolId, SocketAddr), Weak<BackendHealth>>,
    /// The addresses that names stand for.
    resolved: BTreeMap<PoolId, Vec<BackendTable>>,
}

/// The health of every backend, as this node sees it.
#[derive(Debug)]
pub struct LocalHealth {
    known: RwLock<Known>,
    version: watch::Sender<u64>,
    /// When the windows of error rates were turned.
    turned: AtomicU64,
    resolutions: AtomicU64,
}

impl Default for LocalHealth {
    fn default() -> LocalHealth {
        LocalHealth {
            known: RwLock::default(),
            version: watch::Sender::new(0),
            turned: AtomicU64::new(0),
            resolutions: AtomicU64::new(0),
        }
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
        let Known { backends, gone, .. } = &mut *known;
        let mut returned = || {
            let backend = gone.remove(&(pool.clone(), addr))?.upgrade()?;
            backend.forget();
            Some(backend)
        };
        let entry = || returned().unwrap_or_else(|| Arc::new(BackendHealth::new(addr)));
        backends.entry(pool.clone()).or_default().entry(addr).or_insert_with(entry).clone()
    }

    /// The entry of a backend, if there is one.
    pub fn get(&self, pool: &PoolId, addr: SocketAddr) -> Option<Arc<BackendHealth>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.backends.get(pool)?.get(&addr).cloned()
    }

    /// What belongs to the pool itself, made when it is new.
    pub(crate) fn pool(&self, pool: &PoolId) -> Arc<PoolState> {
        self.write().pools.entry(pool.clone()).or_default().clone()
    }

    /// All backends of a pool, with those that its names stand for.
    pub fn backends<'p>(&self, pool: &'p PoolTable) -> Cow<'p, [BackendTable]> {
        if pool.names.is_empty() {
            return Cow::Borrowed(&pool.backends);
        }
        let forced = |b: BackendTable| BackendTable { force: pool.forces.get(&b.addr).copied(), ..b };
        pool.backends.iter().copied().chain(self.resolved(&pool.id).into_iter().map(forced)).collect()
    }

    /// What the names of a pool stand for.
    pub fn resolved(&self, pool: &PoolId) -> Vec<BackendTable> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.resolved.get(pool).cloned().unwrap_or_default()
    }

    /// Grows with each change of what names stand for.
    pub fn resolutions(&self) -> u64 {
        self.resolutions.load(Relaxed)
    }

    pub(crate) fn set_resolved(&self, all: BTreeMap<PoolId, Vec<BackendTable>>) {
        let mut known = self.write();
        if known.resolved != all {
            known.resolved = all;
            drop(known);
            self.resolutions.fetch_add(1, Relaxed);
            self.bump();
        }
    }

    /// Requests or connections that wait for a place in a pool.
    pub fn waiting(&self, pool: &PoolId) -> u32 {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.pools.get(pool).map_or(0, |p| p.queue.len())
    }

    /// All pools that are known.
    pub(crate) fn pools(&self) -> Vec<(PoolId, Arc<PoolState>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.pools.iter().map(|(id, p)| (id.clone(), p.clone())).collect()
    }

    /// The verdict of the node's own checks, told after each probe. A success ends an ejection that the check could have seen:
    /// where no connection was made, or when the backend was down meanwhile. Any other one ends by its time and a trial.
    pub fn set(&self, pool: &PoolId, addr: SocketAddr, up: bool) {
        let backend = self.backend(pool, addr);
        let before = backend.checked.swap(if up { 1 } else { 2 }, Relaxed);
        let ends = up && (before == 2 || backend.fault.load(Relaxed) == Fault::Connect as u8);
        let ejection = if ends { backend.ejected_until.swap(0, Relaxed) } else { 0 };
        if ends {
            backend.readmit();
        }
        if (before == 2) == up || ejection > now_ms() {
            self.bump();
        }
    }

    /// Leaves a backend out for `for_ms`. Longer each time, up to 8 times; then it comes back with one request.
    pub(crate) fn eject(&self, backend: &BackendHealth, fault: Fault, for_ms: u32) {
        if for_ms == 0 {
            return;
        }
        let now = now_ms();
        if backend.ejected(now) {
            backend.fault.fetch_max(fault as u8, Relaxed);
        } else {
            backend.fault.store(fault as u8, Relaxed);
        }
        let longer = u32::from(backend.in_row.load(Relaxed)).min(3);
        let before = backend.ejected_until.fetch_max(now + (u64::from(for_ms) << longer), Relaxed);
        if before <= now {
            backend.trial.store(TO_BE_TRIED, Relaxed);
            backend.in_row.store(longer as u8 + 1, Relaxed);
            backend.totals.ejections.fetch_add(1, Relaxed);
            self.bump();
        }
    }

    /// Ends the ejections that are over and returns when the next one will be.
    pub(crate) fn settle(&self, now: u64) -> Option<u64> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let turn = now.saturating_sub(self.turned.load(Relaxed)) >= WINDOW_MS;
        if turn {
            self.turned.store(now, Relaxed);
            known.backends.values().flat_map(BTreeMap::values).for_each(|b| b.turn_window());
            known.pools.values().for_each(|p| p.turn_window());
        }
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
        let healthy = |b: &&BackendTable| match self.get(&pool.id, b.addr) {
            Some(health) => health.healthy(b, now),
            None => !b.closed(),
        };
        let backends = self.backends(pool);
        (backends.iter().filter(healthy).count() as u32, backends.len() as u32)
    }

    /// Forgets the backends that the table no longer has.
    pub(crate) fn retain(&self, table: &ProxyTable) {
        let mut known = self.write();
        let Known { backends, pools, resolved, gone } = &mut *known;
        gone.retain(|_, backend| backend.strong_count() > 0);
        backends.retain(|id, backends| {
            let pool = table.pools.get(id);
            let named = resolved.get(id).into_iter().flatten();
            let there = pool.iter().flat_map(|pool| pool.backends.iter().chain(named.clone()));
            let addrs: BTreeSet<SocketAddr> = there.map(|b| b.addr).collect();
            for (addr, backend) in backends.extract_if(.., |addr, _| !addrs.contains(addr)) {
                pools.get(id).inspect(|pool| pool.keep_times(&backend.totals.times));
                gone.insert((id.clone(), addr), Arc::downgrade(&backend));
            }
            pool.is_some()
        });
        pools.retain(|id, _| table.pools.contains_key(id));
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
    use zonekeeper_core::model::Pool;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn pool(backends: &[(u16, Option<Force>)]) -> PoolTable {
        let backend =
            |&(port, force): &(u16, Option<Force>)| BackendTable { addr: addr(port), weight: 1, force };
        PoolTable {
            backends: backends.iter().map(backend).collect(),
            ..PoolTable::empty(&"web".parse().unwrap(), Pool::default())
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
        health.eject(&backend, Fault::Connect, 60_000);
        assert_eq!(health.healthy_count(&pool), (0, 1));
        assert!(health.settle(now_ms()).is_some());
        health.set(&pool.id, addr(1), true);
        assert_eq!(health.healthy_count(&pool), (1, 1));
        health.eject(&backend, Fault::Connect, 1000);
        assert_eq!(health.settle(now_ms() + 8001), None);
        assert_eq!(health.healthy_count(&pool), (1, 1));
    }

    #[test]
    fn a_backend_that_comes_back_has_what_is_in_flight() {
        let (health, pool) = (LocalHealth::new(), pool(&[(1, None)]));
        let old = health.backend(&pool.id, addr(1));
        old.inflight.fetch_add(1, Relaxed);
        health.set(&pool.id, addr(1), false);
        health.retain(&ProxyTable::default());
        assert!(health.get(&pool.id, addr(1)).is_none());
        let new = health.backend(&pool.id, addr(1));
        assert_eq!((new.inflight(), new.checked()), (1, Checked::Unknown), "and nothing that was said of it");
        health.retain(&ProxyTable::default());
        drop((old, new));
        assert_eq!(health.backend(&pool.id, addr(1)).inflight(), 0);
    }

    #[test]
    fn a_check_ends_what_it_could_have_seen() {
        let (health, id) = (LocalHealth::new(), "web".parse().unwrap());
        let backend = health.backend(&id, addr(1));
        for (fault, ends) in [(Fault::Requests, false), (Fault::Handshake, false), (Fault::Connect, true)] {
            health.eject(&backend, fault, 60_000);
            health.set(&id, addr(1), true);
            assert_eq!(backend.ejected(now_ms()), !ends, "{fault:?}");
            backend.answered(200);
            assert_eq!(backend.on_trial(), !ends, "an answer from before is no trial");
            health.set(&id, addr(1), false);
            health.set(&id, addr(1), true);
            assert!(!backend.ejected(now_ms()) && !backend.on_trial(), "it was down and came back");
        }
        health.eject(&backend, Fault::Connect, 60_000);
        health.eject(&backend, Fault::Requests, 60_000);
        health.set(&id, addr(1), true);
        assert!(!backend.ejected(now_ms()), "requests that were in flight when it died");
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
