//! What the workers serve from: a published table joined with the health entries, counters and certificates of this
//! node. Made by the supervisor, swapped as one.

use crate::{
    counters::ListenerCells,
    health::{BackendHealth, LocalHealth, PoolClock},
    tls::{Backends, Client},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};
use zonekeeper_core::{
    id::{ListenerId, PoolId},
    route::{ListenerTable, PoolTable, ProxyTable},
};

/// Everything that a worker needs, immutable but for the atomics of health and counters.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) listeners: Vec<LiveListener>,
    pub(crate) pools: Vec<LivePool>,
    index: BTreeMap<ListenerId, usize>,
}

/// A listener with its counters.
#[derive(Debug)]
pub(crate) struct LiveListener {
    pub(crate) table: Arc<ListenerTable>,
    /// For each route where its requests go.
    pub(crate) routes: Vec<Split>,
    pub(crate) cells: Arc<ListenerCells>,
    /// Present when the listener terminates TLS and its files could be read.
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
}

/// A route's pools, by their index, and whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Split {
    /// Index and the sum of the weights up to and with it.
    pools: Vec<(usize, u32)>,
    turn: AtomicU32,
}

impl Split {
    /// The pool of the next request; none for a route that answers by itself.
    pub(crate) fn next(&self) -> Option<usize> {
        let (last, total) = *self.pools.last()?;
        if self.pools.len() == 1 {
            return Some(last);
        }
        // Multiples of the golden ratio fill a range evenly, so a short run of requests is split well, too.
        let spread = self.turn.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9);
        let at = ((u64::from(spread) * u64::from(total)) >> 32) as u32;
        self.pools.iter().find(|(_, sum)| at < *sum).map(|(pool, _)| *pool)
    }
}

/// A pool with the health of its backends, in the table's order.
#[derive(Debug)]
pub(crate) struct LivePool {
    pub(crate) table: Arc<PoolTable>,
    pub(crate) backends: Vec<Arc<BackendHealth>>,
    pub(crate) clock: Arc<PoolClock>,
    /// How they are spoken to over TLS; none without TLS, or while its files cannot be read.
    pub(crate) tls: Option<Arc<Client>>,
    /// Where an ejection is told.
    pub(crate) health: Arc<LocalHealth>,
}

impl LivePool {
    pub(crate) fn new(
        table: Arc<PoolTable>,
        health: &Arc<LocalHealth>,
        tls: Option<Arc<Client>>,
    ) -> LivePool {
        let backends = table.backends.iter().map(|b| health.backend(&table.id, b.addr)).collect();
        LivePool { backends, clock: health.clock(&table.id), tls, health: health.clone(), table }
    }
}

impl Live {
    /// Joins a table with what this node knows; `listener` gives counters and certificates.
    pub(crate) fn build(
        table: &ProxyTable,
        health: &Arc<LocalHealth>,
        backends: &Backends,
        mut listener: impl FnMut(&Arc<ListenerTable>) -> (Arc<ListenerCells>, Option<Arc<rustls::ServerConfig>>),
    ) -> Live {
        let mut live = Live::default();
        let mut at: BTreeMap<&PoolId, usize> = BTreeMap::new();
        for l in table.listeners.values() {
            let mut routes = Vec::with_capacity(l.routes.len());
            for route in &l.routes {
                let mut split = Split::default();
                let mut sum = 0;
                for (pool, weight) in &route.pools {
                    let next = live.pools.len();
                    let index = *at.entry(&pool.id).or_insert(next);
                    if index == next {
                        live.pools.push(LivePool::new(pool.clone(), health, backends.of(pool)));
                    }
                    sum += u32::from(*weight);
                    split.pools.push((index, sum));
                }
                routes.push(split);
            }
            let (cells, tls) = listener(l);
            live.index.insert(l.id.clone(), live.listeners.len());
            live.listeners.push(LiveListener { table: l.clone(), routes, cells, tls });
        }
        live
    }

    /// The index of a listener.
    pub(crate) fn find(&self, id: &ListenerId) -> Option<usize> {
        self.index.get(id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_split_by_weight_from_the_first_on() {
        let split = Split { pools: vec![(4, 9), (7, 10)], turn: AtomicU32::new(0) };
        let got: Vec<usize> = (0..10_000).filter_map(|_| split.next()).collect();
        for run in [30, 100, 10_000] {
            let small = got[..run].iter().filter(|p| **p == 7).count();
            assert!(small.abs_diff(run / 10) <= 2, "{small} of {run}");
        }
        assert_eq!(Split::default().next(), None);
    }
}
