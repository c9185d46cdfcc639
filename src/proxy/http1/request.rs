//! A request head, parsed and judged.

use super::{Answer, Framing, FramingFields, MAX_FIELDS, MAX_TARGET, list, of_connection};
use httparse::{Error, Header};
use std::{mem::MaybeUninit, net::IpAddr};
use zonekeeper_core::route::RequestHead;

/// Room for the parsed fields of one head.
pub(super) type Fields<'b> = [MaybeUninit<Header<'b>>; MAX_FIELDS];

/// A request whose head has one reading only. Borrows the bytes that it was parsed from.
#[derive(Debug)]
pub struct Request<'h, 'b> {
    /// The method.
    pub method: &'b str,
    /// Path and query in origin form, or `*`.
    pub target: &'b str,
    /// The authority asked for: the target's in absolute form, else `Host`; empty only on HTTP/1.0.
    pub host: &'b str,
    /// Minor version: 0 or 1.
    pub minor: u8,
    /// All header fields.
    pub fields: &'h [Header<'b>],
    /// How the body is delimited.
    pub framing: Framing,
    /// The client would send another request on this connection (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// The protocol that it wants to change to, the first where there are many; never HTTP/2 in clear.
    pub upgrade: Option<&'b [u8]>,
    /// It authenticates the connection that it goes over (NTLM, Negotiate).
    pub authenticates: bool,
    /// Who asks, when the caller says so.
    pub client: Option<IpAddr>,
}

/// The protocol that a request wants to change to, small enough to be kept until the response comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer(u64);

impl Offer {
    /// Of a protocol's name, in any case (RFC 9110 §7.8).
    pub fn of(protocol: &[u8]) -> Offer {
        let step = |h: u64, b: &u8| (h ^ u64::from(b.to_ascii_lowercase())).wrapping_mul(0x100_0000_01b3);
        Offer(protocol.trim_ascii().iter().fold(0xcbf2_9ce4_8422_2325, step))
    }
}

impl RequestHead for Request<'_, '_> {
    fn method(&self) -> &str {
        self.method
    }
    fn host(&self) -> &str {
        self.host
    }
    fn target(&self) -> &str {
        self.target
    }
    fn source(&self) -> Option<IpAddr> {
        self.client
    }
    fn any_header(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.fields.iter().any(|f| f.name.eq_ignore_ascii_case(name) && test(f.value))
    }
}

impl<'h, 'b> Request<'h, 'b> {
    /// Parses a whole head as found by [`super::Scanner`].
    pub fn parse(head: &'b [u8], room: &'h mut Fields<'b>) -> Result<Request<'h, 'b>, Answer> {
        let mut raw = httparse::Request::new(&mut []);
        match httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut raw, head, room) {
            Ok(httparse::Status::Complete(n)) if n == head.len() => {}
            Ok(_) => return Err(Answer::Malformed("the head does not end where its empty line is")),
            Err(e) => return Err(refusal(e, head)),
        }
        let (Some(method), Some(target), Some(minor)) = (raw.method, raw.path, raw.version) else {
            return Err(Answer::Malformed("the request line is not complete"));
        };
        if target.len() > MAX_TARGET {
            return Err(Answer::TargetTooLong);
        }
        let (target, authority) = split_target(method, target)?;
        let mut request = Request {
            method,
            target,
            host: "",
            minor,
            fields: raw.headers,
            framing: Framing::None,
            keep_alive: minor == 1,
            upgrade: None,
            authenticates: false,
            client: None,
        };
        request.read_fields(authority)?;
        Ok(request)
    }

    /// RFC 9110 §9.2.2: sending it twice has the effect of sending it once.
    pub fn idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }

    fn read_fields(&mut self, authority: Option<&'b str>) -> Result<(), Answer> {
        let (mut framing, mut hosts, mut host, mut wants_upgrade) =
            (FramingFields::default(), 0, None, false);
        let (mut expects_other, mut closes) = (false, false);
        for field in self.fields {
            let name = field.name;
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => {
                    hosts += 1;
                    host = Some(field.value);
                }
                6 if name.eq_ignore_ascii_case("expect") => {
                    expects_other |= !field.value.eq_ignore_ascii_case(b"100-continue");
                }
                7 if name.eq_ignore_ascii_case("upgrade") => self.upgrade = Some(field.value),
                10 if name.eq_ignore_ascii_case("connection") => {
                    for token in list(field.value) {
                        match token {
                            t if t.eq_ignore_ascii_case(b"close") => closes = true,
                            t if t.eq_ignore_ascii_case(b"upgrade") => wants_upgrade = true,
                            t if t.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive |= self.minor == 0,
                            _ => {}
                        }
                    }
                }
                13 if name.eq_ignore_ascii_case("authorization") => {
                    self.authenticates |= of_connection(field.value);
                }
                14 if name.eq_ignore_ascii_case("content-length") => framing.content_length(field.value),
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    framing.transfer_encoding(field.value)
                }
                _ => {}
            }
        }
        self.keep_alive &= !closes;
        if expects_other {
            return Err(Answer::Expectation);
        }
        if hosts > 1 {
            return Err(Answer::Malformed("host is repeated")); // RFC 9112 §3.2
        }
        framing.check(self.minor).map_err(Answer::Malformed)?;
        self.framing = match framing.length {
            _ if framing.chunked => Framing::Chunked,
            Some(n) => Framing::Length(n),
            None => Framing::None,
        };
        self.host = judge_host(authority, host, self.minor)?;
        // An upgrade needs HTTP/1.1, no body before it, and a protocol that cannot carry other requests past the routes.
        let body = !matches!(self.framing, Framing::None | Framing::Length(0));
        let plain =
            self.upgrade.is_some_and(|u| list(u).any(|p| p.len() >= 2 && p[..2].eq_ignore_ascii_case(b"h2")));
        if !wants_upgrade || self.minor == 0 || body || plain {
            self.upgrade = None;
        }
        self.upgrade = self.upgrade.and_then(|u| list(u).next());
        Ok(())
    }
}

