//! Pools, backends and listeners of the proxy.

use super::{Routes, overrides};
use crate::{
    extract::View,
    handles::Handles,
    wire::{self, Backend, Bind, Listener, Pool, RouteRule, Seen},
};
use axum::Json;
use std::net::SocketAddr;
use zonekeeper_core::{
    State,
    entry::Scope,
    id::PoolId,
    model::{self, Balance, HashKey, PathMatch, Route},
    route::BackendTable,
};
use zonekeeper_proxy::{Checked, now_ms};

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_pools, pools).add(__path_listeners, listeners)
}

/// All pools, with the health of their backends as this node sees it. Role: read.
#[utoipa::path(get, path = "/v1/pools", tag = "proxy", responses((status = 200, body = Seen<Vec<Pool>>)))]
async fn pools(view: View) -> Json<Seen<Vec<Pool>>> {
    let state = &view.published.state;
    let one = |(id, p): (&PoolId, &std::sync::Arc<model::Pool>)| pool(&view.api.handles, state, id, p);
    view.seen(state.pools.iter().map(one).collect())
}

fn pool(handles: &Handles, state: &State, id: &PoolId, pool: &model::Pool) -> Pool {
    let one = |b: &model::Backend| {
        let seen = b
            .site
            .as_ref()
            .is_none_or(|s| *s == handles.site)
            .then(|| observed(handles, id, b.addr))
            .flatten();
        Backend {
            addr: b.addr,
            site: b.site.clone(),
            weight: b.weight,
            forced: state.overrides.get(&Scope::Backend(id.clone(), b.addr)).map(|o| overrides::show_one(o)),
            observed: seen.as_ref().map(|(word, _)| (*word).into()),
            in_flight: seen.map(|(_, n)| n),
        }
    };
    let resolved = handles.proxy.iter().flat_map(|p| p.resolved(id));
    let here =
        |b: BackendTable| model::Backend { site: Some(handles.site.clone()), addr: b.addr, weight: b.weight };
    let named = resolved.map(here).map(|b| one(&b)).collect::<Vec<_>>();
    Pool {
        id: id.clone(),
        balance: pool.balance,
        checked: pool.check.is_some(),
        hash: (pool.balance == Balance::Hash).then(|| hash(&pool.hash)),
        waiting: handles.proxy.as_ref().map_or(0, |p| p.waiting(id)),
        sticky: pool.sticky.clone(),
        backends: pool.backends.iter().map(one).chain(named).collect(),
    }
}

/// As the configuration has it.
fn hash(key: &HashKey) -> String {
    match key {
        HashKey::Source => "source".into(),
        HashKey::Path => "path".into(),
        HashKey::Header(name) => format!("header:{name}"),
        HashKey::Cookie(name) => format!("cookie:{name}"),
    }
}

/// What this node's proxy sees of a backend, and what is in flight there.
fn observed(handles: &Handles, pool: &PoolId, addr: SocketAddr) -> Option<(&'static str, u32)> {
    let backend = handles.proxy.as_ref()?.get(pool, addr)?;
    let word = match backend.checked() {
        _ if backend.ejected(now_ms()) => "ejected",
        Checked::Up | Checked::Unknown if backend.on_trial() => "trial",
        Checked::Up => "up",
        Checked::Down => "down",
        Checked::Unknown => "unknown",
    };
    Some((word, backend.inflight()))
}

/// All listeners with their routes, and their connections at this node. Role: read.
#[utoipa::path(get, path = "/v1/listeners", tag = "proxy", responses((status = 200, body = Seen<Vec<Listener>>)))]
async fn listeners(view: View) -> Json<Seen<Vec<Listener>>> {
    let served = view.api.handles.totals.as_ref().map(|totals| totals().listeners).unwrap_or_default();
    let one =
        |(id, l): (&zonekeeper_core::id::ListenerId, &std::sync::Arc<model::Listener>)| wire::Listener {
            id: id.clone(),
            protocol: l.protocol,
            tls: l.tls.is_some(),
            connections: served.iter().find(|(served, _)| served == id).map(|(_, c)| c.active),
            binds: l.binds.iter().map(|b| Bind { site: b.site.clone(), addr: b.addr }).collect(),
            routes: l
                .routes
                .iter()
                .map(|r| RouteRule {
                    when: conditions(r),
                    target: r.target.to_string(),
                    changes: changes(r),
                    pools: r.pools().cloned().collect(),
                })
                .collect(),
        };
    view.seen(view.published.state.listeners.iter().map(one).collect())
}

/// A route's conditions in words.
fn conditions(route: &Route) -> String {
    let pair = |what: &str, (name, value): &(String, String)| match value.as_str() {
        "" => format!("{what} {name}"),
        v => format!("{what} {name}={v}"),
    };
    let mut all = Vec::new();
    if !route.hosts.is_empty() {
        all.push(format!("host {}", route.hosts.join(" or ")));
    }
    if !route.methods.is_empty() {
        all.push(format!("method {}", route.methods.join(" or ")));
    }
    match &route.path {
        PathMatch::Any => {}
        PathMatch::Prefix(prefix) => all.push(format!("path {prefix}")),
        PathMatch::Exact(path) => all.push(format!("path exactly {path}")),
        PathMatch::Regex(text) => all.push(format!("path like {text}")),
    }
    all.extend(route.query.iter().map(|q| pair("query", q)));
    all.extend(route.header.iter().map(|h| pair("header", h)));
    all.extend(route.cookie.iter().map(|c| pair("cookie", c)));
    if !route.sources.is_empty() {
        let networks: Vec<String> = route.sources.iter().map(ToString::to_string).collect();
        all.push(format!("client in {}", networks.join(" or ")));
    }
    if all.is_empty() { "every request".into() } else { all.join(", ") }
}

/// What a route changes, in words.
fn changes(route: &Route) -> Vec<String> {
    let (rewrite, limits) = (&route.rewrite, &route.limits);
    let mut all = Vec::new();
    all.extend(rewrite.path.iter().map(|p| format!("path becomes {p}")));
    all.extend(rewrite.host.iter().map(|h| format!("host becomes {h}")));
    all.extend(rewrite.set.iter().map(|(n, v)| format!("header {n} becomes {v:?}")));
    all.extend(rewrite.remove.iter().map(|n| format!("header {n} is left out")));
    all.extend(route.response.set.iter().map(|(n, v)| format!("the response's header {n} becomes {v:?}")));
    all.extend(route.response.remove.iter().map(|n| format!("the response's header {n} is left out")));
    all.extend(limits.response_timeout_ms.map(|ms| format!("response timeout {ms} ms")));
    all.extend(limits.retries.map(|n| format!("{n} retries")));
    all.extend(route.target.idempotent().then(|| "every method may be tried again".into()));
    all.extend(limits.request_timeout_ms.map(|ms| format!("request timeout {ms} ms")));
    all.extend(
        route
            .rate_limit
            .as_ref()
            .map(|l| format!("{} requests in {} ms by {}", l.requests, l.per_ms, hash(&l.key))),
    );
    all.extend(limits.max_body.map(|n| format!("bodies of {n} bytes at most")));
    all
}
