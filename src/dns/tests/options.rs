//! What a server says besides its data: cookies, NSID, keepalive, CHAOS; and what it holds back.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use common::{Answer, Asker, query, read, with_edns};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use zonekeeper_dns::{Condition, CookieSecrets, Counters, RateConfig, RateLimit, Responder, Transport, View};

const ZONE: &str = "$TTL 300\n@ SOA ns host 7 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.80\n";
const CLIENT: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

struct Server {
    asker: Asker,
    secrets: CookieSecrets,
    transport: Transport,
}

fn server(rate: Option<RateConfig>) -> Server {
    let mut asker = Asker::new(&[("example.", ZONE)]);
    asker.responder = Responder::new(b"node-1", Arc::new(Counters::default()))
        .with_version("Zonekeeper")
        .with_keepalive(Duration::from_secs(10))
        .with_rate(rate.map(|r| Arc::new(RateLimit::new(&r))));
    Server { asker, secrets: CookieSecrets::new([7; 16], &[[8; 16]]), transport: Transport::Udp }
}

impl Server {
    fn raw(&mut self, from: &str, q: &[u8]) -> Option<Vec<u8>> {
        let view = View {
            table: &self.asker.table,
            condition: Condition::default(),
            secrets: Some(&self.secrets),
            geo: None,
            transport: self.transport,
        };
        let mut buf = vec![0; 4096];
        buf[..q.len()].copy_from_slice(q);
        let from: IpAddr = from.parse().unwrap();
        let from = SocketAddr::new(from, 5353);
        let len = self.asker.responder.answer_to(&view, Some(from), &mut buf, q.len())?;
        buf.truncate(len);
        Some(buf)
    }

    fn ask(&mut self, from: &str, q: &[u8]) -> Answer {
        read(&self.raw(from, q).expect("an answer"))
    }
}

fn option(code: u16, data: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat()
}

fn asks(options: &[u8]) -> Vec<u8> {
    with_edns(query("www.example", 1), 1232, 0, options)
}

fn options(a: &Answer) -> Vec<(u16, Vec<u8>)> {
    let (mut all, mut rest) = (Vec::new(), &a.opt.as_ref().expect("OPT").2[..]);
    while !rest.is_empty() {
        let len = 4 + usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        all.push((u16::from_be_bytes([rest[0], rest[1]]), rest[4..len].to_vec()));
        rest = &rest[len..];
    }
    all
}

fn cookie(a: &Answer) -> Vec<u8> {
    options(a).into_iter().find(|o| o.0 == 10).expect("a cookie").1
}

#[test]
fn the_payload_is_the_operator_s() {
    let many: String = (0..200).map(|i| format!("many A 10.0.0.{i}\n")).collect();
    for (set, said) in [(512, 512), (1400, 1400), (4096, 4096), (100, 512), (9000, 4096)] {
        let mut asker = Asker::new(&[("example.", &format!("{ZONE}{many}"))]);
        asker.responder = Responder::new(b"", Arc::new(Counters::default())).with_payload(set);
        let m = asker.raw(Transport::Udp, &with_edns(query("many.example", 1), 65_535, 0, &[])).unwrap();
        let a = read(&m);
        assert_eq!((a.opt.unwrap().0, a.tc), (said, said < 3300), "{set}");
        assert!(m.len() <= usize::from(said), "{} bytes of {said}", m.len());
        let m = asker.raw(Transport::Udp, &query("many.example", 1)).unwrap();
        assert!(m.len() <= 512 && read(&m).tc, "without EDNS");
    }
}

#[test]
fn a_client_cookie_gets_a_server_cookie_that_stays() {
    let mut s = server(None);
    let first = s.ask("192.0.2.9", &asks(&option(10, &CLIENT)));
    let both = cookie(&first);
    assert_eq!((first.rcode, first.answer.len(), both.len()), (0, 1, 24));
    assert_eq!(both[..8], CLIENT);
    assert_eq!(cookie(&s.ask("192.0.2.9", &asks(&option(10, &both)))), both, "valid: the same again");
    let moved = cookie(&s.ask("192.0.2.10", &asks(&option(10, &both))));
    assert_ne!(moved, both, "of another address: answered, with a new one");
    s.secrets = CookieSecrets::new([9; 16], &[[7; 16]]);
    let renewed = cookie(&s.ask("192.0.2.9", &asks(&option(10, &both))));
    assert_ne!(renewed, both, "made with the secret that is on its way out");
}

