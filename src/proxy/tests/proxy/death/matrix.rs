//! The death matrix: one of three backends dies in every way, under every kind of request, behind ours (over HTTP/1.1 and
//! over HTTP/2), HAProxy (as it is, and told to retry what it can) and nginx. What ours may show is asserted; the others
//! stand beside it.

use super::backends::{Death, Executed, healthy, victim};
use crate::{
    framing::peers::{self, Limits},
    http2::Client2,
    support::*,
};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use zonekeeper_core::model::{Http2, Protocol};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Get,
    Post,
    Large,
    /// As large, without a length.
    Chunked,
    WebSocket,
    Http2Get,
    Http2Post,
    /// As large as the others.
    Http2Large,
}

const KINDS: [Kind; 8] = [
    Kind::Get,
    Kind::Post,
    Kind::Large,
    Kind::Chunked,
    Kind::WebSocket,
    Kind::Http2Get,
    Kind::Http2Post,
    Kind::Http2Large,
];

impl Kind {
    fn http2(self) -> bool {
        matches!(self, Kind::Http2Get | Kind::Http2Post | Kind::Http2Large)
    }
}
/// Requests of each kind, so that the dying one has its turn.
const TURNS: usize = 6;
/// Longest wait for a connection, in milliseconds.
const CONNECT_MS: u32 = 300;

/// Longest wait for a response, in milliseconds: short where the backend hangs; elsewhere no slow machine may reach it.
fn response_ms(death: Death) -> u32 {
    if death == Death::Hangs { 1500 } else { 8000 }
}
/// A large body, in bytes: more than any buffer on its way.
const LARGE: usize = 1 << 20;

/// What the clients of one cell saw: outcomes with their number.
type Cell = BTreeMap<String, u32>;
type Cells = BTreeMap<(Death, Kind), Cell>;

/// What ours may show, by the issue: no error where the request cannot have been read or is idempotent.
fn allowed(death: Death, kind: Kind, outcome: &str) -> bool {
    let idempotent = matches!(kind, Kind::Get | Kind::WebSocket | Kind::Http2Get);
    match (outcome, death) {
        ("ok", _) => true,
        ("cut", Death::DiesInBody) => true,
        ("closed", Death::DiesInBody) => kind.http2(), // before its head was sent
        (_, Death::Refuses | Death::Blackholes | Death::DiesInBody | Death::ClosesAsReused) => false,
        ("503", Death::Answers503) => !idempotent,
        ("502" | "504", _) => !idempotent,
        _ => false,
    }
}

async fn ask(addr: SocketAddr, kind: Kind, path: &str) -> String {
    match timeout(Duration::from_secs(15), ask_one(addr, kind, path)).await {
        Ok(outcome) => outcome,
        Err(_) => "hang".into(),
    }
}

async fn ask_one(addr: SocketAddr, kind: Kind, path: &str) -> String {
    if kind.http2() {
        return ask_http2(addr, kind, path).await;
    }
    let mut client = Client::connect(addr).await;
    let head = match kind {
        Kind::Get => format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"),
        Kind::Post => format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
        Kind::Large => format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"),
        Kind::Chunked => format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Kind::WebSocket => format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ),
        Kind::Http2Get | Kind::Http2Post | Kind::Http2Large => return String::new(),
    };
    client.send(head).await;
    if matches!(kind, Kind::Large | Kind::Chunked) {
        return stream(client, kind == Kind::Chunked).await;
    }
    let answer = client.answer(false).await;
    if kind == Kind::WebSocket && answer.status == 101 {
        client.send("ping").await;
        let mut echo = [0; 4];
        return if client.stream.read_exact(&mut echo).await.is_ok() { "ok".into() } else { "cut".into() };
    }
    in_a_word(&answer)
}

async fn ask_http2(addr: SocketAddr, kind: Kind, path: &str) -> String {
    let method = if kind == Kind::Http2Get { "GET" } else { "POST" };
    let request = http::Request::builder().method(method).uri(format!("http://a{path}")).body(()).unwrap();
    let large = [b'z'; 16384];
    let body: Vec<&[u8]> = match kind {
        Kind::Http2Get => vec![],
        Kind::Http2Large => vec![&large; LARGE / large.len()],
        _ => vec![b"hello"],
    };
    let got = Client2::connect(addr).await.ask(request, &body).await;
    let complete = got.reset.is_none();
    in_a_word(&Answer { status: got.status, head: String::new(), body: got.body, complete })
}

