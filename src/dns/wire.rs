//! Reading a query (RFC 1035 §4.1, RFC 6891 §6.1), without allocation.

use crate::subnet::Subnet;
use std::ops::Range;

/// Bytes of a header.
pub(crate) const HEADER: usize = 12;

/// Response codes (RFC 6895 §2.3). Those above 15 need EDNS.
pub(crate) mod rcode {
    pub(crate) const FORMERR: u16 = 1;
    pub(crate) const SERVFAIL: u16 = 2;
    pub(crate) const NXDOMAIN: u16 = 3;
    pub(crate) const NOTIMP: u16 = 4;
    pub(crate) const REFUSED: u16 = 5;
    pub(crate) const YXDOMAIN: u16 = 6;
    pub(crate) const NOTAUTH: u16 = 9;
    pub(crate) const BADVERS: u16 = 16;
    pub(crate) const BADCOOKIE: u16 = 23;
}

/// Query types that this server treats apart.
pub(crate) mod qtype {
    pub(crate) const TXT: u16 = 16;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const TKEY: u16 = 249;
    pub(crate) const TSIG: u16 = 250;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const MAILB: u16 = 253;
    pub(crate) const MAILA: u16 = 254;
}

/// A query that is well formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Query {
    /// 1; or 0, and then nothing is asked but a server cookie (RFC 7873 §5.4).
    pub(crate) questions: u16,
    /// Length of the name in wire form; it begins at [`HEADER`].
    pub(crate) name_len: usize,
    pub(crate) qtype: u16,
    pub(crate) class: u16,
    pub(crate) edns: Option<Edns>,
    /// Where the TSIG record at the end begins; 0: there is none.
    pub(crate) tsig: u16,
}

impl Query {
    /// Where the question ends.
    pub(crate) fn end(&self) -> usize {
        HEADER + usize::from(self.questions) * (self.name_len + 4)
    }
}

/// What the OPT record asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) payload: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
    pub(crate) nsid: bool,
    /// Place and length of the COOKIE option's data (RFC 7873 §4): 8, or 16 to 40 bytes.
    pub(crate) cookie: Option<(u16, u8)>,
    /// The client knows edns-tcp-keepalive (RFC 7828).
    pub(crate) keepalive: bool,
    /// The client's network, from a resolver that asks for it (RFC 7871).
    pub(crate) subnet: Option<Subnet>,
    /// The client pads, so its answer is padded too (RFC 7830 §4).
    pub(crate) padding: bool,
}

/// EDNS options that are more than ignored.
pub(crate) mod option {
    pub(crate) const NSID: u16 = 3;
    pub(crate) const SUBNET: u16 = 8;
    pub(crate) const COOKIE: u16 = 10;
    pub(crate) const KEEPALIVE: u16 = 11;
    pub(crate) const PADDING: u16 = 12;
    pub(crate) const ERROR: u16 = 15;
}

/// What to do with a message that is not a well-formed query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Silence: too short for a header, or itself a response.
    Drop,
    /// A header with this code, and an OPT record where there was one (RFC 6891 §7).
    Code(u16, Option<Edns>),
}

