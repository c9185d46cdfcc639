//! Zone files: what is read, what is refused and how, and that what is written can be read.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use common::name;
use std::{fs, path::Path};
use zonekeeper_core::zone::RrSet;
use zonekeeper_dns::zonefile::{export, load, parse, parse_rrset, to_text, type_name, type_number};

const HEAD: &str = "$TTL 1h\n@ IN SOA ns host ( 1 ; serial\n 1h30m 10M 1w 30 )\n NS ns\n";

fn texts(body: &str) -> Vec<String> {
    let sets = parse(format!("{HEAD}{body}").as_bytes(), Path::new("z"), &name("example.")).unwrap();
    sets.iter().map(to_text).collect()
}

fn errors(text: &str) -> Vec<String> {
    let e = parse(text.as_bytes(), Path::new("z"), &name("example.")).unwrap_err();
    e.to_string().lines().map(String::from).collect()
}

#[test]
fn owners_ttls_classes_and_origins_are_inherited_as_in_rfc_1035() {
    let body = "www 60 IN A 192.0.2.1\n IN 60 A 192.0.2.2\n\tTXT ( \"two\"\n  words ) ; comment\n\
        $ORIGIN sub\na CLASS1 A 192.0.2.3\n@ A 192.0.2.4\nabs.example. 5 AAAA 2001:db8::1\n";
    assert_eq!(
        texts(body),
        [
            "example. 3600 IN NS ns.example.\n",
            "example. 3600 IN SOA ns.example. host.example. 1 5400 600 604800 30\n",
            "abs.example. 5 IN AAAA 2001:db8::1\n",
            "sub.example. 3600 IN A 192.0.2.4\n",
            "a.sub.example. 3600 IN A 192.0.2.3\n",
            "www.example. 60 IN A 192.0.2.1\nwww.example. 60 IN A 192.0.2.2\n",
            "www.example. 3600 IN TXT \"two\" \"words\"\n",
        ]
    );
}

