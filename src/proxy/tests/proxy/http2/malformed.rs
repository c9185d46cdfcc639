//! What RFC 9113 calls malformed or an error: each ends as it says, and no backend hears of it. The same goes to HAProxy
//! and nginx, and what they make of it stands beside it.

use super::{
    abuse::{CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, Raw, SETTINGS, frame},
    *,
};
use crate::framing::peers::{self, Limits};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const WINDOW_UPDATE: u8 = 8;

/// What a client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The stream is reset, the connection goes on.
    Stream(u32),
    /// GOAWAY, and the connection ends.
    Connection(u32),
    /// It is answered 400, the connection goes on.
    Refused,
    /// It is answered with something else.
    Answered,
    /// The connection ends without a word.
    Closed,
    /// Nothing comes.
    Silence,
}

use End::*;

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const COMPRESSION: u32 = 9;

/// A field as HPACK writes it without its tables (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |t: &str| [&[t.len() as u8], t.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// A head of these fields, on stream 1.
fn head(fields: &[(&str, &str)], flags: u8) -> Vec<u8> {
    let block: Vec<u8> = fields.iter().flat_map(|(n, v)| field(n, v)).collect();
    frame(HEADERS, END_HEADERS | flags, 1, &block)
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "w.example")];

/// A GET with these fields behind it.
fn get(more: &[(&str, &str)]) -> Vec<u8> {
    head(&[&GET, more].concat(), END_STREAM)
}

/// A POST that goes on, with these fields behind it.
fn post(more: &[(&str, &str)]) -> Vec<u8> {
    let head_ = [(":method", "POST"), GET[1], GET[2], GET[3]];
    head(&[&head_, more].concat(), 0)
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    GET.into_iter().filter(|(n, _)| *n != name).collect()
}

