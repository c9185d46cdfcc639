//! Totals: relaxed atomics, per worker where threads would share them, summed when read.

use crate::{
    health::{BackendHealth, LocalHealth},
    histogram::Times,
    live::{Live, LiveListener},
    pool_state::PoolState,
};
use std::{
    array,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Relaxed},
        },
    },
};
use zonekeeper_core::id::{ListenerId, PoolId};

/// Totals of one listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenerCounters {
    /// Client connections accepted.
    pub connections: u64,
    /// Client connections open now.
    pub active: u64,
    /// Connections closed at once because the listener was full.
    pub rejected: u64,
    /// Requests (L7) that were understood.
    pub requests: u64,
    /// Requests and handshakes refused: malformed, too large, too slow.
    pub refused: u64,
    /// Requests (L7) or connections (L4) above the rate.
    pub limited: u64,
    /// Requests (L7) or connections (L4) that no backend could serve.
    pub failed: u64,
    /// Answers (L7) by the first digit of their status, from 1, which stands for tunnels: interim ones are not counted.
    pub answers: [u64; 5],
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// How long requests (L7) took from the head to the end of the answer, over all routes.
    pub times: Times,
    /// When the first of its certificates ends, in seconds of Unix time; none where it has none.
    pub certificate_ends: Option<i64>,
}

/// Totals of one backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackendCounters {
    /// Requests (L7) or connections (L4) given to it.
    pub requests: u64,
    /// Of those, the ones that failed.
    pub errors: u64,
    /// Of those, the ones that were tried again afterwards.
    pub retries: u64,
    /// How often it was ejected.
    pub ejections: u64,
    /// In flight now.
    pub active: u64,
    /// Bytes to it.
    pub bytes_in: u64,
    /// Bytes from it.
    pub bytes_out: u64,
    /// Times to the first byte of an answer (L7).
    pub times: Times,
}

/// Totals of one pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounters {
    /// Requests (L7) or connections (L4) that wait for a place now.
    pub waiting: u64,
    /// Those that waited for a place.
    pub queued: u64,
    /// Those that found the queue full.
    pub overflowed: u64,
    /// Those that waited for too long.
    pub timed_out: u64,
    /// Those that were not tried again because the retry budget was used up.
    pub unretried: u64,
    /// Times to the first byte of an answer (L7), over all backends.
    pub times: Times,
}

/// All totals since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Per listener.
    pub listeners: Vec<(ListenerId, ListenerCounters)>,
    /// Per listener and route, by its place from 1: how long requests took from the head to the end of the answer.
    pub routes: Vec<(ListenerId, usize, Times)>,
    /// Per pool.
    pub pools: Vec<(PoolId, PoolCounters)>,
    /// Per pool and backend.
    pub backends: Vec<(PoolId, SocketAddr, BackendCounters)>,
}

/// One worker's share of a listener's totals.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Cell {
    pub(crate) connections: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) limited: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) answers: [AtomicU64; 5],
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

/// A listener's totals, one cell per worker, and its open connections, which are exact because they are limited.
#[derive(Debug)]
pub(crate) struct ListenerCells {
    cells: Box<[Cell]>,
    active: AtomicU32,
    /// Connections by address, where they are limited: at most one entry per connection.
    addresses: Mutex<HashMap<IpAddr, u32>>,
}

/// Counts one up; the only writer of a cell is its worker, but its readers are others.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed) + n, Relaxed);
}

impl Cell {
    /// A client got an answer with this status; 0 is none.
    pub(crate) fn answered(&self, status: u16) {
        let class = usize::from(status / 100).checked_sub(1);
        if let Some(counter) = class.and_then(|class| self.answers.get(class)) {
            add(counter, 1);
        }
    }
}

impl ListenerCells {
    pub(crate) fn new(workers: usize) -> ListenerCells {
        let cells = (0..workers).map(|_| Cell::default()).collect();
        ListenerCells { cells, active: AtomicU32::new(0), addresses: Mutex::default() }
    }

    pub(crate) fn workers(&self) -> usize {
        self.cells.len()
    }

    /// The cell that belongs to a worker, its only writer.
    pub(crate) fn of(&self, worker: usize) -> &Cell {
        &self.cells[worker % self.cells.len()]
    }

    /// Takes a place for a connection; none when `max` (0: no limit) are taken.
    pub(crate) fn enter(&self, max: u32) -> bool {
        let before = self.active.fetch_add(1, AcqRel);
        if max > 0 && before >= max {
            self.leave();
            return false;
        }
        true
    }

