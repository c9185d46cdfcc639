//! One test for each rule of the wire.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use common::{Answer, Asker, name, query, read, wire, with_edns};
use std::sync::Arc;
use zonekeeper_core::{
    State,
    id::{ServiceId, SiteId},
    model::{Endpoint, Failback, Family, Policy, Quorum, Service, WhenAllDown},
    state::{Assignment, Basis, Generation, ServiceState},
    time::LogTime,
};
use zonekeeper_dns::{Condition, Transport, zonefile};

const ZONE: &str = "$TTL 300\n@ SOA ns host 7 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.80\n*.w TXT \"x\"\n\
    alias CNAME www.other.\nsub NS ns.sub\nns.sub A 192.0.2.3\nmx MX 1 www\n";
const OTHER: &str = "$TTL 60\n@ SOA ns.example. host 1 1 1 1 600\n@ NS ns.example.\nwww A 198.51.100.1\nback CNAME www.example.\n";

fn asker() -> Asker {
    Asker::new(&[("example.", ZONE), ("other.", OTHER)])
}

fn udp(q: &[u8]) -> Option<Answer> {
    asker().raw(Transport::Udp, q).map(|m| read(&m))
}

/// The header alone: id, flags, counts.
fn header_only(q: &[u8]) -> (u8, u8) {
    let m = asker().raw(Transport::Udp, q).unwrap();
    assert_eq!((&m[..2], m.len(), &m[4..12]), (&q[..2], 12, &[0; 8][..]));
    (m[2], m[3])
}

#[test]
fn responses_and_fragments_of_headers_are_not_answered() {
    let mut q = query("www.example", 1);
    q[2] |= 0x80;
    assert_eq!(udp(&q), None);
    for len in 0..12 {
        assert_eq!(udp(&query("www.example", 1)[..len]), None);
    }
}

#[test]
fn other_opcodes_are_not_implemented_and_come_back() {
    for opcode in 1..16u8 {
        let mut q = query("www.example", 1);
        q[2] = opcode << 3 | 1;
        assert_eq!(header_only(&q), (0x80 | opcode << 3 | 1, 4), "QR, the opcode and RD; NOTIMP");
    }
}

