//! Listeners: ports that do not overlap, routes that lead somewhere, certificates that can be read.

use super::{known_site, list};
use crate::{cluster::ClusterConfig, log::Log, reader::join};
use std::{io::Read, net::SocketAddr};
use zonekeeper_core::{
    id::{ListenerId, PoolId},
    model::{Bind, Certificate, HashKey, Listener, Protocol, Rewrite, Route, Target},
};

pub(super) fn check(config: &ClusterConfig, log: &Log) {
    // TCP and UDP have ports of their own.
    let mut taken: [Vec<(&Bind, String)>; 2] = Default::default();
    for (id, listener) in &config.listeners {
        binds(config, log, id, listener, &mut taken[usize::from(listener.protocol == Protocol::Udp)]);
        routes(config, log, id, listener);
        tls(log, id, listener);
        without_requests(log, id, listener);
    }
}

/// What a listener that sees no requests has no use for.
fn without_requests(log: &Log, id: &ListenerId, listener: &Listener) {
    if listener.protocol == Protocol::Http {
        return;
    }
    let say = |field: &str, why: &str| log.error_at(&path(id, field), why);
    if listener.rate_limit.as_ref().is_some_and(|l| l.key != HashKey::Source) {
        let why = "this listener sees no requests, so it counts connections by \"source\" alone";
        log.error_at(&join(&path(id, "rate_limit"), "key"), why);
    }
    if !listener.trusted.is_empty() {
        say(
            "trusted_proxies",
            "is about HTTP headers, which this listener does not see; use proxy_protocol, or protocol = \"http\"",
        );
    }
    let plain = Listener::default();
    for (field, given) in [
        ("identify", listener.identify),
        ("http2", listener.http2 != plain.http2),
        ("max_body", listener.max_body != plain.max_body),
        ("min_rate", listener.min_rate != plain.min_rate),
        ("request_timeout", listener.request_timeout_ms != plain.request_timeout_ms),
        ("tunnel_timeout", listener.tunnel_timeout_ms != plain.tunnel_timeout_ms),
    ] {
        if given {
            let why = "changes nothing: it is about HTTP, which this listener does not see; take it out";
            log.warn_at(&path(id, field), why);
        }
    }
    if listener.protocol == Protocol::Udp {
        if listener.access_log > 0 {
            say("access_log", "is for requests and connections; a UDP listener has none, so take it out");
        }
        if listener.tls.is_some() {
            say("tls", "is for streams; a UDP listener has none, so take it out");
        }
        if !listener.proxy_from.is_empty() {
            say("proxy_protocol", "is for streams; a UDP listener has none, so take it out");
        }
    }
}

fn path(id: &ListenerId, field: &str) -> String {
    join(&join("listener", id.as_str()), field)
}

fn binds<'c>(
    config: &ClusterConfig,
    log: &Log,
    id: &ListenerId,
    listener: &'c Listener,
    taken: &mut Vec<(&'c Bind, String)>,
) {
    let field = path(id, "bind");
    if listener.binds.is_empty() && !log.failed(&field) {
        log.error_at(&field, "has no address; give at least one, as [\"0.0.0.0:80\"]");
    }
    for (i, bind) in listener.binds.iter().enumerate() {
        let at = if log.failed(&field) { field.clone() } else { format!("{field}[{i}]") };
        if let Some(site) = &bind.site {
            known_site(config, log, &at, site);
        }
        let meets = |b: &Bind| b.site.is_none() || bind.site.is_none() || b.site == bind.site;
        if let Some((other, place)) = taken.iter().find(|(b, _)| meets(b) && overlap(b.addr, bind.addr)) {
            let message = format!(
                "{} overlaps {} of {place} at the same site; use another port or address",
                bind.addr, other.addr
            );
            log.error_at(&at, message);
        }
        taken.push((bind, at));
    }
}

/// Whether two sockets of one protocol cannot both be bound. A wildcard covers every address of its own family (IPv6 sockets here
/// take IPv6 only, so `0.0.0.0` and `[::]` go together).
pub(crate) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let wild = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && a.is_ipv4() == b.is_ipv4() && (a.ip() == b.ip() || wild)
}

