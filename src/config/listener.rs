//! `[listener.NAME]`: where the proxy listens, and its routes.

use crate::{
    duration::{millis, show},
    reader::{NOTED, Parsed, Table, Value},
    service::socket,
};
use std::path::Path;
use zonekeeper_core::model::{Bind, Listener, Protocol, Route, TlsFiles};

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
];
pub(crate) const BIND_FIELDS: &[&str] = &["site", "addr"];
pub(crate) const TLS_FIELDS: &[&str] = &["cert", "key"];
pub(crate) const ROUTE_FIELDS: &[&str] = &["host", "path_prefix", "header", "cookie", "pool"];
pub(crate) const PAIR_FIELDS: &[&str] = &["name", "value"];

const PROTOCOLS: [(&str, Protocol); 2] = [("http", Protocol::Http), ("tcp", Protocol::Tcp)];

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

fn tls(value: &Value<'_>) -> Parsed<Option<TlsFiles>> {
    let table = value.table(TLS_FIELDS)?;
    let cert = table.need("cert", "the file of the certificate chain (PEM)", absolute);
    let key = table.need("key", "the file of the private key (PEM)", absolute);
    Ok(cert.zip(key).map(|(cert, key)| TlsFiles { cert, key }))
}

/// These files lie on each node's disk, so a path must mean the same everywhere.
fn absolute(value: &Value<'_>) -> Parsed<String> {
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
    let mut routes = table.opt("route", |v| v.each(route)).unwrap_or_default();
    if let Some(pool) = table.opt("pool", Value::parse) {
        routes.push(Route {
            hosts: Vec::new(),
            path_prefix: String::new(),
            header: None,
            cookie: None,
            pool,
        });
    }
    routes
}

fn route(value: &Value<'_>) -> Parsed<Route> {
    let table = value.table(ROUTE_FIELDS)?;
    let hosts = |v: &Value<'_>| if v.is_string() { host(v).map(|h| vec![h]) } else { v.each(host) };
    let route = (
        table.or("host", Vec::new(), hosts),
        table.or("path_prefix", String::new(), prefix),
        table.opt("header", |v| pair(v, true)).flatten(),
        table.opt("cookie", |v| pair(v, false)).flatten(),
    );
    let pool = table.need("pool", "the pool that takes matching requests", Value::parse);
    let (hosts, path_prefix, header, cookie) = route;
    pool.map(|pool| Route { hosts, path_prefix, header, cookie, pool }).ok_or(NOTED.into())
}

/// A host name, or `*.` and a host name.
fn host(value: &Value<'_>) -> Parsed<String> {
    let host = value.text(253)?.to_ascii_lowercase();
    let name = host.strip_prefix("*.").unwrap_or(&host);
    let label = |l: &str| {
        (1..=63).contains(&l.len()) && l.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    if name.split('.').all(label) {
        return Ok(host);
    }
    Err(format!(
        "\"{host}\" is no host pattern; write a name as \"www.example.com\", or \"*.example.com\" for all below it"
    ))
}

fn prefix(value: &Value<'_>) -> Parsed<String> {
    let path = value.text(2048)?;
    if !path.starts_with('/') {
        return Err(format!("\"{path}\" does not start with '/'; write \"/{path}\""));
    }
    match path.chars().find(|c| matches!(c, '?' | '#') || !c.is_ascii_graphic()) {
        Some(c) => Err(format!("contains {c:?}; a path prefix has neither query nor spaces")),
        None => Ok(path),
    }
}

/// `{ name, value }` of a header or a cookie; names are tokens (RFC 9110 §5.6.2), those of headers in lower case.
fn pair(value: &Value<'_>, header: bool) -> Parsed<Option<(String, String)>> {
    let table = value.table(PAIR_FIELDS)?;
    let text = table.or("value", String::new(), |v| v.text(1024));
    let name = table.need("name", "its name", |v| token(v, header));
    Ok(name.map(|name| (name, text)))
}

fn token(value: &Value<'_>, lower: bool) -> Parsed<String> {
    let name = value.text(128)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() {
        return Err("is empty; give a name".into());
    }
    match name.chars().find(|c| !fits(*c)) {
        Some(c) => {
            Err(format!("\"{name}\" contains {c:?}; a name has letters, digits and !#$%&'*+-.^_`|~ only"))
        }
        None => Ok(if lower { name.to_ascii_lowercase() } else { name }),
    }
}

pub(crate) fn write(listener: &Listener) -> toml::Table {
    let mut table = toml::Table::new();
    let mut put = |field: &str, value: toml::Value| _ = table.insert(field.into(), value);
    let protocol = PROTOCOLS.iter().find(|(_, p)| *p == listener.protocol).map_or("", |(w, _)| w);
    put("bind", toml::Value::Array(listener.binds.iter().map(write_bind).collect()));
    put("protocol", protocol.into());
    if let Some(tls) = &listener.tls {
        put("tls", strings(&[("cert", &tls.cert), ("key", &tls.key)]));
    }
    put("route", toml::Value::Array(listener.routes.iter().map(write_route).collect()));
    put("max_connections", i64::from(listener.max_connections).into());
    put("header_timeout", show(u64::from(listener.header_timeout_ms)).into());
    put("idle_timeout", show(u64::from(listener.idle_timeout_ms)).into());
    put("max_body", i64::try_from(listener.max_body).unwrap_or(i64::MAX).into());
    table
}

fn strings(pairs: &[(&str, &String)]) -> toml::Value {
    toml::Value::Table(pairs.iter().map(|(k, v)| ((*k).to_string(), v.as_str().into())).collect())
}

fn write_bind(bind: &Bind) -> toml::Value {
    match &bind.site {
        None => bind.addr.to_string().into(),
        Some(site) => strings(&[("site", &site.to_string()), ("addr", &bind.addr.to_string())]),
    }
}

fn write_route(route: &Route) -> toml::Value {
    let mut table = toml::Table::new();
    let mut put = |field: &str, value: toml::Value| _ = table.insert(field.into(), value);
    if !route.hosts.is_empty() {
        put("host", route.hosts.clone().into());
    }
    if !route.path_prefix.is_empty() {
        put("path_prefix", route.path_prefix.as_str().into());
    }
    for (field, pair) in [("header", &route.header), ("cookie", &route.cookie)] {
        if let Some((name, value)) = pair {
            put(field, strings(&[("name", name), ("value", value)]));
        }
    }
    put("pool", route.pool.as_str().into());
    table.into()
}
