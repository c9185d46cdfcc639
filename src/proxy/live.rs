//! What the workers serve from: a published table joined with the health entries, counters and certificates of this
//! node. Made by the supervisor, swapped as one.

use crate::{
    balance,
    counters::ListenerCells,
    health::{BackendHealth, LocalHealth},
    histogram::{Histogram, Times},
    pool_state::PoolState,
    sticky,
    tls::{Backends, Client},
};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};
use zonekeeper_core::{
    entry::Secret,
    id::{ListenerId, PoolId},
    model::{Protocol, Route},
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
    /// A number of its own, for what is counted by listener.
    pub(crate) seed: u64,
    /// For each route where its requests go.
    pub(crate) routes: Vec<Split>,
    pub(crate) cells: Arc<ListenerCells>,
    /// How long requests took, by route.
    pub(crate) times: Arc<RouteTimes>,
    /// Present when the listener terminates TLS and its files could be read.
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    /// When the first of its certificates ends, in Unix time.
    pub(crate) certificate_ends: Option<i64>,
}

/// A listener's TLS, and when the first of its certificates ends.
pub(crate) type OfTls = (Arc<rustls::ServerConfig>, Option<i64>);

/// How long requests took, by route and worker.
#[derive(Debug, Default)]
pub(crate) struct RouteTimes {
    routes: Vec<Arc<[Histogram]>>,
    /// What routes had that are gone: a listener's sum never falls.
    gone: Times,
}

impl RouteTimes {
    /// Of these routes. What was counted goes on where a route takes the requests that one of before took.
    fn new(routes: &[Route], workers: usize, before: Option<&LiveListener>) -> RouteTimes {
        let known = before.iter().flat_map(|b| b.table.spec.routes.iter().zip(&b.times.routes));
        let mut known: Vec<_> = known.map(|(route, times)| (route, Some(times))).collect();
        let of_route = |route: &Route| {
            let same = known.iter_mut().find(|(r, times)| times.is_some() && r.takes_the_same(route));
            let times = same.and_then(|(_, times)| times.take());
            times.cloned().unwrap_or_else(|| (0..workers).map(|_| Histogram::default()).collect())
        };
        let routes = routes.iter().map(of_route).collect();
        let mut gone = before.map(|b| b.times.gone).unwrap_or_default();
        known.iter().filter_map(|(_, times)| *times).flat_map(|t| t.iter()).for_each(|h| h.add_to(&mut gone));
        RouteTimes { routes, gone }
    }

    /// Counts a request.
    pub(crate) fn record(&self, route: usize, worker: usize, us: u64) {
        if let Some(of_route) = self.routes.get(route) {
            of_route[worker % of_route.len()].record(us);
        }
    }

    /// What was counted, by route.
    pub(crate) fn sums(&self) -> Vec<Times> {
        let sum = |of_route: &Arc<[Histogram]>| {
            let mut times = Times::default();
            of_route.iter().for_each(|h| h.add_to(&mut times));
            times
        };
        self.routes.iter().map(sum).collect()
    }

    /// What was counted in all.
    pub(crate) fn sum(&self) -> Times {
        let mut sum = self.gone;
        self.sums().iter().for_each(|times| sum.add(times));
        sum
    }
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
    pub(crate) state: Arc<PoolState>,
    /// How they are spoken to over TLS; none without TLS, or while its files cannot be read.
    pub(crate) tls: Option<Arc<Client>>,
    /// The sticky cookie's values.
    pub(crate) sticky: sticky::Values,
    /// Where an ejection is told.
    pub(crate) health: Arc<LocalHealth>,
    /// A listener of requests leads here: response times are those of its responses.
    pub(crate) requests: bool,
}

impl LivePool {
    pub(crate) fn new(
        table: Arc<PoolTable>,
        secrets: &[Secret],
        health: &Arc<LocalHealth>,
        tls: Option<Arc<Client>>,
    ) -> LivePool {
        let table = match health.backends(&table) {
            Cow::Borrowed(_) => table,
            Cow::Owned(backends) => Arc::new(PoolTable { backends, ..(*table).clone() }),
        };
        let backends: Vec<_> = table.backends.iter().map(|b| health.backend(&table.id, b.addr)).collect();
        let sticky = match table.sticky {
            Some(_) => sticky::Values::new(secrets, &table.id, backends.iter().map(|b| b.seed)),
            None => sticky::Values::default(),
        };
        let (state, health) = (health.pool(&table.id), health.clone());
        LivePool { backends, state, tls, health, sticky, table, requests: false }
    }
}

impl Live {
    /// Joins a table with what this node knows; `listener` gives counters and certificates. What was counted by route in
    /// `before` goes on.
    pub(crate) fn build(
        table: &ProxyTable,
        health: &Arc<LocalHealth>,
        backends: &Backends,
        before: &Live,
        mut listener: impl FnMut(&Arc<ListenerTable>) -> (Arc<ListenerCells>, Option<OfTls>),
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
                        let tls = backends.of(pool);
                        live.pools.push(LivePool::new(pool.clone(), &table.secrets, health, tls));
                    }
                    live.pools[index].requests |= l.protocol == Protocol::Http;
                    sum += u32::from(*weight);
                    split.pools.push((index, sum));
                }
                routes.push(split);
            }
            let (cells, tls) = listener(l);
            let (tls, certificate_ends) = tls.map_or((None, None), |(tls, ends)| (Some(tls), ends));
            live.index.insert(l.id.clone(), live.listeners.len());
            let seed = balance::hash(l.id.as_str().as_bytes());
            let known = before.find(&l.id).map(|i| &before.listeners[i]);
            let times = match known.filter(|k| k.table.spec.routes == l.spec.routes) {
                Some(known) => known.times.clone(),
                None => Arc::new(RouteTimes::new(&l.spec.routes, cells.workers(), known)),
            };
            let table = l.clone();
            live.listeners.push(LiveListener { table, seed, routes, cells, times, tls, certificate_ends });
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