/// Sends a large body while the answer is waited for.
async fn stream(client: Client, chunked: bool) -> String {
    let (stream, pending) = client.into_parts();
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        let framing: [&[u8]; 3] = if chunked { [b"4000\r\n", b"\r\n", b"0\r\n\r\n"] } else { [b""; 3] };
        let piece = [framing[0], &[b'z'; 16384], framing[1]].concat();
        for _ in 0..LARGE / 16384 {
            if write.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = write.write_all(framing[2]).await;
        write
    });
    let mut got = pending;
    let whole = loop {
        if let Some(i) = got.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&got[..i]).into_owned();
            let n: usize = field(&head, "content-length").and_then(|n| n.parse().ok()).unwrap_or_default();
            if got.len() >= i + 4 + n {
                break true;
            }
        }
        match read.read_buf(&mut got).await {
            Ok(n) if n > 0 => {}
            _ => break false,
        }
    };
    sending.abort();
    let text = String::from_utf8_lossy(&got).into_owned();
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default();
    let body = text.split_once("\r\n\r\n").map_or(Vec::new(), |(_, b)| b.as_bytes().to_vec());
    in_a_word(&Answer { status, head: text, body, complete: whole })
}

fn in_a_word(answer: &Answer) -> String {
    match (answer.status, answer.complete, answer.body.as_slice()) {
        (0, ..) => "closed".into(),
        (200, true, b"ok") => "ok".into(),
        (200, true, _) => "SHORT".into(),
        (_, false, _) => "cut".into(),
        (status, ..) => status.to_string(),
    }
}

/// The proxies of the matrix.
const PROXIES: [&str; 5] = ["ours", OURS2, "haproxy", "haproxy-retry", "nginx"];
/// Ours before backends that speak HTTP/2.
const OURS2: &str = "ours-http2";

/// A proxy, until it is dropped.
enum Running {
    Ours(Box<World>),
    Theirs { _peer: peers::Peer },
}

impl Running {
    /// How often ours has turned to a backend.
    fn turns(&self, backend: SocketAddr) -> Option<u64> {
        let Running::Ours(world) = self else { return None };
        let of = |b: &&(_, SocketAddr, zonekeeper_proxy::BackendCounters)| b.1 == backend;
        Some(world.proxy.counters().backends.iter().find(of).map_or(0, |b| b.2.requests))
    }
}

/// Starts a proxy; where it speaks HTTP/1.1, and where HTTP/2.
async fn start(
    name: &'static str,
    death: Death,
    backends: &[SocketAddr],
) -> Option<([SocketAddr; 2], Running)> {
    if !["ours", OURS2].contains(&name) {
        let peer =
            peers::start(name, backends, Limits { max_body: 1 << 30, response_ms: response_ms(death) })
                .await?;
        return Some(([peer.addr, peer.http2], Running::Theirs { _peer: peer }));
    }
    let mut state = state(Protocol::Http, backends);
    edit_listener(&mut state, |l| (l.max_body, l.http2) = (0, Http2::PriorKnowledge));
    edit_pool(&mut state, |p| {
        (p.connect_timeout_ms, p.response_timeout_ms, p.eject_ms) = (CONNECT_MS, response_ms(death), 0);
        p.http2 = name == OURS2;
    });
    let world = World::try_start(state, 1).unwrap();
    Some(([world.addr("web"); 2], Running::Ours(Box::new(world))))
}

