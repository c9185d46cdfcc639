//! RFC 8906 section 8: every test of a server's communication that it lists, with packets of our own and with dig.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use arc_swap::ArcSwap;
use common::{Answer, Asker, published, query, read, state, with_edns};
use std::{env, process::Command, sync::Arc};
use zonekeeper_dns::{DnsConfig, DnsFlags, DnsServer, Transport};

const ZONE: &str = "$TTL 300\n@ SOA ns host 7 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\n";

fn asker() -> Asker {
    let long: String = (0..40).map(|i| format!("@ TXT \"{i} {}\"\n", "x".repeat(40))).collect();
    Asker::new(&[("example.", &format!("{ZONE}{long}"))])
}

/// The SOA of the zone with header bits as given: the byte with RD, the byte with Z, AD and CD.
fn soa(bits: [u8; 2]) -> Vec<u8> {
    let mut q = query("example", 6);
    (q[2], q[3]) = (bits[0], bits[1]);
    q
}

fn ask(q: &[u8]) -> (Answer, Vec<u8>) {
    let m = asker().raw(Transport::Udp, q).unwrap();
    (read(&m), m)
}

fn has_soa(a: &Answer) -> bool {
    a.rcode == 0 && a.aa && a.answer.len() == 1 && a.answer[0].1 == 6
}

#[test]
fn basic_dns() {
    let (a, _) = ask(&soa([0, 0]));
    assert!(has_soa(&a) && a.opt.is_none(), "8.1.1 is the server configured for the zone");
    for unknown in [1000, 65_280] {
        let (a, _) = ask(&query("example", unknown));
        assert!(a.rcode == 0 && a.aa && a.answer.is_empty() && a.opt.is_none(), "8.1.2 unknown types");
    }
    for (bits, name) in [
        ([0, 0x10], "8.1.3.1 CD"),
        ([0, 0x20], "8.1.3.2 AD"),
        ([0, 0x40], "8.1.3.3 reserved"),
        ([1, 0], "8.1.3.4 RD"),
    ] {
        let (a, m) = ask(&soa(bits));
        assert!(has_soa(&a) && a.opt.is_none(), "{name}");
        assert_eq!(m[3] & 0x60, 0, "{name}: neither Z nor AD");
        assert_eq!(m[3] & 0x80, 0, "{name}: no recursion here");
        assert_eq!(m[2] & 1, bits[0], "{name}: RD is copied");
    }
}

#[test]
fn unknown_opcodes() {
    for opcode in [1u8, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
        let header = [0xab, 0xcd, opcode << 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let (a, m) = ask(&header);
        assert_eq!(
            (a.rcode, a.aa, m[2] >> 3 & 15, &m[..2]),
            (4, false, opcode, &[0xab, 0xcd][..]),
            "8.1.4, opcode {opcode}"
        );
        let mut whole = soa([0, 0]);
        whole[2] = opcode << 3;
        assert_eq!(ask(&whole).0.rcode, 4, "the same with a question");
    }
}

#[test]
fn extended_dns() {
    let opt = |a: &Answer| a.opt.clone().expect("OPT");
    let (a, _) = ask(&with_edns(soa([0, 0]), 4096, 0, &[]));
    assert!(has_soa(&a), "8.2.1 minimal EDNS");
    assert_eq!(opt(&a).1, 0, "version 0, no flags");
    let unknown_option = [0, 100, 0, 3, 1, 2, 3];
    for (options, flags, name) in [
        (&[][..], 0, "8.2.2 version negotiation"),
        (&[], 0x40, "8.2.5 version negotiation with unknown flags"),
        (&unknown_option, 0, "8.2.6 version negotiation with unknown options"),
        (&[], 0x80, "8.2.9 version negotiation with DO"),
    ] {
        for version in [1, 2, 255] {
            let mut q = with_edns(soa([0, 0]), 4096, version, options);
            let at = q.len() - options.len() - 4;
            q[at] = flags;
            let (a, _) = ask(&q);
            assert_eq!((a.rcode, a.answer.len()), (16, 0), "{name}");
            assert_eq!(opt(&a).1 & 0x00ff_7fff, 0, "{name}: our version, no unknown flags");
            assert_eq!(opt(&a).2, [], "{name}");
        }
    }
    let (a, _) = ask(&with_edns(soa([0, 0]), 4096, 0, &unknown_option));
    assert!(has_soa(&a) && opt(&a).2.is_empty(), "8.2.3 unknown options");
    let mut q = with_edns(soa([0, 0]), 4096, 0, &[]);
    let at = q.len() - 4;
    (q[at], q[at + 1]) = (0x7f, 0xff);
    let (a, _) = ask(&q);
    assert!(has_soa(&a) && opt(&a).1 == 0, "8.2.4 unknown flags");
    let (a, m) = ask(&with_edns(query("example", 16), 512, 0, &[]));
    assert!(a.tc && a.opt.is_some() && m.len() <= 512, "8.2.7 a truncated answer keeps OPT");
    q = with_edns(soa([0, 0]), 4096, 0, &[]);
    q[at] = 0x80;
    assert!(has_soa(&ask(&q).0), "8.2.8 DO");
    let known =
        [&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8][..], &[0, 3, 0, 0], &[0, 9, 0, 0], &[0, 8, 0, 4, 0, 1, 0, 0]]
            .concat();
    assert!(has_soa(&ask(&with_edns(soa([0, 0]), 4096, 0, &known)).0), "8.2.10 many known options");
}

