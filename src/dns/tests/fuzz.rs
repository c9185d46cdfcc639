//! A fuzzer for stable: well-formed queries, broken in every way, against all of the answering code.
//!
//! Part of the suite for a few seconds; `ZONEKEEPER_FUZZ_SECONDS=600 cargo test --release -p zonekeeper-dns --test fuzz --
//! --ignored` for as long as one likes. A failure prints the query, and the seed from which it came.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;
#[path = "common/mmdb.rs"]
mod mmdb;
#[path = "common/steered.rs"]
mod steered;

use common::{query, read, with_edns};
use std::{
    collections::BTreeSet,
    env,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use steered::{cities, service, site};
use zonekeeper_core::{
    answer::DnsTable,
    model::{Nearest, Policy, WhenAllDown},
    state::{Basis, ServiceState, State},
};
use zonekeeper_dns::{
    BATCH, Condition, CookieSecrets, Counters, Datagrams, Geo, RateConfig, RateLimit, Responder, Transport,
    View,
};

const ZONE: &str = include_str!("differential/rules.zone");
/// A zone without cuts, so that the short cut has its say; its `*` is no more than what stands above another name.
const PLAIN: &str = "$TTL 300\n@ SOA ns host 1 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\nhost.* A 192.0.2.2\n\
    www A 192.0.2.3\nwww TXT x\nmail MX 5 www\n*.wild AAAA 2001:db8::1\nweb HTTPS 1 . alpn=h2\nweb A 192.0.2.4\na.b A 192.0.2.5\n";
const STARLESS: &str =
    "$TTL 300\n@ SOA ns host 1 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\n*.b A 192.0.2.2\n";
/// Names at which services stand, and what leads to them.
const SERVICES: &str = "$TTL 300\n@ SOA ns host 1 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\n@ MX 5 cdn\n@ TXT x\n\
    cdn HTTPS 1 . alpn=h2\nweb HTTPS 1 . alpn=h2\nweb TXT y\ndown TXT z\nflat ALIAS cdn\n*.wild ALIAS web\nto CNAME down\n\
    moved DNAME deep\na ALIAS b.moved\nb ALIAS a\nx ALIAS x.cut\ncut NS ns.cut\nns.cut A 192.0.2.2\nfail HTTPS 0 cdn\n";
/// Signed by BIND, with what can stand in a zone: wildcards, delegations with and without DS, DNAME, empty non-terminals.
const SIGNED: [(&str, &str); 3] = [
    ("nsec.test.", include_str!("fuzz/nsec.zone")),
    ("nsec3.test.", include_str!("fuzz/nsec3.zone")),
    ("optout.test.", include_str!("fuzz/optout.zone")),
];
const ORIGINS: [&str; 10] = [
    "example",
    "plain.test",
    "starless.test",
    "service.test",
    "nsec.test",
    "nsec3.test",
    "optout.test",
    "test",
    "",
    "com",
];
/// Names of the zones, and some that are in none.
const LABELS: [&str; 44] = [
    "www", "*", "wild", "q", "here", "calias", "a", "b", "ent", "cut", "ns", "host", "safe", "moved", "web",
    "to", "absent", "x", "mail", "cdn", "flat", "down", "fail", "deep", "all", "sub", "deeper", "loop1",
    "lwild", "todname", "mx", "long", "dloop", "alias2", "odd", "cwild", "nxwild", "signed", "c", "y",
    "wsrv", "toout", "tosub", "WwW",
];
const WHOLE: [&str; 4] = ["version.bind", "id.server", "hostname.bind", "WWW.eXample"];
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
    let mut labels: Vec<&str> = (0..r.below(4)).map(|_| LABELS[r.below(LABELS.len())]).collect();
    labels.push(ORIGINS[r.below(ORIGINS.len())]);
    let name = if r.one_in(32) { WHOLE[r.below(WHOLE.len())].to_string() } else { labels.join(".") };
    let mut q = query(&name, TYPES[r.below(TYPES.len())]);
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
    for section in [&a.answer, &a.authority, &a.additional] {
        assert_eq!(
            section.iter().collect::<BTreeSet<_>>().len(),
            section.len(),
            "nothing stands twice: {a:?}"
        );
    }
    // Whoever understands DNSSEC gets a proof with each denial of a signed zone, and signatures (RFC 4035 §3.1.3).
    let signed = |owner: &str| SIGNED.iter().any(|(origin, _)| *origin == owner);
    let denied = a.authority.iter().any(|r| r.1 == 6 && signed(&r.0));
    if denied && !a.tc && a.opt.as_ref().is_some_and(|o| o.1 & 0x8000 != 0) {
        let proven = a.authority.iter().any(|r| matches!(r.1, 47 | 50));
        assert!(proven && a.authority.iter().any(|r| r.1 == 46), "no proof: {a:?}");
    }
}

