//! What the workers serve from: a published table joined with the health entries, counters and certificates of this
//! node. Made by the supervisor, swapped as one.

use crate::{
    counters::ListenerCells,
    health::{BackendHealth, LocalHealth, PoolClock},
};
use std::{collections::BTreeMap, sync::Arc};
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
    /// For each route the index of its pool.
    pub(crate) pools: Vec<usize>,
    pub(crate) cells: Arc<ListenerCells>,
    /// Present when the listener terminates TLS and its files could be read.
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
}

/// A pool with the health of its backends, in the table's order.
#[derive(Debug)]
pub(crate) struct LivePool {
    pub(crate) table: Arc<PoolTable>,
    pub(crate) backends: Vec<Arc<BackendHealth>>,
    pub(crate) clock: Arc<PoolClock>,
}

impl LivePool {
    pub(crate) fn new(table: Arc<PoolTable>, health: &LocalHealth) -> LivePool {
        let backends = table.backends.iter().map(|b| health.backend(&table.id, b.addr)).collect();
        LivePool { backends, clock: health.clock(&table.id), table }
    }
}

impl Live {
    /// Joins a table with what this node knows; `listener` gives counters and certificates.
    pub(crate) fn build(
        table: &ProxyTable,
        health: &LocalHealth,
        mut listener: impl FnMut(&Arc<ListenerTable>) -> (Arc<ListenerCells>, Option<Arc<rustls::ServerConfig>>),
    ) -> Live {
        let mut live = Live::default();
        let mut at: BTreeMap<&PoolId, usize> = BTreeMap::new();
        for l in table.listeners.values() {
            let mut pools = Vec::with_capacity(l.routes.len());
            for route in &l.routes {
                let next = live.pools.len();
                let index = *at.entry(&route.pool.id).or_insert(next);
                if index == next {
                    live.pools.push(LivePool::new(route.pool.clone(), health));
                }
                pools.push(index);
            }
            let (cells, tls) = listener(l);
            live.index.insert(l.id.clone(), live.listeners.len());
            live.listeners.push(LiveListener { table: l.clone(), pools, cells, tls });
        }
        live
    }

    /// The index of a listener.
    pub(crate) fn find(&self, id: &ListenerId) -> Option<usize> {
        self.index.get(id).copied()
    }
}
