//! Records as zone files show them (RFC 1035 §5.1), and unknown types by RFC 3597 §5.

use std::{fmt::Write, net::Ipv4Addr, net::Ipv6Addr};
use zonekeeper_core::{name::Name, zone::RrSet};

/// Types that are shown by name; their numbers are in the IANA registry of RR types.
const NAMES: [(u16, &str); 19] = [
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (35, "NAPTR"),
    (39, "DNAME"),
    (43, "DS"),
    (44, "SSHFP"),
    (46, "RRSIG"),
    (48, "DNSKEY"),
    (52, "TLSA"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (257, "CAA"),
];

/// A type's name, `TYPE123` when it has none here (RFC 3597 §5).
pub(crate) fn type_name(rtype: u16) -> String {
    let known = NAMES.iter().find(|(n, _)| *n == rtype);
    known.map_or_else(|| format!("TYPE{rtype}"), |(_, name)| (*name).to_string())
}

/// A whole zone file that reads back to these records.
pub(crate) fn zone_file(origin: &Name, records: &[RrSet]) -> String {
    let mut out = format!("$ORIGIN {origin}\n");
    // Parsers want the SOA first (RFC 1035 §5.2 only asks for one), and it is first for a reader too.
    let (soa, rest): (Vec<&RrSet>, Vec<&RrSet>) = records.iter().partition(|r| r.rtype == 6);
    for set in soa.into_iter().chain(rest) {
        for rdata in &set.rdata {
            let (rtype, text) = match rdata_text(set.rtype, rdata) {
                Some(text) => (type_name(set.rtype), text),
                None => (format!("TYPE{}", set.rtype), opaque(rdata)),
            };
            _ = writeln!(out, "{} {} IN {rtype} {text}", set.name, set.ttl);
        }
    }
    out
}

/// RDATA for people: as in a zone file.
pub(crate) fn show_rdata(rtype: u16, rdata: &[u8]) -> String {
    rdata_text(rtype, rdata).unwrap_or_else(|| opaque(rdata))
}

/// `\# length hex` (RFC 3597 §5).
fn opaque(rdata: &[u8]) -> String {
    let mut text = format!("\\# {}", rdata.len());
    if !rdata.is_empty() {
        text.push(' ');
    }
    rdata.iter().for_each(|b| _ = write!(text, "{b:02x}"));
    text
}

/// Presentation form of the types that people write; none for the others and for what would not read back alike.
fn rdata_text(rtype: u16, r: &[u8]) -> Option<String> {
    match rtype {
        1 => <[u8; 4]>::try_from(r).ok().map(|b| Ipv4Addr::from(b).to_string()),
        28 => <[u8; 16]>::try_from(r).ok().map(|b| Ipv6Addr::from(b).to_string()),
        2 | 5 | 12 | 39 => name(r),
        15 => Some(format!("{} {}", short(r, 0)?, name(r.get(2..)?)?)),
        33 => Some(format!("{} {} {} {}", short(r, 0)?, short(r, 2)?, short(r, 4)?, name(r.get(6..)?)?)),
        16 => strings(r),
        6 => soa(r),
        257 => caa(r),
        _ => None,
    }
}

fn short(r: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*r.get(at)?, *r.get(at + 1)?]))
}

/// A name that is all of `r`; one with upper case would come back in lower case.
fn name(r: &[u8]) -> Option<String> {
    let name = Name::from_wire(r).ok()?;
    (name.wire() == r).then(|| name.to_string())
}

fn name_end(r: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *r.get(at)? {
            0 => return Some(at + 1),
            n => at += 1 + usize::from(n),
        }
    }
}

fn soa(r: &[u8]) -> Option<String> {
    let first = name_end(r)?;
    let second = first + name_end(r.get(first..)?)?;
    let numbers = r.get(second..).filter(|n| n.len() == 20)?;
    let mut text = format!("{} {}", name(&r[..first])?, name(&r[first..second])?);
    for n in numbers.chunks_exact(4) {
        _ = write!(text, " {}", u32::from_be_bytes([n[0], n[1], n[2], n[3]]));
    }
    Some(text)
}

/// Character strings in quotes (RFC 1035 §3.3.14).
fn strings(mut r: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    while let Some((&len, rest)) = r.split_first() {
        let (string, rest) = rest.split_at_checked(usize::from(len))?;
        parts.push(quoted(string));
        r = rest;
    }
    (!parts.is_empty()).then(|| parts.join(" "))
}

fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for &b in bytes {
        match b {
            b'"' | b'\\' => _ = write!(text, "\\{}", b as char),
            b' '..=b'~' => text.push(b as char),
            _ => _ = write!(text, "\\{b:03}"),
        }
    }
    text + "\""
}

/// RFC 8659 §4.1.1: flags, tag, value.
fn caa(r: &[u8]) -> Option<String> {
    let (&[flags, len], rest) = r.split_first_chunk()?;
    let (tag, value) = rest.split_at_checked(usize::from(len))?;
    let plain = !tag.is_empty() && tag.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    plain.then(|| format!("{flags} {} {}", String::from_utf8_lossy(tag), quoted(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_look_as_people_write_them() {
        let show = |t, r: &[u8]| show_rdata(t, r);
        assert_eq!(show(1, &[192, 0, 2, 1]), "192.0.2.1");
        assert_eq!(show(15, b"\0\x0a\x02mx\x01e\0"), "10 mx.e.");
        assert_eq!(show(33, b"\0\x01\0\x02\x01\xbb\x01s\0"), "1 2 443 s.");
        assert_eq!(show(16, b"\x03a\"b\x01\xff"), "\"a\\\"b\" \"\\255\"");
        assert_eq!(show(257, b"\0\x05issueca.example"), "0 issue \"ca.example\"");
        assert_eq!(
            show(6, b"\x01m\0\x01r\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05"),
            "m. r. 1 2 3 4 5"
        );
    }

    #[test]
    fn what_has_no_safe_text_is_shown_as_bytes() {
        assert_eq!(show_rdata(65280, &[0xab, 1]), "\\# 2 ab01");
        assert_eq!(show_rdata(65280, &[]), "\\# 0");
        assert_eq!(show_rdata(2, b"\x02Ns\0"), "\\# 4 024e7300"); // lower case would be another RDATA
        assert_eq!(show_rdata(1, &[1, 2, 3]), "\\# 3 010203");
        assert_eq!((type_name(65), type_name(999)), ("HTTPS".into(), "TYPE999".into()));
    }
}
