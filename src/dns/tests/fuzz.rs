//! A fuzzer for stable: well-formed queries, broken in every way, against all of the answering code.
//!
//! Part of the suite for a few seconds; `ZONEKEEPER_FUZZ_SECONDS=600 cargo test --release -p zonekeeper-dns --test fuzz --
//! --ignored` for as long as one likes. A failure prints the query, and the seed from which it came.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use common::{query, read, state, with_edns};
use std::{
    env,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use zonekeeper_core::answer::DnsTable;
use zonekeeper_dns::{
    BATCH, Condition, CookieSecrets, Counters, Datagrams, RateConfig, RateLimit, Responder, Transport, View,
};

const ZONE: &str = include_str!("differential/rules.zone");
/// A zone without cuts, so that the short cut has its say; its `*` is no more than what stands above another name.
const PLAIN: &str = "$TTL 300\n@ SOA ns host 1 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\nhost.* A 192.0.2.2\n\
    www A 192.0.2.3\nwww TXT x\nmail MX 5 www\n*.wild AAAA 2001:db8::1\nweb HTTPS 1 . alpn=h2\nweb A 192.0.2.4\na.b A 192.0.2.5\n";
const STARLESS: &str =
    "$TTL 300\n@ SOA ns host 1 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\n*.b A 192.0.2.2\n";
const NAMES: [&str; 28] = [
    "www.plain.test",
    "absent.plain.test",
    "host.absent.plain.test",
    "x.y.plain.test",
    "mail.plain.test",
    "q.wild.plain.test",
    "web.plain.test",
    "b.plain.test",
    "plain.test",
    "absent.starless.test",
    "www.example",
    "example",
    "x.sub.example",
    "q.wild.example",
    "a.moved.example",
    "loop1.example",
    "x.lwild.example",
    "todname.example",
    "mx.example",
    "a.long.example",
    "y.dloop.example",
    "alias2.example",
    "absent.example",
    "",
    "com",
    "version.bind",
    "id.server",
    "WWW.eXample",
];
const TYPES: [u16; 22] =
    [1, 2, 5, 6, 12, 15, 16, 28, 33, 39, 41, 43, 46, 47, 48, 64, 65, 249, 250, 252, 255, 65_280];
const OPTIONS: [&[u8]; 10] = [
    &[0, 3, 0, 0],
    &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
    &[0, 10, 0, 24, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 0, 0, 0x6b, 2, 0xce, 0xb3, 1, 2, 3, 4, 5, 6, 7, 8],
    &[0, 11, 0, 0],
    &[0, 12, 0, 5, 0, 0, 0, 0, 0],
    &[0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2],
    &[0, 9, 0, 0],
    &[0, 15, 0, 2, 0, 3],
    &[0xff, 0xfe, 0, 3, 1, 2, 3],
    &[0, 14, 0, 0],
];

/// xorshift: the same queries for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n.max(1)
    }
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A query that is well formed, more or less.
fn seed(r: &mut Random) -> Vec<u8> {
    let name = NAMES[r.below(NAMES.len())];
    let mut q = query(name, TYPES[r.below(TYPES.len())]);
    if r.one_in(8) {
        let at = q.len() - 1;
        q[at] = [3, 254, 255, 4][r.below(4)];
    }
    if r.one_in(16) {
        (q[5], q[11]) = (0, 0);
        q.truncate(12); // a server cookie alone is asked for, perhaps
    }
    (q[2], q[3]) = if r.one_in(16) {
        (r.next() as u8 & 0x7f, r.next() as u8)
    } else {
        (r.next() as u8 & 7, r.next() as u8)
    };
    if r.below(3) > 0 {
        let options: Vec<u8> =
            (0..r.below(4)).flat_map(|_| OPTIONS[r.below(OPTIONS.len())]).copied().collect();
        q = with_edns(q, [0, 512, 1232, 4096, 65_535][r.below(5)], u8::from(r.one_in(10)), &options);
        let at = q.len() - options.len() - 4;
        q[at] = if r.one_in(2) { 0x80 } else { 0 };
    }
    q
}

/// Breaks it, sometimes.
fn mutate(r: &mut Random, q: &mut Vec<u8>) {
    let times = if r.one_in(2) { 0 } else { r.below(5) };
    for _ in 0..times {
        let at = r.below(q.len().max(1)).min(q.len().saturating_sub(1));
        if q.is_empty() {
            return;
        }
        match r.below(8) {
            0 => q[at] = r.next() as u8,
            1 => q[at] ^= 1 << r.below(8),
            2 => q.truncate(at),
            3 => q.extend((0..r.below(40)).map(|i| i as u8)),
            4 => q.insert(at, [0, 1, 0xc0, 0x3f, 0xff][r.below(5)]),
            5 => drop(q.remove(at)),
            6 => {
                let piece = q[at..(at + r.below(30)).min(q.len())].to_vec();
                let to = r.below(q.len() + 1);
                q.splice(to..to, piece);
            }
            _ => q[at] = [0, 63, 64, 0xc0, 0xff, 12, 41][r.below(7)],
        }
    }
    q.truncate(4096);
}

struct Batch(Vec<(Vec<u8>, usize)>, Vec<Option<usize>>);