#[test]
fn malformed_messages_are_format_errors() {
    let good = query("www.example", 1);
    let changed = |at: usize, to: u8| {
        let mut q = good.clone();
        q[at] = to;
        q
    };
    let long_name = query(&format!("{0}.{0}.{0}.{0}.{0}.example", "a".repeat(50)), 1);
    let pointer = [&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat();
    let cases = [
        changed(5, 0),                   // no question
        changed(5, 2),                   // two
        changed(7, 1),                   // an answer is promised
        changed(9, 1),                   // an authority record is promised
        changed(11, 1),                  // an additional record is promised
        changed(12, 64),                 // a label of a type that does not exist
        good[..good.len() - 1].to_vec(), // the class is cut
        [&good[..], &[0]].concat(),      // something follows
        long_name,
        pointer,
    ];
    for q in cases {
        assert_eq!(header_only(&q), (0x80, 1), "{q:?}");
    }
}

#[test]
fn who_sends_opt_gets_opt_with_the_refusal() {
    let good = query("www.example", 1);
    let mut notify = with_edns(good.clone(), 4096, 0, &[]);
    notify[2] = 4 << 3;
    let two = with_edns(with_edns(good.clone(), 1232, 0, &[]), 1232, 0, &[]);
    let long = with_edns(good.clone(), 1232, 0, &[0, 3, 0, 9]); // an option longer than OPT
    let cookie = with_edns(good.clone(), 1232, 0, &[0, 10, 0, 2, 0, 0]); // RFC 7873 §5.2.2
    for (q, flags) in [(two, [0x80, 1]), (long, [0x80, 1]), (cookie, [0x80, 1]), (notify, [0xa0, 4])] {
        let head = [&q[..2], &flags, &[0, 0, 0, 0, 0, 0, 0, 1]].concat();
        let opt = [0, 0, 41, 1232u16.to_be_bytes()[0], 1232u16.to_be_bytes()[1], 0, 0, 0, 0, 0, 0];
        assert_eq!(asker().raw(Transport::Udp, &q).unwrap(), [&head[..], &opt].concat(), "{q:?}");
    }
}

#[test]
fn what_is_not_ours_is_refused() {
    for qname in ["www.test", ".", "xexample", "le"] {
        let a = udp(&query(qname, 1)).unwrap();
        assert_eq!((a.rcode, a.aa, a.answer.len() + a.authority.len()), (5, false, 0), "{qname}");
    }
    let mut chaos = query("version.bind", 16);
    let class = chaos.len() - 1;
    chaos[class] = 3;
    assert_eq!(udp(&chaos).unwrap().rcode, 5);
    for qtype in [251, 252] {
        assert_eq!(udp(&query("example", qtype)).unwrap().rcode, 5, "transfers");
    }
    for (qtype, rcode) in [(41, 1), (249, 1), (250, 1), (253, 4), (254, 4), (0, 1)] {
        assert_eq!(udp(&query("example", qtype)).unwrap().rcode, rcode, "type {qtype}");
    }
}

#[test]
fn the_question_keeps_its_case_and_flags_are_as_they_should() {
    let mut q = query("wWw.eXample", 1);
    q[2] |= 1; // RD
    q[3] |= 0x30; // AD, CD
    let m = asker().raw(Transport::Udp, &q).unwrap();
    assert_eq!(&m[12..q.len()], &q[12..]);
    assert_eq!((m[2], m[3]), (0x85, 0x10), "QR AA RD, CD; neither RA nor AD");
    assert_eq!(&m[q.len()..q.len() + 2], &[0xc0, 12], "the owner is a pointer to the question");
}

#[test]
fn opt_comes_when_it_was_sent_and_says_our_size() {
    assert_eq!(udp(&query("www.example", 1)).unwrap().opt, None);
    let a =
        udp(&with_edns(query("www.example", 1), 4096, 0, &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8])).unwrap();
    assert_eq!((a.opt, a.answer.len()), (Some((1232, 0, vec![])), 1), "unknown options are ignored");
    let a = udp(&with_edns(query("www.example", 1), 4096, 1, &[])).unwrap();
    assert_eq!(
        (a.rcode, a.answer.len(), a.opt),
        (16, 0, Some((1232, 1 << 24, vec![]))),
        "BADVERS with version 0"
    );
    let mut dnssec = with_edns(query("www.example", 1), 512, 0, &[]);
    let flags = dnssec.len() - 4;
    dnssec[flags] = 0x80;
    assert_eq!(udp(&dnssec).unwrap().opt, Some((1232, 0x8000, vec![])), "DO comes back (RFC 3225 §3)");
    let a = udp(&with_edns(query("www.example", 1), 1232, 0, &[0, 3, 0, 0])).unwrap();
    assert_eq!(a.opt, Some((1232, 0, b"\x00\x03\x00\x06node-1".to_vec())), "NSID");
}

#[test]
fn a_signed_query_is_told_that_we_hold_no_key() {
    let (key, algorithm) = (wire("key.Example"), wire("hmac-sha256"));
    let (time, id) = ([0, 0, 0x67, 1, 2, 3, 1, 44], [0xbe, 0xef]);
    let mac = [7; 32];
    let rdata = [&algorithm[..], &time, &[0, 32], &mac, &id, &[0, 0, 0, 0]].concat();
    let with = |rdata: &[u8]| {
        let mut q = with_edns(query("www.example", 1), 1232, 0, &[]);
        q[11] += 1;
        let fixed = [0, 250, 0, 255, 0, 0, 0, 0];
        [&q[..], &key, &fixed, &(rdata.len() as u16).to_be_bytes(), rdata].concat()
    };
    let m = asker().raw(Transport::Udp, &with(&rdata)).unwrap();
    let end = query("www.example", 1).len();
    assert_eq!(
        (m[3] & 15, &m[10..12], &m[end..end + 3]),
        (9, &[0, 2][..], &[0, 0, 41][..]),
        "OPT, then TSIG"
    );
    let unsigned = [&algorithm[..], &time, &[0, 0], &id, &[0, 17, 0, 0]].concat();
    let fixed = [0, 250, 0, 255, 0, 0, 0, 0, 0, unsigned.len() as u8];
    assert_eq!(m[end + 11..], [&key[..], &fixed, &unsigned].concat(), "BADKEY, without a MAC");
    // the key's name may be compressed, here to that of the question; the answer's is not
    let fixed = [0, 250, 0, 255, 0, 0, 0, 0, 0, rdata.len() as u8];
    let mut q = query("www.example", 1);
    q[11] = 1;
    let at = q.len();
    let q = [&q[..], &[0xc0, 12], &fixed, &rdata].concat();
    let m = asker().raw(Transport::Udp, &q).unwrap();
    assert_eq!((m[3] & 15, &m[at..at + 13]), (9, &wire("www.example")[..]));
    assert_eq!(m.len(), at + 13 + 10 + unsigned.len());
    let torn = [&rdata[..rdata.len() - 1], &[&rdata[..], &[0]].concat(), &[0xc0, 12], &[]];
    for rdata in torn {
        assert_eq!(udp(&with(rdata)).unwrap().rcode, 1, "{rdata:?}");
    }
}