/// The zones, and services of every kind.
fn state() -> State {
    let mut zones = vec![
        ("example.", ZONE),
        ("plain.test.", PLAIN),
        ("starless.test.", STARLESS),
        ("service.test.", SERVICES),
    ];
    zones.extend(SIGNED);
    let (mut state, sites) = (common::state(&zones), ["fra", "iad", "hnd"]);
    state.sites = steered::steered().sites;
    let nearest = Nearest {
        sites: sites.map(site).into(),
        areas: [("192.0.1.0/24".parse().unwrap(), vec![site("iad")])].into(),
    };
    let weights = || Policy::Weighted([("fra", 3), ("iad", 1)].map(|(s, w)| (site(s), w)).into());
    let down = |s: ServiceState, then| {
        let mut s = s;
        s.spec.when_all_down = then;
        s.assignment.values_mut().for_each(|a| (a.sites, a.basis) = (Vec::new(), Basis::Nothing));
        s
    };
    for (id, of) in [
        ("cdn", service("cdn.service.test.", Policy::Nearest(Box::new(nearest)), &sites)),
        ("web", service("web.service.test.", weights(), &["fra", "iad"])),
        ("all", service("x.deep.service.test.", Policy::All, &sites)),
        ("wild", service("*.all.service.test.", Policy::Failover(sites.map(site).into()), &sites)),
        ("down", down(service("down.service.test.", weights(), &sites), WhenAllDown::NoData)),
        ("fail", down(service("fail.service.test.", Policy::All, &sites), WhenAllDown::ServFail)),
    ] {
        state.services.insert(id.parse().unwrap(), Arc::new(of));
    }
    state
}

struct Fuzzer {
    table: DnsTable,
    short: Responder,
    general: Responder,
    limited: Responder,
    geo: Geo,
    secrets: CookieSecrets,
}

impl Fuzzer {
    fn new() -> Fuzzer {
        let rate = RateConfig { rate: 5, slip: 2, size: 1024 };
        let (table, cities) = (DnsTable::build(&state()), cities());
        let all = [responder(None), responder(None), responder(Some(rate))].map(|mut r| {
            r.prepare(&table);
            r
        });
        let [short, general, limited] = all;
        let (geo, secrets) =
            (Geo::open(&[cities.path().to_owned()]).unwrap(), CookieSecrets::new([1; 16], &[]));
        Fuzzer { table, short, general, limited, geo, secrets }
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
        let view = View {
            table: &self.table,
            condition,
            secrets: Some(&self.secrets),
            geo: Some(&self.geo),
            transport,
        };
        let mut batch = Batch(queries.iter().map(whole).collect(), vec![None; n]);
        self.limited.answer_batch(&view, &mut batch, n);
        for (i, q) in queries.iter().enumerate() {
            if let Some(len) = batch.1[i] {
                check(q, &batch.0[i].0[..len], transport);
            }
            let (mut short, mut general) = (whole(q).0, whole(q).0); // both have had the same turns
            let a = self.short.answer(&self.table, condition, transport, &mut short, q.len());
            let b = self.general.answer_generally(&self.table, condition, transport, &mut general, q.len());
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