    pub(crate) fn leave(&self) {
        self.active.fetch_sub(1, AcqRel);
    }

    /// Takes one of `max` places of an address; the address that [`ListenerCells::leave_address`] gives it back by.
    pub(crate) fn enter_address(&self, addr: IpAddr, max: u32) -> Option<IpAddr> {
        let addr = match addr.to_canonical() {
            IpAddr::V6(v6) => IpAddr::from((v6.to_bits() >> 64 << 64).to_be_bytes()),
            v4 => v4,
        };
        let mut addresses = self.addresses();
        let open = addresses.entry(addr).or_insert(0);
        if *open >= max {
            return None;
        }
        *open += 1;
        Some(addr)
    }

    pub(crate) fn leave_address(&self, addr: IpAddr) {
        let mut addresses = self.addresses();
        match addresses.get_mut(&addr) {
            Some(open) if *open > 1 => *open -= 1,
            _ => drop(addresses.remove(&addr)),
        }
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    pub(crate) fn sum(&self) -> ListenerCounters {
        let of = |f: fn(&Cell) -> &AtomicU64| self.cells.iter().map(|c| f(c).load(Relaxed)).sum();
        ListenerCounters {
            connections: of(|c| &c.connections),
            active: u64::from(self.active()),
            rejected: of(|c| &c.rejected),
            requests: of(|c| &c.requests),
            refused: of(|c| &c.refused),
            limited: of(|c| &c.limited),
            failed: of(|c| &c.failed),
            answers: array::from_fn(|class| self.cells.iter().map(|c| c.answers[class].load(Relaxed)).sum()),
            bytes_in: of(|c| &c.bytes_in),
            bytes_out: of(|c| &c.bytes_out),
            times: Times::default(),
            certificate_ends: None,
        }
    }
}

/// The totals of all listeners.
pub(crate) fn of_listeners(live: &Live) -> Vec<(ListenerId, ListenerCounters)> {
    let of = |l: &LiveListener| ListenerCounters {
        times: l.times.sum(),
        certificate_ends: l.certificate_ends,
        ..l.cells.sum()
    };
    live.listeners.iter().map(|l| (l.table.id.clone(), of(l))).collect()
}

fn of_backend(b: &BackendHealth) -> BackendCounters {
    let t = &b.totals;
    let mut times = Times::default();
    t.times.add_to(&mut times);
    BackendCounters {
        times,
        requests: t.requests.load(Relaxed),
        errors: t.errors.load(Relaxed),
        retries: t.retries.load(Relaxed),
        ejections: t.ejections.load(Relaxed),
        active: u64::from(b.inflight()),
        bytes_in: t.bytes_in.load(Relaxed),
        bytes_out: t.bytes_out.load(Relaxed),
    }
}

/// How long requests took, of all routes.
pub(crate) fn of_routes(live: &Live) -> Vec<(ListenerId, usize, Times)> {
    let of = |l: &LiveListener| {
        let id = l.table.id.clone();
        l.times.sums().into_iter().enumerate().map(move |(i, times)| (id.clone(), i + 1, times))
    };
    live.listeners.iter().flat_map(of).collect()
}

/// The totals of all pools that are known.
pub(crate) fn of_pools(health: &LocalHealth) -> Vec<(PoolId, PoolCounters)> {
    let mut times: HashMap<PoolId, Times> = HashMap::new();
    for (pool, backend) in health.all() {
        backend.totals.times.add_to(times.entry(pool).or_default());
    }
    let of = |id: &PoolId, p: &PoolState| PoolCounters {
        times: p.times(times.get(id).copied().unwrap_or_default()),
        waiting: u64::from(p.queue.len()),
        queued: p.totals.queued.load(Relaxed),
        overflowed: p.totals.overflowed.load(Relaxed),
        timed_out: p.totals.timed_out.load(Relaxed),
        unretried: p.totals.unretried.load(Relaxed),
    };
    health.pools().into_iter().map(|(id, p)| (id.clone(), of(&id, &p))).collect()
}

/// The totals of all backends that are known.
pub(crate) fn of_backends(health: &LocalHealth) -> Vec<(PoolId, SocketAddr, BackendCounters)> {
    health.all().into_iter().map(|(pool, b)| (pool, b.addr, of_backend(&b))).collect()
}