fn routes(config: &ClusterConfig, log: &Log, id: &ListenerId, listener: &Listener) {
    let field = path(id, "route");
    if log.failed(&field) || log.failed(&path(id, "pool")) {
        return;
    }
    if listener.routes.is_empty() {
        log.error_at(&join("listener", id.as_str()), "leads nowhere; give pool = \"NAME\", or routes");
    }
    if listener.protocol == Protocol::Tls {
        passthrough(log, id, listener);
    }
    let bytes = |r: &Route| {
        let plain = Route { target: r.target.clone(), ..Route::default() };
        *r == plain && matches!(r.target, Target::Pools(_))
    };
    if matches!(listener.protocol, Protocol::Tcp | Protocol::Udp)
        && (listener.routes.len() > 1 || listener.routes.iter().any(|r| !bytes(r)))
    {
        log.error_at(&field, "a TCP or UDP listener sees no requests, so it has one route to a pool, without conditions and changes; give pool = \"NAME\" instead, or protocol = \"http\"");
    }
    for (i, route) in listener.routes.iter().enumerate() {
        let at = format!("{field}[{i}]");
        let last = listener.routes[..i].iter().position(Route::unconditional);
        if let Some(first) = last.filter(|_| listener.protocol == Protocol::Http) {
            log.warn_at(
                &at,
                format!(
                    "is never reached: {field}[{first}] before it has no condition and takes every request"
                ),
            );
        }
        for (field, set) in [("rewrite", &route.rewrite.set), ("response", &route.response.set)] {
            let mut names: Vec<&String> = set.iter().map(|(name, _)| name).collect();
            names.sort();
            if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                let message = format!("sets \"{}\" twice, for names have no case; take one out", twice[0]);
                log.error_at(&join(&join(&at, field), "set"), message);
            }
        }
        route.pools().for_each(|pool| known_pool(config, log, &join(&at, "pool"), pool));
        without_use(log, &at, route);
    }
}

/// Of a greeting the name and the source are known, and what follows is not ours to read.
fn passthrough(log: &Log, id: &ListenerId, listener: &Listener) {
    for (i, route) in listener.routes.iter().enumerate() {
        let plain = Route {
            target: route.target.clone(),
            hosts: route.hosts.clone(),
            sources: route.sources.clone(),
            ..Route::default()
        };
        if *route != plain || !matches!(route.target, Target::Pools(_)) {
            log.error_at(&format!("{}[{i}]", path(id, "route")), "asks for more than a TLS greeting tells; a listener with protocol = \"tls\" has routes by host and source to a pool. To see requests, terminate TLS: protocol = \"http\" with tls = { cert, key }");
        }
    }
    if listener.tls.is_some() {
        log.error_at(&path(id, "tls"), "has no use with protocol = \"tls\", which passes TLS through; use protocol = \"http\" or \"tcp\" to terminate it");
    }
}

fn known_pool(config: &ClusterConfig, log: &Log, at: &str, id: &PoolId) {
    let pool = join("pool", id.as_str());
    if !config.pools.contains_key(id) && !log.failed(&pool) {
        let pools = list(config.pools.keys());
        log.error_at(
            at,
            format!("pool \"{id}\" is not declared; add [{pool}], or use a declared one ({pools})"),
        );
    }
}

/// What changes a request is of no use where no backend gets it.
fn without_use(log: &Log, at: &str, route: &Route) {
    let forwarded = route.target.forwards();
    for (field, given) in [
        ("rewrite", route.rewrite != Rewrite::default()),
        ("response_timeout", route.limits.response_timeout_ms.is_some()),
        ("retries", route.limits.retries.is_some()),
    ] {
        if given && !forwarded {
            log.error_at(&join(at, field), "has no use in a route that answers by itself; take it out");
        }
    }
}

/// Certificates in files lie on the nodes' disks: missing here is a warning, there but unreadable is an error. Those that
/// the cluster holds are with the cluster, which says in its status what is missing.
fn tls(log: &Log, id: &ListenerId, listener: &Listener) {
    let Some(tls) = &listener.tls else { return };
    let at = path(id, "tls");
    if tls.client_optional && tls.client_ca.is_none() {
        log.error_at(
            &join(&at, "client"),
            "has no use without client_ca; give the file of those who sign certificates of clients",
        );
    }
    let mut files: Vec<(String, &String, &str)> = Vec::new();
    for (i, pair) in tls.certificates.iter().enumerate() {
        let Certificate::Files(pair) = pair else { continue };
        let at = if i == 0 { at.clone() } else { format!("{at}.certs[{}]", i - 1) };
        files.push((join(&at, "cert"), &pair.cert, "CERTIFICATE"));
        files.push((join(&at, "key"), &pair.key, "PRIVATE KEY"));
    }
    files.extend(tls.client_ca.iter().map(|ca| (join(&at, "client_ca"), ca, "CERTIFICATE")));
    pem(log, files, "node that binds this listener");
}

/// Judges PEM files: the field, the file, and a word of the label that it must have. `who` reads them.
pub(super) fn pem(log: &Log, files: Vec<(String, &String, &str)>, who: &str) {
    for (at, file, mark) in files {
        match start_of(file) {
            Ok(text) if text.contains("-----BEGIN ") && text.contains(mark) => {}
            Ok(_) => {
                log.error_at(&at, format!("{file} holds no PEM {}; give a PEM file", mark.to_lowercase()))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let message = format!("{file} does not exist on this machine; it must exist on every {who}");
                log.warn_at(&at, message);
            }
            Err(e) => log.error_at(&at, format!("{file} cannot be read: {e}")),
        }
    }
}

/// The first part of a file: a PEM file has its first label there, and nothing else is worth reading whole.
fn start_of(file: &str) -> std::io::Result<String> {
    let mut start = Vec::new();
    std::fs::File::open(file)?.take(1 << 20).read_to_end(&mut start)?;
    Ok(String::from_utf8_lossy(&start).into_owned())
}
