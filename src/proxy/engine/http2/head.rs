//! Heads between HTTP/2 and the text of HTTP/1.1 (RFC 9113 §8.3).

use super::websocket::Key;
use crate::http1::{Answer, MAX_FIELDS, Response, ResponseEdit, end_to_end};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request};
use std::{mem::MaybeUninit, net::SocketAddr};

/// Appends the HTTP/1.1 head that says what the fields say. `body` when data may follow; `key` when it opens a WebSocket.
/// What has no single reading (two hosts, a path that is none) is left as it is, for the parser to refuse.
pub(super) fn request(parts: &request::Parts, body: bool, key: Option<&Key>, out: &mut Vec<u8>) {
    let connect = parts.method == http::Method::CONNECT && key.is_none();
    let method = if key.is_some() { "GET" } else { parts.method.as_str() };
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let path = match parts.uri.path_and_query() {
        Some(path) if !connect => path.as_str(),
        _ => authority.unwrap_or_default(),
    };
    for part in [method, " ", path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    if let Some(host) = authority {
        field(b"host", host.as_bytes(), out);
    }
    if let Some(key) = key {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        field(b"sec-websocket-key", key.bytes(), out);
    }
    // Crumbs of cookies are one field again (RFC 9113 §8.2.3).
    let crumbs = parts.headers.get_all(header::COOKIE).iter();
    for (i, crumb) in crumbs.enumerate() {
        out.extend_from_slice(if i == 0 { b"cookie: " } else { b"; " });
        out.extend_from_slice(crumb.as_bytes());
    }
    if parts.headers.contains_key(header::COOKIE) {
        out.extend_from_slice(b"\r\n");
    }
    for (name, value) in &parts.headers {
        let same_host = name == header::HOST && authority.is_some_and(|a| a.as_bytes() == value.as_bytes());
        // What follows is no body, and the key is the proxy's.
        let of_tunnel = name == header::CONTENT_LENGTH || name == header::SEC_WEBSOCKET_KEY;
        if name != header::COOKIE && !same_host && !(key.is_some() && of_tunnel) {
            field(name.as_str().as_bytes(), value.as_bytes(), out);
        }
    }
    if body && key.is_none() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
        field(b"transfer-encoding", b"chunked", out);
    }
    out.extend_from_slice(b"\r\n");
}

fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The head that a client of HTTP/2 gets: without the fields of one connection.
pub(crate) fn response(
    head: &[u8],
    response: &Response<'_, '_>,
    edit: ResponseEdit<'_>,
) -> Option<http::Response<()>> {
    let shared = Bytes::copy_from_slice(head); // one allocation for all values
    let mut fields = HeaderMap::with_capacity(response.fields.len());
    for field in end_to_end(response.fields).filter(|f| !edit.drops(f.name)) {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(shared.slice_ref_of(head, field.value)).ok()?;
        fields.append(name, value);
    }
    if let Some(n) = response.length
        && response.status != 204
    {
        fields.append(header::CONTENT_LENGTH, HeaderValue::from(n));
    }
    for (name, value) in edit.added() {
        fields.append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?);
    }
    let mut built = http::Response::new(());
    *built.status_mut() = StatusCode::from_u16(response.status).ok()?;
    *built.headers_mut() = fields;
    Some(built)
}

/// Fields that a head has at most when it goes to a backend: a client's, and those that are written here or by a route.
const FIELDS: usize = MAX_FIELDS + 64;