/// Type, RDATA as written, RDATA as we write it (empty: the same).
const RECORDS: &[(&str, &str, &str)] = &[
    ("A", "192.0.2.1", ""),
    ("AAAA", "2001:DB8:0::1", "2001:db8::1"),
    ("CNAME", "Target", "target.example."),
    ("DNAME", "other.test.", ""),
    ("MX", "10 mail", "10 mail.example."),
    ("TXT", "\"a;b\" c\\\"d \"\\195\\164\" \"\"", "\"a;b\" \"c\\\"d\" \"\\195\\164\" \"\""),
    ("SRV", "1 2 443 www", "1 2 443 www.example."),
    ("CAA", "128 issue \"ca.test; x=1\"", ""),
    ("PTR", "a\\.b.test.", ""),
    ("DS", "12345 13 99 aabb CCDD", "12345 13 99 AABBCCDD"),
    ("DNSKEY", "257 3 13 AAEC AwQ=", "257 3 13 AAECAwQ="),
    ("RRSIG", "A 13 2 3600 20370101000000 20240229235959 7 example. AAEC", ""),
    ("NSEC", "b.example. A MX TYPE1234", ""),
    ("NSEC", "B\\.\\068.c A", "B\\.D.c.example. A"),
    ("SVCB", "0 Alias.\\;X.test.", ""),
    ("NSEC3", "1 1 10 AABB 2T7B4G4VSA5SMI47K61MV5BV1A22BOJR NS DS", ""),
    ("NSEC3PARAM", "1 0 0 -", ""),
    ("TLSA", "3 1 1 00ff", "3 1 1 00FF"),
    ("SSHFP", "4 2 00ff", "4 2 00FF"),
    (
        "NAPTR",
        "100 10 \"S\" \"SIP+D2U\" \"!^.*$!sip:x@y!\" _sip._udp",
        "100 10 \"S\" \"SIP+D2U\" \"!^.*$!sip:x@y!\" _sip._udp.example.",
    ),
    (
        "HTTPS",
        "1 . ipv4hint=192.0.2.1,192.0.2.2 alpn=\"h2,h3\" port=8443",
        "1 . alpn=\"h2,h3\" port=8443 ipv4hint=192.0.2.1,192.0.2.2",
    ),
    (
        "SVCB",
        "2 svc mandatory=port,alpn alpn=h2 port=1 ech=AAEC ipv6hint=2001:db8::1 key99=\"x y\"",
        "2 svc.example. mandatory=alpn,port alpn=\"h2\" port=1 ech=AAEC ipv6hint=2001:db8::1 key99=\"x y\"",
    ),
    ("SVCB", "0 alias", "0 alias.example."),
    ("LOC", "42 21 54 N 71 06 18 W -24m 30m", "42 21 54.000 N 71 6 18.000 W -24.00m 30.00m 10000.00m 10.00m"),
    ("LOC", "52 14 05.25 s 0 E 10 1.5 2000m 0", "52 14 5.250 S 0 0 0.000 E 10.00m 1.00m 2000.00m 0.00m"),
    (
        "LOC",
        "90 N 180 W 42849672.95m 90000000m",
        "90 0 0.000 N 180 0 0.000 W 42849672.95m 90000000.00m 10000.00m 10.00m",
    ),
    (
        "APL",
        "1:192.168.32.0/21 !1:192.168.38.0/28 2:2001:DB8::/32 1:0.0.0.0/0",
        "1:192.168.32.0/21 !1:192.168.38.0/28 2:2001:db8::/32 1:0.0.0.0/0",
    ),
    ("EUI48", "00-00-5E-00-53-2a", "00-00-5e-00-53-2a"),
    ("EUI64", "00-00-5e-ef-10-00-00-2a", ""),
    ("IPSECKEY", "10 1 2 192.0.2.38 AQNR U3mG", "10 1 2 192.0.2.38 AQNRU3mG"),
    ("IPSECKEY", "10 0 2 . AQNRU3mG", ""),
    ("IPSECKEY", "10 3 0 Gate", "10 3 0 Gate.example."),
    ("IPSECKEY", "10 2 2 2001:db8::1 AQNRU3mG", ""),
    (
        "HIP",
        "2 200100107b1a74df365639cc39f1d578 AwEAAbdx Rvs a.",
        "2 200100107B1A74DF365639CC39F1D578 AwEAAbdx Rvs.example. a.",
    ),
    ("KEY", "256 3 13 AAEC", ""),
    ("SIG", "A 13 2 3600 20370101000000 20240229235959 7 example. AAEC", ""),
    ("NULL", "\\# 3 010203", ""),
    ("NID", "10 14:4fff:ff20:ee64", ""),
    ("L64", "10 2001:0DB8:1140:1000", "10 2001:db8:1140:1000"),
    ("L32", "10 10.1.2.0", ""),
    ("LP", "10 Far.test.", ""),
    ("RT", "10 relay", "10 relay.example."),
    ("PX", "10 a.test. b.test.", ""),
    ("GPOS", "-32.6882 116.8652 10.0", "\"-32.6882\" \"116.8652\" \"10.0\""),
    ("MINFO", "a.test. b.test.", ""),
    ("ISDN", "150862028003217 004", "\"150862028003217\" \"004\""),
    ("DLV", "1 13 2 AABB", ""),
    ("HINFO", "CPU \"an OS\"", "\"CPU\" \"an OS\""),
    ("ALIAS", "Target.test.", "target.test."),
    ("URI", "1 2 \"https://x/\"", ""),
    ("TYPE4711", "\\# 4 0a00 0001", "\\# 4 0A000001"),
    ("TYPE4711", "\\# 0", ""),
    ("A", "\\# 4 C0000201", "192.0.2.1"),
    ("TYPE1", "\\# 4 C0000201", "192.0.2.1"),
];