#[test]
fn stale_data_says_so_and_may_be_withheld() {
    let mut a = asker();
    let q = with_edns(query("www.example", 1), 1232, 0, &[]);
    let nx = with_edns(query("absent.example", 1), 1232, 0, &[]);
    a.condition = Condition { stale: true, servfail: false };
    let fresh = read(&a.raw(Transport::Udp, &q).unwrap());
    assert_eq!((fresh.answer.len(), fresh.opt.unwrap().2), (1, vec![0, 15, 0, 2, 0, 3]));
    assert_eq!(read(&a.raw(Transport::Udp, &nx).unwrap()).opt.unwrap().2, [0, 15, 0, 2, 0, 19]);
    a.condition = Condition { stale: true, servfail: true };
    let withheld = read(&a.raw(Transport::Udp, &q).unwrap());
    assert_eq!((withheld.rcode, withheld.answer.len(), withheld.aa), (2, 0, false));
    assert_eq!(withheld.opt.unwrap().2, [0, 15, 0, 2, 0, 3]);
}

#[test]
fn negative_answers_carry_the_soa_with_the_smaller_ttl() {
    let mut a = asker();
    let (nx, nodata) = (a.ask("absent.example", 1), a.ask("www.example", 28));
    assert_eq!((nx.rcode, nodata.rcode, nx.aa, nodata.aa), (3, 0, true, true));
    for negative in [nx, nodata] {
        let soa = ["example. 30 SOA ns.example. host.example. 7 3600 600 86400 30".to_string()];
        assert_eq!(Answer::texts(&negative.authority), soa);
    }
    assert_eq!(a.ask("absent.other", 1).authority[0].2, 60, "the SOA's own TTL is smaller than its minimum");
    assert_eq!(
        Answer::texts(&a.ask("example", 6).answer)[0].split(' ').nth(1),
        Some("300"),
        "asked for, it has its TTL"
    );
}

#[test]
fn aliases_are_followed_across_our_zones_and_the_last_name_decides() {
    let mut a = asker();
    let found = Answer::texts(&a.ask("alias.example", 1).answer);
    assert_eq!(found, ["alias.example. 300 CNAME www.other.", "www.other. 60 A 198.51.100.1"]);
    let back = a.ask("back.other", 28);
    assert_eq!((back.rcode, back.aa, back.answer.len()), (0, true, 1));
    assert_eq!(
        (back.authority[0].0.as_str(), back.authority[0].1),
        ("example.", 6),
        "NODATA of the last zone"
    );
}

#[test]
fn what_stands_beside_an_alias_is_not_looked_for_behind_it() {
    for rtype in [46, 47] {
        let none = asker().ask("alias.example", rtype);
        assert_eq!(
            (none.rcode, none.answer.len(), none.authority[0].1),
            (0, 0, 6),
            "RFC 4035 §2.5: type {rtype}"
        );
    }
}

#[test]
fn a_dname_stands_once_in_an_answer_however_often_it_leads_on() {
    let text = format!("{ZONE}loop DNAME x.loop\n");
    let a = Asker::new(&[("example.", &text)]).raw(Transport::Tcp, &query("a.loop.example", 1)).unwrap();
    let a = read(&a);
    let of = |rtype| a.answer.iter().filter(|r| r.1 == rtype).count();
    assert_eq!((a.rcode, of(39), of(5)), (0, 1, 16), "an endless chain ends after 16");
    let mut a = Asker::new(&[("example.", &format!("{ZONE}up DNAME @\nback CNAME up.up\n"))]);
    for qtype in [39, 255] {
        let types: Vec<u16> = a.ask("back.example", qtype).answer.iter().map(|r| r.1).collect();
        let expected: &[u16] = if qtype == 39 { &[5, 39, 5] } else { &[5] };
        assert_eq!(types, expected, "the chain ends at the owner of the DNAME: {qtype}");
    }
    let types: Vec<u16> = a.ask("up.up.example", 255).answer.iter().map(|r| r.1).collect();
    assert_eq!(types, [39, 5]);
}