fn cases() -> Vec<(&'static str, Vec<u8>, End)> {
    let data = |text: &[u8]| frame(DATA, END_STREAM, 1, text);
    vec![
        // Heads (§8.2, §8.3).
        ("a name in upper case", get(&[("X-A", "1")]), Stream(PROTOCOL)),
        ("a name with a space", get(&[("x a", "1")]), Stream(PROTOCOL)),
        ("an empty name", get(&[("", "1")]), Stream(PROTOCOL)),
        ("a value with a line end", get(&[("x", "1\r\ny: 2")]), Stream(PROTOCOL)),
        ("a value with NUL", get(&[("x", "1\0")]), Stream(PROTOCOL)),
        ("connection", get(&[("connection", "close")]), Stream(PROTOCOL)),
        ("keep-alive", get(&[("keep-alive", "1")]), Stream(PROTOCOL)),
        ("proxy-connection", get(&[("proxy-connection", "close")]), Stream(PROTOCOL)),
        ("transfer-encoding", post(&[("transfer-encoding", "chunked")]), Stream(PROTOCOL)),
        ("upgrade", get(&[("upgrade", "websocket")]), Stream(PROTOCOL)),
        ("te but for trailers", get(&[("te", "gzip")]), Stream(PROTOCOL)),
        ("no method", head(&without(":method"), END_STREAM), Stream(PROTOCOL)),
        ("no scheme", head(&without(":scheme"), END_STREAM), Stream(PROTOCOL)),
        ("no path", head(&without(":path"), END_STREAM), Stream(PROTOCOL)),
        ("an empty path", head(&[GET[0], GET[1], (":path", ""), GET[3]], END_STREAM), Stream(PROTOCOL)),
        ("no authority and no host", head(&without(":authority"), END_STREAM), Refused),
        ("another host", get(&[("host", "x.example")]), Refused),
        ("two paths", get(&[(":path", "/b")]), Stream(PROTOCOL)),
        ("two methods", get(&[(":method", "GET")]), Stream(PROTOCOL)),
        ("an unknown pseudo field", get(&[(":protocol2", "x")]), Stream(PROTOCOL)),
        ("a response's pseudo field", get(&[(":status", "200")]), Stream(PROTOCOL)),
        (
            "a pseudo field behind others",
            head(&[&[("x", "1")], &GET[..]].concat(), END_STREAM),
            Stream(PROTOCOL),
        ),
        (
            "a method that is no token",
            head(&[(":method", "G T"), GET[1], GET[2], GET[3]], END_STREAM),
            Stream(PROTOCOL),
        ),
        (
            "a path with a space",
            head(&[GET[0], GET[1], (":path", "/a b"), GET[3]], END_STREAM),
            Stream(PROTOCOL),
        ),
        (
            "a path that is none",
            head(&[GET[0], GET[1], (":path", "a"), GET[3]], END_STREAM),
            Stream(PROTOCOL),
        ),
        (
            "an authority with a path",
            head(&[GET[0], GET[1], GET[2], (":authority", "a/b")], END_STREAM),
            Stream(PROTOCOL),
        ),
        (
            "an authority with a user",
            head(&[GET[0], GET[1], GET[2], (":authority", "u@a")], END_STREAM),
            Refused,
        ),
        ("two lengths", post(&[("content-length", "1"), ("content-length", "2")]), Refused),
        ("a length that is no number", post(&[("content-length", "1x")]), Stream(PROTOCOL)),
        (
            "less data than its length",
            [post(&[("content-length", "9")]), data(b"x")].concat(),
            Stream(PROTOCOL),
        ),
        (
            "more data than its length",
            [post(&[("content-length", "1")]), data(b"xyz")].concat(),
            Stream(PROTOCOL),
        ),
        ("no data and a length", get(&[("content-length", "5")]), Stream(PROTOCOL)),
        // Frames (§4 to §6).
        (
            "a head on stream 0",
            frame(HEADERS, END_HEADERS, 0, &field(":method", "GET")),
            Connection(PROTOCOL),
        ),
        (
            "a stream of the server's",
            frame(HEADERS, END_HEADERS, 2, &field(":method", "GET")),
            Connection(PROTOCOL),
        ),
        ("data on a stream that was never", frame(DATA, 0, 5, b"x"), Connection(PROTOCOL)),
        ("data on stream 0", frame(DATA, 0, 0, b"x"), Connection(PROTOCOL)),
        ("a frame that is too large", frame(DATA, 0, 1, &[0; 16_385]), Connection(FRAME_SIZE)),
        ("a push from a client", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), Connection(PROTOCOL)),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &[]), Connection(PROTOCOL)),
        (
            "a frame amid a head",
            [frame(HEADERS, 0, 1, &field(":method", "GET")), frame(PING, 0, 0, &[0; 8])].concat(),
            Connection(PROTOCOL),
        ),
        (
            "HPACK that is none",
            frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0xff]),
            Connection(COMPRESSION),
        ),
        ("an index beyond the table", frame(HEADERS, END_HEADERS, 1, &[0xfe]), Connection(COMPRESSION)),
        ("padding beyond the frame", frame(DATA, 8, 1, &[9, 0]), Connection(PROTOCOL)),
        ("a short PING", frame(PING, 0, 0, &[0; 7]), Connection(FRAME_SIZE)),
        ("a PING on a stream", frame(PING, 0, 1, &[0; 8]), Connection(PROTOCOL)),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[]), Connection(PROTOCOL)),
        ("settings of an odd size", frame(SETTINGS, 0, 0, &[0; 5]), Connection(FRAME_SIZE)),
        (
            "an acknowledgement with settings",
            frame(SETTINGS, 1, 0, &[0, 3, 0, 0, 0, 1]),
            Connection(FRAME_SIZE),
        ),
        ("push neither on nor off", frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), Connection(PROTOCOL)),
        ("a window beyond 2^31", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]), Connection(FLOW_CONTROL)),
        ("a frame size below 2^14", frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]), Connection(PROTOCOL)),
        ("no more window", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), Connection(PROTOCOL)),
        (
            "more window than there is",
            frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
            Connection(FLOW_CONTROL),
        ),
        ("a short window update", frame(WINDOW_UPDATE, 0, 0, &[1]), Connection(FRAME_SIZE)),
        ("a reset of a stream that was never", frame(RST_STREAM, 0, 5, &[0; 4]), Connection(PROTOCOL)),
        ("a short reset", [post(&[]), frame(RST_STREAM, 0, 1, &[0])].concat(), Connection(FRAME_SIZE)),
        ("a stream that depends on itself", frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0]), Stream(PROTOCOL)),
        (
            "data behind the end",
            [get(&[("x-hold", "1")]), frame(DATA, 0, 1, b"x")].concat(),
            Stream(STREAM_CLOSED),
        ),
    ]
}

/// Whether it ended so, or harder: a stream's error may end the connection (§5.4.2), and PROTOCOL_ERROR stands for those
/// that have a name of their own (§7), as the h2 crate has it.
fn does(got: &End, expected: &End) -> bool {
    match (got, expected) {
        (Connection(PROTOCOL), _) | (Stream(PROTOCOL), Refused) => true,
        _ => got == expected,
    }
}

/// How many bytes of a whole request stand at the front; none while there is none.
fn whole(got: &[u8]) -> Option<usize> {
    let find = |text: &[u8]| got.windows(text.len()).position(|w| w == text).map(|at| at + text.len());
    let head = find(b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&got[..head]).into_owned();
    if crate::support::field(&text, "transfer-encoding").is_some() {
        return find(b"0\r\n\r\n");
    }
    let body = crate::support::field(&text, "content-length").and_then(|n| n.parse().ok());
    Some(head + body.unwrap_or(0)).filter(|len| got.len() >= *len)
}

/// A backend that counts what it gets, and answers what does not say `x-hold`: its own count is of whole requests, `begun` of
/// everything that came.
fn backend(begun: &Arc<AtomicU64>) -> Server {
    let begun = begun.clone();
    Server::with(any(), move |mut stream, n| {
        let begun = begun.clone();
        async move {
            let mut got = Vec::new();
            while stream.read_buf(&mut got).await.unwrap_or_default() > 0 {
                if got.windows(6).any(|w| w == b"x-hold") {
                    continue;
                }
                begun.fetch_add(1, Relaxed);
                while let Some(len) = whole(&got) {
                    got.drain(..len);
                    n.fetch_add(1, Relaxed);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                }
            }
        }
    })
}

