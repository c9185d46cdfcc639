//! `[pool.NAME]`: the backends behind the proxy.

use crate::{
    check,
    duration::{millis, show},
    listener::{self, absolute, strings},
    reader::{NOTED, Parsed, Value},
    route::{plain_host, valid_token},
    service::socket,
};
use std::net::SocketAddr;
use zonekeeper_core::{
    id::SiteId,
    model::{Backend, BackendTls, Balance, HashKey, NamedBackend, Pool, ProxyHeader},
};

pub(crate) const FIELDS: &[&str] = &[
    "backends",
    "balance",
    "check",
    "connect_timeout",
    "response_timeout",
    "max_connections",
    "retries",
    "eject",
    "hash",
    "slow_start",
    "eject_errors",
    "max_ejected",
    "http2",
    "tls",
    "send_proxy",
    "sticky",
    "max_queue",
    "queue_timeout",
    "retry_budget",
];
pub(crate) const TLS_FIELDS: &[&str] = &["ca", "name", "cert", "key"];
pub(crate) const BACKEND_FIELDS: &[&str] = &["site", "addr", "weight"];

const BALANCES: [(&str, Balance); 5] = [
    ("round-robin", Balance::RoundRobin),
    ("least-connections", Balance::LeastConnections),
    ("response-time", Balance::ResponseTime),
    ("two-choices", Balance::TwoChoices),
    ("hash", Balance::Hash),
];

const PROXY_HEADERS: [(&str, Option<ProxyHeader>); 3] =
    [("none", None), ("v1", Some(ProxyHeader::V1)), ("v2", Some(ProxyHeader::V2))];

pub(crate) fn read(value: &Value<'_>) -> Parsed<Pool> {
    let table = value.table(FIELDS)?;
    let implied = if table.has("hash") { Balance::Hash } else { Balance::default() };
    let give = "at least one, as backends = [\"10.0.0.1:8080\"]";
    let (backends, names) = split(table.need("backends", give, |v| v.each(backend)).unwrap_or_default());
    Ok(Pool {
        backends,
        names,
        balance: table.or("balance", implied, |v| v.word(&BALANCES)),
        check: check::backend(&table),
        connect_timeout_ms: table.or("connect_timeout", 1000, |v| millis(v, 10..=60_000)),
        response_timeout_ms: table.or("response_timeout", 30_000, |v| millis(v, 100..=3_600_000)),
        max_connections: table.or("max_connections", 0, |v| v.integer(0..=1_000_000, "")),
        retries: table.or("retries", 2, |v| v.integer(0..=10, "")),
        eject_ms: table.or("eject", 10_000, |v| millis(v, 0..=3_600_000)),
        hash: table.or("hash", HashKey::default(), hash),
        slow_start_ms: table.or("slow_start", 0, |v| millis(v, 0..=3_600_000)),
        eject_errors: table.or("eject_errors", 50, |v| v.integer(0..=100, "percentage points")),
        max_ejected: table.or("max_ejected", 50, |v| v.integer(0..=100, "percent")),
        http2: table.or("http2", false, Value::boolean),
        tls: table.opt("tls", tls),
        send_proxy: table.or("send_proxy", None, |v| v.word(&PROXY_HEADERS)),
        sticky: table.opt("sticky", |v| valid_token(v.string()?).map(str::to_string)),
        max_queue: table.or("max_queue", 1000, |v| v.integer(0..=100_000, "")),
        queue_timeout_ms: table.or("queue_timeout", 5000, |v| millis(v, 10..=3_600_000)),
        retry_budget: table.or("retry_budget", 20, |v| v.integer(0..=100, "percent")),
    })
}

/// Each field is judged, so that one look tells all that is wrong.
fn tls(value: &Value<'_>) -> Parsed<BackendTls> {
    let table = value.table(TLS_FIELDS)?;
    let client = if table.has("cert") || table.has("key") { listener::files(&table) } else { None };
    Ok(BackendTls { ca: table.opt("ca", absolute), name: table.opt("name", server_name), client })
}

/// A DNS name or an IP address, as certificates have them.
fn server_name(value: &Value<'_>) -> Parsed<String> {
    let text = value.text(253)?;
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if text.parse::<std::net::IpAddr>().is_ok() || text.split('.').all(label) {
        return Ok(text);
    }
    Err(format!("\"{text}\" is no name that a certificate can have; give a DNS name or an IP address"))
}

fn write_tls(tls: &BackendTls) -> toml::Value {
    let mut pairs: Vec<(&str, &String)> = Vec::new();
    pairs.extend(tls.ca.as_ref().map(|ca| ("ca", ca)));
    pairs.extend(tls.name.as_ref().map(|name| ("name", name)));
    if let Some(client) = &tls.client {
        pairs.extend([("cert", &client.cert), ("key", &client.key)]);
    }
    strings(&pairs)
}

