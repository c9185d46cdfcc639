//! Pools: backends that exist once, and somebody who uses them.

use super::{known_site, listener::pem, service::timing};
use crate::{cluster::ClusterConfig, log::Log, reader::join};
use zonekeeper_core::{
    id::PoolId,
    model::{Backend, BackendTls, Balance, HashKey, Listener, Pool, Protocol},
};

pub(super) fn check(config: &ClusterConfig, log: &Log) {
    for (id, pool) in &config.pools {
        let path = join("pool", id.as_str());
        let field = join(&path, "backends");
        timing(log, &join(&path, "check"), pool.check.as_ref());
        for site in pool.names.iter().filter_map(|b| b.site.as_ref()) {
            known_site(config, log, &field, site);
        }
        if pool.backends.is_empty() && pool.names.is_empty() && !log.failed(&field) {
            log.error_at(&field, "has no backend; give at least one, as [\"10.0.0.1:8080\"]");
        }
        for (i, backend) in pool.backends.iter().enumerate() {
            let whole = log.failed(&field) || !pool.names.is_empty(); // the places are counted without the names
            let at = if whole { field.clone() } else { format!("{field}[{i}]") };
            if let Some(site) = &backend.site {
                known_site(config, log, &at, site);
            }
            if backend.addr.ip().is_unspecified() || backend.addr.ip().is_multicast() {
                log.error_at(&at, format!("{} is no address that a proxy can connect to", backend.addr));
            }
            if pool.backends[..i].iter().any(|other| same(other, backend)) {
                log.error_at(
                    &at,
                    format!(
                        "{} is a duplicate address: this pool has it already at the same site; keep one",
                        backend.addr
                    ),
                );
            }
        }
        datagrams(config, log, id, pool);
        bytes(config, log, id, pool);
        if let Some(tls) = &pool.tls {
            files(log, &join(&path, "tls"), tls);
        }
        let named = pool.names.iter().map(|b| b.weight);
        let weights: Vec<u8> = pool.backends.iter().map(|b| b.weight).chain(named).collect();
        if !weights.is_empty() && weights.iter().all(|w| *w == 0) {
            log.warn_at(&field, "every backend has weight 0, so the pool takes no traffic");
        }
        let routed = config.listeners.values().any(|l| leads(l, id));
        if !routed
            && !config.services.values().any(|s| s.pool.as_ref() == Some(id))
            && !log.failed("listener")
        {
            log.warn_at(&path, "is not used: no route and no service names it");
        }
    }
}

/// Whether some route of the listener leads to the pool.
fn leads(listener: &Listener, pool: &PoolId) -> bool {
    listener.routes.iter().any(|r| r.pools().any(|p| p == pool))
}

/// What a pool must say, and what it has no use for, where a UDP listener leads to it.
fn datagrams(config: &ClusterConfig, log: &Log, id: &PoolId, pool: &Pool) {
    let datagrams = |l: &Listener| l.protocol == Protocol::Udp && leads(l, id);
    let Some((listener, _)) = config.listeners.iter().find(|(_, l)| datagrams(l)) else { return };
    let field = |name| join(&join("pool", id.as_str()), name);
    if !log.given(&field("check")) {
        let message = format!(
            "is missing, and what it is by itself (a TCP connect) says nothing of the datagrams of listener \"{listener}\"; \
             give check = \"none\", or one that the backends answer"
        );
        log.error_at(&field("check"), message);
    }
    for (name, given) in [("tls", pool.tls.is_some()), ("send_proxy", pool.send_proxy.is_some())] {
        if given {
            let message = format!(
                "is for streams, and listener \"{listener}\" sends datagrams here; take it out, or give that listener a pool \
                 of its own"
            );
            log.error_at(&field(name), message);
        }
    }
}

/// What a pool has no use for where no listener of requests leads to it.
fn bytes(config: &ClusterConfig, log: &Log, id: &PoolId, pool: &Pool) {
    let mut all = config.listeners.values().filter(|l| leads(l, id)).peekable();
    if log.failed("listener") || all.peek().is_none() || all.any(|l| l.protocol == Protocol::Http) {
        return;
    }
    let path = join("pool", id.as_str());
    let by_request = pool.balance == Balance::Hash && pool.hash != HashKey::Source;
    for (name, given) in [
        ("sticky", pool.sticky.is_some()),
        ("response_timeout", pool.response_timeout_ms != Pool::default().response_timeout_ms),
        ("hash", by_request),
    ] {
        if given {
            let why = "changes nothing: it is about HTTP, and no HTTP listener leads here; take it out";
            log.warn_at(&join(&path, name), why);
        }
    }
}

/// As of a listener: missing here is a warning, there but unreadable is an error.
fn files(log: &Log, at: &str, tls: &BackendTls) {
    let of = |field, file, mark| (join(at, field), file, mark);
    let mut files: Vec<_> = tls.ca.iter().map(|ca| of("ca", ca, "CERTIFICATE")).collect();
    if let Some(client) = &tls.client {
        files.extend([of("cert", &client.cert, "CERTIFICATE"), of("key", &client.key, "PRIVATE KEY")]);
    }
    pem(log, files, "node whose proxy uses this pool");
}

/// Whether some proxy would have both.
fn same(a: &Backend, b: &Backend) -> bool {
    a.addr == b.addr && (a.site.is_none() || b.site.is_none() || a.site == b.site)
}
