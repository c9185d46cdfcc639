//! `[[listener.NAME.route]]`: which requests, and what becomes of them.

use crate::{
    duration::{millis, show},
    limit,
    listener::strings,
    reader::{NOTED, Parsed, Table, Value},
};
use std::net::IpAddr;
use zonekeeper_core::{
    id::PoolId,
    model::{Network, PathMatch, Redirect, Respond, ResponseRewrite, Rewrite, Route, RouteLimits, Target},
    route::pattern,
};

pub(crate) const FIELDS: &[&str] = &[
    "host",
    "method",
    "path",
    "path_prefix",
    "path_regex",
    "query",
    "header",
    "cookie",
    "source",
    "pool",
    "redirect",
    "respond",
    "rewrite",
    "response",
    "response_timeout",
    "retries",
    "max_body",
    "request_timeout",
    "rate_limit",
    "idempotent",
];
pub(crate) const PAIR_FIELDS: &[&str] = &["name", "value"];
pub(crate) const REDIRECT_FIELDS: &[&str] = &["status", "scheme", "host", "path"];
pub(crate) const RESPOND_FIELDS: &[&str] = &["status", "content_type", "body"];
pub(crate) const REWRITE_FIELDS: &[&str] = &["path", "host", "set", "remove"];
pub(crate) const RESPONSE_FIELDS: &[&str] = &["set", "remove"];

/// Fields of one connection, and those that frame a response (RFC 9110 §7.6.1): a rule about them would break either.
const OF_CONNECTION: [&str; 11] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Fields that the proxy writes itself: a rule about them would break framing, routing, or the record of the client.
const OWN: [&str; 13] = [
    "host",
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

pub(crate) fn read(value: &Value<'_>) -> Parsed<Route> {
    let table = value.table(FIELDS)?;
    let pair_of = |field, lower| table.opt(field, |v| pair(v, lower)).flatten();
    let route = Route {
        hosts: table.or("host", Vec::new(), |v| one_or_more(v, host)),
        methods: table.or("method", Vec::new(), |v| one_or_more(v, |v| token(v, false))),
        path: path_match(&table),
        query: pair_of("query", false),
        header: pair_of("header", true),
        cookie: pair_of("cookie", false),
        sources: table.or("source", Vec::new(), |v| one_or_more(v, network)),
        rewrite: table.or("rewrite", Rewrite::default(), rewrite),
        response: table.or("response", ResponseRewrite::default(), response),
        limits: RouteLimits {
            response_timeout_ms: table.opt("response_timeout", |v| millis(v, 100..=3_600_000)),
            retries: table.opt("retries", |v| v.integer(0..=10, "")),
            max_body: table.opt("max_body", |v| v.integer(0..=1 << 50, "bytes")),
            request_timeout_ms: table.opt("request_timeout", |v| millis(v, 0..=86_400_000)),
        },
        rate_limit: table.opt("rate_limit", limit::read).flatten(),
        ..Route::default()
    };
    let target = target(&table);
    let idempotent = |v: &Value<'_>| match (v.boolean()?, &target) {
        (true, Some(target)) if !target.forwards() => {
            Err("has no use in a route that answers by itself; take it out".to_owned())
        }
        (given, _) => Ok(given),
    };
    let target = match (table.or("idempotent", false, idempotent), &target) {
        (true, Some(Target::Pools(pools))) => Some(Target::Idempotent(pools.clone())),
        _ => target,
    };
    target.map(|target| Route { target, ..route }).ok_or(NOTED.into())
}

fn one_or_more<T>(value: &Value<'_>, read: impl Fn(&Value<'_>) -> Parsed<T>) -> Parsed<Vec<T>> {
    if value.is_array() { value.each(read) } else { read(value).map(|one| vec![one]) }
}

