//! `check`: how an endpoint or a backend is probed. Either a word (`"tcp"`, `"none"`) or a table.

use crate::{
    duration::{millis, show},
    reader::{Parsed, Table, Value},
};
use zonekeeper_core::model::{Check, CheckKind};

pub(crate) const FIELDS: &[&str] =
    &["kind", "interval", "timeout", "rise", "fall", "jitter", "host", "path", "status", "body", "verify"];

/// Fields that only an HTTP check has.
const HTTP_ONLY: [&str; 5] = ["host", "path", "status", "body", "verify"];

/// What the other fields begin with.
struct Defaults {
    interval_ms: u32,
    timeout_ms: u32,
}

/// Endpoints are probed across sites: half a second is calm for the network, and three failures in a row are seen
/// within two. Backends are near, and one that fails is left out at once by its failing requests.
const ENDPOINT: Defaults = Defaults { interval_ms: 500, timeout_ms: 1000 };
const BACKEND: Defaults = Defaults { interval_ms: 1000, timeout_ms: 1000 };

#[derive(Clone, Copy, PartialEq)]
enum Word {
    None,
    Tcp,
    Http,
    Https,
}

const WORDS: [(&str, Word); 3] = [("tcp", Word::Tcp), ("http", Word::Http), ("https", Word::Https)];

/// The check of a service's endpoints; TCP connect when it is left out.
pub(crate) fn endpoint(table: &Table<'_>) -> Option<Check> {
    table.or("check", Some(plain(&ENDPOINT)), |v| read(v, &ENDPOINT))
}

/// The check of a pool's backends; TCP connect when it is left out.
pub(crate) fn backend(table: &Table<'_>) -> Option<Check> {
    table.or("check", Some(plain(&BACKEND)), |v| read(v, &BACKEND))
}

fn plain(defaults: &Defaults) -> Check {
    let Defaults { interval_ms, timeout_ms } = *defaults;
    Check { kind: CheckKind::Tcp, interval_ms, timeout_ms, rise: 2, fall: 3, jitter_percent: 10 }
}

fn read(value: &Value<'_>, defaults: &Defaults) -> Parsed<Option<Check>> {
    let plain = plain(defaults);
    if value.is_string() {
        let word = value.word(&[("tcp", Word::Tcp), ("none", Word::None)])?;
        return Ok((word == Word::Tcp).then_some(plain));
    }
    let table = value.table(FIELDS)?;
    let word = table.or("kind", Word::Tcp, |v| v.word(&WORDS));
    Ok(Some(Check {
        kind: kind(&table, word),
        interval_ms: table.or("interval", plain.interval_ms, |v| millis(v, 50..=3_600_000)),
        timeout_ms: table.or("timeout", plain.timeout_ms, |v| millis(v, 10..=60_000)),
        rise: table.or("rise", plain.rise, |v| v.integer(1..=20, "")),
        fall: table.or("fall", plain.fall, |v| v.integer(1..=20, "")),
        jitter_percent: table.or("jitter", plain.jitter_percent, |v| v.integer(0..=50, "percent")),
    }))
}

fn kind(table: &Table<'_>, word: Word) -> CheckKind {
    if word == Word::Tcp {
        for field in HTTP_ONLY.iter().filter(|f| table.has(f)) {
            let message = "is for an HTTP check; set kind = \"http\" or \"https\", or take it out";
            table.opt(field, |_| Err::<(), _>(message.into()));
        }
        return CheckKind::Tcp;
    }
    let (status_min, status_max) = table.or("status", (200, 399), status);
    CheckKind::Http {
        tls: word == Word::Https,
        verify: table.or("verify", true, Value::boolean),
        host: table.or("host", String::new(), host),
        path: table.need("path", "the path to ask, as \"/healthz\"", path).unwrap_or_else(|| "/".into()),
        status_min,
        status_max,
        body: table.or("body", String::new(), |v| v.text(1024)),
    }
}

fn host(value: &Value<'_>) -> Parsed<String> {
    let host = value.text(255)?;
    match host.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '/' | '@' | '?' | '#')) {
        Some(c) => Err(format!("contains {c:?}; give a host name, without scheme and path")),
        None => Ok(host),
    }
}

fn path(value: &Value<'_>) -> Parsed<String> {
    let path = value.text(2048)?;
    if !path.starts_with('/') {
        return Err(format!("\"{path}\" does not start with '/'; write \"/{path}\""));
    }
    match path.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(c) => Err(format!("contains {c:?}; write it percent-encoded")),
        None => Ok(path),
    }
}

/// `200` or `"200-399"`.
fn status(value: &Value<'_>) -> Parsed<(u16, u16)> {
    if value.is_integer() {
        return value.integer(100..=599, "").map(|n| (n, n));
    }
    let text = value.string()?;
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let code = |s: &str| s.trim().parse::<u16>().ok().filter(|n| (100..=599).contains(n));
    match (code(low), code(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        _ => Err(format!("\"{text}\" is no range of status codes; write 200 or \"200-399\" (100 to 599)")),
    }
}

pub(crate) fn write(check: Option<&Check>) -> toml::Value {
    let Some(check) = check else { return "none".into() };
    let mut table = toml::Table::new();
    let mut put = |field: &str, value: toml::Value| table.insert(field.into(), value);
    put("interval", show(u64::from(check.interval_ms)).into());
    put("timeout", show(u64::from(check.timeout_ms)).into());
    put("rise", i64::from(check.rise).into());
    put("fall", i64::from(check.fall).into());
    put("jitter", i64::from(check.jitter_percent).into());
    match &check.kind {
        CheckKind::Tcp => {
            put("kind", "tcp".into());
        }
        CheckKind::Http { tls, verify, host, path, status_min, status_max, body } => {
            put("kind", if *tls { "https" } else { "http" }.into());
            put("verify", (*verify).into());
            put("host", host.as_str().into());
            put("path", path.as_str().into());
            put("status", format!("{status_min}-{status_max}").into());
            put("body", body.as_str().into());
        }
    }
    table.into()
}
