//! The proxy table: listeners, routes and pools as one site's node sees them.
//!
//! Immutable and shared: a data plane takes one `Arc` and needs nothing else. Which backend is *healthy* is not here,
//! that is a node-local fact; which backend an operator drained or forced is.

use crate::{
    entry::{Force, Scope},
    id::{ListenerId, PoolId, SiteId},
    model::{Balance, Check, Listener, Pool, Protocol, Route, TlsFiles},
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
    pub tls: Option<TlsFiles>,
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
}

/// One route and the pool that it leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteTable {
    /// The conditions as declared.
    pub spec: Route,
    /// The pool, resolved.
    pub pool: Arc<PoolTable>,
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
            id: id.clone(),
            backends: ours
                .map(|b| BackendTable { addr: b.addr, weight: b.weight, force: force(b.addr) })
                .collect(),
            balance: pool.balance,
            check: pool.check.clone(),
            connect_timeout_ms: pool.connect_timeout_ms,
            response_timeout_ms: pool.response_timeout_ms,
            max_connections: pool.max_connections,
            retries: pool.retries,
            eject_ms: pool.eject_ms,
        }
    }

    /// A pool without backends: where a route leads whose pool is unknown.
    fn empty(id: &PoolId) -> PoolTable {
        PoolTable {
            id: id.clone(),
            backends: Vec::new(),
            balance: Balance::default(),
            check: None,
            connect_timeout_ms: 0,
            response_timeout_ms: 0,
            max_connections: 0,
            retries: 0,
            eject_ms: 0,
        }
    }
}

/// What a route looks at in a request. Implemented by the codec over the bytes that it parsed, so that matching copies
/// nothing, and by [`Sample`] for `explain` and tests.
pub trait RequestHead {
    /// `Host` as it came, with or without a port; empty when there is none.
    fn host(&self) -> &str;
    /// The target's path without the query.
    fn path(&self) -> &str;
    /// Whether a value of the header (name in lower case) passes the test.
    fn any_header(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

/// A request in words, to ask where it would go.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// `Host`.
    pub host: String,
    /// The path.
    pub path: String,
    /// Header names and values.
    pub headers: Vec<(String, String)>,
}

impl RequestHead for Sample {
    fn host(&self) -> &str {
        &self.host
    }
    fn path(&self) -> &str {
        &self.path
    }
    fn any_header(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.headers.iter().any(|(n, v)| n.eq_ignore_ascii_case(name) && test(v.as_bytes()))
    }
}

/// Why a route does not take a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// None of its hosts.
    Host,
    /// Not under its path.
    Path,
    /// The header is missing or has another value.
    Header,
    /// The cookie is missing or has another value.
    Cookie,
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
        let pool =
            |r: &Route| pools.get(&r.pool).cloned().unwrap_or_else(|| Arc::new(PoolTable::empty(&r.pool)));
        (!binds.is_empty()).then(|| ListenerTable {
            id: id.clone(),
            binds,
            protocol: listener.protocol,
            tls: listener.tls.clone(),
            routes: listener.routes.iter().map(|r| RouteTable { spec: r.clone(), pool: pool(r) }).collect(),
            max_connections: listener.max_connections,
            header_timeout_ms: listener.header_timeout_ms,
            idle_timeout_ms: listener.idle_timeout_ms,
            max_body: listener.max_body,
        })
    }

    /// The first route that takes the request, as an index into `routes`.
    pub fn match_route(&self, request: &impl RequestHead) -> Option<usize> {
        self.routes.iter().position(|r| r.spec.mismatch(request).is_none())
    }

    /// Which route takes the request and why the others do not, one line each, in order.
    pub fn explain(&self, request: &impl RequestHead) -> Vec<String> {
        let taken = self.match_route(request);
        let line = |(i, r): (usize, &RouteTable)| {
            let why = match (r.spec.mismatch(request), taken) {
                (None, Some(t)) if t == i => String::from("takes the request"),
                (None, _) => {
                    format!("would take it, but route {} comes first", taken.unwrap_or_default() + 1)
                }
                (Some(m), _) => r.spec.explain(m, request),
            };
            format!("route {} to pool {}: {why}", i + 1, r.spec.pool)
        };
        let mut lines: Vec<String> = self.routes.iter().enumerate().map(line).collect();
        if taken.is_none() {
            lines.push("no route takes the request: it is answered 404".to_string());
        }
        lines
    }
}

impl Route {
    /// The first condition that the request does not meet; none when the route takes it.
    pub fn mismatch(&self, request: &impl RequestHead) -> Option<Mismatch> {
        let host = without_port(request.host());
        if !self.hosts.is_empty() && !self.hosts.iter().any(|h| host_matches(h, host)) {
            return Some(Mismatch::Host);
        }
        if !path_matches(&self.path_prefix, request.path()) {
            return Some(Mismatch::Path);
        }
        if let Some((name, want)) = &self.header
            && !request.any_header(name, &mut |v| want.is_empty() || v == want.as_bytes())
        {
            return Some(Mismatch::Header);
        }
        if let Some((name, want)) = &self.cookie
            && !request.any_header("cookie", &mut |v| cookie_matches(v, name.as_bytes(), want.as_bytes()))
        {
            return Some(Mismatch::Cookie);
        }
        None
    }

    fn explain(&self, mismatch: Mismatch, request: &impl RequestHead) -> String {
        let wanted = |(name, value): &(String, String)| match value.as_str() {
            "" => format!("no {name}"),
            v => format!("no {name} with value {v:?}"),
        };
        match mismatch {
            Mismatch::Host => format!("host {:?} is none of {:?}", without_port(request.host()), self.hosts),
            Mismatch::Path => format!("path {:?} is not under {:?}", request.path(), self.path_prefix),
            Mismatch::Header => format!("header: {}", self.header.as_ref().map(wanted).unwrap_or_default()),
            Mismatch::Cookie => format!("cookie: {}", self.cookie.as_ref().map(wanted).unwrap_or_default()),
        }
    }
}

/// The host without `:port` and without a trailing dot; an IPv6 literal keeps its brackets (RFC 3986 §3.2.2).
fn without_port(host: &str) -> &str {
    let name = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// `*.example.com` stands for one or more labels before `.example.com`, never for `example.com` itself.
fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => pattern.eq_ignore_ascii_case(host),
        Some(suffix) => {
            let (host, suffix) = (host.as_bytes(), suffix.as_bytes());
            host.len() > suffix.len()
                && !host.starts_with(b".")
                && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
        }
    }
}

/// `/api` takes `/api`, `/api/` and `/api/x`, not `/apix`; a prefix that ends in `/` takes what begins with it.
fn path_matches(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(prefix) {
        None => false,
        Some(rest) => prefix.is_empty() || prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'),
    }
}

/// One `Cookie` header field: `a=1; b=2` (RFC 6265 §4.2.1). Names are case-sensitive.
fn cookie_matches(field: &[u8], name: &[u8], want: &[u8]) -> bool {
    field.split(|b| *b == b';').any(|pair| {
        let pair = pair.trim_ascii();
        match pair.iter().position(|b| *b == b'=') {
            Some(eq) => &pair[..eq] == name && (want.is_empty() || &pair[eq + 1..] == want),
            None => false,
        }
    })
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
