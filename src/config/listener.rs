//! `[listener.NAME]`: where the proxy listens, and its routes.

use crate::{
    duration::{millis, show},
    limit,
    reader::{NOTED, Parsed, Table, Value},
    route,
    service::socket,
};
use std::path::Path;
use zonekeeper_core::{
    id::CertificateId,
    model::{Bind, Certificate, Http2, Listener, Protocol, Route, Tls, TlsFiles},
};

pub(crate) const FIELDS: &[&str] = &[
    "bind",
    "protocol",
    "tls",
    "route",
    "pool",
    "max_connections",
    "header_timeout",
    "idle_timeout",
    "max_body",
    "access_log",
    "identify",
    "client_first",
    "http2",
    "proxy_protocol",
    "trusted_proxies",
    "max_connections_per_address",
    "rate_limit",
    "min_rate",
    "request_timeout",
    "tunnel_timeout",
];
pub(crate) const BIND_FIELDS: &[&str] = &["site", "addr"];
pub(crate) const TLS_FIELDS: &[&str] =
    &["cert", "key", "certificate", "certs", "client_ca", "client", "min_version"];
pub(crate) const CERT_FIELDS: &[&str] = &["cert", "key", "certificate"];

const PROTOCOLS: [(&str, Protocol); 4] =
    [("http", Protocol::Http), ("tcp", Protocol::Tcp), ("tls", Protocol::Tls), ("udp", Protocol::Udp)];
const CLIENT: [(&str, bool); 2] = [("required", false), ("optional", true)];
const VERSIONS: [(&str, bool); 2] = [("1.2", false), ("1.3", true)];

const HTTP2: [(&str, Http2); 3] =
    [("off", Http2::Off), ("tls", Http2::Tls), ("prior-knowledge", Http2::PriorKnowledge)];

pub(crate) fn read(value: &Value<'_>) -> Parsed<Listener> {
    let table = value.table(FIELDS)?;
    let binds = table.need("bind", "at least one address, as bind = [\"0.0.0.0:80\"]", |v| v.each(bind));
    let protocol = table.or("protocol", Protocol::Http, |v| v.word(&PROTOCOLS));
    Ok(Listener {
        binds: binds.unwrap_or_default(),
        protocol,
        tls: table.opt("tls", tls).flatten(),
        routes: routes(&table),
        max_connections: table.or("max_connections", 10_000, |v| v.integer(0..=1_000_000, "")),
        header_timeout_ms: table.or("header_timeout", 10_000, |v| millis(v, 100..=300_000)),
        idle_timeout_ms: table.or("idle_timeout", 60_000, |v| millis(v, 1000..=86_400_000)),
        max_body: table.or("max_body", 0, |v| v.integer(0..=1 << 50, "bytes")),
        access_log: table.or("access_log", 0, |v| v.integer(0..=1_000_000, "")),
        identify: table.or("identify", false, Value::boolean),
        client_first: table.or("client_first", false, Value::boolean),
        http2: table.or("http2", Http2::default(), |v| v.word(&HTTP2)),
        proxy_from: table.or("proxy_protocol", Vec::new(), |v| v.each(route::network)),
        trusted: table.or("trusted_proxies", Vec::new(), |v| v.each(route::network)),
        max_per_address: table.or("max_connections_per_address", 0, |v| v.integer(0..=1_000_000, "")),
        rate_limit: table.opt("rate_limit", limit::read).flatten(),
        min_rate: table.or("min_rate", 100, |v| v.integer(0..=1_000_000_000, "bytes a second")),
        request_timeout_ms: table.or("request_timeout", 0, |v| millis(v, 0..=86_400_000)),
        tunnel_timeout_ms: table.or("tunnel_timeout", 3_600_000, |v| millis(v, 1000..=604_800_000)),
    })
}

fn bind(value: &Value<'_>) -> Parsed<Bind> {
    if !value.is_table() {
        return socket(value).map(|addr| Bind { site: None, addr });
    }
    let table = value.table(BIND_FIELDS)?;
    let site = table.opt("site", Value::parse);
    let addr = table.need("addr", "an address with a port, as \"0.0.0.0:80\"", socket);
    addr.map(|addr| Bind { site, addr }).ok_or(NOTED.into())
}

fn tls(value: &Value<'_>) -> Parsed<Option<Tls>> {
    let table = value.table(TLS_FIELDS)?;
    let first = certificate(&table);
    let one = |v: &Value<'_>| certificate(&v.table(CERT_FIELDS)?).ok_or(NOTED.into());
    let more = table.opt("certs", |v| v.each(one)).unwrap_or_default();
    Ok(first.map(|first| Tls {
        certificates: std::iter::once(first).chain(more).collect(),
        client_ca: table.opt("client_ca", absolute),
        client_optional: table.or("client", false, |v| v.word(&CLIENT)),
        only_13: table.or("min_version", false, |v| v.word(&VERSIONS)),
    }))
}

