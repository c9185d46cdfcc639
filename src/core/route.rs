//! The proxy table: listeners, routes and pools as one site's node sees them.
//!
//! Immutable and shared: a data plane takes one `Arc` and needs nothing else. Which backend is *healthy* is not here,
//! that is a node-local fact; which backend an operator drained or forced is.

use crate::{
    entry::{Force, Override, Scope, Secret},
    id::{CertificateId, ListenerId, PoolId, SiteId},
    model::{Listener, NamedBackend, PathMatch, Pool, Protocol, Route},
    secrets::Bundle,
    state::State,
};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::{net::SocketAddr, ops::Deref};
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
    /// Secrets that common keys are derived from, what is used first; where they are sealed, whoever publishes the table
    /// opens them.
    pub secrets: Vec<Secret>,
    /// The certificates that the listeners use and the cluster holds, as far as whoever publishes the table can open
    /// them.
    pub certificates: BTreeMap<CertificateId, Bundle>,
}

/// One listener as this site's proxies bind it; everything else is as declared.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerTable {
    /// Its id.
    pub id: ListenerId,
    /// The addresses that this site binds.
    pub binds: Vec<SocketAddr>,
    /// Routes in order; the first match wins.
    pub routes: Vec<RouteTable>,
    /// Clients send first: connections are taken up with their first bytes.
    pub client_first: bool,
    /// The listener as declared.
    pub spec: Arc<Listener>,
}

impl Deref for ListenerTable {
    type Target = Listener;
    fn deref(&self) -> &Listener {
        &self.spec
    }
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

/// One pool as this site's proxies use it; everything else is as declared.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolTable {
    /// Its id.
    pub id: PoolId,
    /// The backends that this site's proxies use, drained and forced ones included.
    pub backends: Vec<BackendTable>,
    /// Those that have names, which each node resolves.
    pub names: Vec<NamedBackend>,
    /// An operator's word on addresses of this pool.
    pub forces: BTreeMap<SocketAddr, Force>,
    /// The pool as declared.
    pub spec: Arc<Pool>,
}

impl Deref for PoolTable {
    type Target = Pool;
    fn deref(&self) -> &Pool {
        &self.spec
    }
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
        ProxyTable { listeners, pools, secrets: state.secrets.session.clone(), certificates: BTreeMap::new() }
    }
}

impl PoolTable {
    fn build(state: &State, site: &SiteId, id: &PoolId, pool: &Arc<Pool>) -> PoolTable {
        let force = |addr| state.overrides.get(&Scope::Backend(id.clone(), addr)).map(|o| o.force);
        let ours = pool.backends.iter().filter(|b| b.site.as_ref().is_none_or(|s| s == site));
        let backends =
            ours.map(|b| BackendTable { addr: b.addr, weight: b.weight, force: force(b.addr) }).collect();
        let ours = |b: &&NamedBackend| b.site.as_ref().is_none_or(|s| s == site);
        let names: Vec<NamedBackend> = pool.names.iter().filter(ours).cloned().collect();
        let on = |(scope, o): (&Scope, &Arc<Override>)| match scope {
            Scope::Backend(pool, addr) if pool == id => Some((*addr, o.force)),
            _ => None,
        };
        let forces = match names.is_empty() {
            true => BTreeMap::new(),
            false => state.overrides.iter().filter_map(on).collect(),
        };
        PoolTable { id: id.clone(), backends, names, forces, spec: pool.clone() }
    }

    /// A pool without backends at this site.
    pub fn empty(id: &PoolId, spec: Pool) -> PoolTable {
        let (names, forces) = (Vec::new(), BTreeMap::new());
        PoolTable { id: id.clone(), backends: Vec::new(), names, forces, spec: Arc::new(spec) }
    }
}

impl RouteTable {
    fn build(route: &Route, pools: &BTreeMap<PoolId, Arc<PoolTable>>) -> RouteTable {
        let found = |id: &PoolId| match pools.get(id) {
            Some(pool) => pool.clone(),
            None => Arc::new(PoolTable::empty(id, Pool::default())),
        };
        RouteTable {
            spec: route.clone(),
            pools: route.target.pools().iter().map(|(id, weight)| (found(id), *weight)).collect(),
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
        listener: &Arc<Listener>,
        pools: &BTreeMap<PoolId, Arc<PoolTable>>,
    ) -> Option<ListenerTable> {
        let ours = listener.binds.iter().filter(|b| b.site.as_ref().is_none_or(|s| s == site));
        let binds: Vec<SocketAddr> = ours.map(|b| b.addr).collect();
        (!binds.is_empty()).then(|| ListenerTable {
            id: id.clone(),
            binds,
            routes: listener.routes.iter().map(|r| RouteTable::build(r, pools)).collect(),
            // HTTP and TLS begin with the client by definition.
            client_first: listener.client_first
                || matches!(listener.protocol, Protocol::Http | Protocol::Tls)
                || listener.tls.is_some(),
            spec: listener.clone(),
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
