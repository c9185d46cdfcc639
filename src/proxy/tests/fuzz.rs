//! Hostile bytes against the HTTP/1 codec and the routes, generated and bounded in time: a few seconds here, as long as
//! `ZONEKEEPER_FUZZ_SECONDS` says in the ignored tests. `ZONEKEEPER_SEED` repeats a run; every failure names its seed.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(dead_code, unreachable_pub, reason = "the corpus is read for its bytes alone")]

#[path = "proxy/framing/corpus.rs"]
mod corpus;
#[path = "fuzz/oracle.rs"]
mod oracle;

use std::{
    mem::MaybeUninit,
    net::IpAddr,
    time::{Duration, Instant},
};
use zonekeeper_core::{
    model::{Network, PathMatch, Rewrite, Route},
    route::{ProxyTable, Sample, pattern},
    state::State,
};
use zonekeeper_proxy::http1::{
    BodyError, Decoder, Edit, Encoder, Forwarded, Framing, MAX_FIELDS, Request, Response, ResponseEdit, Scan,
    Scanner, write_request, write_response,
};

use zonekeeper_core::model::ProxyHeader;
use zonekeeper_proxy::preamble::{self, Ends, MAX, Preamble};

/// How long each test goes on in CI.
const SHORT: Duration = Duration::from_millis(1500);

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Calls a case with one seed after the other until the time is up.
fn run(time: Duration, mut case: impl FnMut(&mut Rng)) {
    if let Some(seed) = std::env::var("ZONEKEEPER_SEED").ok().and_then(|s| s.parse().ok()) {
        return case(&mut Rng(seed));
    }
    let end = Instant::now() + time;
    let mut seed = u64::from(std::process::id()) << 32;
    while Instant::now() < end {
        for _ in 0..50 {
            seed += 1;
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&mut Rng(seed))));
            assert!(outcome.is_ok(), "ZONEKEEPER_SEED={seed} repeats it");
        }
    }
}

fn long() -> Duration {
    let seconds = std::env::var("ZONEKEEPER_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(600))
}

const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"\0",
    b"\x7f",
    b"\xff",
    b"0",
    b"chunked",
    b"close",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: b\r\n",
    b"Connection: ",
    b"HTTP/1.1",
    b"http://",
    b"[::1]",
    b"%00",
    b"ffffffffffffffff",
    b"\r\n\r\n",
    b"Upgrade: ",
];

/// A message with some of its bytes changed.
fn mutated(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = rng.one(seeds).clone();
    for _ in 0..rng.below(4) {
        let at = rng.below(bytes.len() + 1);
        match rng.below(5) {
            0 if at < bytes.len() => bytes[at] = rng.next() as u8,
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => {
                let token = *rng.one(TOKENS);
                bytes.splice(at..at, token.iter().copied());
            }
            3 => bytes.truncate(at),
            _ => {
                let (other, from) = (rng.one(seeds).clone(), rng.below(bytes.len() + 1));
                let cut = rng.below(other.len() + 1);
                bytes.truncate(from);
                bytes.extend(&other[cut..]);
            }
        }
    }
    bytes
}

fn seeds() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let requests = corpus::parse(include_str!("proxy/framing/requests.corpus"));
    let responses = corpus::parse(include_str!("proxy/framing/responses.corpus"));
    let small = |m: &Vec<u8>| m.len() < 4096;
    let requests = requests.into_iter().map(|c| c.request).filter(small).collect();
    (requests, responses.into_iter().filter_map(|c| c.response).filter(small).collect())
}

/// The verdict on a head, read in pieces.
fn scan(rng: &mut Rng, bytes: &[u8]) -> Scan {
    let (mut scanner, mut at) = (Scanner::default(), 0);
    loop {
        match scanner.scan(&bytes[..at]) {
            Scan::More if at < bytes.len() => at += 1 + rng.below(bytes.len() - at),
            verdict => return verdict,
        }
    }
}

/// The data of a body, read in pieces; its framing, what is left of the input, or what is wrong with it.
fn decode(rng: &mut Rng, framing: Framing, bytes: &[u8]) -> Result<(Vec<u8>, bool, usize), BodyError> {
    let (mut decoder, mut data, mut at) = (Decoder::new(framing), Vec::new(), 0);
    while at < bytes.len() && !decoder.done() {
        let piece = &bytes[at..at + 1 + rng.below(bytes.len() - at)];
        let (used, _) = decoder.transfer(Encoder::Raw, piece, &mut data)?;
        assert!(used == piece.len() || decoder.done(), "bytes of a body are left over");
        at += used;
    }
    Ok((data, decoder.done(), at))
}