impl Datagrams for Batch {
    fn datagram(&mut self, i: usize) -> (&mut [u8], usize) {
        let (buf, len) = &mut self.0[i];
        (buf, *len)
    }
    fn reply(&mut self, i: usize, len: Option<usize>) {
        self.1[i] = len;
    }
    fn peer(&self, i: usize) -> Option<SocketAddr> {
        Some(SocketAddr::from(([192, 0, (i % 4) as u8, 7], 53)))
    }
}

fn responder(rate: Option<RateConfig>) -> Responder {
    Responder::new(b"n1", Arc::new(Counters::default()))
        .with_version("v")
        .with_keepalive(Duration::from_secs(10))
        .with_rate(rate.map(|r| Arc::new(RateLimit::new(&r))))
}

/// What holds for every answer.
fn check(q: &[u8], m: &[u8], transport: Transport) {
    let a = read(m);
    assert!(q.len() >= 12 && q[2] & 0x80 == 0, "a response, or less than a header, was answered");
    assert_eq!(
        (&m[..2], m[2] & 0x79, m[3] & 0xe0),
        (&q[..2], q[2] & 0x79, 0),
        "ID, opcode and RD; never RA, Z, AD"
    );
    assert!(
        transport != Transport::Udp || m.len() <= if a.opt.is_some() { 1232 } else { 512 },
        "{} bytes",
        m.len()
    );
    assert!(a.rcode < 16 || a.opt.is_some(), "an extended code without OPT");
    assert!(!a.tc || transport == Transport::Udp, "truncated over a stream");
}

struct Fuzzer {
    table: DnsTable,
    plain: Responder,
    limited: Responder,
    secrets: CookieSecrets,
}

impl Fuzzer {
    fn new() -> Fuzzer {
        let rate = RateConfig { rate: 5, slip: 2, size: 1024 };
        let table = DnsTable::build(&state(&[
            ("example.", ZONE),
            ("plain.test.", PLAIN),
            ("starless.test.", STARLESS),
        ]));
        let (plain, limited) = (responder(None), responder(Some(rate)));
        Fuzzer { table, plain, limited, secrets: CookieSecrets::new([1; 16], &[]) }
    }

    fn round(&mut self, r: &mut Random) {
        let condition = Condition { stale: r.one_in(8), servfail: r.one_in(16) };
        let transport = Transport::ALL[r.below(Transport::ALL.len())];
        let n = 1 + r.below(BATCH);
        let queries: Vec<Vec<u8>> = (0..n)
            .map(|_| {
                let mut q = seed(r);
                mutate(r, &mut q);
                q
            })
            .collect();
        let whole = |q: &Vec<u8>| {
            let mut buf = vec![0xaa; if transport == Transport::Udp { 4096 } else { 65_535 }];
            buf[..q.len()].copy_from_slice(q);
            (buf, q.len())
        };
        let view = View { table: &self.table, condition, secrets: Some(&self.secrets), geo: None, transport };
        let mut batch = Batch(queries.iter().map(whole).collect(), vec![None; n]);
        self.limited.answer_batch(&view, &mut batch, n);
        for (i, q) in queries.iter().enumerate() {
            if let Some(len) = batch.1[i] {
                check(q, &batch.0[i].0[..len], transport);
            }
            let (mut short, mut general) = (whole(q).0, whole(q).0);
            let a = self.plain.answer(&self.table, condition, transport, &mut short, q.len());
            let b = self.plain.answer_generally(&self.table, condition, transport, &mut general, q.len());
            assert_eq!(a.map(|l| &short[..l]), b.map(|l| &general[..l]), "the short cut differs: {q:02x?}");
            if let Some(len) = a {
                check(q, &short[..len], transport);
            }
        }
    }
}

/// Rounds until the time is over; each has a seed of its own.
fn fuzz(first: u64, rounds: u64, time: Duration) -> u64 {
    let (mut fuzzer, started) = (Fuzzer::new(), Instant::now());
    for i in 0..rounds {
        let seed = first.wrapping_add(i).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let round = catch_unwind(AssertUnwindSafe(|| fuzzer.round(&mut Random(seed))));
        assert!(
            round.is_ok(),
            "the round with ZONEKEEPER_FUZZ_SEED={} failed, see above",
            first.wrapping_add(i)
        );
        if started.elapsed() > time {
            return i + 1;
        }
    }
    rounds
}

fn first() -> u64 {
    let random = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    env::var("ZONEKEEPER_FUZZ_SEED").map_or_else(|_| random(), |s| s.parse().unwrap())
}

#[test]
fn a_few_seconds_of_broken_queries() {
    fuzz(first(), 20_000, Duration::from_secs(5));
}

#[test]
#[ignore = "runs for ten minutes, or ZONEKEEPER_FUZZ_SECONDS"]
fn ten_minutes_of_broken_queries() {
    let seconds = env::var("ZONEKEEPER_FUZZ_SECONDS").map_or(600, |s| s.parse().unwrap());
    let (from, rounds) = (first(), fuzz(first(), u64::MAX, Duration::from_secs(seconds)));
    eprintln!("{rounds} rounds of up to {BATCH} queries, from about seed {from}");
}
