//! The heads that are sent on: untouched fields are copied in runs, framing and hop-by-hop fields are written anew.

use super::{Encoder, Forwarded, Framing, Identity, Request, Response, list};
use httparse::Header;
use std::{io::Write, net::IpAddr};
use zonekeeper_core::model::{ResponseRewrite, Rewrite};

/// What a route changes in a request.
#[derive(Debug, Clone, Copy)]
pub struct Edit<'a> {
    /// In place of path and query.
    pub path: Option<&'a str>,
    /// The rest; its own path is not looked at.
    pub rewrite: &'a Rewrite,
    /// Who the request is, where it does not say so itself.
    pub identity: Option<Identity>,
}

impl Edit<'_> {
    /// Whether a field is replaced or left out.
    fn drops(&self, field: &Header<'_>) -> bool {
        (self.identity.is_some() && Identity::replaces(field))
            || named(&self.rewrite.set, &self.rewrite.remove, field.name)
    }
}

/// What the client gets otherwise than a backend, or a route, has said it.
#[derive(Debug, Clone, Copy)]
pub struct ResponseEdit<'a> {
    /// What the route changes.
    pub rewrite: &'a ResponseRewrite,
    /// Value of a `Set-Cookie` of the proxy's own.
    pub cookie: Option<&'a str>,
}

impl<'a> ResponseEdit<'a> {
    /// Nothing is changed.
    pub const NONE: ResponseEdit<'static> =
        ResponseEdit { rewrite: &ResponseRewrite { set: Vec::new(), remove: Vec::new() }, cookie: None };

    /// Whether a field is replaced or left out.
    pub fn drops(&self, name: &str) -> bool {
        named(&self.rewrite.set, &self.rewrite.remove, name)
    }

    /// The fields that the client gets beside the others.
    pub fn added(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let set = self.rewrite.set.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        set.chain(self.cookie.map(|value| ("set-cookie", value)))
    }
}

fn named(set: &[(String, String)], remove: &[String], name: &str) -> bool {
    set.iter().map(|(n, _)| n).chain(remove).any(|n| name.eq_ignore_ascii_case(n))
}

fn write_fields<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>, out: &mut Vec<u8>) {
    for (name, value) in fields {
        for part in [name, ": ", value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
}

/// Fields of one connection only (RFC 9110 §7.6.1), and those that are written anew. Names in lower case.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// `Connection` options that name no field of the message.
const KNOWN_TOKENS: [&[u8]; 3] = [b"close", b"upgrade", b"keep-alive"];

/// Whether a field does not travel on.
fn stripped(field: &Header<'_>, nominated: &Nominated<'_>) -> bool {
    let name = field.name;
    if matches!(name.len(), 2 | 7 | 10 | 16..=19) && HOP_BY_HOP.iter().any(|h| name.eq_ignore_ascii_case(h)) {
        return true;
    }
    (name.len() == 14 && name.eq_ignore_ascii_case("content-length")) || nominated.has(name)
}

fn is_connection(field: &Header<'_>) -> bool {
    field.name.len() == 10 && field.name.eq_ignore_ascii_case("connection")
}

/// The fields that `Connection` names. Framing and routing cannot be taken away by naming them.
struct Nominated<'a> {
    fields: &'a [Header<'a>],
    any: bool,
}