fn requests(time: Duration) {
    let (seeds, _) = seeds();
    run(time, |rng| {
        let bytes = mutated(rng, &seeds);
        let verdict = Scanner::default().scan(&bytes);
        let Scan::Head(len) = verdict else { return };
        assert_eq!(scan(rng, &bytes), verdict, "a head is one however it is cut");
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let Ok(request) = Request::parse(&bytes[..len], &mut room) else { return };
        let mut out = Vec::new();
        let from = Forwarded {
            peer: IpAddr::from([192, 0, 2, 1]),
            tls: rng.below(2) == 0,
            trusted: rng.below(2) == 0,
        };
        let rewrite = Rewrite::default();
        write_request(
            &bytes[..len],
            &request,
            from,
            Edit { path: None, rewrite: &rewrite, identity: None },
            &mut out,
        );
        assert_eq!(Scanner::default().scan(&out), Scan::Head(out.len()), "what is forwarded is one head");
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS + 8];
        let mut again = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        // HTTP/1.0 may come without a host and goes on with an empty one (RFC 9112 §3.2), which no client may send us.
        let other = request.fields.len() > MAX_FIELDS - 8 || request.host.is_empty();
        assert!(other || Request::parse(&out, &mut again).is_ok(), "{}", String::from_utf8_lossy(&out));
        let mut raw = httparse::Request::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut raw, &out, &mut room);
        assert!(parsed.is_ok_and(|s| s.is_complete()), "another reader accepts it");
        assert_eq!((raw.method, raw.path), (Some(request.method), Some(request.target)));
        let count = |name: &str| raw.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).count();
        let framing = (count("content-length"), count("transfer-encoding"));
        let want = match request.framing {
            Framing::None | Framing::Close => (0, 0),
            Framing::Length(_) => (1, 0),
            Framing::Chunked => (0, 1),
        };
        assert_eq!((framing, count("host")), (want, 1), "{}", String::from_utf8_lossy(&out));
        let body = &bytes[len..];
        assert_eq!(
            decode(rng, request.framing, body),
            decode(rng, request.framing, body),
            "cuts change nothing"
        );
    });
}

fn responses(time: Duration) {
    let (_, seeds) = seeds();
    run(time, |rng| {
        let bytes = mutated(rng, &seeds);
        let Scan::Head(len) = scan(rng, &bytes) else { return };
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let Ok(response) = Response::parse(&bytes[..len], &mut room, rng.below(4) == 0) else { return };
        let minor = rng.below(2) as u8;
        let mut out = Vec::new();
        let (encoder, keep_alive) =
            write_response(&bytes[..len], &response, minor, true, ResponseEdit::NONE, &mut out);
        assert_eq!(Scanner::default().scan(&out), Scan::Head(out.len()));
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS + 8];
        let mut raw = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut raw, &out, &mut room);
        assert!(parsed.is_ok_and(|s| s.is_complete()), "{}", String::from_utf8_lossy(&out));
        let chunked = raw.headers.iter().any(|h| h.name.eq_ignore_ascii_case("transfer-encoding"));
        assert!(minor == 1 || !chunked, "HTTP/1.0 knows no chunks");
        let closes = response.framing == Framing::Close || response.framing == Framing::Chunked;
        assert!(minor == 1 || !closes || !keep_alive, "its end is the connection's");
        assert!(encoder == Encoder::Raw || chunked);
    });
}

fn chunks(time: Duration) {
    run(time, |rng| {
        let data: Vec<u8> = (0..rng.below(300)).map(|_| rng.next() as u8).collect();
        let (mut framed, mut at) = (Vec::new(), 0);
        while at < data.len() {
            let n = 1 + rng.below(data.len() - at);
            Encoder::Chunked.data(&data[at..at + n], &mut framed);
            at += n;
        }
        Encoder::Chunked.end(&mut framed);
        let whole = framed.len();
        framed.extend(b"GET /");
        assert_eq!(
            decode(rng, Framing::Chunked, &framed),
            Ok((data, true, whole)),
            "what is written is read"
        );
    });
}

fn word(rng: &mut Rng) -> String {
    const PARTS: &[&str] = &[
        "a",
        "b",
        "/",
        "/",
        "api",
        "x.example",
        "*.",
        ".",
        ":",
        "=",
        "&",
        ";",
        "?",
        "%2f",
        "[0-9]",
        "(",
        ")+",
        "$1",
        "é",
        " ",
    ];
    (0..rng.below(6)).map(|_| *rng.one(PARTS)).collect()
}

fn any_route(rng: &mut Rng) -> Route {
    let pair = |rng: &mut Rng| (rng.below(4) == 0).then(|| (word(rng), word(rng)));
    let path = match rng.below(4) {
        0 => PathMatch::Any,
        1 => PathMatch::Prefix(format!("/{}", word(rng))),
        2 => PathMatch::Exact(format!("/{}", word(rng))),
        _ => PathMatch::Regex(word(rng)),
    };
    let bytes = (rng.next() as u32).to_be_bytes();
    let network = Network { addr: IpAddr::from(bytes), bits: rng.below(33) as u8 };
    Route {
        hosts: (0..rng.below(3)).map(|_| word(rng)).collect(),
        methods: (0..rng.below(2)).map(|_| "GET".to_string()).collect(),
        path,
        query: pair(rng),
        header: pair(rng),
        cookie: pair(rng),
        sources: (rng.below(4) == 0).then_some(network).into_iter().collect(),
        rewrite: Rewrite { path: (rng.below(2) == 0).then(|| word(rng)), ..Rewrite::default() },
        ..Route::to("web".parse().unwrap())
    }
}