/// `"source"`, `"path"`, `"header:NAME"` or `"cookie:NAME"`.
pub(crate) fn hash(value: &Value<'_>) -> Parsed<HashKey> {
    let text = value.text(160)?;
    match text.split_once(':') {
        None if text == "source" => Ok(HashKey::Source),
        None if text == "path" => Ok(HashKey::Path),
        Some(("header", name)) => Ok(HashKey::Header(valid_token(name)?.to_ascii_lowercase())),
        Some(("cookie", name)) => Ok(HashKey::Cookie(valid_token(name)?.to_string())),
        _ => Err(format!(
            "\"{text}\" is not known; use \"source\", \"path\", \"header:NAME\" or \"cookie:NAME\""
        )),
    }
}

pub(crate) fn write_hash(key: &HashKey) -> String {
    match key {
        HashKey::Source => "source".into(),
        HashKey::Path => "path".into(),
        HashKey::Header(name) => format!("header:{name}"),
        HashKey::Cookie(name) => format!("cookie:{name}"),
    }
}

/// Where a backend is: at an address, or at those that a name stands for.
enum Place {
    Address(SocketAddr),
    Name(String, u16),
}

/// A backend as it is written.
struct Read {
    site: Option<SiteId>,
    place: Place,
    weight: u8,
}

fn backend(value: &Value<'_>) -> Parsed<Read> {
    if !value.is_table() {
        return place(value).map(|place| Read { site: None, place, weight: 1 });
    }
    let table = value.table(BACKEND_FIELDS)?;
    let site = table.opt("site", Value::parse);
    let weight = table.or("weight", 1, |v| v.integer(0..=255, ""));
    let give = "an address with a port, as \"10.0.0.1:8080\", or a name with one, as \"app.internal:8080\"";
    let place = table.need("addr", give, place);
    place.map(|place| Read { site, place, weight }).ok_or(NOTED.into())
}

fn place(value: &Value<'_>) -> Parsed<Place> {
    let text = value.text(260)?;
    let Some((name, port)) = text.rsplit_once(':').filter(|(n, _)| plain_host(n) && n.contains(letter))
    else {
        return socket(value).map(Place::Address);
    };
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(Place::Name(name.to_ascii_lowercase(), port)),
        _ => Err(format!("\"{text}\" has no port from 1 to 65535; write it as \"{name}:8080\"")),
    }
}

fn letter(c: char) -> bool {
    c.is_ascii_alphabetic()
}

fn split(all: Vec<Read>) -> (Vec<Backend>, Vec<NamedBackend>) {
    let (mut backends, mut names) = (Vec::new(), Vec::new());
    for Read { site, place, weight } in all {
        match place {
            Place::Address(addr) => backends.push(Backend { site, addr, weight }),
            Place::Name(name, port) => names.push(NamedBackend { site, name, port, weight }),
        }
    }
    (backends, names)
}

pub(crate) fn write(pool: &Pool) -> toml::Table {
    let mut table = toml::Table::new();
    let mut put = |field: &str, value: toml::Value| _ = table.insert(field.into(), value);
    let balance = BALANCES.iter().find(|(_, b)| *b == pool.balance).map_or("", |(w, _)| w);
    let addresses = pool.backends.iter().map(|b| write_backend(&b.site, b.addr.to_string(), b.weight));
    let named = pool.names.iter().map(|b| write_backend(&b.site, format!("{}:{}", b.name, b.port), b.weight));
    put("backends", toml::Value::Array(addresses.chain(named).collect()));
    put("balance", balance.into());
    put("check", check::write_backend(pool.check.as_ref()));
    put("connect_timeout", show(u64::from(pool.connect_timeout_ms)).into());
    put("response_timeout", show(u64::from(pool.response_timeout_ms)).into());
    put("max_connections", i64::from(pool.max_connections).into());
    put("retries", i64::from(pool.retries).into());
    put("eject", show(u64::from(pool.eject_ms)).into());
    if pool.balance == Balance::Hash || pool.hash != HashKey::default() {
        put("hash", write_hash(&pool.hash).into());
    }
    put("slow_start", show(u64::from(pool.slow_start_ms)).into());
    put("eject_errors", i64::from(pool.eject_errors).into());
    put("max_ejected", i64::from(pool.max_ejected).into());
    put("http2", pool.http2.into());
    if let Some(tls) = &pool.tls {
        put("tls", write_tls(tls));
    }
    if pool.send_proxy.is_some() {
        let word = PROXY_HEADERS.iter().find(|(_, h)| *h == pool.send_proxy).map_or("", |(w, _)| w);
        put("send_proxy", word.into());
    }
    if let Some(name) = &pool.sticky {
        put("sticky", name.as_str().into());
    }
    put("max_queue", i64::from(pool.max_queue).into());
    put("queue_timeout", show(u64::from(pool.queue_timeout_ms)).into());
    put("retry_budget", i64::from(pool.retry_budget).into());
    table
}

fn write_backend(site: &Option<SiteId>, place: String, weight: u8) -> toml::Value {
    let mut table = toml::Table::new();
    if let Some(site) = site {
        table.insert("site".into(), site.as_str().into());
    }
    table.insert("addr".into(), place.into());
    table.insert("weight".into(), i64::from(weight).into());
    table.into()
}