/// The request that a backend of HTTP/2 gets, from the text that one of HTTP/1.1 would get. `trailers` when those of the
/// response can be passed on; `backend` is its authority where the client named none (HTTP/1.0). The error says what
/// HTTP/1.1 can carry and HTTP/2 cannot.
pub(crate) fn upstream(
    text: &[u8],
    (trailers, tls): (bool, bool),
    backend: SocketAddr,
) -> Result<http::Request<()>, Answer> {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS];
    let mut raw = httparse::Request::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut raw, text, &mut room);
    let (Ok(httparse::Status::Complete(_)), Some(method), Some(target)) = (parsed, raw.method, raw.path)
    else {
        return Err(Answer::HeadTooLarge);
    };
    let invalid = Answer::Malformed("a header field is not valid");
    let shared = Bytes::copy_from_slice(text);
    let mut fields = HeaderMap::with_capacity(raw.headers.len());
    for field in end_to_end(raw.headers) {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| invalid)?;
        if name != header::HOST {
            let value = HeaderValue::from_maybe_shared(shared.slice_ref_of(text, field.value))
                .map_err(|_| invalid)?;
            fields.append(name, value);
        }
    }
    let said = |name: &str| raw.headers.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value);
    if let Some(length) = said("content-length") {
        fields.append(header::CONTENT_LENGTH, HeaderValue::from_bytes(length).map_err(|_| invalid)?);
    }
    if trailers {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if tls { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
    let host = match said("host") {
        None | Some([]) => backend.to_string().parse(),
        Some(host) => host.try_into(),
    };
    uri.authority = Some(host.map_err(|_| Answer::Malformed("host is not valid"))?);
    let target = target.parse();
    let unencoded = Answer::Malformed("the request target has a character that must be percent-encoded");
    uri.path_and_query = Some(target.map_err(|_| unencoded)?);
    let mut request = http::Request::new(());
    *request.method_mut() = method.parse().map_err(|_| Answer::Malformed("the method is not valid"))?;
    *request.uri_mut() =
        http::Uri::from_parts(uri).map_err(|_| Answer::Malformed("the request target is not valid"))?;
    *request.headers_mut() = fields;
    Ok(request)
}

/// Appends the HTTP/1.1 head that says what a backend's response says. What has no length lasts until the stream ends.
pub(super) fn response_text(status: StatusCode, fields: &HeaderMap, end: bool, out: &mut Vec<u8>) {
    for part in [b"HTTP/1.1 ", status.as_str().as_bytes(), b" \r\n"] {
        out.extend_from_slice(part);
    }
    for (name, value) in fields {
        field(name.as_str().as_bytes(), value.as_bytes(), out);
    }
    let bodiless = status.is_informational() || matches!(status.as_u16(), 204 | 304);
    if end && !bodiless && !fields.contains_key(header::CONTENT_LENGTH) {
        field(b"content-length", b"0", out);
    }
    out.extend_from_slice(b"\r\n");
}

/// A part of a copy by its place in the original.
trait SliceOf {
    fn slice_ref_of(&self, original: &[u8], part: &[u8]) -> Bytes;
}

impl SliceOf for Bytes {
    fn slice_ref_of(&self, original: &[u8], part: &[u8]) -> Bytes {
        let at = part.as_ptr() as usize - original.as_ptr() as usize;
        self.slice(at..at + part.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::Request;

    fn text(build: http::request::Builder, body: bool) -> String {
        let (parts, ()) = build.body(()).unwrap().into_parts();
        let mut out = Vec::new();
        request(&parts, body, Key::of(&parts).as_ref(), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn parses(head: &str) -> bool {
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        Request::parse(head.as_bytes(), &mut room).is_ok()
    }

    #[test]
    fn a_request_becomes_the_text_that_says_the_same() {
        let asked = http::Request::get("https://w.example/a?b")
            .header("cookie", "a=1")
            .header("x", "y")
            .header("cookie", "b=2")
            .header("host", "w.example");
        let expected = "GET /a?b HTTP/1.1\r\nhost: w.example\r\ncookie: a=1; b=2\r\nx: y\r\n\r\n";
        assert_eq!(text(asked, false), expected);
        let asked = http::Request::post("https://w.example/").header("content-length", "3");
        let expected = "POST / HTTP/1.1\r\nhost: w.example\r\ncontent-length: 3\r\n\r\n";
        assert_eq!(text(asked, true), expected);
        let asked = http::Request::post("https://w.example/");
        assert!(text(asked, true).ends_with("\r\ntransfer-encoding: chunked\r\n\r\n"));
    }

    #[test]
    fn a_websocket_becomes_an_upgrade_and_other_tunnels_stay_connect() {
        let asked = |protocol: &'static str| {
            http::Request::connect("https://w.example/chat?x")
                .extension(h2::ext::Protocol::from_static(protocol))
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "mine")
                .header("content-length", "5")
        };
        let head = text(asked("websocket"), true);
        let (before, after) = head.split_once("sec-websocket-key: ").unwrap();
        assert_eq!(
            before,
            "GET /chat?x HTTP/1.1\r\nhost: w.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        );
        assert_eq!(&after[24..], "\r\nsec-websocket-version: 13\r\n\r\n");
        assert!(parses(&head));
        let other = text(asked("connect-udp"), true);
        assert!(other.starts_with("CONNECT w.example HTTP/1.1\r\n") && !parses(&other), "{other}");
    }

    #[test]
    fn two_hosts_are_refused_by_the_parser() {
        let two = text(http::Request::get("https://a.example/").header("host", "b.example"), false);
        assert!(!parses(&two), "{two}");
        let none = text(http::Request::get("/"), false);
        assert!(!parses(&none), "{none}");
        assert!(!parses(&text(http::Request::builder().method("CONNECT").uri("a.example:443"), false)));
    }

    #[test]
    fn a_response_leaves_the_fields_of_its_connection_behind() {
        let head =
            b"HTTP/1.1 200 OK\r\nA: 1\r\nConnection: close, x\r\nX: 2\r\nContent-Length: 5\r\nA: 3\r\n\r\n";
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let parsed = Response::parse(head, &mut room, false).unwrap();
        let got = response(head, &parsed, ResponseEdit { cookie: Some("a=b; Path=/"), ..ResponseEdit::NONE })
            .unwrap();
        let fields: Vec<_> = got.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        let want = [("a", "1"), ("a", "3"), ("content-length", "5"), ("set-cookie", "a=b; Path=/")];
        assert_eq!(fields, want);
    }
}