/// What has a whole header is answered or is a response; less is not answered.
#[test]
fn malformed() {
    let good = with_edns(soa([0, 0]), 1232, 0, &[]);
    let with = |at: usize, bytes: &[u8]| {
        let mut q = good.clone();
        q[at..at + bytes.len()].copy_from_slice(bytes);
        q
    };
    let name_end = 12 + 9;
    for (q, rcode, name) in [
        (with(4, &[0, 0]), 1, "no question, but one follows"),
        (with(4, &[0, 2]), 1, "two questions"),
        (with(6, &[0, 1]), 1, "an answer in a question"),
        (with(8, &[0, 1]), 1, "an authority in a question"),
        (with(10, &[0, 2]), 1, "a record that is not there"),
        (with(10, &[0xff, 0xff]), 1, "many records that are not there"),
        (with(10, &[0, 0]), 1, "something behind the end"),
        (with(12, &[0xc0, 0x0c]), 1, "a pointer to itself in the question"),
        (with(12, &[0xc0, 0x00]), 1, "a pointer into the header"),
        (with(12, &[0x40]), 1, "a label of a reserved kind"),
        (with(12, &[63]), 1, "a label beyond the end"),
        (with(name_end + 4, &[1]), 1, "OPT that is not at the root"),
        (with(name_end + 4 + 9, &[0, 9]), 1, "OPT longer than the message"),
        (with_edns(soa([0, 0]), 1232, 0, &[0, 3, 0, 9, 1]), 1, "an option longer than OPT"),
        (with_edns(soa([0, 0]), 1232, 0, &[0, 3, 0]), 1, "half an option"),
        (with_edns(good.clone(), 1232, 0, &[]), 1, "two OPT, RFC 6891 §6.1.1"),
        (soa([0, 0])[..14].to_vec(), 1, "half a name"),
        (soa([0, 0])[..name_end + 2].to_vec(), 1, "half a question"),
        (with(name_end, &[0, 41]), 1, "OPT as a question"),
        (with(name_end, &[0, 0]), 1, "type 0"),
        (with(name_end, &[0, 253]), 4, "MAILB"),
        (with(name_end, &[0, 252]), 5, "AXFR without permission"),
        (with(name_end + 2, &[0, 254]), 5, "class NONE"),
        (with(name_end + 2, &[0, 4]), 5, "class HESIOD"),
    ] {
        assert_eq!(ask(&q).0.rcode, rcode, "{name}");
    }
    let mut asker = asker();
    for len in 0..12 {
        assert_eq!(asker.raw(Transport::Udp, &good[..len]), None, "{len} bytes are no header");
    }
    for bits in [0x80, 0x84, 0xf8, 0xff] {
        assert_eq!(asker.raw(Transport::Udp, &with(2, &[bits])), None, "a response is never answered");
    }
    let mut long = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    (0..4).for_each(|_| long.extend([&[63][..], &[b'a'; 63]].concat()));
    long.extend([0, 0, 1, 0, 1]);
    assert_eq!(ask(&long).0.rcode, 1, "a name of 257 bytes");
}