fn path_match(table: &Table<'_>) -> PathMatch {
    let given: Vec<&str> =
        ["path", "path_prefix", "path_regex"].into_iter().filter(|f| table.has(f)).collect();
    if let [first, second, ..] = given.as_slice() {
        let message = format!("stands beside {first}; a route has one condition on the path");
        table.opt(second, |_| Err::<(), _>(message));
    }
    let read = |field, kind: fn(String) -> PathMatch| table.opt(field, |v| path(v).map(kind));
    let regex = |v: &Value<'_>| {
        let text = v.text(1024)?;
        pattern(&text).map(|_| PathMatch::Regex(text.clone())).map_err(|e| format!("\"{text}\" {e}"))
    };
    read("path", PathMatch::Exact)
        .or_else(|| read("path_prefix", PathMatch::Prefix))
        .or_else(|| table.opt("path_regex", regex))
        .unwrap_or_default()
}

/// What becomes of a request: one of three.
fn target(table: &Table<'_>) -> Option<Target> {
    let given: Vec<&str> = ["pool", "redirect", "respond"].into_iter().filter(|f| table.has(f)).collect();
    match given.as_slice() {
        ["redirect"] => table.opt("redirect", redirect).map(Target::Redirect),
        ["respond"] => table.opt("respond", respond).map(Target::Respond),
        [first, second, ..] => {
            let message = format!("stands beside {first}; a route has one of pool, redirect and respond");
            table.opt(second, |_| Err::<Target, _>(message))
        }
        _ => table.need("pool", "the pool that takes matching requests", pools).map(Target::Pools),
    }
}

/// `"web"`, or `{ web = 9, canary = 1 }`.
fn pools(value: &Value<'_>) -> Parsed<Vec<(PoolId, u8)>> {
    if value.is_string() {
        return value.parse().map(|pool| vec![(pool, 1)]);
    }
    let mut pools = Vec::new();
    for (name, weight) in value.entries()?.all() {
        match (name.parse::<PoolId>(), weight.integer(1..=255, "")) {
            (Err(e), _) => weight.error(format!("\"{name}\" {e}")),
            (_, Err(message)) => weight.error(message),
            (Ok(pool), Ok(n)) => pools.push((pool, n)),
        }
    }
    if pools.is_empty() { Err("has no pool; give one, as { web = 9, canary = 1 }".into()) } else { Ok(pools) }
}

fn redirect(value: &Value<'_>) -> Parsed<Redirect> {
    let table = value.table(REDIRECT_FIELDS)?;
    let status = |v: &Value<'_>| match v.integer::<u16>(301..=308, "") {
        Ok(n @ (301 | 302 | 303 | 307 | 308)) => Ok(n),
        Ok(n) => Err(format!("{n} is no redirect; use 301, 302, 303, 307 or 308")),
        Err(message) => Err(message),
    };
    let scheme = |v: &Value<'_>| v.word(&[("http", "http"), ("https", "https")]).map(str::to_string);
    let redirect = Redirect {
        status: table.or("status", 308, status),
        scheme: table.opt("scheme", scheme),
        host: table.opt("host", authority),
        path: table.opt("path", target_path),
    };
    if redirect.scheme.is_none() && redirect.host.is_none() && redirect.path.is_none() {
        return Err("leads back to where it came from; give scheme, host or path".into());
    }
    Ok(redirect)
}

fn respond(value: &Value<'_>) -> Parsed<Respond> {
    let table = value.table(RESPOND_FIELDS)?;
    let body = |v: &Value<'_>| match v.string()? {
        s if s.len() > 16_384 => Err(format!("has {} bytes; at most 16384 are allowed", s.len())),
        s => Ok(s.to_string()),
    };
    let content_type = |v: &Value<'_>| v.text(128);
    let respond =
        (table.or("content_type", "text/plain".into(), content_type), table.or("body", String::new(), body));
    let status = table.need("status", "a status, as 404", |v| v.integer(200..=599, ""));
    let (content_type, body) = respond;
    status.map(|status| Respond { status, content_type, body }).ok_or(NOTED.into())
}

fn rewrite(value: &Value<'_>) -> Parsed<Rewrite> {
    let table = value.table(REWRITE_FIELDS)?;
    let (path, host) = (table.opt("path", target_path), table.opt("host", authority));
    let (set, remove) = headers(&table, &OWN);
    Ok(Rewrite { path, host, set, remove })
}

fn response(value: &Value<'_>) -> Parsed<ResponseRewrite> {
    let (set, remove) = headers(&value.table(RESPONSE_FIELDS)?, &OF_CONNECTION);
    Ok(ResponseRewrite { set, remove })
}

