//! Asks this node's own DNS logic a question, as a client would over TCP, and reads the answer.

use crate::records;
use std::{net::IpAddr, sync::Arc};
use zonekeeper_core::{answer::DnsTable, name::Name, zone::rtype};
use zonekeeper_dns::{Condition, Counters, Geo, Responder, Transport, View};

/// Bytes of a DNS header (RFC 1035 §4.1.1).
const HEADER: usize = 12;
/// Largest message over TCP (RFC 1035 §4.2.2).
const MESSAGE: usize = 65_535;

/// An answer in words.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) rcode: String,
    pub(crate) answer: Vec<String>,
    pub(crate) authority: Vec<String>,
}

/// Asks, as a client at an address would.
pub(crate) fn ask(
    table: &DnsTable,
    name: &Name,
    rtype: u16,
    client: Option<IpAddr>,
    geo: Option<&Geo>,
) -> Answer {
    let mut buf = vec![0u8; MESSAGE];
    let mut query = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(name.wire());
    query.extend_from_slice(&rtype.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    buf[..query.len()].copy_from_slice(&query);
    let mut responder = Responder::new(&[], Arc::new(Counters::default()));
    responder.prepare(table);
    let condition = Condition::default();
    let view = View { table, condition, secrets: None, geo, transport: Transport::Tcp };
    let answered = responder.answer_to(&view, client.map(|c| (c, 0).into()), &mut buf, query.len());
    match answered.and_then(|len| read(&buf[..len.min(MESSAGE)])) {
        Some(answer) => answer,
        None => Answer { rcode: "no answer".into(), ..Answer::default() },
    }
}

fn read(message: &[u8]) -> Option<Answer> {
    let count = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let rcode = match message.get(3)? & 0x0f {
        0 => "NOERROR".into(),
        1 => "FORMERR".into(),
        2 => "SERVFAIL".into(),
        3 => "NXDOMAIN".into(),
        4 => "NOTIMP".into(),
        5 => "REFUSED".into(),
        n => format!("RCODE{n}"),
    };
    let mut at = HEADER;
    for _ in 0..count(4)? {
        at = decode_name(message, at)?.1 + 4;
    }
    let answer = section(message, &mut at, count(6)?)?;
    let authority = section(message, &mut at, count(8)?)?;
    Some(Answer { rcode, answer, authority })
}

/// The records of one section, one a line.
fn section(message: &[u8], at: &mut usize, count: u16) -> Option<Vec<String>> {
    let mut out = Vec::new();
    for _ in 0..count {
        let (owner, after) = decode_name(message, *at)?;
        let fixed = message.get(after..after + 10)?;
        let rtype = u16::from_be_bytes([fixed[0], fixed[1]]);
        let ttl = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        let len = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        *at = after + 10 + len;
        let rdata = match rtype {
            rtype::SOA => soa(message, after + 10, *at)?,
            _ => message.get(after + 10..*at)?.to_vec(),
        };
        out.push(format!("{owner} {ttl} {} {}", records::type_name(rtype), records::rdata(rtype, &rdata)));
    }
    Some(out)
}

/// An SOA's RDATA with its names in full: those of a denial are compressed.
fn soa(message: &[u8], start: usize, end: usize) -> Option<Vec<u8>> {
    let (primary, at) = decode_name(message, start)?;
    let (mailbox, at) = decode_name(message, at)?;
    Some([primary.wire(), mailbox.wire(), message.get(at..end)?].concat())
}

/// A name that may be compressed (RFC 1035 §4.1.4), and where it ends.
fn decode_name(message: &[u8], start: usize) -> Option<(Name, usize)> {
    let (mut wire, mut at, mut end) = (Vec::new(), start, None);
    loop {
        match *message.get(at)? {
            0 => {
                wire.push(0);
                return Some((Name::from_wire(&wire).ok()?, end.unwrap_or(at + 1)));
            }
            n @ 1..=63 => {
                wire.extend_from_slice(message.get(at..=at + usize::from(n))?);
                at += 1 + usize::from(n);
            }
            n @ 0xc0.. => {
                end.get_or_insert(at + 2);
                let to = usize::from(n & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                if to >= at {
                    return None; // pointers lead back, so this ends
                }
                at = to;
            }
            _ => return None,
        }
        if wire.len() > 255 {
            return None;
        }
    }
}