/// The vectors of RFC 9460 appendix D.1 and D.2: what is written, and its wire form in hex.
const SERVICES: &[(&str, &str)] = &[
    ("0 foo.example.com.", "0000 03666f6f 076578616d706c65 03636f6d 00"),
    ("1 .", "0001 00"),
    ("16 foo.example.com. port=53", "0010 03666f6f 076578616d706c65 03636f6d 00 0003 0002 0035"),
    ("1 foo.example.com. key667=hello", "0001 03666f6f 076578616d706c65 03636f6d 00 029b 0005 68656c6c6f"),
    (
        "1 foo.example.com. key667=\"hello\\210qoo\"",
        "0001 03666f6f 076578616d706c65 03636f6d 00 029b 0009 68656c6c6fd2716f6f",
    ),
    (
        "1 foo.example.com. ipv6hint=\"2001:db8::1,2001:db8::53:1\"",
        "0001 03666f6f 076578616d706c65 03636f6d 00 0006 0020 \
         20010db8000000000000000000000001 20010db8000000000000000000530001",
    ),
    (
        "1 example.com. ipv6hint=\"2001:db8:122:344::192.0.2.33\"",
        "0001 076578616d706c65 03636f6d 00 0006 0010 20010db80122034400000000c0000221",
    ),
    (
        "16 foo.example.org. alpn=h2,h3-19 mandatory=ipv4hint,alpn ipv4hint=192.0.2.1",
        "0010 03666f6f 076578616d706c65 036f7267 00 0000 0004 0001 0004 \
         0001 0009 02 6832 05 68332d3139 0004 0004 c0000201",
    ),
    (
        "16 foo.example.org. alpn=\"f\\\\\\\\oo\\\\,bar,h2\"",
        "0010 03666f6f 076578616d706c65 036f7267 00 0001 000c 08 665c6f6f2c626172 02 6832",
    ),
    (
        "16 foo.example.org. alpn=f\\\\\\092oo\\092,bar,h2",
        "0010 03666f6f 076578616d706c65 036f7267 00 0001 000c 08 665c6f6f2c626172 02 6832",
    ),
];

