//! `check`: how an endpoint or a backend is probed. Either a word (`"tcp"`, `"none"`) or a table.

use crate::{
    duration::{millis, show},
    reader::{Parsed, Table, Value},
};
use zonekeeper_core::{
    detector::Preset,
    model::{Check, CheckKind, GrpcCheck, HttpCheck},
};

pub(crate) const FIELDS: &[&str] = &[
    "kind", "preset", "patience", "interval", "timeout", "rise", "fall", "jitter", "host", "path", "status",
    "body", "verify", "tls", "service",
];

/// Fields that only some kinds have, with their remedy.
const FIELDS_OF_KINDS: [(&str, &[Word], &str); 7] = {
    const ASKING: &[Word] = &[Word::Http, Word::Https, Word::Http2, Word::Grpc];
    const HTTP: &[Word] = &[Word::Http, Word::Https, Word::Http2];
    const REQUEST: &str = "is for an HTTP check; set kind = \"http\", \"https\" or \"http2\", or take it out";
    const ASKED: &str = "is for a check that asks something; set kind = \"http\", \"https\", \"http2\" or \"grpc\", or take it out";
    const SECURE: &str = "is for kind = \"http2\" or \"grpc\"; HTTP/1.1 over TLS is kind = \"https\"";
    [
        ("host", ASKING, ASKED),
        ("verify", ASKING, ASKED),
        ("path", HTTP, REQUEST),
        ("status", HTTP, REQUEST),
        ("body", HTTP, REQUEST),
        ("tls", &[Word::Http2, Word::Grpc], SECURE),
        ("service", &[Word::Grpc], "is for a gRPC check; set kind = \"grpc\", or take it out"),
    ]
};

/// Fields that only the check of a service has.
const SERVICE_ONLY: [&str; 2] = ["preset", "patience"];

/// Whose check it is.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    /// Endpoints of other sites: what a preset says.
    Service,
    /// Backends are near, and one that fails is left out at once by its failing requests: `fall` probes are patience
    /// enough.
    Pool,
}

