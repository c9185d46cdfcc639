//! hyper as the other reader: what we take for one request is that request to it as well, from the client's bytes where it
//! takes them at all, and from the bytes that we forward, where the request after it begins at the same byte.

use super::{Framing, MAX_FIELDS, Rng, decode, long, mutated, run, seeds};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    mem::MaybeUninit,
    net::IpAddr,
    time::Duration,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use zonekeeper_core::model::Rewrite;
use zonekeeper_proxy::http1::{Decoder, Edit, Encoder, Forwarded, Request, Scan, Scanner, write_request};

/// The request after the one that is looked at.
const AFTER: &[u8] = b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n";

/// A request as a reader understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    method: String,
    host: String,
    path: String,
    body: Vec<u8>,
}

/// The path of a target in any form; what is no URI for hyper is none here.
fn path(uri: &http::Uri) -> String {
    uri.path_and_query().map(|p| p.as_str().to_owned()).unwrap_or_default()
}

/// Our reading of the first request, how many bytes it has, and what is forwarded; none where it is refused or not whole.
fn ours(rng: &mut Rng, bytes: &[u8]) -> Option<(Reading, usize, Vec<u8>)> {
    let Scan::Head(len) = Scanner::default().scan(bytes) else { return None };
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let request = Request::parse(&bytes[..len], &mut room).ok()?;
    let (body, done, used) = decode(rng, request.framing, &bytes[len..]).ok()?;
    let mut out = Vec::new();
    let from = Forwarded { peer: IpAddr::from([192, 0, 2, 1]), tls: false, trusted: false };
    let rewrite = Rewrite::default();
    let edit = Edit { path: None, rewrite: &rewrite, identity: None };
    write_request(&bytes[..len], &request, from, edit, &mut out);
    let encoder = if request.framing == Framing::Chunked { Encoder::Chunked } else { Encoder::Raw };
    Decoder::new(request.framing).transfer(encoder, &bytes[len..], &mut out).ok()?;
    let path = path(&http::Uri::try_from(request.target).ok()?);
    let (method, host) = (request.method.to_owned(), request.host.to_owned());
    let reading = Reading { method, host, path, body };
    (done || matches!(request.framing, Framing::None)).then_some((reading, len + used, out))
}

/// The requests that hyper reads from these bytes, until it has had enough.
async fn hyper_reads(bytes: &[u8]) -> Vec<Reading> {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let all = RefCell::new(Vec::new());
    let serve = service_fn(|request: hyper::Request<hyper::body::Incoming>| async {
        let (method, path) = (request.method().to_string(), path(request.uri()));
        let field = request.headers().get("host").map(|h| String::from_utf8_lossy(h.as_bytes()).into_owned());
        // the target's own authority counts (RFC 9112 §3.2.2)
        let host = request.uri().authority().map(ToString::to_string).or(field).unwrap_or_default();
        if let Ok(body) = request.into_body().collect().await {
            let body = body.to_bytes().to_vec();
            all.borrow_mut().push(Reading { method, host, path, body });
        }
        Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::new())))
    });
    let connection = http1::Builder::new()
        .half_close(true)
        .max_headers(2 * MAX_FIELDS)
        .serve_connection(TokioIo::new(far), serve);
    let client = async {
        let _ = near.write_all(bytes).await;
        let _ = near.shutdown().await;
        let _ = near.read_to_end(&mut Vec::new()).await;
    };
    let _ = tokio::join!(connection, client);
    all.take()
}

/// How many were compared.
fn compared(time: Duration) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (seeds, _) = seeds();
    let count = Cell::new(0);
    run(time, |rng| {
        let bytes = mutated(rng, &seeds);
        let Some((reading, used, forwarded)) = ours(rng, &bytes) else { return };
        count.set(count.get() + 1);
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        let backend = runtime.block_on(hyper_reads(&[&forwarded, AFTER].concat()));
        let next =
            Reading { method: "GET".into(), host: "a".into(), path: "/after".into(), body: Vec::new() };
        assert_eq!(backend, [reading.clone(), next], "as a backend reads it: {}", shown());
        let direct = runtime.block_on(hyper_reads(&[&bytes[..used], AFTER].concat()));
        if let Some(first) = direct.first() {
            assert_eq!(*first, reading, "as the client's bytes are read: {}", shown());
        }
    });
    count.get()
}

#[test]
fn hyper_reads_what_we_read() {
    let count = compared(Duration::from_secs(3));
    assert!(
        count > 100 || std::env::var_os("ZONEKEEPER_SEED").is_some(),
        "only {count} messages were compared"
    );
}

#[test]
#[ignore = "long: ZONEKEEPER_FUZZ_SECONDS, 10 minutes by default"]
fn hyper_reads_what_we_read_for_long() {
    compared(long());
}