#[test]
fn rare_types_have_the_bytes_of_their_rfcs_and_say_what_is_wrong() {
    let read = |rtype, text: &str| parse_rrset(&name("example."), "r", rtype, 60, &[text]);
    // as named-rrchecker has them
    for (rtype, text, hex) in [
        ("LOC", "52 22 23 N 4 53 32 E -2m 0m 10000m 10m", "000016138B3CF018810CBCE0009895B8"),
        ("LOC", "42 21 54 N 71 06 18 W -24m 30m", "0033161389172DD070BE15F000988D20"),
        ("LOC", "52 14 05.25 S 0 E 10 1.5 2000m 0", "0012250074CAA83E8000000000989A68"),
        ("LOC", "90 N 180 W 42849672.95m 90000000m", "00991613934FD90059604E00FFFFFFFF"),
        ("LOC", "1 N 1 E 0m 0.05m 123456m 99.99m", "005017938036EE808036EE8000989680"),
        (
            "APL",
            "1:192.168.32.0/21 !1:192.168.38.0/28 2:2001:DB8::/32 1:0.0.0.0/0",
            "00011503C0A82000011C83C0A8260002200420010DB800010000",
        ),
        ("EUI48", "00-00-5e-00-53-2a", "00005E00532A"),
        ("IPSECKEY", "10 1 2 192.0.2.38 AQNRU3mG", "0A0102C0000226010351537986"),
        ("IPSECKEY", "10 3 2 Gate.example. AQNR", "0A03020447617465076578616D706C6500010351"),
        (
            "HIP",
            "2 200100107b1a74df365639cc39f1d578 AwEAAbdx Rvs. a.",
            "10020006200100107B1A74DF365639CC39F1D57803010001B7710352767300016100",
        ),
        ("NID", "10 14:4fff:ff20:ee64", "000A00144FFFFF20EE64"),
        ("GPOS", "-32.6882 116.8652 10.0", "082D33322E36383832083131362E383635320431302E30"),
    ] {
        let bytes = &read(rtype, text).unwrap().rdata[0];
        assert_eq!(data_encoding::HEXUPPER.encode(bytes), hex, "{rtype} {text}");
    }
    for (rtype, text) in [
        ("LOC", "91 N 0 E 0m"),
        ("LOC", "90 0 0.001 N 0 E 0m"),
        ("LOC", "1 60 N 0 E 0m"),
        ("LOC", "1 N 181 E 0m"),
        ("LOC", "N 1 E 0m"),
        ("LOC", "1 N 1 E"),
        ("LOC", "1 N 1 E -100001m"),
        ("LOC", "1 N 1 E 0m 1m 1m 1m 1m"),
        ("LOC", "1 N 1 E 0m 90000000000m"),
        ("LOC", "1 1 1 1 N 1 E 0m"),
        ("APL", "3:192.0.2.0/24"),
        ("APL", "1:192.0.2.0/33"),
        ("APL", "1:2001:db8::/32"),
        ("EUI48", "00-00-5e-00-53"),
        ("EUI48", "00-00-5e-00-53-+a"),
        ("EUI48", "0-00-5e-00-53-2a"),
        ("EUI64", "00-00-5e-ef-10-00-00-2a 00"),
        ("IPSECKEY", "10 1 2 gate AQID"),
        ("IPSECKEY", "10 4 2 . AQID"),
        ("IPSECKEY", "10 0 2"),
        ("HIP", "2 xx AQID"),
        ("NULL", "text"),
        ("NID", "10 14:4fff:ff20"),
        ("LOC", "\\# 3 010203"),
        ("APL", "\\# 5 0001200000"),
        ("HIP", "\\# 4 00000000"),
    ] {
        assert!(read(rtype, text).is_err(), "{rtype} {text}");
    }
}

#[test]
fn svcb_is_written_as_in_rfc_9460() {
    let read = |text: &str| parse_rrset(&name("example."), "r", "SVCB", 60, &[text]);
    for (text, hex) in SERVICES {
        let hex = hex.replace(' ', "");
        assert_eq!(data_encoding::HEXLOWER.encode(&read(text).unwrap().rdata[0]), hex, "{text}");
    }
    // Appendix D.3, and what else contradicts itself.
    for (params, says) in [
        ("key123=abc key123=def", "parameter key123 stands there twice"),
        ("mandatory", "mandatory needs a value"),
        ("alpn", "alpn needs a value"),
        ("port", "port needs a value"),
        ("ipv4hint", "ipv4hint needs a value"),
        ("ipv6hint", "ipv6hint needs a value"),
        ("no-default-alpn=abc", "no-default-alpn has no value"),
        ("mandatory=key123", "mandatory lists key123, which is not there"),
        ("mandatory=mandatory", "mandatory lists itself"),
        ("mandatory=key123,key123 key123=abc", "the value of mandatory is malformed"),
        ("alpn=\"h2\\\\\"", "the value of alpn is malformed"),
    ] {
        let e = read(&format!("1 foo.example.com. {params}")).unwrap_err().to_string();
        assert!(e.contains(says), "{params}: {e}");
    }
}

#[test]
fn every_type_is_read_and_written() {
    for (rtype, text, want) in RECORDS {
        let want = if want.is_empty() { text } else { want };
        let set = parse_rrset(&name("example."), "r", rtype, 60, &[text])
            .unwrap_or_else(|e| panic!("{rtype} {text}: {e}"));
        let line = to_text(&set);
        assert_eq!(line, format!("r.example. 60 IN {} {want}\n", type_name(set.rtype)));
        let again = parse_rrset(&name("."), "r.example.", &type_name(set.rtype), 60, &[want]).unwrap();
        assert_eq!(again, set, "{line}");
    }
    assert_eq!(
        (type_number("tlsa"), type_number("type65535"), type_number("TYPE65536"), type_number("X")),
        (Some(52), Some(65535), None, None)
    );
}