impl Of {
    fn plain(self, preset: Preset) -> Check {
        let Preset { patience_ms, interval_ms, timeout_ms, fall, .. } = match self {
            Of::Service => preset,
            Of::Pool => Preset { patience_ms: 0, interval_ms: 1_000, timeout_ms: 1_000, ..Preset::BALANCED },
        };
        Check {
            kind: CheckKind::Tcp,
            interval_ms,
            timeout_ms,
            rise: 2,
            fall,
            jitter_percent: 10,
            patience_ms,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Word {
    None,
    Tcp,
    Http,
    Https,
    Http2,
    Grpc,
}

const WORDS: [(&str, Word); 5] = [
    ("tcp", Word::Tcp),
    ("http", Word::Http),
    ("https", Word::Https),
    ("http2", Word::Http2),
    ("grpc", Word::Grpc),
];

/// The check of a service's endpoints; TCP connect when it is left out.
pub(crate) fn endpoint(table: &Table<'_>) -> Option<Check> {
    of(table, Of::Service, false)
}

/// The check of a pool's backends; TCP connect when it is left out.
pub(crate) fn backend(table: &Table<'_>) -> Option<Check> {
    of(table, Of::Pool, table.has("tls"))
}

/// `tls`: what is checked is spoken to over TLS, unless the check says otherwise.
fn of(table: &Table<'_>, of: Of, tls: bool) -> Option<Check> {
    table.or("check", Some(of.plain(Preset::BALANCED)), |v| read(v, of, tls))
}

fn read(value: &Value<'_>, of: Of, tls: bool) -> Parsed<Option<Check>> {
    if value.is_string() {
        let word = value.word(&[("tcp", Word::Tcp), ("none", Word::None)])?;
        return Ok((word == Word::Tcp).then_some(of.plain(Preset::BALANCED)));
    }
    let table = value.table(FIELDS)?;
    for field in SERVICE_ONLY.iter().filter(|f| of == Of::Pool && table.has(f)) {
        let message =
            "is for a service's check; a pool's counts failures: set fall and interval, or take it out";
        table.opt(field, |_| Err::<(), _>(message.into()));
    }
    let preset = table.or("preset", Preset::BALANCED, |v| v.word(&Preset::ALL.map(|p| (p.name, p))));
    let plain = of.plain(preset);
    let word = table.or("kind", Word::Tcp, |v| v.word(&WORDS));
    Ok(Some(Check {
        kind: kind(&table, word, tls),
        interval_ms: table.or("interval", plain.interval_ms, |v| millis(v, 50..=3_600_000)),
        timeout_ms: table.or("timeout", plain.timeout_ms, |v| millis(v, 10..=60_000)),
        rise: table.or("rise", plain.rise, |v| v.integer(1..=20, "")),
        fall: table.or("fall", plain.fall, |v| v.integer(1..=20, "")),
        jitter_percent: table.or("jitter", plain.jitter_percent, |v| v.integer(0..=50, "percent")),
        patience_ms: table.or("patience", plain.patience_ms, |v| millis(v, 0..=600_000)),
    }))
}

fn kind(table: &Table<'_>, word: Word, tls: bool) -> CheckKind {
    for (field, kinds, remedy) in FIELDS_OF_KINDS {
        if table.has(field) && !kinds.contains(&word) {
            table.opt(field, |_| Err::<(), _>(remedy.into()));
        }
    }
    match word {
        Word::None | Word::Tcp => CheckKind::Tcp,
        Word::Http => CheckKind::Http(http(table, false)),
        Word::Https => CheckKind::Http(http(table, true)),
        Word::Http2 => CheckKind::Http2(http(table, table.or("tls", tls, Value::boolean))),
        Word::Grpc => CheckKind::Grpc(GrpcCheck {
            tls: table.or("tls", tls, Value::boolean),
            verify: table.or("verify", true, Value::boolean),
            host: table.or("host", String::new(), host),
            service: table.or("service", String::new(), |v| v.text(255)),
        }),
    }
}

fn http(table: &Table<'_>, tls: bool) -> HttpCheck {
    let (status_min, status_max) = table.or("status", (200, 399), status);
    HttpCheck {
        tls,
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

/// A service's check as it is declared.
pub(crate) fn write_endpoint(check: Option<&Check>) -> toml::Value {
    write(check, Of::Service)
}

/// A pool's check as it is declared.
pub(crate) fn write_backend(check: Option<&Check>) -> toml::Value {
    write(check, Of::Pool)
}

fn write(check: Option<&Check>, of: Of) -> toml::Value {
    let Some(check) = check else { return "none".into() };
    let mut table = toml::Table::new();
    let mut put = |field: &str, value: toml::Value| table.insert(field.into(), value);
    put("interval", show(u64::from(check.interval_ms)).into());
    put("timeout", show(u64::from(check.timeout_ms)).into());
    put("rise", i64::from(check.rise).into());
    put("fall", i64::from(check.fall).into());
    put("jitter", i64::from(check.jitter_percent).into());
    if of == Of::Service {
        put("patience", show(u64::from(check.patience_ms)).into());
    }
    let word = match &check.kind {
        CheckKind::Tcp => "tcp",
        CheckKind::Http(http) if http.tls => "https",
        CheckKind::Http(_) => "http",
        CheckKind::Http2(_) => "http2",
        CheckKind::Grpc(_) => "grpc",
    };
    put("kind", word.into());
    if let CheckKind::Http2(HttpCheck { tls, .. }) | CheckKind::Grpc(GrpcCheck { tls, .. }) = &check.kind {
        put("tls", (*tls).into());
    }
    match &check.kind {
        CheckKind::Tcp => {}
        CheckKind::Http(http) | CheckKind::Http2(http) => {
            put("verify", http.verify.into());
            put("host", http.host.as_str().into());
            put("path", http.path.as_str().into());
            put("status", format!("{}-{}", http.status_min, http.status_max).into());
            put("body", http.body.as_str().into());
        }
        CheckKind::Grpc(grpc) => {
            put("verify", grpc.verify.into());
            put("host", grpc.host.as_str().into());
            put("service", grpc.service.as_str().into());
        }
    }
    table.into()
}