/// `set` and `remove`, none of them about these fields.
fn headers(table: &Table<'_>, own: &[&str]) -> (Vec<(String, String)>, Vec<String>) {
    let set = |v: &Value<'_>| {
        let mut all = Vec::new();
        for (name, value) in v.entries()?.all() {
            match (header_name(name, own), value.text(1024)) {
                (Err(message), _) | (_, Err(message)) => value.error(message),
                (Ok(name), Ok(text)) => all.push((name, text)),
            }
        }
        Ok(all)
    };
    let remove = |v: &Value<'_>| one_or_more(v, |v| header_name(v.string()?, own));
    (table.or("set", Vec::new(), set), table.or("remove", Vec::new(), remove))
}

/// A header that a rule may touch, in lower case.
fn header_name(name: &str, own: &[&str]) -> Parsed<String> {
    let name = valid_token(name)?.to_ascii_lowercase();
    if own.contains(&name.as_str()) {
        return Err(format!("\"{name}\" is written by the proxy itself; take it out"));
    }
    Ok(name)
}

/// A host, with a port if one is wanted.
fn authority(value: &Value<'_>) -> Parsed<String> {
    let text = value.text(259)?.to_ascii_lowercase();
    let (name, port) = text.split_once(':').unwrap_or((&text, "80"));
    let fine = plain_host(name) && port.parse::<u16>().is_ok_and(|p| p > 0);
    if fine {
        Ok(text)
    } else {
        Err(format!("\"{text}\" is no host; write it as \"www.example.com\" or \"www.example.com:8443\""))
    }
}

pub(crate) fn plain_host(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len()) && l.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    name.split('.').all(label)
}

/// `"10.0.0.0/8"`, or an address for itself alone.
pub(crate) fn network(value: &Value<'_>) -> Parsed<Network> {
    let text = value.text(64)?;
    let bad = || format!("\"{text}\" is no network; write it as \"10.0.0.0/8\" or \"2001:db8::/32\"");
    let (addr, bits) = text.split_once('/').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
    let addr: IpAddr = addr.parse().map_err(|_| bad())?;
    let whole = if addr.is_ipv4() { 32 } else { 128 };
    let bits: u8 = bits.map_or(Ok(whole), str::parse).map_err(|_| bad())?;
    if bits > whole {
        return Err(format!("\"{text}\" has more than {whole} bits"));
    }
    Ok(Network { addr, bits })
}

/// A host name, or `*.` and a host name.
fn host(value: &Value<'_>) -> Parsed<String> {
    let host = value.text(253)?.to_ascii_lowercase();
    let name = host.strip_prefix("*.").unwrap_or(&host);
    if plain_host(name) {
        return Ok(host);
    }
    Err(format!(
        "\"{host}\" is no host pattern; write a name as \"www.example.com\", or \"*.example.com\" for all below it"
    ))
}

/// A path without a query, as a condition.
fn path(value: &Value<'_>) -> Parsed<String> {
    let path = value.text(2048)?;
    if !path.starts_with('/') {
        return Err(format!("\"{path}\" does not start with '/'; write \"/{path}\""));
    }
    match path.chars().find(|c| matches!(c, '?' | '#') || !c.is_ascii_graphic()) {
        Some(c) => Err(format!("contains {c:?}; a path has neither query nor spaces")),
        None => Ok(path),
    }
}

/// A path that is written into a request or a `Location`.
fn target_path(value: &Value<'_>) -> Parsed<String> {
    let path = value.text(2048)?;
    if !path.starts_with('/') {
        return Err(format!("\"{path}\" does not start with '/'; write \"/{path}\""));
    }
    match path.chars().find(|c| *c == '#' || !c.is_ascii_graphic()) {
        Some(c) => Err(format!("contains {c:?}, which must be percent-encoded")),
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
    valid_token(&name)?;
    Ok(if lower { name.to_ascii_lowercase() } else { name })
}

pub(crate) fn valid_token(name: &str) -> Parsed<&str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() {
        return Err("is empty; give a name".into());
    }
    match name.chars().find(|c| !fits(*c)) {
        Some(c) => {
            Err(format!("\"{name}\" contains {c:?}; a name has letters, digits and !#$%&'*+-.^_`|~ only"))
        }
        None => Ok(name),
    }
}

