//! `rate_limit` of a listener or a route.

use crate::{
    duration::{millis, show},
    pool::{hash, write_hash},
    reader::{Parsed, Value},
};
use zonekeeper_core::model::{HashKey, RateLimit};

pub(crate) const FIELDS: &[&str] = &["requests", "per", "burst", "key"];

pub(crate) fn read(value: &Value<'_>) -> Parsed<Option<RateLimit>> {
    let table = value.table(FIELDS)?;
    let per_ms = table.or("per", 1000, |v| millis(v, 1000..=3_600_000));
    let burst = table.opt("burst", |v| v.integer(1..=100_000, ""));
    let key = table.or("key", HashKey::Source, hash);
    let requests = table.need("requests", "how many, as 100", |v| v.integer(1..=100_000, ""));
    Ok(requests.map(|requests| RateLimit { requests, per_ms, burst: burst.unwrap_or(requests), key }))
}

pub(crate) fn write(limit: &RateLimit) -> toml::Value {
    let mut table = toml::Table::new();
    table.insert("requests".into(), i64::from(limit.requests).into());
    table.insert("per".into(), show(u64::from(limit.per_ms)).into());
    table.insert("burst".into(), i64::from(limit.burst).into());
    table.insert("key".into(), write_hash(&limit.key).into());
    table.into()
}