#[test]
fn beside_svcb_stand_addresses_and_what_its_alias_leads_to() {
    let text = format!(
        "{ZONE}own HTTPS 1 . alpn=h2\nown A 192.0.2.7\nali HTTPS 0 own\nsvc HTTPS 1 own\n\
        two HTTPS 1 . alpn=h2\ntwo HTTPS 2 two alpn=h3\ntwo A 192.0.2.8\n"
    );
    let mut a = Asker::new(&[("example.", &text)]);
    let mut beside =
        |qname: &str| a.ask(qname, 65).additional.iter().map(|r| (r.0.clone(), r.1)).collect::<Vec<_>>();
    let own = |rtype| ("own.example.".to_string(), rtype);
    assert_eq!(beside("own.example"), [own(1)], "RFC 9460 §2.5.2: '.' is the owner");
    assert_eq!(beside("two.example").len(), 1);
    assert_eq!(beside("tWo.example").len(), 1, "the same name twice, in another case");
    assert_eq!(beside("ali.example"), [own(1), own(65)], "RFC 9460 §4.1");
    assert_eq!(beside("svc.example"), [own(1)]);
}

#[test]
fn a_referral_is_not_authoritative_and_brings_its_glue() {
    let a = asker().ask("x.sub.example", 1);
    assert_eq!((a.rcode, a.aa, a.answer.len()), (0, false, 0));
    assert_eq!(Answer::texts(&a.authority), ["sub.example. 300 NS ns.sub.example."]);
    assert_eq!(Answer::texts(&a.additional), ["ns.sub.example. 300 A 192.0.2.3"]);
}

#[test]
fn any_gives_one_rrset() {
    let a = asker().ask("example", 255);
    assert_eq!((a.rcode, a.aa, a.answer.len()), (0, true, 1));
    assert_eq!(asker().ask("q.w.example", 255).answer.len(), 1);
    assert_eq!(asker().ask("absent.example", 255).rcode, 3);
}

/// A zone with an RRset of `n` records of 16 bytes each.
fn large(n: usize) -> Asker {
    let mut text = format!("{ZONE}big A 10.0.0.0\n");
    for i in 1..n {
        text.push_str(&format!("big A 10.0.{}.{}\n", i / 256, i % 256));
    }
    for i in 0..60 {
        text.push_str(&format!("far NS ns{i}.far\nns{i}.far A 10.1.0.{i}\n"));
    }
    Asker::new(&[("example.", &text)])
}

#[test]
fn what_does_not_fit_is_cut_between_rrsets() {
    let q = query("big.example", 1);
    let fits = (512 - q.len()) / 16;
    let mut exact = large(fits);
    let a = exact.raw(Transport::Udp, &q).unwrap();
    assert!(a.len() <= 512 && !read(&a).tc && read(&a).answer.len() == fits);
    let mut more = large(fits + 1);
    let a = read(&more.raw(Transport::Udp, &q).unwrap());
    assert!(a.tc && a.answer.is_empty(), "a part of an RRset is never sent");
    let a = read(&more.raw(Transport::Udp, &with_edns(q.clone(), 1232, 0, &[])).unwrap());
    assert!(!a.tc && a.answer.len() == fits + 1);
    let mut many = large(200);
    let asked = with_edns(q.clone(), 4096, 0, &[]);
    let a = many.raw(Transport::Udp, &asked).unwrap();
    assert!(
        read(&a).tc && a.len() <= 1232 && read(&a).opt.is_some(),
        "4096 is capped at 1232; OPT has its room"
    );
    assert_eq!(read(&many.raw(Transport::Tcp, &q).unwrap()).answer.len(), 200);
    let tiny = read(&large(fits).raw(Transport::Udp, &with_edns(q, 1, 0, &[])).unwrap());
    assert!(tiny.tc && tiny.opt.is_some(), "a payload below 512 counts as 512, and OPT takes 11 of them");
}