/// The commands of the RFC. What must be in dig's output, and what must not.
const DIG: [(&str, &[&str], &[&str]); 17] = [
    ("+noedns +noad +norec soa", &["NOERROR", "flags: qr aa;", "SOA"], &["OPT PSEUDO"]),
    ("+noedns +noad +norec type1000", &["NOERROR", "flags: qr aa;", "ANSWER: 0"], &["OPT PSEUDO"]),
    ("+noedns +noad +norec +cd soa", &["NOERROR", "SOA", "qr aa"], &["OPT PSEUDO"]),
    ("+noedns +norec +ad soa", &["NOERROR", "SOA", "flags: qr aa;"], &["OPT PSEUDO"]),
    ("+noedns +noad +norec +zflag soa", &["NOERROR", "SOA", "flags: qr aa;"], &["MBZ", "OPT PSEUDO"]),
    ("+noedns +noad +rec soa", &["NOERROR", "SOA", "flags: qr aa rd;"], &["OPT PSEUDO"]),
    (
        "+noedns +noad +norec +opcode=15 +header-only",
        &["NOTIMP", "opcode: RESERVED15"],
        &["OPT PSEUDO", " aa"],
    ),
    ("+noedns +noad +norec +tcp soa", &["NOERROR", "SOA", "qr aa"], &["OPT PSEUDO"]),
    ("+nocookie +edns=0 +noad +norec soa", &["NOERROR", "SOA", "EDNS: version: 0, flags:;"], &[]),
    (
        "+nocookie +edns=1 +noednsneg +noad +norec soa",
        &["BADVERS", "EDNS: version: 0, flags:;"],
        &["300\tIN\tSOA"],
    ),
    ("+nocookie +edns=0 +noad +norec +ednsopt=100 soa", &["NOERROR", "SOA", "version: 0"], &["OPT=100"]),
    (
        "+nocookie +edns=0 +noad +norec +ednsflags=0x40 soa",
        &["NOERROR", "SOA", "version: 0, flags:;"],
        &["MBZ"],
    ),
    ("+nocookie +edns=1 +noednsneg +noad +norec +ednsflags=0x40 soa", &["BADVERS", "version: 0"], &["MBZ"]),
    ("+nocookie +edns=1 +noednsneg +noad +norec +ednsopt=100 soa", &["BADVERS", "version: 0"], &["OPT=100"]),
    ("+norec +dnssec +bufsize=512 +ignore txt", &["NOERROR", "qr aa tc", "version: 0, flags: do"], &[]),
    ("+nocookie +edns=0 +noad +norec +dnssec soa", &["NOERROR", "SOA", "version: 0, flags: do"], &[]),
    ("+edns=0 +noad +norec +cookie +nsid +expire +subnet=0.0.0.0/0 soa", &["NOERROR", "SOA", "(good)"], &[]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_finds_the_same() {
    let long: String = (0..40).map(|i| format!("@ TXT \"{i} {}\"\n", "x".repeat(40))).collect();
    let now = published(state(&[("example.", &format!("{ZONE}{long}"))]), 1);
    let config = DnsConfig { addrs: vec!["127.0.0.1:0".parse().unwrap()], ..DnsConfig::default() };
    let server =
        DnsServer::start(config, Arc::new(ArcSwap::from_pointee(now)), Arc::new(DnsFlags::default()))
            .unwrap();
    let port = server.local_addrs()[0].port().to_string();
    for (args, has, lacks) in DIG {
        let mut command = Command::new("dig");
        command.args(["@127.0.0.1", "-p", &port]).args(args.split(' ')).arg("example");
        let Ok(out) = command.output() else {
            eprintln!("NOT RUN: dig");
            assert!(env::var_os("CI").is_none(), "dig must be installed in CI");
            break;
        };
        let text = String::from_utf8_lossy(&out.stdout);
        has.iter().for_each(|t| assert!(text.contains(t), "dig {args}: {t:?} is missing in {text}"));
        lacks.iter().for_each(|t| assert!(!text.contains(t), "dig {args}: {t:?} in {text}"));
    }
    server.shutdown().await;
}
