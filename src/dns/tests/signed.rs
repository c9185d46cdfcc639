//! Zones that were signed elsewhere, rule by rule. (That the proofs hold is for the differential test to see.)

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use common::{Answer, Asker, name, query, read, with_edns, zone};
use std::path::Path;
use zonekeeper_dns::{Transport, zonefile};

/// Signatures that nobody checks here.
fn signed(body: &str) -> String {
    let sig = |owner: &str, rtype: &str, ttl: u32| {
        format!("{owner} {ttl} RRSIG {rtype} 13 2 {ttl} 20371202104803 20261122104803 1 example. AAEC\n")
    };
    let head = "$TTL 300\n@ SOA ns host 7 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\nwww 60 A 192.0.2.80\nsub NS ns.sub\n\
        ns.sub A 192.0.2.3\n*.w 120 TXT \"w\"\n";
    let sigs = [sig("@", "SOA", 300), sig("@", "NS", 300), sig("www", "A", 60), sig("*.w", "TXT", 120)];
    format!("{head}{}{body}", sigs.concat())
}

const NSEC: &str = "@ 30 NSEC ns NS SOA RRSIG NSEC\nns 30 NSEC sub A RRSIG NSEC\nsub 30 NSEC *.w NS RRSIG NSEC\n\
    *.w 30 NSEC www TXT RRSIG NSEC\nwww 30 NSEC @ A RRSIG NSEC\n";

fn asker() -> Asker {
    Asker::new(&[("example.", &signed(NSEC))])
}

fn with_do(asker: &mut Asker, qname: &str, rtype: u16) -> Answer {
    let mut q = with_edns(query(qname, rtype), 1232, 0, &[]);
    let flags = q.len() - 4;
    q[flags] = 0x80;
    read(&asker.raw(Transport::Udp, &q).unwrap())
}

fn types(rrs: &[common::Rr]) -> Vec<(&str, u16, u32)> {
    rrs.iter().map(|r| (r.0.as_str(), r.1, r.2)).collect()
}

#[test]
fn without_do_nothing_of_it_is_seen() {
    let mut a = asker();
    assert_eq!(types(&a.ask("www.example", 1).answer), [("www.example.", 1, 60)]);
    let nx = a.ask("absent.example", 1);
    assert_eq!((nx.rcode, types(&nx.authority)), (3, vec![("example.", 6, 30)]));
    assert_eq!(types(&a.ask("x.sub.example", 1).authority), [("sub.example.", 2, 300)]);
    assert_eq!(
        types(&a.ask("www.example", 47).answer),
        [("www.example.", 47, 30)],
        "but who asks by type is told"
    );
}

#[test]
fn signatures_have_the_ttl_of_what_they_cover() {
    let mut a = asker();
    assert_eq!(
        types(&with_do(&mut a, "www.example", 1).answer),
        [("www.example.", 1, 60), ("www.example.", 46, 60)]
    );
    let mut ttls: Vec<u32> = a.ask("example", 46).answer.iter().map(|r| r.2).collect();
    ttls.sort_unstable();
    assert_eq!(ttls, [300, 300], "RFC 4034 §3");
    let negative = with_do(&mut a, "www.example", 28);
    assert_eq!(
        types(&negative.authority),
        [("example.", 6, 30), ("example.", 46, 30), ("www.example.", 47, 30)],
        "the SOA of a negative answer and its signature live as long"
    );
}

#[test]
fn absence_is_proven_by_the_records_around_it() {
    let mut a = asker();
    let owners =
        |a: &Answer| a.authority.iter().filter(|r| r.1 == 47).map(|r| r.0.clone()).collect::<Vec<_>>();
    let nx = with_do(&mut a, "b.ns.example", 1);
    assert_eq!(
        (nx.rcode, owners(&nx)),
        (3, vec!["ns.example.".to_string()]),
        "one record covers name and wildcard"
    );
    let expanded = with_do(&mut a, "q.w.example", 16);
    assert_eq!(types(&expanded.answer), [("q.w.example.", 16, 120), ("q.w.example.", 46, 120)]);
    assert_eq!(owners(&expanded), ["*.w.example."]);
    let referral = with_do(&mut a, "x.sub.example", 1);
    assert_eq!((referral.aa, owners(&referral)), (false, vec!["sub.example.".to_string()]), "no DS");
    assert_eq!(types(&referral.additional), [("ns.sub.example.", 1, 300)]);
}

#[test]
fn the_proof_of_a_wildcard_stands_before_what_comes_of_its_alias() {
    let far = format!(
        "{NSEC}*.al CNAME absent.other.\n*.al RRSIG CNAME 13 2 300 20371202104803 20261122104803 1 example. AAEC\n"
    );
    let mut a = Asker::new(&[("example.", &signed(&far)), ("other.", &signed(NSEC))]);
    let nx = with_do(&mut a, "q.al.example", 1);
    let proofs: Vec<&str> =
        nx.authority.iter().filter(|r| r.1 == 47).map(|r| r.0.rsplit('.').nth(1).unwrap()).collect();
    assert_eq!(
        (nx.rcode, proofs[0]),
        (3, "example"),
        "BIND takes the first that covers the name: {proofs:?}"
    );
    assert!(proofs.contains(&"other"), "{proofs:?}");
}

#[test]
fn owners_of_nsec3_are_no_names() {
    let hash = "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom";
    let chain = format!("@ NSEC3PARAM 1 0 12 AABBCCDD\n{hash} 30 NSEC3 1 0 12 AABBCCDD {hash} A\n");
    let mut a = Asker::new(&[("example.", &signed(&chain))]);
    for (qname, rtype) in [(hash.to_string(), 50), (hash.to_string(), 1), (format!("x.{hash}"), 1)] {
        let nx = with_do(&mut a, &format!("{qname}.example"), rtype);
        assert_eq!((nx.rcode, nx.answer.len()), (3, 0), "RFC 5155 §7.2.8: {qname}");
        assert_eq!(nx.authority.iter().filter(|r| r.1 == 50).count(), 1, "the only record proves all");
    }
}

#[test]
fn too_many_iterations_are_refused_with_the_line() {
    let text = signed("@ NSEC3PARAM 1 0 101 AA\n");
    let e = zonefile::parse(text.as_bytes(), Path::new("z"), &name("example.")).unwrap_err().to_string();
    assert!(e.starts_with("z:13: ") && e.contains("at most 100 are served") && e.contains("RFC 9276"), "{e}");
}

#[test]
fn the_serial_is_the_one_that_was_signed() {
    let mut z = zone("example.", &signed(NSEC));
    z.put(zonefile::parse_rrset(&name("example."), "www", "A", 60, &["192.0.2.81"]).unwrap()).unwrap();
    z.advance_serial();
    z.advance_serial_by_incarnation();
    assert_eq!(z.serial(), 7);
}

#[test]
fn an_exported_zone_is_the_zone() {
    let z = zone("example.", &signed(NSEC));
    let mut text = Vec::new();
    zonefile::export(&z, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("www.example. 60 IN RRSIG A ") && text.contains("example. 300 IN RRSIG NS "),
        "{text}"
    );
    assert!(zone("example.", &text) == z);
}