#[test]
fn a_referral_whose_glue_does_not_fit_is_truncated() {
    let q = with_edns(query("x.far.example", 1), 1232, 0, &[]);
    let mut a = large(1);
    let udp = read(&a.raw(Transport::Udp, &q).unwrap());
    assert!(udp.tc, "RFC 9471 §3: {udp:?}");
    let tcp = read(&a.raw(Transport::Tcp, &q).unwrap());
    assert_eq!((tcp.tc, tcp.authority.len(), tcp.additional.len()), (false, 60, 60), "{tcp:?}");
}

/// RFC 6672 §2.4: what lies below a DNAME does not exist, beside another answer neither.
#[test]
fn what_a_dname_hides_is_not_additional() {
    let zone = format!("{ZONE}hidden DNAME elsewhere.test.\nmx.hidden A 192.0.2.9\n@ MX 1 mx.hidden\n");
    let mx = Asker::new(&[("example.", &zone)]).ask("example", 15);
    assert_eq!(Answer::texts(&mx.answer), ["example. 300 MX 1 mx.hidden.example."]);
    assert_eq!(Answer::texts(&mx.additional), [""; 0]);
}

/// RFC 8914 §4.15: a node that has not got its state is not ready, and no authority that refuses.
#[test]
fn a_node_without_zones_is_not_ready() {
    let q = with_edns(query("www.example", 1), 1232, 0, &[]);
    let raw = Asker::new(&[]).raw(Transport::Udp, &q).unwrap();
    assert_eq!(read(&raw).rcode, 2);
    assert!(raw.ends_with(&[0, 15, 0, 2, 0, 14]), "{raw:?}");
}

#[test]
fn ds_at_a_cut_is_answered_by_the_parent() {
    let parent = format!("{ZONE}child NS ns\nchild DS 1 13 2 {}\n", "00".repeat(32));
    let child = "$TTL 60\n@ SOA ns.example. host 1 1 1 1 600\n@ NS ns.example.\n";
    let mut a = Asker::new(&[("example.", &parent), ("child.example.", child)]);
    let ds = a.ask("child.example", 43);
    assert_eq!((ds.aa, ds.answer.len()), (true, 1));
    let none = a.ask("sub.example", 43);
    assert_eq!((none.aa, none.rcode, none.authority[0].1), (true, 0, 6));
    assert_eq!(a.ask("child.example", 6).answer[0].0, "child.example.", "all else belongs to the child");
}

#[test]
fn the_root_can_be_served() {
    let root =
        "$TTL 60\n@ SOA ns. host. 1 1 1 1 600\n@ NS ns.\nns A 192.0.2.1\ncom NS ns.com\nns.com A 192.0.2.2\n";
    let mut a = Asker::new(&[(".", root), ("example.", ZONE)]);
    assert_eq!(a.ask(".", 6).answer.len(), 1);
    assert_eq!((a.ask("absent", 1).rcode, a.ask("absent", 1).authority[0].0.as_str()), (3, "."));
    assert_eq!(Answer::texts(&a.ask("www.com", 1).additional), ["ns.com. 60 A 192.0.2.2"]);
    assert_eq!(a.ask("www.example", 1).answer.len(), 1);
}

/// A state with a weighted service at the apex (3 to 1) and one that is down and fails closed.
fn with_services() -> State {
    let site = |s: &str| s.parse::<SiteId>().unwrap();
    let addr = |last: u8| vec![Endpoint { addr: [198, 51, 100, last].into(), port: 443 }];
    let spec = Service {
        names: vec![name("example.")],
        policy: Policy::Weighted([(site("a"), 3), (site("b"), 1)].into()),
        endpoints: [(site("a"), addr(1)), (site("b"), addr(2))].into(),
        ttl: 20,
        check: None,
        pool: None,
        min_backends: 0,
        when_all_down: WhenAllDown::NoData,
        hold_down_ms: 0,
        hold_down_max_ms: 0,
        failback: Failback::Manual,
        quorum: Quorum::Majority,
        min_answers: 1,
        automation: true,
    };
    let assignment = |sites: &[&str], basis| Assignment {
        epoch: Generation::default(),
        since: LogTime(0),
        sites: sites.iter().map(|s| site(s)).collect(),
        basis,
    };
    let service = |spec: Service, a| ServiceState {
        version: 1,
        spec,
        health: Default::default(),
        assignment: [(Family::V4, a)].into(),
        suspects: Default::default(),
        pinned: None,
        automation: None,
    };
    let down = Service { names: vec![name("down.example.")], ..spec.clone() };
    let mut state = common::state(&[("example.", ZONE)]);
    let up = service(spec, assignment(&["a", "b"], Basis::Usable));
    state.services.insert("up".parse().unwrap(), Arc::new(up));
    let down = service(down, assignment(&[], Basis::Nothing));
    state.services.insert("down".parse().unwrap(), Arc::new(down));
    state
}