/// RFC 9112 §3.2: origin form, absolute form, or `*` for OPTIONS.
fn split_target<'b>(method: &str, target: &'b str) -> Result<(&'b str, Option<&'b str>), Answer> {
    if method == "CONNECT" {
        return Err(Answer::Method);
    }
    if !target.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'#') {
        return Err(Answer::Malformed("the request target has a character that must be percent-encoded"));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((target, None));
    }
    let rest = match target.get(..8) {
        Some(s) if s.eq_ignore_ascii_case("https://") => &target[8..],
        Some(s) if s[..7].eq_ignore_ascii_case("http://") => &target[7..],
        _ => return Err(Answer::Malformed("the request target is neither a path nor an http URL")),
    };
    let (authority, path) = match rest.find(['/', '?']) {
        Some(i) => rest.split_at(i),
        None => (rest, "/"),
    };
    if path.starts_with('?') {
        return Err(Answer::Malformed("the request target has a query and no path"));
    }
    Ok((path, Some(authority)))
}

/// RFC 9112 §3.2: exactly one `Host` on HTTP/1.1; §3.2.2: the authority of an absolute target stands for it.
fn judge_host<'b>(authority: Option<&'b str>, host: Option<&'b [u8]>, minor: u8) -> Result<&'b str, Answer> {
    if host.is_none() && minor == 1 {
        return Err(Answer::Malformed("host is missing"));
    }
    let host = match authority {
        Some(a) => a,
        None => std::str::from_utf8(host.unwrap_or_default())
            .map_err(|_| Answer::Malformed("host is not valid"))?,
    };
    if (host.is_empty() && minor == 0 && authority.is_none()) || valid_authority(host) {
        return Ok(host);
    }
    Err(Answer::Malformed("host is not valid"))
}

/// `uri-host [":" port]` (RFC 9110 §7.2, RFC 3986 §3.2.2): a name or an IP literal in brackets, then perhaps digits.
fn valid_authority(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(literal) => match literal.split_once(']') {
            Some((address, rest)) if address.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b)) => {
                (address, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
            }
            _ => return false,
        },
        None => match text.bytes().position(|b| b == b':') {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, Some("")),
        },
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:".contains(&b);
    let digits = |p: &str| p.len() <= 5 && p.bytes().all(|b| b.is_ascii_digit());
    !name.is_empty() && name.bytes().all(allowed) && port.is_some_and(digits)
}

/// The request line has three parts, and the last is the name of a version.
fn names_version(head: &[u8]) -> bool {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|b| *b == b' ');
    let version = parts.nth(2).and_then(|v| v.strip_prefix(b"HTTP/")).unwrap_or_default();
    parts.next().is_none() && matches!(version, [a, b'.', b] if a.is_ascii_digit() && b.is_ascii_digit())
}

fn refusal(error: Error, head: &[u8]) -> Answer {
    match error {
        Error::TooManyHeaders => Answer::HeadTooLarge,
        Error::Version if names_version(head) => Answer::Version,
        Error::HeaderName => {
            Answer::Malformed("a header name is not valid, or white space stands before its colon")
        }
        Error::HeaderValue => Answer::Malformed("a header value is not valid"),
        Error::NewLine => Answer::Malformed("a line of the head does not end in CR LF"),
        Error::Status | Error::Token | Error::Version => Answer::Malformed("the request line is not valid"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<(String, String, Framing, bool, bool), Answer> {
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let r = Request::parse(head.as_bytes(), &mut room)?;
        Ok((r.target.to_string(), r.host.to_string(), r.framing, r.keep_alive, r.upgrade.is_some()))
    }

    #[test]
    fn an_absolute_target_replaces_host() {
        let got = parse("GET http://a.example/x?y HTTP/1.1\r\nHost: b.example\r\n\r\n");
        assert_eq!(got, Ok(("/x?y".into(), "a.example".into(), Framing::None, true, false)));
    }

    #[test]
    fn http_1_0_closes_unless_it_asks_to_be_kept() {
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().3);
        assert!(parse("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap().3);
        assert!(!parse("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\n\r\n").unwrap().3);
    }

    #[test]
    fn an_upgrade_is_one_only_when_both_fields_say_so() {
        let head = |fields: &str| parse(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).unwrap().4;
        assert!(head("Connection: Upgrade\r\nUpgrade: websocket\r\n"));
        assert!(!head("Upgrade: websocket\r\n"));
        assert!(!head("Connection: upgrade\r\nUpgrade: h2c\r\n"), "HTTP/2 in clear would pass the routes");
        assert!(!head("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n"));
    }
}
