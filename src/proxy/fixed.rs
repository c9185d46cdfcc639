//! Answers that a route gives by itself: redirects and fixed responses.

use crate::http1::{Request, ResponseEdit};
use std::io::Write;
use zonekeeper_core::{
    model::{Redirect, Route, Target},
    route::RequestHead,
};

/// Appends the whole response.
pub(crate) fn write(
    route: &Route,
    request: &Request<'_, '_>,
    tls: bool,
    keep_alive: bool,
    out: &mut Vec<u8>,
) {
    let (status, kind, body, place) = match &route.target {
        Target::Pools(_) | Target::Idempotent(_) => (503, "text/plain", "the route leads to no pool\n", None),
        Target::Redirect(r) => (r.status, "text/plain", "", Some(location(r, request, tls))),
        Target::Respond(r) => (r.status, r.content_type.as_str(), r.body.as_str(), None),
    };
    // RFC 9110 §8.6 and §15.4.5: neither 204 nor 304 has a body, and 204 has no length either.
    let body = if matches!(status, 204 | 304) { "" } else { body };
    let edit = ResponseEdit { rewrite: &route.response, cookie: None };
    let place = place.as_deref().map(|place| ("Location", place));
    let kind = (!body.is_empty()).then_some(("Content-Type", kind));
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in place.into_iter().chain(kind).filter(|(n, _)| !edit.drops(n)).chain(edit.added()) {
        let _ = write!(out, "{name}: {value}\r\n");
    }
    if status != 204 {
        let _ = write!(out, "Content-Length: {}\r\n", body.len());
    }
    out.extend_from_slice(match (keep_alive, request.minor) {
        (false, _) => b"Connection: close\r\n\r\n".as_slice(),
        (true, 0) => b"Connection: keep-alive\r\n\r\n",
        (true, _) => b"\r\n",
    });
    if request.method != "HEAD" {
        out.extend_from_slice(body.as_bytes());
    }
}

/// The status of a response that was written here.
pub(crate) fn status(response: &[u8]) -> u16 {
    let digits = response.get(9..12).unwrap_or_default();
    digits.iter().fold(0, |n, d| n * 10 + u16::from(d.saturating_sub(b'0')))
}

/// A route that answers with success by itself.
pub(crate) fn succeeds(target: &Target) -> bool {
    matches!(target, Target::Respond(r) if (200..300).contains(&r.status))
}

/// What is not named stays as it was asked for; another scheme has another port, so that the port goes with it.
fn location(redirect: &Redirect, request: &Request<'_, '_>, tls: bool) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(if tls { "https" } else { "http" });
    let asked = match request.host().rfind(':') {
        Some(colon) if redirect.scheme.is_some() && !request.host()[colon..].contains(']') => {
            &request.host()[..colon]
        }
        _ => request.host(),
    };
    let path = redirect.path.as_deref().unwrap_or(request.target);
    match redirect.host.as_deref().unwrap_or(asked) {
        "" => path.to_string(), // HTTP/1.0 without Host
        host => format!("{scheme}://{host}{path}"),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        410 => "Gone",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "", // RFC 9112 §4: the reason may be empty
    }
}
