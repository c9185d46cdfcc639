//! Reads a node file.

use super::*;
use crate::{
    cluster::SECTIONS,
    duration::millis,
    listener,
    reader::{Parsed, Table, Value},
    service::socket,
    source::Source,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const DUTIES: [(&str, Duty); 2] = [("full", Duty::Full), ("witness", Duty::Witness)];
const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8053);
/// JSON numbers are exact up to here, and ids travel as such.
const MAX_ID: u64 = (1 << 53) - 1;
const MONTH_MS: u64 = 30 * 86_400_000;

pub(super) fn file(path: &Path, log: &Log) -> Option<NodeConfig> {
    let source = Source::read(path, log)?;
    let raw = source.table(log)?;
    let root = Table::root(&raw, &source, log);
    if SECTIONS.iter().any(|s| root.has(s) && !FIELDS.contains(s)) && !root.has("id") {
        let message = "this is a file of the cluster; give it to `zonekeeper apply`, and a node file here";
        log.error(Some(root.place), "", message);
        return None;
    }
    root.sweep(FIELDS);
    let config = node(&root, path.parent().unwrap_or(Path::new("")))?;
    distinct(&config, log);
    Some(config)
}

/// Reads every field before the first missing one ends it.
fn node(root: &Table<'_>, folder: &Path) -> Option<NodeConfig> {
    let dir = |field, give| root.need(field, give, |v| v.text(4096).map(|p| folder.join(p)));
    let number = |v: &Value<'_>| v.integer(1..=MAX_ID, "");
    let duty = root.or("duty", Duty::Full, |v| v.word(&DUTIES));
    let id = root.need("id", "a number that no other node of the cluster ever had", number);
    let site = root.need("site", "the name of the site that the node is in", Value::parse);
    let data_dir = dir("data_dir", "a folder for log and snapshots");
    let keys_dir = dir("keys_dir", "the folder that `zonekeeper keys` made");
    if keys_dir.is_some() && data_dir == keys_dir {
        let message = "is the same as data_dir; keep keys apart, so that a copy of the data holds no secret";
        root.log().error_at("keys_dir", message);
    }
    let log_level = root.or("log_level", LogLevel::Info, |v| v.word(&LEVELS));
    let peer = root.need("peer", "the section [peer] with listen = \"ADDRESS:PORT\"", peer).flatten();
    let (admin, dns, proxy) = (admin(root), dns(root, duty, folder), proxy(root, duty));
    let (id, site, data_dir, keys_dir, peer) = (id?, site?, data_dir?, keys_dir?, peer?);
    Some(NodeConfig { id, site, duty, data_dir, keys_dir, log_level, peer, admin, dns, proxy })
}

/// No two listening addresses meet.
fn distinct(config: &NodeConfig, log: &Log) {
    let listens = config.listens();
    for (i, own) in listens.iter().enumerate() {
        if let Some(first) = listens[..i].iter().find(|first| first.meets(own.addr, own.protocols)) {
            let (addr, theirs, other) = (own.addr, first.addr, &first.field);
            let message = format!("{addr} overlaps {theirs} of {other}; use another port or address");
            log.error_at(&own.field, message);
        }
    }
}

/// An address with a port; port 0 lets the kernel choose one.
fn listen(value: &Value<'_>) -> Parsed<SocketAddr> {
    value.parse_as("an address with a port, as \"127.0.0.1:8053\" or \"[::1]:8053\"")
}

fn reachable(value: &Value<'_>) -> Parsed<SocketAddr> {
    let addr = socket(value)?;
    match addr.ip().is_unspecified() {
        true => Err(format!("{addr} is no address that others can connect to; give the node's own")),
        false => Ok(addr),
    }
}

fn peer(value: &Value<'_>) -> Parsed<Option<PeerConfig>> {
    let table = value.table(PEER_FIELDS)?;
    let listen =
        table.need("listen", "the address that other nodes connect to, as \"192.0.2.1:8054\"", socket);
    if !table.has("advertise") && listen.is_some_and(|l| !l.ip().is_unspecified()) {
        return Ok(listen.map(|listen| PeerConfig { listen, advertise: listen }));
    }
    let give = "the address that other nodes connect to, because listen takes any";
    let advertise = table.need("advertise", give, reachable);
    Ok(listen.zip(advertise).map(|(listen, advertise)| PeerConfig { listen, advertise }))
}

fn admin(root: &Table<'_>) -> AdminConfig {
    let read = |v: &Value<'_>| {
        let table = v.table(ADMIN_FIELDS)?;
        let allow_remote = table.or("allow_remote", false, Value::boolean);
        let listen = table.or("listen", ADMIN, |v| match listen(v)? {
            addr if addr.ip().is_loopback() || allow_remote => Ok(addr),
            addr => Err(format!("{addr} can be reached from other hosts; set admin.allow_remote = true if that is meant, or listen on 127.0.0.1:8053")),
        });
        let advertise = table.opt("advertise", reachable);
        let open_metrics = table.or("open_metrics", false, Value::boolean);
        Ok(AdminConfig { listen, advertise, allow_remote, open_metrics })
    };
    let default = AdminConfig { listen: ADMIN, advertise: None, allow_remote: false, open_metrics: false };
    root.or("admin", default, read)
}

/// A witness serves no clients.
fn no_witness(value: &Value<'_>, duty: Duty, what: &str) -> Parsed<()> {
    match duty {
        Duty::Witness => Err(format!("a witness {what}; take this section out, or set duty = \"full\"")),
        Duty::Full => value.entries().map(|_| ()),
    }
}