fn routes(time: Duration) {
    run(time, |rng| {
        let mut state = State::default();
        let listener = zonekeeper_core::model::Listener {
            binds: vec![zonekeeper_core::model::Bind { site: None, addr: ([127, 0, 0, 1], 80).into() }],
            routes: (0..rng.below(5)).map(|_| any_route(rng)).collect(),
            ..Default::default()
        };
        state.listeners.insert("l".parse().unwrap(), listener.clone().into());
        let table = ProxyTable::build(&state, &"here".parse().unwrap());
        let table = table.listeners.values().next().unwrap();
        let request = Sample {
            method: "GET".into(),
            host: word(rng),
            target: format!("/{}", word(rng)),
            source: Some(IpAddr::from((rng.next() as u32).to_be_bytes())),
            headers: vec![("cookie".into(), word(rng)), (word(rng), word(rng))],
        };
        let taken = table.match_route(&request);
        let first = table.routes.iter().position(|r| r.mismatch(&request).is_none());
        assert_eq!(taken, first, "the first match wins");
        let lines = table.explain(&request);
        let says = lines.iter().position(|l| l.ends_with(": takes the request"));
        assert_eq!(says, taken, "and explain says so: {lines:?}");
        for route in &table.routes {
            if let Some(path) = route.rewritten(&request.target) {
                assert!(path.starts_with('/'), "{path} is no path");
            }
            if let PathMatch::Regex(text) = &route.spec.path {
                assert!(
                    pattern(text).is_ok() || route.mismatch(&request).is_some(),
                    "a bad one matches nothing"
                );
            }
        }
    });
}

#[test]
fn no_request_has_two_readings() {
    requests(SHORT);
}

#[test]
fn no_response_has_two_readings() {
    responses(SHORT);
}

#[test]
fn chunks_are_read_as_they_were_written() {
    chunks(SHORT / 2);
}

#[test]
fn routes_match_as_they_explain() {
    routes(SHORT);
}

#[test]
#[ignore = "long: ZONEKEEPER_FUZZ_SECONDS, 10 minutes by default"]
fn requests_for_long() {
    requests(long());
}

#[test]
#[ignore = "long: ZONEKEEPER_FUZZ_SECONDS, 10 minutes by default"]
fn responses_for_long() {
    responses(long());
}

#[test]
#[ignore = "long: ZONEKEEPER_FUZZ_SECONDS, 10 minutes by default"]
fn routes_for_long() {
    routes(long());
}

/// Headers of both versions with some of their bytes changed: a header is one however it is cut and whatever follows, it
/// is no longer than allowed, and what it says can be said again.
fn preambles(time: Duration) {
    let line = |text: &str| text.as_bytes().to_vec();
    let mut seeds = vec![
        line("PROXY TCP4 192.0.2.1 198.51.100.1 1 65535\r\nGET /"),
        line("PROXY TCP6 2001:db8::1 ::1 443 80\r\n"),
        line("PROXY UNKNOWN\r\n"),
    ];
    for ends in [("192.0.2.1:1", "192.0.2.2:2"), ("[::1]:1", "[2001:db8::2]:2")] {
        let ends = Ends { source: ends.0.parse().unwrap(), destination: ends.1.parse().unwrap() };
        let mut out = Vec::new();
        preamble::write(ProxyHeader::V2, ends, &mut out);
        let len = u16::from_be_bytes([out[14], out[15]]) + 5;
        seeds.push(out.clone());
        out[14..16].copy_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&[1, 0, 2, b'h', b'2']);
        seeds.push(out);
    }
    run(time, |rng| {
        let bytes = mutated(rng, &seeds);
        let verdict = preamble::parse(&bytes);
        for cut in 0..bytes.len().min(300) {
            match (preamble::parse(&bytes[..cut]), verdict) {
                (Preamble::More, _) => {}
                (early, verdict) => assert_eq!(early, verdict, "decided after {cut} bytes"),
            }
        }
        let more = [bytes.as_slice(), b"PROXY \r\n"].concat();
        if verdict != Preamble::More {
            assert_eq!(preamble::parse(&more), verdict);
        }
        if let Preamble::Header(len, ends) = verdict {
            assert!(len <= MAX && len <= bytes.len());
            let Some(ends) = ends else { return };
            for version in [ProxyHeader::V1, ProxyHeader::V2] {
                let mut out = Vec::new();
                preamble::write(version, ends, &mut out);
                let Preamble::Header(n, Some(again)) = preamble::parse(&out) else { panic!("{ends:?}") };
                assert_eq!(n, out.len());
                let same = |a: std::net::SocketAddr, b: std::net::SocketAddr| {
                    (a.ip().to_canonical(), a.port()) == (b.ip().to_canonical(), b.port())
                };
                assert!(same(again.source, ends.source) && same(again.destination, ends.destination));
            }
        }
    });
}

#[test]
fn hostile_preambles() {
    preambles(SHORT);
}

#[test]
#[ignore = "ten minutes; ZONEKEEPER_FUZZ_SECONDS shortens it"]
fn hostile_preambles_for_long() {
    preambles(long());
}