#[test]
fn a_weighted_service_at_the_apex_answers_in_exact_shares() {
    let mut a = Asker::of(&with_services());
    let mut shares = [0; 2];
    for _ in 0..40 {
        let got = a.ask("EXAMPLE", 1);
        assert_eq!((got.aa, got.answer.len(), got.answer[0].2), (true, 1, 20), "one site per answer");
        shares[usize::from(got.answer[0].3 == "198.51.100.2")] += 1;
        a.ask("www.example", 1); // other questions do not disturb the shares
    }
    assert_eq!(shares, [30, 10]);
    assert_eq!(a.ask("example", 6).answer.len(), 1, "other types come from the zone");
}

#[test]
fn any_at_a_service_takes_no_turn_and_finds_what_stands_beside_one_that_is_down() {
    let mut state = with_services();
    let mut a = Asker::of(&state);
    for turn in 0..8 {
        let expected = if turn % 4 == 2 { "198.51.100.2" } else { "198.51.100.1" };
        for qtype in [255, 255, 1] {
            let got = a.ask("example", qtype);
            assert_eq!((got.answer.len(), got.answer[0].3.as_str()), (1, expected), "{turn} {qtype}");
        }
    }
    let down = a.ask("down.example", 255);
    assert_eq!((down.rcode, down.answer.len(), down.authority[0].2), (0, 0, 5), "nothing stands there");
    let zone = Arc::make_mut(state.zones.get_mut(&name("example.")).unwrap());
    for (rtype, rdata) in [("A", "192.0.2.9"), ("TXT", "beside"), ("HTTPS", "1 .")] {
        zone.put(zonefile::parse_rrset(&name("example."), "down", rtype, 60, &[rdata]).unwrap()).unwrap();
    }
    let got = Asker::of(&state).ask("down.example", 255);
    assert_eq!(Answer::texts(&got.answer), ["down.example. 60 HTTPS 1 ."], "the smallest of the others");
}

#[test]
fn a_service_that_fails_closed_is_a_negative_answer() {
    let got = Asker::of(&with_services()).ask("down.example", 1);
    assert_eq!((got.rcode, got.aa, got.answer.len(), got.authority[0].1), (0, true, 0, 6));
    assert_eq!(got.authority[0].2, 5, "and is kept no longer than an uncertain answer");
}

#[test]
fn an_alias_is_flattened_at_any_name() {
    let far = "$TTL 60\n@ SOA ns.example. host 1 1 1 1 600\n@ NS ns.example.\n@ 300 ALIAS www.example.\n\
        svc 10 ALIAS example.\nvia ALIAS c\nc CNAME www.example.\nround ALIAS about\nabout ALIAS round\nnx ALIAS absent.example.\n\
        out ALIAS www.test.\ncut ALIAS x.sub.example.\n*.w ALIAS @\ndown ALIAS down.example.\n\
        below 20 ALIAS www.moved\nmoved 30 DNAME example.\nwound ALIAS x.wind\nwind DNAME w.wind\n\
        long ALIAS aaaaaaaaaaaaaaaa.moved.far\nmoved.far DNAME LONG\n";
    let label = "l".repeat(60);
    let far = far.replace("LONG", &format!("{label}.{label}.{label}.{label}."));
    let mut state = with_services();
    state.zones.insert(name("other."), Arc::new(common::zone("other.", &far)));
    let mut a = Asker::of(&state);
    let mut ask = |qname: &str, rtype: u16| {
        let got = a.ask(qname, rtype);
        let first = got.answer.first().map(|r| (r.0.clone(), r.2, r.3.clone()));
        (got.rcode, first, got.authority.first().map(|r| (r.0.clone(), r.2)))
    };
    let found =
        |qname: &str, ttl: u32, addr: &str| (0, Some((format!("{qname}."), ttl, addr.to_string())), None);
    assert_eq!(ask("other", 1), found("other", 300, "192.0.2.80"), "at the apex");
    assert_eq!(ask("svc.other", 1), found("svc.other", 10, "198.51.100.1"), "a service, the smaller TTL");
    assert_eq!(ask("via.other", 1), found("via.other", 60, "192.0.2.80"), "through a CNAME");
    assert_eq!(
        ask("q.w.other", 1),
        found("q.w.other", 60, "192.0.2.80"),
        "an alias of an alias, at a wildcard"
    );
    assert_eq!(ask("below.other", 1), found("below.other", 20, "192.0.2.80"), "below a DNAME");
    for absent in ["other", "nx.other", "via.other", "below.other"] {
        assert_eq!(ask(absent, 28), (0, None, Some(("other.".into(), 60))), "NODATA of its own zone");
    }
    for unknown in ["round.other", "out.other", "cut.other", "wound.other", "long.other"] {
        assert_eq!(ask(unknown, 1), (2, None, None), "SERVFAIL: {unknown}");
    }
    assert_eq!(ask("down.other", 1), (0, None, Some(("other.".into(), 5))), "a service that fails closed");
}

