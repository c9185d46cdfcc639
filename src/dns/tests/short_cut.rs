//! The short cut for plain hits gives the same bytes as the general path, alone and in a batch.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use common::{Asker, query, state, with_edns};
use proptest::prelude::*;
use std::{cell::RefCell, fmt::Write, net::SocketAddr};
use zonekeeper_dns::{BATCH, Condition, Datagrams, Transport, View};

/// Names of one to three labels from a small alphabet, so that questions meet them and their relatives.
const LABELS: [&str; 8] = ["a", "b", "www", "*", "mx", "A-b_c", "sub", "deep"];
/// Not in the zones.
const ABSENT: [&str; 3] = ["zz", "absent.b", "no.www"];
const TYPES: [u16; 14] = [1, 28, 12, 16, 5, 15, 2, 6, 43, 46, 65, 252, 255, 4711];

/// A zone without delegations and one with everything that the short cut must leave alone.
fn zone(plain: bool) -> String {
    let mut text = String::from(
        "$TTL 300\n@ SOA ns host 1 3600 600 86400 30\n@ NS ns\n@ MX 5 mx\n@ TXT t\nns A 192.0.2.1\n",
    );
    for (i, a) in LABELS.iter().enumerate().filter(|(_, a)| **a != "*") {
        writeln!(text, "{a} A 192.0.2.{i}\n{a} A 192.0.3.{i}\n{a} TXT x y\n{a} AAAA 2001:db8::{i}").unwrap();
        writeln!(text, "{a}.b A 198.51.100.{i}\nhost.{a}.deep PTR {a}\nalias.{a} CNAME {a}").unwrap();
    }
    writeln!(text, "*.www A 203.0.113.1\nmany.mx MX 10 a\nmany.mx A 192.0.2.200").unwrap();
    (0..60).for_each(|i| writeln!(text, "large.a A 10.0.0.{i}").unwrap());
    text.push_str(
        "signed.a A 192.0.2.77\nsigned.a RRSIG A 13 3 300 20300101000000 20200101000000 1 example. AAAA\n",
    );
    if !plain {
        text.push_str("sub.sub NS ns.sub.sub\nns.sub.sub A 192.0.2.250\nwww.sub.sub A 192.0.2.251\ndn.b DNAME a\nx.dn.b A 192.0.2.3\n");
    }
    text
}

/// The same, signed: what the proofs say is not judged here, but they are there.
fn signed(plain: bool) -> String {
    let mut text = zone(plain);
    let mut sign = |name: &str, types: &str| {
        for rtype in types.split(' ') {
            let labels = if name == "@" { 1 } else { 2 };
            let times = "300 20300101000000 20200101000000 1 example. AAAA";
            writeln!(text, "{name} RRSIG {rtype} 13 {labels} {times}").unwrap();
        }
        writeln!(text, "{name} NSEC zz {types} RRSIG").unwrap();
    };
    sign("@", "SOA NS MX TXT NSEC");
    LABELS.iter().filter(|a| **a != "*").for_each(|a| sign(a, "A AAAA TXT NSEC"));
    text
}

/// Cut-free zones where `*` exists below the apex or deeper, as a name or only because of names below it.
const STARS: [&str; 5] = [
    "host.* A 192.0.2.1\na A 192.0.2.2\n",
    "a.b.* TXT x\nb A 192.0.2.2\n",
    "* A 192.0.2.1\n*.deep A 192.0.2.3\nhost.*.sub A 192.0.2.4\n",
    "* TXT x\na.* A 192.0.2.1\n*.a.b A 192.0.2.2\nwww CNAME a\n",
    "a.*.b A 192.0.2.1\n*.* A 192.0.2.2\nwww HTTPS 1 . alpn=h2\nwww A 192.0.2.3\n",
];

struct Batch(Vec<(Vec<u8>, usize)>, Vec<Option<Vec<u8>>>);

impl Datagrams for Batch {
    fn datagram(&mut self, i: usize) -> (&mut [u8], usize) {
        let (buf, len) = &mut self.0[i];
        (buf, *len)
    }
    fn reply(&mut self, i: usize, len: Option<usize>) {
        self.1[i] = len.map(|l| self.0[i].0[..l].to_vec());
    }
    fn peer(&self, _: usize) -> Option<SocketAddr> {
        None
    }
}