/// How a connection with these bytes, or its stream 1, ends.
async fn end_of(addr: SocketAddr, bytes: &[u8], patience: Duration) -> End {
    let mut raw = Raw::to(addr).await;
    let _ = raw.stream.write_all(bytes).await;
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let ended = async {
        loop {
            match raw.next().await {
                Some((RST_STREAM, 1, why)) => return Stream(number(&why[..4])),
                Some((GOAWAY, _, why)) => return Connection(number(&why[4..8])),
                Some((HEADERS, 1, block)) => {
                    // Behind changes of the table's size, the static table's `:status: 400` (RFC 7541 §6.3, §6.1).
                    let first = block.iter().find(|b| **b & 0xe0 != 0x20);
                    return if first == Some(&0x8c) { Refused } else { Answered };
                }
                Some(_) => {}
                None => return Closed,
            }
        }
    };
    timeout(patience, ended).await.unwrap_or(Silence)
}

/// What got through to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Nothing,
    /// A request that was then broken off.
    Part,
    /// A request as if all were well.
    Whole,
}

/// What a proxy makes of every case, and of a request in order.
async fn all_of(name: &'static str) -> Option<(String, Vec<(End, Reached)>)> {
    let begun = Arc::default();
    let backend = backend(&begun);
    let limits = Limits { max_body: 1000, response_ms: 2000 };
    let (addr, running) = match name {
        "ours" => {
            let world = World::start(clear(&[backend.addr]));
            (world.addr("web"), (Some(world), None))
        }
        _ => {
            let peer = peers::start(name, &[backend.addr], limits).await?;
            (peer.http2, (None, Some(peer)))
        }
    };
    let mut all = Vec::new();
    for bytes in cases().into_iter().map(|c| c.1).chain([get(&[])]) {
        let before = (begun.load(Relaxed), backend.count());
        let end = end_of(addr, &bytes, if name == "ours" { PATIENCE } else { Duration::from_secs(3) }).await;
        tokio::time::sleep(Duration::from_millis(20)).await; // what is on its way to the backend arrives
        all.push((
            end,
            match (begun.load(Relaxed) - before.0, backend.count() - before.1) {
                (0, _) => Reached::Nothing,
                (_, 0) => Reached::Part,
                _ => Reached::Whole,
            },
        ));
    }
    assert_eq!(all.pop(), Some((Answered, Reached::Whole)), "{name} serves what is in order");
    Some((running.1.map_or(name.into(), |p| format!("{name} {}", p.version)), all))
}

#[tokio::test]
async fn what_is_malformed_reaches_no_backend() {
    let (_, all) = all_of("ours").await.unwrap();
    let mut wrong = Vec::new();
    for ((name, _, expected), (got, reached)) in cases().into_iter().zip(all) {
        // A body shows only at its end that it is not as long as it should be; its request is then broken off.
        let most = if name.ends_with("data than its length") { Reached::Part } else { Reached::Nothing };
        if !does(&got, &expected) || ![Reached::Nothing, most].contains(&reached) {
            wrong.push(format!("{name}: {got:?}, not {expected:?}; reached a backend: {reached:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The table is kept in `malformed.md`; `UPDATE_EXPECT=1` writes it anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_peers_make_of_it_stands_beside_ours() {
    let running = ["ours", "haproxy", "nginx"].map(|name| tokio::spawn(all_of(name)));
    let mut all = Vec::new();
    for running in running {
        all.extend(running.await.unwrap());
    }
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    let mut table =
        format!("| case | RFC 9113 | {} |\n|---|---|{}\n", names.join(" | "), "---|".repeat(all.len()));
    for (i, (case, _, expected)) in cases().into_iter().enumerate() {
        let cells = all.iter().map(|(_, ends)| match ends[i] {
            (end, Reached::Nothing) => format!("{end:?}"),
            (end, reached) => format!("{end:?}, reached a backend: {reached:?}"),
        });
        table += &format!("| {case} | {expected:?} | {} |\n", cells.collect::<Vec<_>>().join(" | "));
    }
    let forwarded = |(name, ends): &(String, Vec<(End, Reached)>)| {
        format!("{name} {}", ends.iter().filter(|(_, reached)| *reached == Reached::Whole).count())
    };
    let sums: Vec<String> = all.iter().map(forwarded).collect();
    peers::show(&format!("forwarded of {} malformed streams: {}", cases().len(), sums.join(", ")));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxy/http2/malformed.md");
        std::fs::write(file, format!("How each ends, and what reached a backend of it:\n\n{table}")).unwrap();
    }
    assert!(sums.iter().any(|s| s == "ours 0"), "{table}");
}