#[test]
fn a_cookie_of_a_wrong_length_is_a_format_error() {
    let mut s = server(None);
    for len in [0, 1, 7, 9, 15, 41, 100] {
        assert_eq!(
            s.ask("192.0.2.9", &asks(&option(10, &vec![1; len]))).rcode,
            1,
            "{len} bytes, RFC 7873 §5.2.2"
        );
    }
    for len in [8, 16, 24, 40] {
        assert_eq!(s.ask("192.0.2.9", &asks(&option(10, &vec![1; len]))).rcode, 0, "{len} bytes");
    }
    let two = [option(10, &CLIENT), option(10, &[9; 8])].concat();
    assert_eq!(cookie(&s.ask("192.0.2.9", &asks(&two)))[..8], CLIENT, "the first counts, RFC 7873 §5.2");
}

#[test]
fn a_server_cookie_may_be_all_that_is_asked_for() {
    let mut s = server(None);
    let alone = |options: &[u8]| with_edns(vec![0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1232, 0, options);
    let m = s.raw("192.0.2.9", &alone(&option(10, &CLIENT))).unwrap();
    let a = read(&m);
    let good = cookie(&a);
    assert_eq!((m[4..10].to_vec(), a.rcode, good.len()), (vec![0; 6], 0, 24), "RFC 7873 §5.4");
    assert_eq!(cookie(&s.ask("192.0.2.9", &asks(&option(10, &good)))), good, "it is good for questions");
    let again = s.ask("192.0.2.9", &alone(&option(10, &good)));
    assert_eq!((again.rcode, cookie(&again)), (0, good.clone()), "asked whether it is good");
    let moved = s.ask("192.0.2.10", &alone(&option(10, &good)));
    assert_eq!(
        (moved.rcode, cookie(&moved).len()),
        (23, 24),
        "not of this address: BADCOOKIE, and a good one"
    );
    let bare = vec![0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (odd, len) in [(alone(&[]), 23), (alone(&option(3, &[])), 23), (bare, 12)] {
        let m = s.raw("192.0.2.9", &odd).unwrap();
        assert_eq!((m.len(), read(&m).rcode), (len, 1), "no question and no cookie");
    }
    let mut buf = [&alone(&option(10, &CLIENT))[..], &[0; 100]].concat();
    let (len, table) = (buf.len() - 100, &s.asker.table);
    let len = s.asker.responder.answer(table, Condition::default(), Transport::Udp, &mut buf, len).unwrap();
    assert_eq!(read(&buf[..len]).rcode, 1, "where cookies are off");
}

#[test]
fn no_cookie_is_sent_to_those_who_did_not_ask() {
    let mut s = server(None);
    assert_eq!(options(&s.ask("192.0.2.9", &asks(&[]))), []);
    assert_eq!(s.ask("192.0.2.9", &query("www.example", 1)).opt, None);
}

#[test]
fn a_flood_is_held_back_but_a_valid_cookie_passes() {
    let mut s = server(Some(RateConfig { rate: 20, slip: 2, size: 1024 }));
    let valid = asks(&option(10, &cookie(&s.ask("192.0.2.9", &asks(&option(10, &CLIENT))))));
    let flood: Vec<Option<Answer>> =
        (0..1000).map(|_| s.raw("192.0.2.9", &query("www.example", 1)).map(|m| read(&m))).collect();
    let whole = flood.iter().flatten().filter(|a| !a.tc).count();
    let slipped: Vec<&Answer> = flood.iter().flatten().filter(|a| a.tc).collect();
    assert!((19..60).contains(&whole), "{whole} whole answers");
    assert!((450..500).contains(&slipped.len()), "{} slipped", slipped.len());
    assert!(slipped.iter().all(|a| a.answer.is_empty() && a.rcode == 0), "TC and nothing else");
    assert!((0..100).all(|_| s.raw("192.0.2.9", &valid).is_some_and(|m| read(&m).answer.len() == 1)));
    let strangers = (0..100).filter_map(|_| s.raw("192.0.2.9", &asks(&option(10, &CLIENT))));
    let strangers: Vec<Answer> = strangers.map(|m| read(&m)).collect();
    assert!(
        !strangers.is_empty() && strangers.iter().all(|a| a.rcode == 23 && a.answer.is_empty()),
        "BADCOOKIE"
    );
    let retry = asks(&option(10, &cookie(&strangers[0])));
    assert_eq!(s.ask("192.0.2.9", &retry).answer.len(), 1, "and the cookie that came with it is good");
    assert_eq!(s.ask("198.51.100.1", &query("www.example", 1)).answer.len(), 1, "others notice nothing");
    assert_eq!(s.ask("192.0.2.9", &query("absent.example", 1)).rcode, 3, "nor other kinds of answers");
    s.transport = Transport::Tcp;
    assert!((0..100).all(|_| s.raw("192.0.2.9", &query("www.example", 1)).is_some()), "TCP is not limited");
}

#[test]
fn a_limited_answer_is_no_longer_than_its_question() {
    let mut s = server(Some(RateConfig { rate: 1, slip: 1, size: 1024 }));
    for q in [query("www.example", 1), asks(&[]), query("absent.example", 1)] {
        let answers: Vec<Vec<u8>> = (0..10).filter_map(|_| s.raw("192.0.2.9", &q)).collect();
        assert_eq!(answers.len(), 10);
        assert!(answers[9].len() <= q.len(), "{} for {}", answers[9].len(), q.len());
    }
}

#[test]
fn keepalive_is_for_connections_that_ask() {
    let mut s = server(None);
    assert_eq!(options(&s.ask("192.0.2.9", &asks(&option(11, &[])))), [], "not over UDP, RFC 7828 §3.2.1");
    for (transport, says) in [
        (Transport::Tcp, vec![(11, vec![0, 100])]),
        (Transport::Tls, vec![(11, vec![0, 100])]),
        (Transport::Https, vec![]),
    ] {
        s.transport = transport;
        assert_eq!(options(&s.ask("192.0.2.9", &asks(&option(11, &[])))), says, "{transport:?}");
        assert_eq!(options(&s.ask("192.0.2.9", &asks(&[]))), [], "{transport:?}");
    }
    s.transport = Transport::Quic;
    assert_eq!(
        s.raw("192.0.2.9", &asks(&option(11, &[]))),
        None,
        "an error of the protocol, RFC 9250 §5.5.2"
    );
}

#[test]
fn answers_to_padded_questions_are_padded_where_nobody_shall_see() {
    let mut s = server(None);
    let padded = asks(&option(12, &[0; 30]));
    for transport in [Transport::Udp, Transport::Tcp] {
        s.transport = transport;
        assert!(s.raw("192.0.2.9", &padded).unwrap().len() < 100, "{transport:?}");
    }
    for transport in [Transport::Tls, Transport::Https, Transport::Quic] {
        s.transport = transport;
        assert_eq!(s.raw("192.0.2.9", &padded).unwrap().len(), 468, "RFC 8467 §4.1, {transport:?}");
        assert!(s.raw("192.0.2.9", &asks(&[])).unwrap().len() < 100, "{transport:?}");
        let q = with_edns(query("www.example", 1), 1232, 0, &[option(12, &[]), option(10, &CLIENT)].concat());
        assert_eq!(s.raw("192.0.2.9", &q).unwrap().len(), 468, "with a cookie");
    }
}

#[test]
fn chaos_says_what_it_was_told_to_say() {
    let mut s = server(None);
    let chaos = |name: &str, qtype: u16| {
        let mut q = query(name, qtype);
        let at = q.len() - 1;
        q[at] = 3;
        q
    };
    for (name, says) in [
        ("version.bind", "Zonekeeper"),
        ("VERSION.SERVER", "Zonekeeper"),
        ("id.server", "node-1"),
        ("hostname.bind", "node-1"),
    ] {
        let m = s.raw("192.0.2.9", &chaos(name, 16)).unwrap();
        assert!(m.ends_with(says.as_bytes()), "{name}");
        let a = read(&m);
        assert_eq!((a.rcode, a.aa, a.answer.len(), a.answer[0].2), (0, true, 1, 0), "{name}");
        assert_eq!(s.ask("192.0.2.9", &chaos(name, 1)).answer, [], "only TXT");
    }
    for name in ["authors.bind", "example", "www.example"] {
        assert_eq!(s.ask("192.0.2.9", &chaos(name, 16)).rcode, 5, "{name}");
    }
    let mut silent = Asker::new(&[("example.", ZONE)]);
    silent.responder = Responder::new(b"", Arc::new(Counters::default()));
    for name in ["version.bind", "id.server", "hostname.bind"] {
        assert_eq!(
            read(&silent.raw(Transport::Udp, &chaos(name, 16)).unwrap()).rcode,
            5,
            "by default refused"
        );
    }
    s.asker.condition.servfail = true;
    assert_eq!(s.ask("192.0.2.9", &chaos("version.bind", 16)).rcode, 0, "whatever the zones are like");
}
