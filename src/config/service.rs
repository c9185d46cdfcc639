//! `[service.NAME]`: DNS names, a policy, and the endpoints of each site.

use crate::{
    check,
    duration::{millis, seconds, show},
    reader::{NOTED, Parsed, Table, Value},
};
use std::{collections::BTreeMap, net::SocketAddr};
use zonekeeper_core::{
    id::SiteId,
    model::{Area, Endpoint, Failback, Nearest, Policy, Quorum, Service, WhenAllDown},
};

pub(crate) const FIELDS: &[&str] = &[
    "names",
    "policy",
    "sites",
    "weights",
    "nearest",
    "endpoint",
    "ttl",
    "check",
    "pool",
    "min_backends",
    "when_all_down",
    "hold_down",
    "hold_down_max",
    "failback",
    "failback_after",
    "quorum",
    "min_answers",
    "automation",
];
pub(crate) const ENDPOINT_FIELDS: &[&str] = &["addr", "port"];

const WEEK_MS: u64 = 7 * 86_400_000;

#[derive(Clone, Copy, PartialEq)]
enum Word {
    Failover,
    Weighted,
    All,
    Nearest,
}

const POLICIES: [(&str, Word); 4] = [
    ("failover", Word::Failover),
    ("weighted", Word::Weighted),
    ("all", Word::All),
    ("nearest", Word::Nearest),
];
/// Areas of one service: it must fit into one log entry.
const MAX_AREAS: usize = 1000;
const ALL_DOWN: [(&str, WhenAllDown); 3] = [
    ("fail_open", WhenAllDown::FailOpen),
    ("nodata", WhenAllDown::NoData),
    ("servfail", WhenAllDown::ServFail),
];
const QUORUMS: [(&str, Quorum); 2] = [("majority", Quorum::Majority), ("unanimous", Quorum::Unanimous)];

/// The hold-down of a site that flaps grows so many times, unless it is said otherwise.
const GROWTH: u64 = 16;

pub(crate) fn read(value: &Value<'_>) -> Parsed<Service> {
    let table = value.table(FIELDS)?;
    let endpoints = table
        .need("endpoint", "at least one address, as endpoint.SITE = [\"192.0.2.1:443\"]", endpoints)
        .unwrap_or_default();
    let names =
        table.need("names", "at least one DNS name, as [\"www.example.com\"]", |v| v.each(Value::parse));
    let hold_down_ms = table.or("hold_down", 30_000, |v| millis(v, 0..=WEEK_MS));
    let longest = (GROWTH * hold_down_ms).min(WEEK_MS);
    Ok(Service {
        names: names.unwrap_or_default(),
        policy: policy(&table, &endpoints),
        endpoints,
        ttl: table.or("ttl", 10, |v| seconds(v, 1..=86_400)),
        check: check::endpoint(&table),
        pool: table.opt("pool", Value::parse),
        min_backends: table.or("min_backends", 1, |v| v.integer(0..=65_535, "")),
        when_all_down: table.or("when_all_down", WhenAllDown::FailOpen, |v| v.word(&ALL_DOWN)),
        hold_down_ms,
        hold_down_max_ms: table.or("hold_down_max", longest, |v| millis(v, 0..=WEEK_MS)),
        failback: failback(&table),
        quorum: table.or("quorum", Quorum::Majority, |v| v.word(&QUORUMS)),
        min_answers: table.or("min_answers", 1, |v| v.integer(0..=255, "")),
        automation: table.or("automation", true, Value::boolean),
    })
}

fn endpoints(value: &Value<'_>) -> Parsed<BTreeMap<SiteId, Vec<Endpoint>>> {
    let mut sites = BTreeMap::new();
    for (name, value) in value.entries()?.all() {
        match (name.parse::<SiteId>(), addresses(&value)) {
            (Err(e), _) => value.error(format!("\"{name}\" {e}")),
            (_, Err(message)) => value.error(message),
            (Ok(site), Ok(list)) => _ = sites.insert(site, list),
        }
    }
    Ok(sites)
}

/// One address or several.
fn addresses(value: &Value<'_>) -> Parsed<Vec<Endpoint>> {
    if value.is_array() { value.each(endpoint) } else { endpoint(value).map(|e| vec![e]) }
}

fn endpoint(value: &Value<'_>) -> Parsed<Endpoint> {
    if !value.is_table() {
        return socket(value).map(|a| Endpoint { addr: a.ip(), port: a.port() });
    }
    let table = value.table(ENDPOINT_FIELDS)?;
    let addr =
        table.need("addr", "an address, as \"192.0.2.1\"", |v| v.parse_as("an IP address, as \"192.0.2.1\""));
    let port = table.need("port", "the port that clients use", |v| v.integer(1..=65_535, ""));
    match (addr, port) {
        (Some(addr), Some(port)) => Ok(Endpoint { addr, port }),
        _ => Err(NOTED.into()),
    }
}

/// An address with a port that is not 0.
pub(crate) fn socket(value: &Value<'_>) -> Parsed<SocketAddr> {
    let addr: SocketAddr =
        value.parse_as("an address with a port, as \"192.0.2.1:443\" or \"[2001:db8::1]:443\"")?;
    if addr.port() == 0 { Err("has port 0; give a port from 1 to 65535".into()) } else { Ok(addr) }
}