pub(crate) fn write(route: &Route) -> toml::Value {
    let mut table = toml::Table::new();
    let mut put = |field: &str, value: toml::Value| _ = table.insert(field.into(), value);
    for (field, words) in [("host", &route.hosts), ("method", &route.methods)] {
        if !words.is_empty() {
            put(field, words.clone().into());
        }
    }
    match &route.path {
        PathMatch::Any => {}
        PathMatch::Prefix(path) => put("path_prefix", path.as_str().into()),
        PathMatch::Exact(path) => put("path", path.as_str().into()),
        PathMatch::Regex(text) => put("path_regex", text.as_str().into()),
    }
    for (field, pair) in [("query", &route.query), ("header", &route.header), ("cookie", &route.cookie)] {
        if let Some((name, value)) = pair {
            put(field, strings(&[("name", name), ("value", value)]));
        }
    }
    if !route.sources.is_empty() {
        put("source", route.sources.iter().map(Network::to_string).collect::<Vec<_>>().into());
    }
    match &route.target {
        Target::Pools(pools) | Target::Idempotent(pools) => match pools.as_slice() {
            [(pool, 1)] => put("pool", pool.as_str().into()),
            pools => {
                let weight = |(pool, n): &(PoolId, u8)| (pool.to_string(), i64::from(*n).into());
                put("pool", toml::Value::Table(pools.iter().map(weight).collect()));
            }
        },
        Target::Redirect(redirect) => put("redirect", write_redirect(redirect)),
        Target::Respond(respond) => put("respond", write_respond(respond)),
    }
    if route.rewrite != Rewrite::default() {
        put("rewrite", write_rewrite(&route.rewrite));
    }
    if route.response != ResponseRewrite::default() {
        let mut table = toml::Table::new();
        write_headers(&mut table, &route.response.set, &route.response.remove);
        put("response", table.into());
    }
    let limits = &route.limits;
    if let Some(ms) = limits.response_timeout_ms {
        put("response_timeout", show(u64::from(ms)).into());
    }
    if let Some(n) = limits.retries {
        put("retries", i64::from(n).into());
    }
    if let Some(ms) = limits.request_timeout_ms {
        put("request_timeout", show(u64::from(ms)).into());
    }
    if let Some(limit) = &route.rate_limit {
        put("rate_limit", limit::write(limit));
    }
    if route.target.idempotent() {
        put("idempotent", true.into());
    }
    if let Some(n) = limits.max_body {
        put("max_body", i64::try_from(n).unwrap_or(i64::MAX).into());
    }
    table.into()
}

fn optional(table: &mut toml::Table, fields: &[(&str, &Option<String>)]) {
    for (field, text) in fields {
        if let Some(text) = text {
            table.insert((*field).into(), text.as_str().into());
        }
    }
}

fn write_redirect(r: &Redirect) -> toml::Value {
    let mut table = toml::Table::new();
    table.insert("status".into(), i64::from(r.status).into());
    optional(&mut table, &[("scheme", &r.scheme), ("host", &r.host), ("path", &r.path)]);
    table.into()
}

fn write_respond(r: &Respond) -> toml::Value {
    let mut table = toml::Table::new();
    table.insert("status".into(), i64::from(r.status).into());
    table.insert("content_type".into(), r.content_type.as_str().into());
    table.insert("body".into(), r.body.as_str().into());
    table.into()
}

fn write_rewrite(r: &Rewrite) -> toml::Value {
    let mut table = toml::Table::new();
    optional(&mut table, &[("path", &r.path), ("host", &r.host)]);
    write_headers(&mut table, &r.set, &r.remove);
    table.into()
}

fn write_headers(table: &mut toml::Table, set: &[(String, String)], remove: &[String]) {
    if !set.is_empty() {
        let pairs: Vec<(&str, &String)> = set.iter().map(|(n, v)| (n.as_str(), v)).collect();
        table.insert("set".into(), strings(&pairs));
    }
    if !remove.is_empty() {
        table.insert("remove".into(), remove.to_vec().into());
    }
}
