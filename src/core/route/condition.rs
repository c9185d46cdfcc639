//! A route's conditions: whether a request meets them, and in words why not.

use super::RequestHead;
use crate::model::{Network, PathMatch, Route, Target, within};
use alloc::{
    borrow::Cow,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;
use regex::{Regex, RegexBuilder};

/// Largest compiled regular expression, in bytes: some hundred routes of them stay within a few MiB.
const PATTERN_SIZE: usize = 64 * 1024;

/// Why a route does not take a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// None of its hosts.
    Host,
    /// None of its methods.
    Method,
    /// Another path.
    Path,
    /// The query parameter is missing or has another value.
    Query,
    /// The header is missing or has another value.
    Header,
    /// The cookie is missing or has another value.
    Cookie,
    /// The client is in none of its networks.
    Source,
}

/// Compiles a path's regular expression, which matches the whole path. Matching takes time in proportion to the path
/// whatever the expression is (finite automata, no backtracking).
pub fn pattern(text: &str) -> Result<Regex, String> {
    let whole = format!("^(?:{text})$");
    RegexBuilder::new(&whole).size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE).build().map_err(|e| {
        match e {
            regex::Error::CompiledTooBig(_) => "is too large; use a simpler expression".into(),
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or_default();
                format!("is no regular expression: {}", last.trim_start_matches("error: "))
            }
        }
    })
}

impl Route {
    /// The first condition that the request does not meet; none when the route takes it.
    pub(super) fn mismatch(&self, request: &impl RequestHead, pattern: Option<&Regex>) -> Option<Mismatch> {
        if !self.hosts.is_empty() {
            let host = without_port(request.host());
            if !self.hosts.iter().any(|h| host_matches(h, host)) {
                return Some(Mismatch::Host);
            }
        }
        if !self.methods.is_empty() && !self.methods.iter().any(|m| m == request.method()) {
            return Some(Mismatch::Method);
        }
        let path = match &self.path {
            PathMatch::Any => true,
            PathMatch::Prefix(prefix) => under(prefix, request.path()).is_some(),
            PathMatch::Exact(path) => path == request.path(),
            PathMatch::Regex(_) => pattern.is_some_and(|p| p.is_match(request.path())),
        };
        if !path {
            return Some(Mismatch::Path);
        }
        if let Some((name, want)) = &self.query
            && !pair_matches(request.query().as_bytes(), b'&', name.as_bytes(), want.as_bytes(), true)
        {
            return Some(Mismatch::Query);
        }
        if let Some((name, want)) = &self.header
            && !request.any_header(name, &mut |v| want.is_empty() || v == want.as_bytes())
        {
            return Some(Mismatch::Header);
        }
        if let Some((name, want)) = &self.cookie
            && !request
                .any_header("cookie", &mut |v| pair_matches(v, b';', name.as_bytes(), want.as_bytes(), false))
        {
            return Some(Mismatch::Cookie);
        }
        if !self.sources.is_empty() && !request.source().is_some_and(|a| within(&self.sources, a)) {
            return Some(Mismatch::Source);
        }
        None
    }

    pub(super) fn explain(&self, mismatch: Mismatch, request: &impl RequestHead) -> String {
        let wanted = |pair: &Option<(String, String)>| match pair {
            Some((name, value)) if !value.is_empty() => format!("no {name} with value {value:?}"),
            Some((name, _)) => format!("no {name}"),
            None => String::new(),
        };
        match mismatch {
            Mismatch::Host => format!("host {:?} is none of {:?}", without_port(request.host()), self.hosts),
            Mismatch::Method => format!("method {} is none of {:?}", request.method(), self.methods),
            Mismatch::Path => format!("path {:?} {}", request.path(), self.path),
            Mismatch::Query => format!("query: {}", wanted(&self.query)),
            Mismatch::Header => format!("header: {}", wanted(&self.header)),
            Mismatch::Cookie => format!("cookie: {}", wanted(&self.cookie)),
            Mismatch::Source => match request.source() {
                Some(addr) => format!("client {addr} is in none of {}", networks(&self.sources)),
                None => {
                    format!("the client's address is not given; it must be in {}", networks(&self.sources))
                }
            },
        }
    }