/// All cells of one proxy under one death.
async fn suffer(name: &'static str, death: Death) -> Option<Cells> {
    let executed = Executed::default();
    let http2 = name == OURS2;
    let (bad, b, c) =
        (victim(death, &executed, http2).await, healthy(&executed, http2), healthy(&executed, http2));
    let (addrs, running) = start(name, death, &[bad.addr, b.addr, c.addr]).await?;
    let mut cells = Cells::new();
    // HTTP/2 has no upgrade
    for kind in KINDS.into_iter().filter(|kind| !http2 || *kind != Kind::WebSocket) {
        let addr = addrs[usize::from(kind.http2())];
        let cell = cells.entry((death, kind)).or_default();
        let before = running.turns(bad.addr);
        let turns = if death == Death::ClosesAsReused { 5 * TURNS } else { TURNS };
        for turn in 0..turns {
            if death == Death::ClosesAsReused {
                for _ in 0..3 {
                    ask(addrs[0], Kind::Get, "/prime").await;
                }
            }
            let path = format!("/{kind:?}-{turn}");
            *cell.entry(ask(addr, kind, &path).await).or_insert(0) += 1;
        }
        let had = running.turns(bad.addr).zip(before).is_none_or(|(now, before)| now > before);
        assert!(had, "{death:?} {kind:?}: the dying one never had its turn");
    }
    drop(running);
    // now that nothing more comes
    for kind in [Kind::Post, Kind::Large, Kind::Chunked, Kind::Http2Post, Kind::Http2Large] {
        let prefix = format!("/{kind:?}-");
        let executed = executed.lock().unwrap();
        let twice = executed.iter().filter(|(path, times)| path.starts_with(&prefix) && **times > 1).count();
        if let Some(cell) = cells.get_mut(&(death, kind)).filter(|_| twice > 0) {
            cell.insert("TWICE".into(), twice as u32);
        }
    }
    Some(cells)
}

async fn matrix(name: &'static str) -> Option<Cells> {
    let mut all = Cells::new();
    let deaths: Vec<_> = Death::ALL.iter().map(|d| tokio::spawn(suffer(name, *d))).collect();
    for death in deaths {
        all.extend(death.await.unwrap()?);
    }
    Some(all)
}

fn show(cell: Option<&Cell>) -> String {
    let Some(cell) = cell else { return "not run".into() };
    let bad: Vec<String> = cell.iter().filter(|(o, _)| *o != "ok").map(|(o, n)| format!("{n} {o}")).collect();
    if bad.is_empty() { "ok".into() } else { bad.join(", ") }
}

fn table(all: &BTreeMap<&str, Cells>) -> String {
    let mut text = format!(
        "| one of three | request | {} |\n|{}\n",
        PROXIES.join(" | "),
        "---|".repeat(PROXIES.len() + 2)
    );
    for death in Death::ALL {
        for kind in KINDS {
            let cells: Vec<String> =
                PROXIES.iter().map(|p| show(all.get(p).and_then(|c| c.get(&(death, kind))))).collect();
            text += &format!("| {death:?} | {kind:?} | {} |\n", cells.join(" | "));
        }
    }
    text
}

/// The table is kept in `matrix.md`; `UPDATE_EXPECT=1` writes it anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dying_backend_shows_only_where_nothing_else_is_safe() {
    let mut all = BTreeMap::new();
    let matrices = PROXIES.map(|name| (name, tokio::spawn(matrix(name))));
    for (name, cells) in matrices {
        if let Some(cells) = cells.await.unwrap() {
            all.insert(name, cells);
        }
    }
    let table = table(&all);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxy/death/matrix.md");
        std::fs::write(file, format!("Of {TURNS} requests each, errors that a client saw:\n\n{table}"))
            .unwrap();
    }
    let bad = |c: &Cells| c.values().flatten().filter(|(o, _)| *o != "ok").map(|(_, n)| *n).sum::<u32>();
    let sums: Vec<String> = all.iter().map(|(name, c)| format!("{name} {}", bad(c))).collect();
    peers::show(&format!("errors in the death matrix: {}", sums.join(", ")));
    let ours = ["ours", OURS2].into_iter().flat_map(|name| &all[name]);
    let wrong: Vec<String> = ours
        .flat_map(|((d, k), cell)| cell.keys().map(move |o| (*d, *k, o)))
        .filter(|(d, k, o)| !allowed(*d, *k, o))
        .map(|(d, k, o)| format!("{d:?} {k:?}: {o}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}\n{table}");
}
