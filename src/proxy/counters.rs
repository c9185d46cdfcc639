//! Totals: relaxed atomics, per worker where threads would share them, summed when read.

use crate::health::{BackendHealth, LocalHealth};
use std::{
    net::SocketAddr,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Relaxed},
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
    /// Requests (L7) or connections (L4) that no backend could serve.
    pub failed: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
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
}

/// All totals since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Per listener.
    pub listeners: Vec<(ListenerId, ListenerCounters)>,
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
    pub(crate) failed: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

/// A listener's totals, one cell per worker, and its open connections, which are exact because they are limited.
#[derive(Debug)]
pub(crate) struct ListenerCells {
    cells: Box<[Cell]>,
    active: AtomicU32,
}

/// Counts one up; the only writer of a cell is its worker, but its readers are others.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed) + n, Relaxed);
}

impl ListenerCells {
    pub(crate) fn new(workers: usize) -> ListenerCells {
        ListenerCells { cells: (0..workers).map(|_| Cell::default()).collect(), active: AtomicU32::new(0) }
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
            failed: of(|c| &c.failed),
            bytes_in: of(|c| &c.bytes_in),
            bytes_out: of(|c| &c.bytes_out),
        }
    }
}

fn of_backend(b: &BackendHealth) -> BackendCounters {
    let t = &b.totals;
    BackendCounters {
        requests: t.requests.load(Relaxed),
        errors: t.errors.load(Relaxed),
        retries: t.retries.load(Relaxed),
        ejections: t.ejections.load(Relaxed),
        active: u64::from(b.inflight()),
        bytes_in: t.bytes_in.load(Relaxed),
        bytes_out: t.bytes_out.load(Relaxed),
    }
}

/// The totals of all backends that are known.
pub(crate) fn of_backends(health: &LocalHealth) -> Vec<(PoolId, SocketAddr, BackendCounters)> {
    health.all().into_iter().map(|(pool, b)| (pool, b.addr, of_backend(&b))).collect()
}
