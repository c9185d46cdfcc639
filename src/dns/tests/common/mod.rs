//! What the tests share: a table from zone text, queries, and answers taken apart.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each binary uses a part; a test ends at a surprise

use std::{path::Path, sync::Arc};
use zonekeeper_core::{
    answer::DnsTable,
    model::ZoneOwner,
    name::Name,
    publish::Published,
    route::ProxyTable,
    state::{Generation, State},
    zone::Zone,
};
use zonekeeper_dns::{Condition, Counters, Responder, Transport, zonefile};

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A zone from text.
pub fn zone(origin: &str, text: &str) -> Zone {
    let mut zone = Zone::new(name(origin), ZoneOwner::File);
    for set in zonefile::parse(text.as_bytes(), Path::new("test.zone"), &name(origin)).unwrap() {
        zone.put(set).unwrap();
    }
    zone.advance_serial();
    zone
}

/// A state with these zones (origin, text).
pub fn state(zones: &[(&str, &str)]) -> State {
    let mut state = State::default();
    for (origin, text) in zones {
        state.zones.insert(name(origin), Arc::new(zone(origin, text)));
    }
    state
}

pub fn published(state: State, index: u64) -> Published {
    let dns = Arc::new(DnsTable::build(&state));
    let generation = Generation { incarnation: 0, index };
    Published { generation, state: Arc::new(state), dns, proxy: Arc::new(ProxyTable::default()) }
}

/// A query with id 0x1234 and RD off.
pub fn query(qname: &str, qtype: u16) -> Vec<u8> {
    let mut q = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    q.extend_from_slice(&wire(qname));
    q.extend_from_slice(&qtype.to_be_bytes());
    q.extend_from_slice(&[0, 1]);
    q
}

/// A name in wire form with its case.
pub fn wire(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in text.trim_end_matches('.').split('.').filter(|l| !l.is_empty()) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

/// The query with an OPT record behind it.
pub fn with_edns(mut q: Vec<u8>, payload: u16, version: u8, options: &[u8]) -> Vec<u8> {
    q[11] += 1;
    q.extend_from_slice(&[0, 0, 41]);
    q.extend_from_slice(&payload.to_be_bytes());
    q.extend_from_slice(&[0, version, 0, 0]);
    q.extend_from_slice(&(options.len() as u16).to_be_bytes());
    q.extend_from_slice(options);
    q
}

/// A record of an answer: owner, type, TTL, RDATA in presentation form.
pub type Rr = (String, u16, u32, String);

/// An answer taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    pub rcode: u16,
    pub aa: bool,
    pub tc: bool,
    pub ad: bool,
    pub answer: Vec<Rr>,
    pub authority: Vec<Rr>,
    pub additional: Vec<Rr>,
    /// Class (payload), TTL (extended code and flags) and RDATA of OPT.
    pub opt: Option<(u16, u32, Vec<u8>)>,
}

impl Answer {
    pub fn texts(rrs: &[Rr]) -> Vec<String> {
        rrs.iter().map(|(n, t, ttl, d)| format!("{n} {ttl} {} {d}", zonefile::type_name(*t))).collect()
    }
}

fn u16_at(m: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([m[at], m[at + 1]]))
}

/// Reads a name with its compression; panics when it is malformed, for a test shall fail then.
pub fn read_name(m: &[u8], at: &mut usize) -> Vec<u8> {
    let (mut out, mut i, mut jumped, mut jumps) = (Vec::new(), *at, false, 0);
    loop {
        let n = usize::from(m[i]);
        match n {
            0 => {
                out.push(0);
                if !jumped {
                    *at = i + 1;
                }
                return out;
            }
            0xc0.. => {
                if !jumped {
                    *at = i + 2;
                }
                let to = u16_at(m, i) & 0x3fff;
                assert!(to < i && jumps < 64, "pointers lead back only");
                (i, jumped, jumps) = (to, true, jumps + 1);
            }
            _ => {
                out.extend_from_slice(&m[i..=i + n]);
                i += n + 1;
            }
        }
    }
}

fn rdata(m: &[u8], rtype: u16, at: usize, len: usize) -> Vec<u8> {
    let (names_at, names) = match rtype {
        2 | 5 | 12 | 39 => (0, 1),
        6 => (0, 2),
        15 => (2, 1),
        33 => (6, 1),
        _ => return m[at..at + len].to_vec(),
    };
    let (mut out, mut i) = (m[at..at + names_at].to_vec(), at + names_at);
    for _ in 0..names {
        out.extend(read_name(m, &mut i).to_ascii_lowercase());
    }
    out.extend_from_slice(&m[i..at + len]);
    out
}

/// Takes an answer apart; everything in it must be well formed and nothing may be left over.
pub fn read(m: &[u8]) -> Answer {
    let mut a = Answer {
        rcode: u16::from(m[3] & 15),
        aa: m[2] & 4 != 0,
        tc: m[2] & 2 != 0,
        ad: m[3] & 0x20 != 0,
        ..Answer::default()
    };
    assert_eq!(m[2] & 0x80, 0x80, "QR is set");
    let mut at = 12;
    for _ in 0..u16_at(m, 4) {
        read_name(m, &mut at);
        at += 4;
    }
    for section in 0..3 {
        for _ in 0..u16_at(m, 6 + 2 * section) {
            let owner = read_name(m, &mut at);
            let (rtype, class, len) = (u16_at(m, at) as u16, u16_at(m, at + 2) as u16, u16_at(m, at + 8));
            let ttl = u32::from_be_bytes([m[at + 4], m[at + 5], m[at + 6], m[at + 7]]);
            let data = rdata(m, rtype, at + 10, len);
            at += 10 + len;
            if rtype == 41 {
                a.rcode |= (ttl >> 20) as u16 & 0xff0;
                a.opt = Some((class, ttl, data));
                continue;
            }
            let owner = Name::from_wire(&owner).unwrap().to_string();
            let rr = (owner, rtype, ttl, zonefile::rdata_text(rtype, &data));
            [&mut a.answer, &mut a.authority, &mut a.additional][section].push(rr);
        }
    }
    assert_eq!(at, m.len(), "nothing follows the last record");
    a
}

/// A responder over zones.
pub struct Asker {
    pub table: DnsTable,
    pub responder: Responder,
    pub condition: Condition,
}

impl Asker {
    pub fn new(zones: &[(&str, &str)]) -> Asker {
        Asker::of(&state(zones))
    }

    pub fn of(state: &State) -> Asker {
        let table = DnsTable::build(state);
        let mut responder = Responder::new(b"node-1", Arc::new(Counters::default()));
        responder.prepare(&table);
        Asker { table, responder, condition: Condition::default() }
    }

    /// The bytes of the answer.
    pub fn raw(&mut self, transport: Transport, query: &[u8]) -> Option<Vec<u8>> {
        let mut buf = vec![0; if transport == Transport::Udp { 4096 } else { 65_535 }];
        buf[..query.len()].copy_from_slice(query);
        let len = self.responder.answer(&self.table, self.condition, transport, &mut buf, query.len())?;
        buf.truncate(len);
        Some(buf)
    }

    pub fn ask(&mut self, qname: &str, qtype: u16) -> Answer {
        read(&self.raw(Transport::Udp, &query(qname, qtype)).unwrap())
    }
}
