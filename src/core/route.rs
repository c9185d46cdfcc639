//! The proxy table: listeners, routes and pools as one site's node sees them.
//!
//! Immutable and shared: a data plane takes one `Arc` and needs nothing else. Which backend is *healthy* is not here,
//! that is a node-local fact; which backend an operator drained or forced is.

use crate::{
    entry::{Force, Scope},
    id::{ListenerId, PoolId, SiteId},
    model::{
        BackendTls, Balance, Check, HashKey, Http2, Listener, PathMatch, Pool, Protocol, Route, Target, Tls,
    },
    state::State,
};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::net::SocketAddr;
use regex::Regex;

mod condition;
mod request;
pub use condition::{Mismatch, pattern};
pub use request::{RequestHead, Sample};

/// Everything that a node's proxy routes by, immutable.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProxyTable {
    /// The listeners with at least one address at this site.
    pub listeners: BTreeMap<ListenerId, Arc<ListenerTable>>,
    /// All pools, with the backends that this site's proxies use.
    pub pools: BTreeMap<PoolId, Arc<PoolTable>>,
}

/// One listener as this site's proxies bind it.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerTable {
    /// Its id.
    pub id: ListenerId,
    /// The addresses that this site binds.
    pub binds: Vec<SocketAddr>,
    /// What it speaks.
    pub protocol: Protocol,
    /// TLS termination.
    pub tls: Option<Tls>,
    /// Routes in order; the first match wins.
    pub routes: Vec<RouteTable>,
    /// Client connections at once; 0 for no limit.
    pub max_connections: u32,
    /// Longest wait for a whole request head, in milliseconds.
    pub header_timeout_ms: u32,
    /// Longest quiet time of a kept connection or of a tunnel, in milliseconds.
    pub idle_timeout_ms: u32,
    /// Largest request body in bytes; 0 for no limit.
    pub max_body: u64,
    /// One of so many requests is written to the access log; 0 for none.
    pub access_log: u32,
    /// Requests are given an id and a trace where they come without.
    pub identify: bool,
    /// Clients send first: connections are taken up with their first bytes.
    pub client_first: bool,
    /// Who may speak HTTP/2.
    pub http2: Http2,
}

/// One route and the pools that it leads to.
#[derive(Debug, Clone)]
pub struct RouteTable {
    /// The route as declared.
    pub spec: Route,
    /// The pools, resolved, with their weights; none when the route answers by itself.
    pub pools: Vec<(Arc<PoolTable>, u8)>,
    /// The path's regular expression, compiled; none where it is not one, or does not compile.
    pattern: Option<Regex>,
}

impl PartialEq for RouteTable {
    fn eq(&self, other: &RouteTable) -> bool {
        self.spec == other.spec && self.pools == other.pools // the pattern follows from the route
    }
}

/// One pool as this site's proxies use it.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolTable {
    /// Its id.
    pub id: PoolId,
    /// The backends that this site's proxies use, drained and forced ones included.
    pub backends: Vec<BackendTable>,
    /// How one is chosen.
    pub balance: Balance,
    /// How the local node checks them; none: only passive ejection.
    pub check: Option<Check>,
    /// Longest wait for a connection, in milliseconds.
    pub connect_timeout_ms: u32,
    /// Longest wait for the first byte of a response (L7), or between bytes (L4), in milliseconds.
    pub response_timeout_ms: u32,
    /// Connections or requests in flight per backend; 0 for no limit.
    pub max_connections: u32,
    /// How often a request is tried on another backend.
    pub retries: u8,
    /// How long a backend is left out after a hard failure, in milliseconds.
    pub eject_ms: u32,
    /// What a hash is made of.
    pub hash: HashKey,
    /// A backend that returns gets its whole share after so many milliseconds.
    pub slow_start_ms: u32,
    /// So many percentage points above its peers' error rate eject a backend; 0: none do.
    pub eject_errors: u8,
    /// At most so many percent are ejected for errors at once, but one at least.
    pub max_ejected: u8,
    /// Backends are spoken to in HTTP/2.
    pub http2: bool,
    /// Backends are spoken to over TLS.
    pub tls: Option<BackendTls>,
}

/// One backend of a pool, with the operator's word on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendTable {
    /// Where it listens.
    pub addr: SocketAddr,
    /// 1 to 255; 0 takes no new traffic.
    pub weight: u8,
    /// An operator's override, which beats what is observed.
    pub force: Option<Force>,
}

impl BackendTable {
    /// Takes no new traffic by configuration or by an operator's word, whatever its health is.
    pub fn closed(&self) -> bool {
        self.weight == 0 || matches!(self.force, Some(Force::Drain | Force::Down))
    }
}

impl ProxyTable {
    /// Builds the table of a state for the proxies of one site.
    pub fn build(state: &State, site: &SiteId) -> ProxyTable {
        let pools: BTreeMap<PoolId, Arc<PoolTable>> = state
            .pools
            .iter()
            .map(|(id, pool)| (id.clone(), Arc::new(PoolTable::build(state, site, id, pool))))
            .collect();
        let listeners = state
            .listeners
            .iter()
            .filter_map(|(id, listener)| ListenerTable::build(site, id, listener, &pools))
            .map(|l| (l.id.clone(), Arc::new(l)))
            .collect();
        ProxyTable { listeners, pools }
    }
}