#[test]
fn a_zone_that_is_written_is_the_zone_that_is_read() {
    let mut text = String::from(HEAD);
    for (i, (rtype, rdata, _)) in RECORDS.iter().enumerate() {
        text.push_str(&format!("r{i} {rtype} {rdata}\n"));
    }
    let zone = common::zone("example.", &text);
    let mut out = Vec::new();
    export(&zone, &mut out).unwrap();
    let again = common::zone("example.", std::str::from_utf8(&out).unwrap());
    assert!(zone == again && zone.hash() == again.hash() && zone.len() == RECORDS.len() + 2);
}

#[test]
fn all_mistakes_come_at_once_with_their_lines() {
    let text = "$TTL 1x\n@ SOA ns host 1 1 1 1 1\nwww 60 A 192.0.2.300\nwww 60 BOGUS x\nwww 60 MX 10\nwww 60 A 192.0.2.1 extra\n\
        www 60 TXT \"open\nwww 60 CH A 192.0.2.1\nelsewhere.test. 60 A 192.0.2.1\nwww 60 TYPE999 1\nwww 60 A \\# 4 00\n$GENERATE 1-2 a$ A 1.1.1.1\na..b 60 A 192.0.2.1\n)\n";
    assert_eq!(
        errors(text),
        [
            "z:1: \"1x\" is not a TTL",
            "z:3: A: \"192.0.2.300\" is not an IPv4 address",
            "z:4: \"BOGUS\" is not a record type; TYPE123 names any",
            "z:5: MX: a name is missing",
            "z:6: A: \"extra\" is one value too many",
            "z:7: a quoted string is not closed on its line",
            "z:8: class CH is not served; only IN is",
            "z:9: elsewhere.test. is outside the zone example.",
            "z:10: TYPE999: type TYPE999 is unknown here: write its RDATA as \\# length hex (RFC 3597)",
            "z:11: A: \\# promises 4 bytes, but 1 follow",
            "z:12: $GENERATE is not known; write the records out",
            "z:13: name \"a..b\" has a label of 0 bytes; a label has 1 to 63",
            "z:14: a parenthesis is closed that was not opened",
        ]
    );
    assert_eq!(errors(&"x BOGUS\n".repeat(500)).len(), 20);
}

#[test]
fn an_indented_line_has_its_owner_though_the_one_before_was_wrong() {
    let text = "$TTL 60\n@ SOA ns host 1 1 1 1 1\n@ NS ns\na A 192.0.2.300\n  CNAME x\nb A 192.0.2.1\n  A 192.0.2.1 extra\n  CNAME x\n";
    let errors = errors(text);
    assert_eq!(errors[0], "z:4: A: \"192.0.2.300\" is not an IPv4 address");
    assert_eq!(errors[1], "z:7: A: \"extra\" is one value too many");
    assert!(errors[2].starts_with("z:6: b.example. has A beside a CNAME"), "{errors:?}");
    assert_eq!(errors.len(), 3, "a has the CNAME alone: {errors:?}");
}