fn policy(table: &Table<'_>, endpoints: &BTreeMap<SiteId, Vec<Endpoint>>) -> Policy {
    let implied = match (table.has("weights"), table.has("nearest")) {
        (true, _) => Word::Weighted,
        (_, true) => Word::Nearest,
        _ => Word::Failover,
    };
    let word = table.or("policy", implied, |v| v.word(&POLICIES));
    for (field, owners, policy) in [
        ("sites", &[Word::Failover, Word::Nearest][..], "failover"),
        ("weights", &[Word::Weighted], "weighted"),
        ("nearest", &[Word::Nearest], "nearest"),
    ] {
        if !owners.contains(&word) && table.has(field) {
            let message = format!("belongs to policy = \"{policy}\"; take it out, or change the policy");
            table.opt(field, |_| Err::<(), _>(message));
        }
    }
    match word {
        Word::All => Policy::All,
        Word::Weighted => {
            let give = "a weight for each site, as weights = { fra = 3, ams = 1 }";
            Policy::Weighted(table.need("weights", give, weights).unwrap_or_default())
        }
        // With one site there is only one order; with none, that is what needs a remedy.
        Word::Failover if endpoints.len() <= 1 && !table.has("sites") => {
            Policy::Failover(endpoints.keys().cloned().collect())
        }
        Word::Failover => Policy::Failover(order(table)),
        Word::Nearest => {
            let areas = table.opt("nearest", areas).unwrap_or_default();
            Policy::Nearest(Box::new(Nearest { sites: order(table), areas }))
        }
    }
}

fn order(table: &Table<'_>) -> Vec<SiteId> {
    let give = "the sites in the order of preference, as sites = [\"fra\", \"ams\"]";
    table.need("sites", give, |v| v.each(Value::parse)).unwrap_or_default()
}

/// `"192.0.2.0/24" = "fra"`, or several sites, best first.
fn areas(value: &Value<'_>) -> Parsed<BTreeMap<Area, Vec<SiteId>>> {
    let mut areas = BTreeMap::new();
    for (key, value) in value.entries()?.all() {
        let sites = if value.is_array() { value.each(Value::parse) } else { value.parse().map(|s| vec![s]) };
        match (key.parse::<Area>(), sites) {
            (Err(e), _) => value.error(format!("\"{key}\" {e}")),
            (_, Err(message)) => value.error(message),
            (_, Ok(sites)) if sites.is_empty() => {
                value.error("names no site; give one, or take the area out")
            }
            (Ok(area), Ok(sites)) => {
                if areas.insert(area, sites).is_some() {
                    value.error(format!("{area} is there already; keep one"));
                }
            }
        }
    }
    match areas.len() {
        count if count > MAX_AREAS => Err(format!("has {count} areas; at most {MAX_AREAS} are possible")),
        _ => Ok(areas),
    }
}

fn weights(value: &Value<'_>) -> Parsed<BTreeMap<SiteId, u8>> {
    let mut weights = BTreeMap::new();
    for (name, value) in value.entries()?.all() {
        match (name.parse::<SiteId>(), value.integer(1..=255, "")) {
            (Err(e), _) => value.error(format!("\"{name}\" {e}")),
            (_, Err(message)) => value.error(message),
            (Ok(site), Ok(weight)) => _ = weights.insert(site, weight),
        }
    }
    Ok(weights)
}

fn failback(table: &Table<'_>) -> Failback {
    let auto = table.or("failback", true, |v| v.word(&[("auto", true), ("manual", false)]));
    if auto {
        return Failback::Auto { healthy_ms: table.or("failback_after", 30_000, |v| millis(v, 0..=WEEK_MS)) };
    }
    table.opt("failback_after", |_| Err::<(), _>("belongs to failback = \"auto\"; take it out".into()));
    Failback::Manual
}

fn word_of<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, v)| v == value).map_or("", |(w, _)| w)
}

pub(crate) fn write(service: &Service) -> toml::Table {
    let mut table = toml::Table::new();
    let mut put = |field: &str, value: toml::Value| _ = table.insert(field.into(), value);
    let text = |items: Vec<String>| toml::Value::from(items);
    put("names", text(service.names.iter().map(ToString::to_string).collect()));
    match &service.policy {
        Policy::All => put("policy", "all".into()),
        Policy::Failover(order) => {
            put("policy", "failover".into());
            put("sites", text(order.iter().map(ToString::to_string).collect()));
        }
        Policy::Weighted(weights) => {
            put("policy", "weighted".into());
            let weights = weights.iter().map(|(site, w)| (site.to_string(), i64::from(*w).into()));
            put("weights", toml::Value::Table(weights.collect()));
        }
        Policy::Nearest(nearest) => {
            put("policy", "nearest".into());
            let names = |sites: &[SiteId]| text(sites.iter().map(ToString::to_string).collect());
            put("sites", names(&nearest.sites));
            let areas = nearest.areas.iter().map(|(area, sites)| (area.to_string(), names(sites)));
            put("nearest", toml::Value::Table(areas.collect()));
        }
    }
    let address = |e: &Endpoint| SocketAddr::new(e.addr, e.port).to_string();
    let sites =
        service.endpoints.iter().map(|(s, list)| (s.to_string(), text(list.iter().map(address).collect())));
    put("endpoint", toml::Value::Table(sites.collect()));
    put("ttl", i64::from(service.ttl).into());
    put("check", check::write_endpoint(service.check.as_ref()));
    if let Some(pool) = &service.pool {
        put("pool", pool.as_str().into());
    }
    put("min_backends", i64::from(service.min_backends).into());
    put("when_all_down", word_of(&ALL_DOWN, &service.when_all_down).into());
    put("hold_down", show(service.hold_down_ms).into());
    put("hold_down_max", show(service.hold_down_max_ms).into());
    match service.failback {
        Failback::Manual => put("failback", "manual".into()),
        Failback::Auto { healthy_ms } => {
            put("failback", "auto".into());
            put("failback_after", show(healthy_ms).into());
        }
    }
    put("quorum", word_of(&QUORUMS, &service.quorum).into());
    put("min_answers", i64::from(service.min_answers).into());
    put("automation", service.automation.into());
    table
}
