//! A fuzzer of the zone-file reader for stable: good zones, broken in every way.
//!
//! What is read must be a zone: written out it is the same one again, and it can be asked. What is not read says why, with
//! a line. Part of the suite for a few seconds; `ZONEKEEPER_FUZZ_SECONDS=600 cargo test --release -p zonekeeper-dns --test
//! zonefile_fuzz -- --ignored` for as long as one likes.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test ends at the first surprise, and says what it tried

mod common;

use common::{Asker, name, query, read, with_edns};
use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use zonekeeper_core::{model::ZoneOwner, state::State, zone::Zone};
use zonekeeper_dns::{Transport, zonefile};

const ZONE: &str = include_str!("differential/rules.zone");
const MORE: &str = "a TXT \"x\\\"y\" \\065 ( \"two\"\n \"lines\" )\nb HTTPS 1 . alpn=\"h2,h3\" ipv4hint=192.0.2.1 key99=\"x y\"\n\
    c NSEC3 1 1 10 AABB 2T7B4G4VSA5SMI47K61MV5BV1A22BOJR NS DS\nd RRSIG A 13 2 3600 20370101000000 20240229235959 7 example. AAEC\n\
    e CAA 128 issue \"ca.test; x=1\"\nf NAPTR 100 10 \"S\" \"SIP+D2U\" \"!^.*$!sip:x@y!\" _sip._udp\ng DS 1 13 99 aabb CCDD\n\
    h SSHFP 4 2 00ff\ni TYPE4711 \\# 4 0a00 0001\n$ORIGIN sub2\nj 1h30m IN LOC x\nk ALIAS x\nl URI 1 2 \"https://x/\"\n";
/// What breaks readers.
const PARTS: [&str; 34] = [
    "(",
    ")",
    "\"",
    "\\",
    ";",
    "\n",
    " ",
    "\t",
    "@",
    ".",
    "..",
    "*",
    "\\000",
    "\\256",
    "\\\"",
    "$TTL",
    "$ORIGIN",
    "$INCLUDE",
    "$GENERATE",
    "IN",
    "CH",
    "4294967296",
    "99999999999999999999",
    "-1",
    "1w1d",
    "\\# 65535",
    "\\# 0",
    "TYPE0",
    "TYPE65535",
    "\u{7f}\u{80}",
    "example.",
    "=",
    ",",
    "0",
];

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n.max(1) as u64) as usize
    }
}

/// A zone with some bytes changed, parts put in, lines moved, or cut short.
fn broken(rng: &mut Rng) -> Vec<u8> {
    let whole = format!("{ZONE}\n{MORE}");
    let mut lines: Vec<&str> = whole.lines().collect();
    let keep = 4 + rng.below(lines.len() - 4); // few lines leave few reasons to refuse the zone
    while lines.len() > keep.min(12) {
        let at = 3 + rng.below(lines.len() - 3);
        lines.remove(at);
    }
    let mut text = lines.join("\n").into_bytes();
    text.push(b'\n');
    for _ in 0..rng.below(4) {
        let at = rng.below(text.len());
        match rng.below(6) {
            0 => text[at] = rng.below(256) as u8,
            1 if text.len() > 1 => drop(text.remove(at)),
            2 => text.truncate(at.max(1)),
            3 => {
                let end = (at + rng.below(40)).min(text.len());
                let part = text[at..end].to_vec();
                let to = rng.below(text.len());
                text.splice(to..to, part);
            }
            _ => {
                let part = PARTS[rng.below(PARTS.len())].bytes();
                text.splice(at..at, part);
            }
        }
    }
    text
}

/// True when it was a zone.
fn check(text: &[u8], rng: &mut Rng) -> bool {
    let origin = name("example.");
    let sets = match zonefile::parse(text, Path::new("z"), &origin) {
        Ok(sets) => sets,
        Err(e) => {
            assert!(!e.0.is_empty() && e.0.len() <= 20 && e.0.iter().all(|e| !e.message.is_empty()));
            return false;
        }
    };
    let mut zone = Zone::new(origin.clone(), ZoneOwner::File);
    for set in sets {
        zone.put(set).expect("what the reader takes the zone takes");
    }
    zone.advance_serial();
    zone.validate().expect("the reader asks for SOA and NS");
    let mut out = Vec::new();
    zonefile::export(&zone, &mut out).unwrap();
    let again = zonefile::parse(&out, Path::new("out"), &origin).expect("what is written can be read");
    let mut same = Zone::new(origin, ZoneOwner::File);
    for set in again {
        same.put(set).unwrap();
    }
    same.advance_serial();
    assert!(same == zone, "what is written is what was read");
    let names: Vec<String> = zone.iter().map(|s| s.name.to_string()).filter(|n| !n.contains('\\')).collect();
    let mut state = State::default();
    state.zones.insert(zone.origin().clone(), Arc::new(zone));
    let mut asker = Asker::of(&state);
    for _ in 0..4 {
        let qname = &names[rng.below(names.len())];
        let mut q = with_edns(query(qname, [1, 255, 46, 65, 15][rng.below(5)]), 1232, 0, &[]);
        let flags = q.len() - 4;
        q[flags] = [0, 0x80][rng.below(2)];
        read(&asker.raw(Transport::Udp, &q).expect("an answer"));
    }
    true
}

fn run(seconds: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let first = env::var("ZONEKEEPER_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(now);
    let (end, mut tried, mut zones) = (Instant::now() + Duration::from_secs(seconds), 0u64, 0u64);
    while Instant::now() < end {
        let seed = first.wrapping_add(tried);
        let mut rng = Rng(seed);
        let text = broken(&mut rng);
        let checked = catch_unwind(AssertUnwindSafe(|| check(&text, &mut rng)));
        let Ok(zone) = checked else { panic!("ZONEKEEPER_SEED={seed}:\n{}", String::from_utf8_lossy(&text)) };
        (tried, zones) = (tried + 1, zones + u64::from(zone));
    }
    println!("{tried} texts, {zones} of them zones");
    assert!(zones * 20 > tried, "some of them must be zones: {zones} of {tried}");
}

#[test]
fn broken_zone_files_are_read_or_refused() {
    run(3);
}

#[test]
#[ignore = "runs as long as ZONEKEEPER_FUZZ_SECONDS says, ten minutes by default"]
fn broken_zone_files_for_long() {
    run(env::var("ZONEKEEPER_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(600));
}