impl<'a> Nominated<'a> {
    fn of(fields: &'a [Header<'a>]) -> Nominated<'a> {
        let known = |t: &[u8]| KNOWN_TOKENS.iter().any(|k| t.eq_ignore_ascii_case(k));
        let others = |f: &Header<'_>| is_connection(f) && !known(f.value) && !list(f.value).all(known);
        Nominated { fields, any: fields.iter().any(others) }
    }
    fn tokens(&self) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(|f| is_connection(f)).flat_map(|f| list(f.value))
    }
    fn has(&self, name: &str) -> bool {
        self.any
            && !name.eq_ignore_ascii_case("host")
            && self.tokens().any(|t| t.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// The fields that travel on. `Content-Length` is not among them: framing is written anew.
pub fn end_to_end<'a>(fields: &'a [Header<'a>]) -> impl Iterator<Item = &'a Header<'a>> {
    let nominated = Nominated::of(fields);
    fields.iter().filter(move |f| !stripped(f, &nominated))
}

/// Copies the lines of a head in runs, leaving out those that `drop` names.
fn copy_fields<'a>(
    head: &[u8],
    fields: &[Header<'a>],
    out: &mut Vec<u8>,
    mut drop: impl FnMut(&Header<'a>) -> bool,
) {
    let at = |i: usize| match fields.get(i) {
        Some(f) => f.name.as_ptr() as usize - head.as_ptr() as usize,
        None => head.len().saturating_sub(2), // before the empty line
    };
    let mut run = at(0);
    for (i, field) in fields.iter().enumerate() {
        if drop(field) {
            out.extend_from_slice(&head[run..at(i)]);
            run = at(i + 1);
        }
    }
    out.extend_from_slice(&head[run..at(fields.len())]);
}

/// The digits of each octet and how many they are.
const OCTETS: [([u8; 3], u8); 256] = {
    let (mut all, mut n) = ([([0; 3], 0); 256], 0);
    while n < 256 {
        let (a, b, c) = (b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8);
        all[n] = match n {
            0..10 => ([c, 0, 0], 1),
            10..100 => ([b, c, 0], 2),
            _ => ([a, b, c], 3),
        };
        n += 1;
    }
    all
};

/// Decimal digits, without the formatting machinery that a busy proxy feels.
fn write_number(n: u64, out: &mut Vec<u8>) {
    if let Ok(n) = u8::try_from(n) {
        let (digits, len) = OCTETS[usize::from(n)];
        return out.extend_from_slice(&digits[..usize::from(len)]);
    }
    let (mut digits, mut at, mut n) = ([0u8; 20], 20, n);
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

fn write_address(client: IpAddr, out: &mut Vec<u8>) {
    match client.to_canonical() {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                write_number(u64::from(octet), out);
            }
        }
        IpAddr::V6(v6) => {
            let _ = write!(out, "{v6}");
        }
    }
}

fn write_framing(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::None | Framing::Close => {}
        Framing::Length(n) => {
            out.extend_from_slice(b"Content-Length: ");
            write_number(n, out);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

fn write_upgrade(protocol: Option<&[u8]>, out: &mut Vec<u8>) {
    if let Some(protocol) = protocol {
        out.extend_from_slice(b"Connection: upgrade\r\nUpgrade: ");
        out.extend_from_slice(protocol);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the head that goes to the backend.
pub fn write_request(
    head: &[u8],
    request: &Request<'_, '_>,
    from: Forwarded,
    edit: Edit<'_>,
    out: &mut Vec<u8>,
) {
    let (path, host) = (edit.path.unwrap_or(request.target), edit.rewrite.host.as_deref());
    for part in [request.method, " ", path, " HTTP/1.1\r\nHost: ", host.unwrap_or(request.host), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let nominated = Nominated::of(request.fields);
    let mut said = Said::default();
    copy_fields(head, request.fields, out, |field| match field.name.len() {
        4 if field.name.eq_ignore_ascii_case("host") => true,
        6 if field.name.eq_ignore_ascii_case("expect") => request.minor == 0,
        9 | 15..=17 if said.takes(field, from.trusted) => true,
        _ => stripped(field, &nominated) || edit.drops(field),
    });
    write_fields(edit.rewrite.set.iter().map(|(name, value)| (name.as_str(), value.as_str())), out);
    if let Some(identity) = edit.identity {
        identity.write(request.fields, out);
    }
    write_framing(request.framing, out);
    write_upgrade(request.upgrade, out);
    said.write(from, request.host.as_bytes(), out);
}

/// What trusted proxies said of a request before it came here.
#[derive(Default)]
struct Said<'a> {
    chain: Vec<u8>,
    forwarded: Vec<u8>,
    host: Option<&'a [u8]>,
}

impl<'a> Said<'a> {
    /// Whether it is one of these fields, which are written anew; what an untrusted client says in them is lost.
    fn takes(&mut self, field: &Header<'a>, trusted: bool) -> bool {
        let is = |name| field.name.eq_ignore_ascii_case(name);
        let list = match field.name.len() {
            9 if is("forwarded") => &mut self.forwarded,
            15 if is("x-forwarded-for") => &mut self.chain,
            16 if is("x-forwarded-host") => {
                self.host = self.host.or(trusted.then_some(field.value));
                return true;
            }
            17 => return is("x-forwarded-proto"),
            _ => return false,
        };
        if trusted && !field.value.is_empty() {
            list.extend_from_slice(field.value);
            list.extend_from_slice(b", ");
        }
        true
    }

    /// Appends the fields and the end of the head.
    fn write(&self, from: Forwarded, host: &[u8], out: &mut Vec<u8>) {
        if !self.forwarded.is_empty() {
            out.extend_from_slice(b"Forwarded: ");
            out.extend_from_slice(&self.forwarded);
            let quote = match from.peer.to_canonical() {
                IpAddr::V4(_) => ["for=", ""],
                IpAddr::V6(_) => ["for=\"[", "]\""],
            };
            out.extend_from_slice(quote[0].as_bytes());
            write_address(from.peer, out);
            for part in [quote[1], ";proto=", from.scheme(), "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        out.extend_from_slice(b"X-Forwarded-For: ");
        out.extend_from_slice(&self.chain);
        write_address(from.peer, out);
        for part in ["\r\nX-Forwarded-Proto: ", from.scheme(), "\r\nX-Forwarded-Host: "] {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(self.host.unwrap_or(host));
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// Appends the head that goes to the client and says how the body is to be framed. `minor` is the client's version.
pub fn write_response(
    head: &[u8],
    response: &Response<'_, '_>,
    minor: u8,
    keep_alive: bool,
    edit: ResponseEdit<'_>,
    out: &mut Vec<u8>,
) -> (Encoder, bool) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(u64::from(response.status), out);
    for part in [" ", response.reason, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let nominated = Nominated::of(response.fields);
    copy_fields(head, response.fields, out, |field| stripped(field, &nominated) || edit.drops(field.name));
    write_fields(edit.added(), out);
    // HTTP/1.0 knows no chunks (RFC 9112 §6.1); HTTP/1.1 gets them where the backend ends by closing, so that a cut
    // stays visible.
    let (framing, encoder) = match response.framing {
        Framing::Chunked | Framing::Close if minor == 0 => (Framing::Close, Encoder::Raw),
        Framing::Chunked | Framing::Close => (Framing::Chunked, Encoder::Chunked),
        other => (other, Encoder::Raw),
    };
    let no_length = response.status < 200 || response.status == 204; // RFC 9110 §8.6
    match response.length {
        Some(n) if !no_length => write_framing(Framing::Length(n), out),
        _ => write_framing(framing, out),
    }
    let keep_alive = keep_alive && framing != Framing::Close;
    match response.status {
        101 => write_upgrade(response.upgrade, out),
        s if s < 200 => {}
        _ if !keep_alive => out.extend_from_slice(b"Connection: close\r\n"),
        _ if minor == 0 => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
    (encoder, keep_alive)
}

#[cfg(test)]
mod tests {
    use super::{super::MAX_FIELDS, *};
    use std::mem::MaybeUninit;

    fn forward(head: &str, trusted: bool) -> String {
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let request = Request::parse(head.as_bytes(), &mut room).unwrap();
        let mut out = Vec::new();
        let from = Forwarded { peer: IpAddr::from([192, 0, 2, 7]), tls: true, trusted };
        write_request(
            head.as_bytes(),
            &request,
            from,
            Edit { path: None, rewrite: &Rewrite::default(), identity: None },
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_route_rewrites_path_host_and_fields() {
        let head = "GET /a?b HTTP/1.1\r\nHost: w\r\nX-Env: us\r\nx-secret: 1\r\nA: b\r\n\r\n";
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let request = Request::parse(head.as_bytes(), &mut room).unwrap();
        let rewrite = Rewrite {
            path: None,
            host: Some("inside:81".into()),
            set: vec![("x-env".into(), "eu".into())],
            remove: vec!["x-secret".into()],
        };
        let from = Forwarded { peer: IpAddr::from([192, 0, 2, 7]), tls: false, trusted: false };
        let mut out = Vec::new();
        write_request(
            head.as_bytes(),
            &request,
            from,
            Edit { path: Some("/n?b"), rewrite: &rewrite, identity: None },
            &mut out,
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                "GET /n?b HTTP/1.1\r\nHost: inside:81\r\nA: b\r\nx-env: eu\r\nX-Forwarded-For: 192.0.2.7\r\n",
                "X-Forwarded-Proto: http\r\nX-Forwarded-Host: w\r\n\r\n"
            )
        );
    }

    fn answer(head: &str, to_head: bool, minor: u8) -> String {
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let response = Response::parse(head.as_bytes(), &mut room, to_head).unwrap();
        let mut out = Vec::new();
        write_response(head.as_bytes(), &response, minor, true, ResponseEdit::NONE, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_of_one_connection_stay_and_the_client_is_named() {
        let head = concat!(
            "GET /a?b HTTP/1.1\r\nHost: w.example:80\r\nAccept: */*\r\nConnection: close, X-Secret, Host\r\n",
            "X-Secret: 1\r\nTE: trailers\r\nX-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: ftp\r\n",
            "Keep-Alive: 5\r\nX-Forwarded-Host: w\r\nForwarded: for=_a\r\nCookie: a=b\r\n\r\n"
        );
        let got = forward(head, false);
        assert_eq!(
            got,
            concat!(
                "GET /a?b HTTP/1.1\r\nHost: w.example:80\r\nAccept: */*\r\nCookie: a=b\r\n",
                "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n",
                "X-Forwarded-Host: w.example:80\r\n\r\n"
            ),
            "an untrusted client says nothing about itself"
        );
        let got = forward(head, true);
        let said = concat!(
            "Forwarded: for=_a, for=192.0.2.7;proto=https\r\nX-Forwarded-For: 198.51.100.1, 192.0.2.7\r\n",
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: w\r\n\r\n"
        );
        assert!(got.ends_with(said), "{got}");
    }

    #[test]
    fn a_body_has_exactly_one_framing() {
        let got = forward("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nHost: a\r\n\r\n", false);
        assert_eq!(got.matches("Transfer-Encoding: chunked\r\n").count(), 1);
        assert_eq!(got.to_ascii_lowercase().matches("transfer-encoding").count(), 1);
        let got = forward("POST / HTTP/1.1\r\nContent-Length: 007\r\nHost: a\r\n\r\n", false);
        assert!(got.contains("\r\nContent-Length: 7\r\n"), "{got}");
    }

    #[test]
    fn a_response_to_head_keeps_its_length() {
        let got = answer("HTTP/1.1 200 OK\r\nContent-Length: 12\r\nKeep-Alive: x\r\n\r\n", true, 1);
        assert_eq!(got, "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n");
        let got = answer("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", false, 1);
        assert_eq!(got, "HTTP/1.1 204 No Content\r\n\r\n");
    }

    #[test]
    fn chunks_are_not_sent_to_http_1_0() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(answer(chunked, false, 0), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        assert_eq!(answer(chunked, false, 1), chunked);
        assert_eq!(answer("HTTP/1.0 200 OK\r\n\r\n", false, 1), chunked);
    }
}