#[test]
fn mistakes_of_the_whole_zone_are_found() {
    assert_eq!(
        errors("www 60 A 192.0.2.1\n"),
        ["z:0: the zone example. has no SOA at its apex; add one",][..1].to_vec()
    );
    assert_eq!(
        errors("$TTL 1\n@ SOA ns host 1 1 1 1 1\n"),
        ["z:0: the zone example. has no NS at its apex; add one"]
    );
    assert_eq!(
        errors(&format!(
            "{HEAD}c CNAME x\nd A 192.0.2.1\nc TXT y\nc CNAME z\n@ DS 1 1 9 00\nsub SOA ns host 1 1 1 1 1\n"
        )),
        [
            "z:9: example. has a DS, which belongs to the parent",
            "z:5: c.example. type 5: 2 records, but only one is allowed",
            "z:7: c.example. has TXT beside a CNAME, which stands alone (RFC 1034 §3.6.2)",
            "z:10: sub.example. has an SOA below the apex",
        ]
    );
    assert_eq!(
        errors(&format!("{HEAD}a ALIAS x\na A 192.0.2.1\n"))[0],
        "z:6: a.example. has A beside an ALIAS, which brings addresses"
    );
    assert_eq!(errors("a A 192.0.2.1\n")[0], "z:1: no TTL is known here; begin the file with $TTL");
    assert_eq!(errors(" 60 A 192.0.2.1\n")[0], "z:1: the first record has no owner name");
    assert_eq!(errors(&format!("{HEAD}a TXT ( x\n"))[0], "z:5: a parenthesis is never closed");
}

#[test]
fn a_file_without_ttl_has_that_of_its_soa() {
    let text = "@ SOA ns host 1 1 1 1 90\n@ NS ns\na A 192.0.2.1\nb 60 A 192.0.2.2\nc A 192.0.2.3\n";
    let sets = parse(text.as_bytes(), Path::new("z"), &name("example.")).unwrap();
    let ttls: Vec<u32> = sets.iter().map(|s| s.ttl).collect();
    assert_eq!(ttls, [90, 90, 90, 60, 60], "the minimum; then the last one stated (RFC 1035 §5.1)");
}

#[test]
fn a_record_without_its_last_field_is_none() {
    let sha256 = "00".repeat(32);
    for record in [
        "DS 1 8 2",
        "DNSKEY 257 3 8",
        "TLSA 3 1 1",
        "SSHFP 1 1",
        "OPENPGPKEY",
        "CDS 1 8 2",
        "DS \\# 4 00010802",
        "DS 1 8 2 00",
        "CDS 1 8 4 00",
    ] {
        let errors = errors(&format!("{HEAD}a {record}\n"));
        assert!(errors.len() == 1 && errors[0].starts_with("z:5: "), "{record}: {errors:?}");
    }
    for record in [&format!("DS 1 8 2 {sha256}")[..], "DS 1 8 99 00", "CDS 0 0 0 00", "CDNSKEY 0 3 0 AA=="] {
        parse(format!("{HEAD}a {record}\n").as_bytes(), Path::new("z"), &name("example.")).expect(record);
    }
}

#[test]
fn includes_are_relative_bounded_and_give_the_origin_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = |f: &str| dir.path().join(f);
    fs::create_dir(at("inc")).unwrap();
    fs::write(at("zone"), format!("{HEAD}$INCLUDE inc/one sub\nafter A 192.0.2.9\n")).unwrap();
    fs::write(at("inc/one"), "a A 192.0.2.1\n$ORIGIN deep\n$INCLUDE two\n").unwrap();
    fs::write(at("inc/two"), "b A 192.0.2.2\n").unwrap();
    let sets: Vec<RrSet> = load(&at("zone"), &name("example.")).unwrap();
    let owners: Vec<String> = sets.iter().skip(2).map(|s| s.name.to_string()).collect();
    assert_eq!(owners, ["after.example.", "a.sub.example.", "b.deep.sub.example."]);
    fs::write(at("inc/two"), "b A 192.0.2.2\n\nc A x\n").unwrap();
    let e = load(&at("zone"), &name("example.")).unwrap_err();
    assert_eq!((e.0[0].file.clone(), e.0[0].line), (at("inc/two"), 3));
    fs::write(at("inc/two"), "$INCLUDE two\n").unwrap();
    let e = load(&at("zone"), &name("example.")).unwrap_err();
    assert!(e.0[0].message.contains("does a file include itself?"), "{e}");
    let e = load(&at("absent"), &name("example.")).unwrap_err().to_string();
    assert!(e.contains("absent:0: cannot be opened"), "{e}");
}