fn dns(root: &Table<'_>, duty: Duty, folder: &Path) -> DnsConfig {
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let default = DnsConfig {
        listen: if duty == Duty::Full { any.map(|ip| SocketAddr::new(ip, 53)).into() } else { Vec::new() },
        workers: cores(),
        nsid: None,
        version: None,
        rate_limit: None,
        udp_payload: UDP_PAYLOAD,
        tcp_connections: TCP_CONNECTIONS,
        tcp_connections_per_network: TCP_CONNECTIONS_PER_NETWORK,
        tcp_idle: TCP_IDLE,
        query_log: None,
        encrypted: None,
        geo: Vec::new(),
        max_stale: None,
        on_stale: OnStale::Keep,
    };
    let read = |v: &Value<'_>| {
        no_witness(v, duty, "answers no DNS")?;
        let table = v.table(DNS_FIELDS)?;
        let max_stale = table.opt("max_stale", |v| millis(v, 1000..=MONTH_MS)).map(Duration::from_millis);
        let words = [("keep", OnStale::Keep), ("servfail", OnStale::ServFail)];
        let on_stale = table.opt("on_stale", |v| match table.has("max_stale") {
            true => v.word(&words),
            false => Err("does nothing without max_stale; give that too, as \"1h\"".into()),
        });
        let connections =
            |field, default| table.or(field, default, |v| v.integer(1..=1_000_000, "connections"));
        Ok(DnsConfig {
            listen: table.or("listen", default.listen.clone(), |v| v.each(listen)),
            workers: workers(&table),
            nsid: table.opt("nsid", |v| v.text(128)),
            version: table.opt("version", |v| v.text(255)),
            rate_limit: rate_limit(&table),
            udp_payload: table.or("udp_payload", UDP_PAYLOAD, |v| v.integer(512..=4096, "bytes")),
            tcp_connections: connections("tcp_connections", default.tcp_connections),
            tcp_connections_per_network: connections(
                "tcp_connections_per_network",
                default.tcp_connections_per_network,
            ),
            tcp_idle: table
                .or("tcp_idle", default.tcp_idle, |v| millis(v, 1000..=600_000).map(Duration::from_millis)),
            query_log: query_log(&table, folder),
            encrypted: table.opt("encrypted", |v| encrypted(v, folder)).flatten(),
            geo: table.or("geo", Vec::new(), |v| v.each(|v| v.text(4096).map(|p| folder.join(p)))),
            max_stale,
            on_stale: on_stale.unwrap_or(OnStale::Keep),
        })
    };
    root.opt("dns", read).unwrap_or(default)
}

fn rate_limit(table: &Table<'_>) -> Option<RateLimit> {
    let rate = table.opt("rate_limit", |v| v.integer(1..=1_000_000, "answers a second"));
    let slip = table.opt("slip", |v| match table.has("rate_limit") {
        true => v.integer(0..=100, ""),
        false => Err("does nothing without rate_limit; give that too, as 200".into()),
    });
    Some(RateLimit { rate: rate?, slip: slip.unwrap_or(2) })
}

fn query_log(table: &Table<'_>, folder: &Path) -> Option<QueryLog> {
    let target = table.opt("query_log", |v| v.text(4096));
    let sample = table.opt("query_log_sample", |v| match table.has("query_log") {
        true => v.integer(1..=1_000_000, ""),
        false => Err("does nothing without query_log; give that too, as \"queries.dnstap\"".into()),
    });
    let target = target?;
    let (path, socket) = target.strip_prefix("unix:").map_or((&target[..], false), |path| (path, true));
    Some(QueryLog { path: folder.join(path), socket, sample: sample.unwrap_or(1) })
}

fn encrypted(value: &Value<'_>, folder: &Path) -> Parsed<Option<EncryptedDns>> {
    let table = value.table(ENCRYPTED_FIELDS)?;
    let addrs = |field| table.or(field, Vec::new(), |v| v.each(listen));
    let (tls, https, quic) = (addrs("tls"), addrs("https"), addrs("quic"));
    let path = table.or("path", "/dns-query".to_owned(), |v| match v.text(255)? {
        path if path.starts_with('/') => Ok(path),
        path => Err(format!("\"{path}\" does not begin with /; give a path as \"/dns-query\"")),
    });
    let file = |field, give| table.need(field, give, |v| v.text(4096).map(|p| folder.join(p)));
    let certificate = if table.has("certificate") {
        listener::held(&table).map(DnsCertificate::Held)
    } else {
        let cert = file("cert", "a PEM file with the certificate and its intermediates");
        let key = file("key", "the PEM file of the certificate's key");
        cert.zip(key).map(|(cert, key)| DnsCertificate::Files { cert, key })
    };
    if tls.is_empty() && https.is_empty() && quic.is_empty() {
        return Err("listens nowhere; give tls, https or quic, as tls = [\"0.0.0.0:853\"]".into());
    }
    Ok(certificate.map(|certificate| EncryptedDns { tls, https, quic, path, certificate }))
}

fn proxy(root: &Table<'_>, duty: Duty) -> ProxyConfig {
    let read = |v: &Value<'_>| {
        no_witness(v, duty, "proxies nothing")?;
        v.table(PROXY_FIELDS).map(|t| ProxyConfig {
            workers: workers(&t),
            drain_ms: t.or("drain", DRAIN_MS, |v| millis(v, 0..=3_600_000)),
        })
    };
    root.opt("proxy", read).unwrap_or(ProxyConfig { workers: cores(), drain_ms: DRAIN_MS })
}

fn workers(table: &Table<'_>) -> usize {
    table.or("workers", cores(), |v| v.integer(1..=1024, "threads"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