pub(crate) fn u16_at(m: &[u8], at: usize) -> Option<u16> {
    m.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

/// Reads a message. The name in the question is copied to `name` in lower case.
pub(crate) fn parse(m: &[u8], name: &mut [u8; 256]) -> Result<Query, Bad> {
    if m.len() < HEADER || m[2] & 0x80 != 0 {
        return Err(Bad::Drop); // RFC 8906 §3.1.1: never answer a response
    }
    if m[2] & 0x78 != 0 {
        return Err(refused(rcode::NOTIMP, m));
    }
    read(m, name).ok_or_else(|| refused(rcode::FORMERR, m))
}

#[cold]
fn refused(code: u16, m: &[u8]) -> Bad {
    Bad::Code(code, announced(m))
}

/// The OPT record of a message that is refused, as far as it can be read; none also where it cannot be found.
fn announced(m: &[u8]) -> Option<Edns> {
    let mut at = HEADER;
    for _ in 0..u16_at(m, 4)? {
        at = name_end(m, at)? + 4;
    }
    for _ in 0..u32::from(u16_at(m, 6)?) + u32::from(u16_at(m, 8)?) {
        at = record(m, at)?.end;
    }
    for _ in 0..u16_at(m, 10)? {
        let r = record(m, at)?;
        if r.rtype == qtype::OPT && r.root {
            let opt = opt(r.class, r.ttl, m, r.rdata..r.end);
            return Some(opt.unwrap_or_else(|| Edns::new(r.class, r.ttl)));
        }
        at = r.end;
    }
    None
}

fn read(m: &[u8], name: &mut [u8; 256]) -> Option<Query> {
    let counts = [u16_at(m, 4)?, u16_at(m, 6)?, u16_at(m, 8)?, u16_at(m, 10)?];
    let mut query = Query { questions: counts[0], name_len: 0, qtype: 0, class: 1, edns: None, tsig: 0 };
    if query.questions == 1 {
        query.name_len = question(m, name)?;
        let at = HEADER + query.name_len;
        (query.qtype, query.class) = (u16_at(m, at)?, u16_at(m, at + 2)?);
    } else if query.questions > 1 {
        return None;
    }
    let qtype = query.qtype;
    let transfer = qtype == qtype::IXFR; // carries the client's SOA (RFC 1995 §3)
    if counts[1] != 0 || (counts[2] != 0 && !transfer) {
        return None;
    }
    let mut at = query.end();
    for _ in 0..counts[2] {
        at = record(m, at)?.end;
    }
    for i in 0..counts[3] {
        let (start, r) = (at, record(m, at)?);
        at = r.end;
        match r.rtype {
            qtype::OPT if query.edns.is_some() || !r.root => return None, // RFC 6891 §6.1.1: one, at the root
            qtype::OPT => query.edns = Some(opt(r.class, r.ttl, m, r.rdata..r.end)?),
            qtype::TSIG if i + 1 != counts[3] => return None, // RFC 8945 §5.1: the last
            qtype::TSIG => query.tsig = u16::try_from(start).ok()?,
            _ => {}
        }
    }
    let asks = query.questions == 1 || query.edns.is_some_and(|e| e.cookie.is_some());
    (at == m.len() && asks).then_some(query)
}

/// The name in the question, in lower case; no compression is possible there.
fn question(m: &[u8], name: &mut [u8; 256]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *m.get(at)? {
            0 => break,
            n @ 1..=63 => at += 1 + usize::from(n),
            _ => return None,
        }
        if at - HEADER > 254 {
            return None;
        }
    }
    let len = at + 1 - HEADER;
    lower(&mut name[..len], &m[HEADER..HEADER + len]);
    Some(len)
}

/// Copies a name in wire form in lower case. Length bytes are at most 63 and so never letters.
pub(crate) fn lower(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_ascii_lowercase();
    }
}

struct Place {
    rtype: u16,
    class: u16,
    ttl: u32,
    root: bool,
    rdata: usize,
    end: usize,
}

/// Where a name ends that begins there.
pub(crate) fn name_end(m: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match *m.get(at)? {
            0 => return Some(at + 1),
            n @ 1..=63 => at += 1 + usize::from(n),
            0xc0..=0xff => return Some(at + 2),
            _ => return None,
        }
        if at - start > 254 {
            return None;
        }
    }
}

fn record(m: &[u8], at: usize) -> Option<Place> {
    let root = *m.get(at)? == 0;
    let fixed = name_end(m, at)?;
    let rdata = fixed + 10;
    let end = rdata + usize::from(u16_at(m, fixed + 8)?);
    let ttl = (u32::from(u16_at(m, fixed + 4)?) << 16) | u32::from(u16_at(m, fixed + 6)?);
    let place = Place { rtype: u16_at(m, fixed)?, class: u16_at(m, fixed + 2)?, ttl, root, rdata, end };
    (end <= m.len()).then_some(place)
}

impl Edns {
    /// An OPT record without options: class is the payload size, TTL is extended code, version and flags (RFC 6891
    /// §6.1.2).
    fn new(class: u16, ttl: u32) -> Edns {
        Edns {
            payload: class,
            version: (ttl >> 16) as u8,
            dnssec_ok: ttl & 0x8000 != 0,
            nsid: false,
            cookie: None,
            keepalive: false,
            subnet: None,
            padding: false,
        }
    }
}

/// The OPT record with its options.
fn opt(class: u16, ttl: u32, m: &[u8], rdata: Range<usize>) -> Option<Edns> {
    let mut edns = Edns::new(class, ttl);
    if edns.version != 0 {
        return Some(edns); // its options may look different: BADVERS
    }
    let mut at = rdata.start;
    while at < rdata.end {
        let (code, len) = (u16_at(m, at)?, usize::from(u16_at(m, at + 2)?));
        let data = at + 4;
        at = data + len;
        if at > rdata.end {
            return None;
        }
        match code {
            option::NSID => edns.nsid = true, // RFC 5001
            option::COOKIE if len == 8 || (16..=40).contains(&len) => {
                edns.cookie = edns.cookie.or(Some((u16::try_from(data).ok()?, len as u8))); // RFC 7873 §5.2: the first
            }
            option::COOKIE => return None, // RFC 7873 §5.2.2: FORMERR
            option::SUBNET => edns.subnet = Some(Subnet::read(m.get(data..at)?)?),
            option::KEEPALIVE => edns.keepalive = true,
            option::PADDING => edns.padding = true,
            _ => {} // unknown options are ignored
        }
    }
    Some(edns)
}