impl PoolTable {
    fn build(state: &State, site: &SiteId, id: &PoolId, pool: &Pool) -> PoolTable {
        let force = |addr| state.overrides.get(&Scope::Backend(id.clone(), addr)).map(|o| o.force);
        let ours = pool.backends.iter().filter(|b| b.site.as_ref().is_none_or(|s| s == site));
        PoolTable {
            backends: ours
                .map(|b| BackendTable { addr: b.addr, weight: b.weight, force: force(b.addr) })
                .collect(),
            ..PoolTable::empty(id, pool)
        }
    }

    /// The pool without its backends.
    pub fn empty(id: &PoolId, pool: &Pool) -> PoolTable {
        PoolTable {
            id: id.clone(),
            backends: Vec::new(),
            balance: pool.balance,
            check: pool.check.clone(),
            connect_timeout_ms: pool.connect_timeout_ms,
            response_timeout_ms: pool.response_timeout_ms,
            max_connections: pool.max_connections,
            retries: pool.retries,
            eject_ms: pool.eject_ms,
            hash: pool.hash.clone(),
            slow_start_ms: pool.slow_start_ms,
            eject_errors: pool.eject_errors,
            max_ejected: pool.max_ejected,
            http2: pool.http2,
            tls: pool.tls.clone(),
        }
    }
}

impl RouteTable {
    fn build(route: &Route, pools: &BTreeMap<PoolId, Arc<PoolTable>>) -> RouteTable {
        let found = |id: &PoolId| match pools.get(id) {
            Some(pool) => pool.clone(),
            None => Arc::new(PoolTable::empty(id, &Pool::default())),
        };
        let targets: &[(PoolId, u8)] = match &route.target {
            Target::Pools(pools) => pools,
            Target::Redirect(_) | Target::Respond(_) => &[],
        };
        RouteTable {
            spec: route.clone(),
            pools: targets.iter().map(|(id, weight)| (found(id), *weight)).collect(),
            pattern: match &route.path {
                PathMatch::Regex(text) => pattern(text).ok(),
                _ => None,
            },
        }
    }

    /// The first condition that the request does not meet; none when the route takes it.
    pub fn mismatch(&self, request: &impl RequestHead) -> Option<Mismatch> {
        self.spec.mismatch(request, self.pattern.as_ref())
    }

    /// The path and query that a backend is asked for, where the route rewrites it.
    pub fn rewritten(&self, target: &str) -> Option<String> {
        self.spec.rewritten(target, self.pattern.as_ref())
    }
}

impl ListenerTable {
    fn build(
        site: &SiteId,
        id: &ListenerId,
        listener: &Listener,
        pools: &BTreeMap<PoolId, Arc<PoolTable>>,
    ) -> Option<ListenerTable> {
        let ours = listener.binds.iter().filter(|b| b.site.as_ref().is_none_or(|s| s == site));
        let binds: Vec<SocketAddr> = ours.map(|b| b.addr).collect();
        (!binds.is_empty()).then(|| ListenerTable {
            id: id.clone(),
            binds,
            protocol: listener.protocol,
            tls: listener.tls.clone(),
            routes: listener.routes.iter().map(|r| RouteTable::build(r, pools)).collect(),
            max_connections: listener.max_connections,
            header_timeout_ms: listener.header_timeout_ms,
            idle_timeout_ms: listener.idle_timeout_ms,
            max_body: listener.max_body,
            access_log: listener.access_log,
            identify: listener.identify,
            // HTTP and TLS begin with the client by definition.
            client_first: listener.client_first
                || matches!(listener.protocol, Protocol::Http | Protocol::Tls)
                || listener.tls.is_some(),
            http2: listener.http2,
        })
    }

    /// The first route that takes the request, as an index into `routes`.
    pub fn match_route(&self, request: &impl RequestHead) -> Option<usize> {
        self.routes.iter().position(|r| r.mismatch(request).is_none())
    }

    /// Which route takes the request and why the others do not, one line each, in order.
    pub fn explain(&self, request: &impl RequestHead) -> Vec<String> {
        let taken = self.match_route(request);
        let line = |(i, r): (usize, &RouteTable)| {
            let why = match (r.mismatch(request), taken) {
                (None, Some(t)) if t == i => String::from("takes the request"),
                (None, _) => {
                    format!("would take it, but route {} comes first", taken.unwrap_or_default() + 1)
                }
                (Some(m), _) => r.spec.explain(m, request),
            };
            format!("route {} {}: {why}", i + 1, r.spec.target)
        };
        let mut lines: Vec<String> = self.routes.iter().enumerate().map(line).collect();
        if taken.is_none() {
            lines.push("no route takes the request: it is answered 404".to_string());
        }
        lines
    }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
