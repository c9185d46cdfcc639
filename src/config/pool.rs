//! `[pool.NAME]`: the backends behind the proxy.

use crate::{
    check,
    duration::{millis, show},
    listener::{absolute, strings},
    reader::{NOTED, Parsed, Value},
    route::valid_token,
    service::socket,
};
use zonekeeper_core::model::{Backend, BackendTls, Balance, HashKey, Pool, TlsFiles};

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

pub(crate) fn read(value: &Value<'_>) -> Parsed<Pool> {
    let table = value.table(FIELDS)?;
    let implied = if table.has("hash") { Balance::Hash } else { Balance::default() };
    let give = "at least one, as backends = [\"10.0.0.1:8080\"]";
    Ok(Pool {
        backends: table.need("backends", give, |v| v.each(backend)).unwrap_or_default(),
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
    })
}

fn tls(value: &Value<'_>) -> Parsed<BackendTls> {
    let table = value.table(TLS_FIELDS)?;
    let (cert, key) = (table.opt("cert", absolute), table.opt("key", absolute));
    if table.has("cert") != table.has("key") {
        return Err("cert and key go together: a certificate is shown with its key".into());
    }
    let client = cert.zip(key).map(|(cert, key)| TlsFiles { cert, key });
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
fn hash(value: &Value<'_>) -> Parsed<HashKey> {
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

fn write_hash(key: &HashKey) -> String {
    match key {
        HashKey::Source => "source".into(),
        HashKey::Path => "path".into(),
        HashKey::Header(name) => format!("header:{name}"),
        HashKey::Cookie(name) => format!("cookie:{name}"),
    }
}

fn backend(value: &Value<'_>) -> Parsed<Backend> {
    if !value.is_table() {
        return socket(value).map(|addr| Backend { site: None, addr, weight: 1 });
    }
    let table = value.table(BACKEND_FIELDS)?;
    let site = table.opt("site", Value::parse);
    let weight = table.or("weight", 1, |v| v.integer(0..=255, ""));
    let addr = table.need("addr", "an address with a port, as \"10.0.0.1:8080\"", socket);
    addr.map(|addr| Backend { site, addr, weight }).ok_or(NOTED.into())
}

pub(crate) fn write(pool: &Pool) -> toml::Table {
    let mut table = toml::Table::new();
    let mut put = |field: &str, value: toml::Value| _ = table.insert(field.into(), value);
    let balance = BALANCES.iter().find(|(_, b)| *b == pool.balance).map_or("", |(w, _)| w);
    put("backends", toml::Value::Array(pool.backends.iter().map(write_backend).collect()));
    put("balance", balance.into());
    put("check", check::write(pool.check.as_ref()));
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
    table
}

fn write_backend(backend: &Backend) -> toml::Value {
    let mut table = toml::Table::new();
    if let Some(site) = &backend.site {
        table.insert("site".into(), site.as_str().into());
    }
    table.insert("addr".into(), backend.addr.to_string().into());
    table.insert("weight".into(), i64::from(backend.weight).into());
    table.into()
}