/// One that the cluster holds, or files.
fn certificate(table: &Table<'_>) -> Option<Certificate> {
    match table.has("certificate") {
        true => held(table).map(Certificate::Held),
        false => files(table).map(Certificate::Files),
    }
}

/// The name in `certificate`, beside which there are no files.
pub(crate) fn held(table: &Table<'_>) -> Option<CertificateId> {
    for field in ["cert", "key"] {
        let both = "stands beside certificate; give files, or the name of one";
        table.opt(field, |_| Err::<(), _>(both.into()));
    }
    table.opt("certificate", Value::parse)
}

/// A certificate and its key, which go together.
pub(crate) fn files(table: &Table<'_>) -> Option<TlsFiles> {
    let cert = table.need("cert", "the file of the certificate chain (PEM)", absolute);
    let key = table.need("key", "the file of the private key (PEM)", absolute);
    cert.zip(key).map(|(cert, key)| TlsFiles { cert, key })
}

/// These files lie on each node's disk, so a path must mean the same everywhere.
pub(crate) fn absolute(value: &Value<'_>) -> Parsed<String> {
    let path = value.text(4096)?;
    if Path::new(&path).is_absolute() {
        return Ok(path);
    }
    Err(format!(
        "\"{path}\" is a relative path; the file lies on every node's disk, so give an absolute path"
    ))
}

/// The routes in order; the listener's own `pool` takes what none of them matched.
fn routes(table: &Table<'_>) -> Vec<Route> {
    let mut routes = table.opt("route", |v| v.each(route::read)).unwrap_or_default();
    routes.extend(table.opt("pool", Value::parse).map(Route::to));
    routes
}

pub(crate) fn write(listener: &Listener) -> toml::Table {
    let mut table = toml::Table::new();
    let mut put = |field: &str, value: toml::Value| _ = table.insert(field.into(), value);
    let protocol = PROTOCOLS.iter().find(|(_, p)| *p == listener.protocol).map_or("", |(w, _)| w);
    put("bind", toml::Value::Array(listener.binds.iter().map(write_bind).collect()));
    put("protocol", protocol.into());
    if let Some(tls) = &listener.tls {
        put("tls", write_tls(tls));
    }
    put("route", toml::Value::Array(listener.routes.iter().map(route::write).collect()));
    put("max_connections", i64::from(listener.max_connections).into());
    put("header_timeout", show(u64::from(listener.header_timeout_ms)).into());
    put("idle_timeout", show(u64::from(listener.idle_timeout_ms)).into());
    put("max_body", i64::try_from(listener.max_body).unwrap_or(i64::MAX).into());
    put("access_log", i64::from(listener.access_log).into());
    put("identify", listener.identify.into());
    put("client_first", listener.client_first.into());
    put("http2", HTTP2.iter().find(|(_, h)| *h == listener.http2).map_or("", |(w, _)| w).into());
    put("max_connections_per_address", i64::from(listener.max_per_address).into());
    put("min_rate", i64::from(listener.min_rate).into());
    put("request_timeout", show(u64::from(listener.request_timeout_ms)).into());
    put("tunnel_timeout", show(u64::from(listener.tunnel_timeout_ms)).into());
    if let Some(limit) = &listener.rate_limit {
        put("rate_limit", limit::write(limit));
    }
    for (field, networks) in
        [("proxy_protocol", &listener.proxy_from), ("trusted_proxies", &listener.trusted)]
    {
        if !networks.is_empty() {
            put(field, networks.iter().map(ToString::to_string).collect::<Vec<_>>().into());
        }
    }
    table
}

fn write_tls(tls: &Tls) -> toml::Value {
    let one = |c: &Certificate| match c {
        Certificate::Files(f) => strings(&[("cert", &f.cert), ("key", &f.key)]),
        Certificate::Held(id) => strings(&[("certificate", &id.to_string())]),
    };
    let Some((first, more)) = tls.certificates.split_first() else { return toml::Table::new().into() };
    let mut value = one(first);
    if let toml::Value::Table(table) = &mut value {
        if !more.is_empty() {
            table.insert("certs".into(), toml::Value::Array(more.iter().map(one).collect()));
        }
        if let Some(ca) = &tls.client_ca {
            table.insert("client_ca".into(), ca.as_str().into());
        }
        if tls.client_optional {
            table.insert("client".into(), "optional".into());
        }
        if tls.only_13 {
            table.insert("min_version".into(), "1.3".into());
        }
    }
    value
}

pub(crate) fn strings(pairs: &[(&str, &String)]) -> toml::Value {
    toml::Value::Table(pairs.iter().map(|(k, v)| ((*k).to_string(), v.as_str().into())).collect())
}

fn write_bind(bind: &Bind) -> toml::Value {
    match &bind.site {
        None => bind.addr.to_string().into(),
        Some(site) => strings(&[("site", &site.to_string()), ("addr", &bind.addr.to_string())]),
    }
}