    /// The path and query that a backend is asked for, where the route rewrites it. The query stays.
    pub(super) fn rewritten(&self, target: &str, pattern: Option<&Regex>) -> Option<String> {
        let with = self.rewrite.path.as_ref()?;
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        let new: Cow<'_, str> = match (&self.path, pattern) {
            (PathMatch::Any, _) => format!("{}{path}", with.strip_suffix('/').unwrap_or(with)).into(),
            (PathMatch::Prefix(prefix), _) => join(with, under(prefix, path)?).into(),
            (PathMatch::Exact(_), _) | (PathMatch::Regex(_), None) => with.as_str().into(),
            (PathMatch::Regex(_), Some(pattern)) => pattern.replace(path, with.as_str()),
        };
        // What a pattern caught may be anything that a path may be, but it has to be a path.
        let slash = if new.starts_with('/') { "" } else { "/" };
        Some(format!("{slash}{new}{query}"))
    }
}

/// `/new` and the rest behind a prefix, with one slash between them.
fn join(with: &str, rest: &str) -> String {
    let (head, tail) = (with.strip_suffix('/').unwrap_or(with), rest.strip_prefix('/').unwrap_or(rest));
    match (rest.is_empty(), tail.is_empty()) {
        (true, _) => with.to_string(),
        (false, true) => format!("{head}/"),
        (false, false) => format!("{head}/{tail}"),
    }
}

fn networks(all: &[Network]) -> String {
    let shown: Vec<String> = all.iter().map(ToString::to_string).collect();
    shown.join(", ")
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathMatch::Any => f.write_str("is any"),
            PathMatch::Prefix(prefix) => write!(f, "is not under {prefix:?}"),
            PathMatch::Exact(path) => write!(f, "is not {path:?}"),
            PathMatch::Regex(text) => write!(f, "does not match {text:?}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Pools(pools) | Target::Idempotent(pools) => match pools.as_slice() {
                [(pool, _)] => write!(f, "to pool {pool}"),
                pools => {
                    let all: Vec<String> = pools.iter().map(|(p, w)| format!("{p} ({w})")).collect();
                    write!(f, "to pools {}", all.join(", "))
                }
            },
            Target::Redirect(r) => write!(f, "redirects with {}", r.status),
            Target::Respond(r) => write!(f, "answers {}", r.status),
        }
    }
}

/// The host without `:port` and without a trailing dot; an IPv6 literal keeps its brackets (RFC 3986 §3.2.2).
pub(super) fn without_port(host: &str) -> &str {
    let name = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// `*.example.com` stands for one or more labels before `.example.com`, never for `example.com` itself.
fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => pattern.eq_ignore_ascii_case(host),
        Some(suffix) => {
            let (host, suffix) = (host.as_bytes(), suffix.as_bytes());
            host.len() > suffix.len()
                && !host.starts_with(b".")
                && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
        }
    }
}

/// What stands behind a prefix: `/api` takes `/api`, `/api/` and `/api/x`, not `/apix`; a prefix that ends in `/` takes
/// what begins with it.
fn under<'p>(prefix: &str, path: &'p str) -> Option<&'p str> {
    let rest = path.strip_prefix(prefix)?;
    let segment = prefix.is_empty() || prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/');
    segment.then_some(rest)
}

/// One of the pairs `a=1` of a `Cookie` field (RFC 6265 §4.2.1) or of a query. Names are case-sensitive. `bare`: a name
/// without `=` is a pair too, as queries have it.
fn pair_matches(list: &[u8], separator: u8, name: &[u8], want: &[u8], bare: bool) -> bool {
    list.split(|b| *b == separator).any(|pair| {
        let pair = pair.trim_ascii();
        match pair.iter().position(|b| *b == b'=') {
            Some(eq) => &pair[..eq] == name && (want.is_empty() || &pair[eq + 1..] == want),
            None => bare && want.is_empty() && pair == name,
        }
    })
}