fn askers() -> Vec<Asker> {
    let wild = zone(true) + "* A 192.0.2.9\n*.b TXT w\n";
    let stars = STARS
        .map(|more| format!("$TTL 300\n@ SOA ns host 1 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\n{more}"));
    let dense =
        [true, false].map(|plain| Asker::of(&state(&[("example.", &zone(plain)), ("other.test.", &wild)])));
    let sparse = stars.windows(2).map(|s| Asker::of(&state(&[("example.", &s[0]), ("other.test.", &s[1])])));
    let signed =
        [true, false].map(|plain| Asker::of(&state(&[("example.", &signed(plain)), ("other.test.", &wild)])));
    dense.into_iter().chain(sparse).chain(signed).collect()
}

thread_local! {
    static ASKERS: RefCell<Vec<Asker>> = RefCell::new(askers());
}

fn one() -> impl Strategy<Value = Vec<u8>> {
    let label = || prop::sample::select(&LABELS[..]);
    let special = prop::sample::select(
        &["signed.a", "large.a", "many.mx", "x.www", "alias.b", "host.a.deep", "x.y.z"][..],
    );
    let name = prop_oneof![
        label().prop_map(String::from),
        (label(), label()).prop_map(|(a, b)| format!("{a}.{b}")),
        (label(), label(), label()).prop_map(|(a, b, c)| format!("{a}.{b}.{c}")),
        special.prop_map(String::from),
        prop::sample::select(&ABSENT[..]).prop_map(String::from),
        Just(String::new()),
    ];
    let origin = prop::sample::select(&["example", "EXAMPLE", "other.test", "elsewhere"][..]);
    let edns = prop::option::of((0u16..5000, 0u8..2, any::<bool>(), any::<bool>()));
    let noise = prop::option::weighted(0.1, (0usize..40, any::<u8>()));
    (name, origin, prop::sample::select(&TYPES[..]), edns, any::<u8>(), noise).prop_map(
        |(name, origin, qtype, edns, flags, noise)| {
            let mut q = query(&format!("{name}.{origin}"), qtype);
            (q[2], q[3]) = (flags & 3, flags);
            if let Some((payload, version, dnssec_ok, nsid)) = edns {
                q = with_edns(
                    q,
                    payload,
                    version.saturating_sub(u8::from(flags & 4 == 0)),
                    if nsid { &[0, 3, 0, 0] } else { &[] },
                );
                let at = q.len() - if nsid { 8 } else { 4 };
                q[at] = if dnssec_ok { 0x80 } else { 0 };
            }
            if let Some((at, to)) = noise {
                let at = at % q.len();
                q[at] = to;
            }
            q
        },
    )
}

fn check(queries: &[Vec<u8>], condition: Condition) {
    ASKERS.with_borrow_mut(|askers| {
        for asker in askers {
            let size = |q: &Vec<u8>| {
                let mut buf = vec![0; 4096];
                buf[..q.len()].copy_from_slice(q);
                (buf, q.len())
            };
            let mut batch = Batch(queries.iter().map(size).collect(), vec![None; queries.len()]);
            let view =
                View { table: &asker.table, condition, secrets: None, geo: None, transport: Transport::Udp };
            asker.responder.answer_batch(&view, &mut batch, queries.len());
            for (q, batched) in queries.iter().zip(batch.1) {
                let (mut a, mut b) = (size(q).0, size(q).0);
                let short = asker.responder.answer(&asker.table, condition, Transport::Udp, &mut a, q.len());
                let general = asker.responder.answer_generally(
                    &asker.table,
                    condition,
                    Transport::Udp,
                    &mut b,
                    q.len(),
                );
                let general = general.map(|l| b[..l].to_vec());
                assert_eq!(short.map(|l| a[..l].to_vec()), general, "alone: {q:02x?}");
                assert_eq!(batched, general, "in a batch: {q:02x?}");
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_short_cut_agrees_with_the_general_path(
        queries in prop::collection::vec(one(), 1..=BATCH), stale in any::<bool>(), servfail in prop::bool::weighted(0.1),
    ) {
        check(&queries, Condition { stale, servfail });
    }
}