#[test]
fn an_extended_error_says_why() {
    let mut state = with_services();
    let down = Arc::make_mut(state.services.get_mut(&"down".parse::<ServiceId>().unwrap()).unwrap());
    down.spec.when_all_down = WhenAllDown::ServFail;
    state.zones.insert(
        name("far."),
        Arc::new(common::zone(
            "far.",
            "$TTL 60\n@ SOA ns h 1 1 1 1 60\n@ NS ns.example.\nout ALIAS x.test.\n",
        )),
    );
    let mut a = Asker::of(&state);
    let mut why = |qname: &str, qtype: u16| {
        let q = with_edns(query(qname, qtype), 1232, 0, &[]);
        let got = read(&a.raw(Transport::Udp, &q).unwrap());
        let option = got.opt.unwrap().2;
        let code = option.strip_prefix(&[0, 15, 0, 2]).map(|c| u16::from_be_bytes([c[0], c[1]]));
        (got.rcode, code)
    };
    for (qname, qtype, rcode, code) in [
        ("www.example", 1, 0, None),
        ("absent.example", 1, 3, None),
        ("down.example", 1, 2, Some(14)), // not ready: the service fails closed
        ("out.far", 1, 2, Some(14)),      // not ready: the alias leads where we cannot look
        ("elsewhere.test", 1, 5, Some(20)), // not authoritative
        ("example", 252, 5, Some(18)),    // prohibited: a transfer
        ("example", 254, 4, Some(21)),    // not supported
    ] {
        assert_eq!(why(qname, qtype), (rcode, code), "{qname} {qtype}");
    }
    a.condition.stale = true;
    for (qname, code) in [("www.example", 3), ("absent.example", 19)] {
        let q = with_edns(query(qname, 1), 1232, 0, &[]);
        let option = read(&a.raw(Transport::Udp, &q).unwrap()).opt.unwrap().2;
        assert_eq!(option, [0, 15, 0, 2, 0, code], "{qname}: stale");
    }
}

#[test]
fn a_denial_is_as_short_as_it_can_be() {
    let zone = |names: &str| {
        format!("$TTL 300\n@ SOA {names} 7 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\nto CNAME no.b.test.\n")
    };
    let (near, far) = (zone("ns h.o\\.st"), zone("ns.elsewhere. @"));
    let mut asker = Asker::new(&[("bench.example.", &near), ("b.test.", &far)]);
    for (qname, rtype, rcode, len, soa) in [
        ("x123.bench.example", 1, 3, 12 + 24 + 12 + 5 + 9 + 20, "ns.bench.example. h.o\\.st.bench.example."),
        ("a.b.c.bench.example", 1, 3, 12 + 25 + 12 + 5 + 9 + 20, "ns.bench.example. h.o\\.st.bench.example."),
        ("bench.example", 16, 0, 12 + 19 + 12 + 5 + 9 + 20, "ns.bench.example. h.o\\.st.bench.example."),
        ("no.b.test", 1, 3, 12 + 15 + 12 + 14 + 2 + 20, "ns.elsewhere. b.test."),
        ("to.bench.example", 1, 3, 12 + 22 + 12 + 11 + 12 + 14 + 2 + 20, "ns.elsewhere. b.test."),
    ] {
        let m = asker.raw(Transport::Udp, &query(qname, rtype)).unwrap();
        let a = read(&m);
        assert_eq!((a.rcode, m.len()), (rcode, len), "{qname} {rtype}");
        assert_eq!(a.authority[0].3, format!("{soa} 7 3600 600 86400 30"), "{qname} {rtype}");
    }
}
