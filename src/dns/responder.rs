//! The one function from query bytes to answer bytes, used by every transport.

mod batch;
mod resolve;

use crate::{
    counters::Counters,
    message::{Message, Section, Targets},
    wire::{Bad, Edns, HEADER, Query, lower, qtype, rcode},
};
use batch::Look;
pub use batch::{BATCH, Datagrams};
use resolve::Resolver;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use zonekeeper_core::{
    answer::DnsTable,
    zone::{Key, RrView, rtype},
};

/// Largest message over UDP that we send: above it fragmentation begins (DNS flag day 2020).
pub const UDP_PAYLOAD: u16 = 1232;
/// Largest message over UDP to a client without EDNS (RFC 1035 §4.2.1).
const UDP_PLAIN: usize = 512;

/// What brought the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// At most [`UDP_PAYLOAD`] bytes, 512 without EDNS.
    Udp,
    /// At most 65535 bytes.
    Tcp,
}

/// What the node knows about itself; `control` writes it.
#[derive(Debug, Default)]
pub struct DnsFlags {
    /// The published data is older than the operator's limit: answers carry extended error 3 (RFC 8914 §4.4).
    pub stale: AtomicBool,
    /// The stale policy is to answer SERVFAIL, so that resolvers move on.
    pub servfail: AtomicBool,
}

impl DnsFlags {
    /// Both flags at one moment.
    pub fn condition(&self) -> Condition {
        Condition { stale: self.stale.load(Relaxed), servfail: self.servfail.load(Relaxed) }
    }
}

/// The flags as one batch of queries sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Condition {
    /// See [`DnsFlags::stale`].
    pub stale: bool,
    /// See [`DnsFlags::servfail`].
    pub servfail: bool,
}

/// What is remembered from one query to the next, so that nothing is allocated.
pub(crate) struct Scratch {
    /// The name that is looked up, in lower case.
    name: [u8; 256],
    /// A name of the additional section, in lower case.
    other: [u8; 256],
    key: Key,
    targets: Targets,
    /// Position in the schedule of each weighted answer.
    turns: Vec<u32>,
}

impl Scratch {
    /// The turn of a weighted answer.
    fn turn(&mut self, slot: u32) -> u32 {
        let Some(turn) = self.turns.get_mut(slot as usize) else { return 0 };
        *turn = turn.wrapping_add(1);
        turn.wrapping_sub(1)
    }
}

/// What was read of one query of a batch.
struct Slot {
    /// The name in the question, in lower case.
    name: [u8; 256],
    /// Its key in its zone.
    key: Key,
}

/// Answers queries; one for each worker.
pub struct Responder {
    scratch: Scratch,
    slots: Box<[Slot]>,
    nsid: Vec<u8>,
    counters: Arc<Counters>,
}

/// An answer's code and flags, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Verdict {
    pub(crate) rcode: u16,
    pub(crate) authoritative: bool,
    pub(crate) truncated: bool,
    /// Extended DNS error (RFC 8914 §4).
    pub(crate) error: Option<u16>,
}

impl Verdict {
    pub(crate) fn code(rcode: u16) -> Verdict {
        Verdict { rcode, ..Verdict::default() }
    }
}

impl Responder {
    /// A responder that names itself `nsid` when asked (RFC 5001; empty: not at all; at most 128 bytes are used).
    pub fn new(nsid: &[u8], counters: Arc<Counters>) -> Responder {
        let scratch = Scratch {
            name: [0; 256],
            other: [0; 256],
            key: Key::default(),
            targets: Targets::default(),
            turns: Vec::new(),
        };
        let mut option = Vec::new();
        if !nsid.is_empty() {
            let nsid = &nsid[..nsid.len().min(128)];
            option.extend_from_slice(&[0, 3, 0, nsid.len() as u8]);
            option.extend_from_slice(nsid);
        }
        let slot = || Slot { name: [0; 256], key: Key::default() };
        Responder { scratch, slots: (0..BATCH).map(|_| slot()).collect(), nsid: option, counters }
    }

    /// Makes room for the counters of weighted answers; call it when the table has changed.
    pub fn prepare(&mut self, table: &DnsTable) {
        if self.scratch.turns.len() < table.slots() {
            self.scratch.turns.resize(table.slots(), 0);
        }
    }

    /// Answers the query in the first `len` bytes of `buf` in place. None: no answer is sent. Allocates nothing.
    pub fn answer(
        &mut self,
        table: &DnsTable,
        condition: Condition,
        transport: Transport,
        buf: &mut [u8],
        len: usize,
    ) -> Option<usize> {
        let (query, mut look) = self.look(table, 0, buf.get(..len)?);
        if let Some(look) = &mut look {
            look.locate();
        }
        self.finish(table, condition, transport, 0, (query, look), buf)
    }

    /// As [`Responder::answer`], by the general path alone: what the short cut for plain hits must agree with.
    pub fn answer_generally(
        &mut self,
        table: &DnsTable,
        condition: Condition,
        transport: Transport,
        buf: &mut [u8],
        len: usize,
    ) -> Option<usize> {
        let (query, _) = self.look(table, 0, buf.get(..len)?);
        self.finish(table, condition, transport, 0, (query, None), buf)
    }

    /// Answers the query that was read into the slot `i`.
    fn finish(
        &mut self,
        table: &DnsTable,
        condition: Condition,
        transport: Transport,
        i: usize,
        (query, look): (Result<Query, Bad>, Option<Look<'_>>),
        buf: &mut [u8],
    ) -> Option<usize> {
        let query = match query {
            Ok(query) => query,
            Err(Bad::Drop) => {
                self.counters.dropped();
                return None;
            }
            Err(Bad::Code(code)) => {
                self.counters.answered(transport, 0, code, false);
                let flags = [0x80 | (buf[2] & 0x79), code as u8];
                return Some(Message::new(buf, HEADER, HEADER).finish(flags, 0));
            }
        };
        let asked = [buf[2], buf[3]];
        let limit = limit(&query, transport).min(buf.len());
        let reserve = query.edns.map_or(0, |e| 11 + 6 + if e.nsid { self.nsid.len() } else { 0 });
        let mut message = Message::new(buf, query.end(), limit - reserve);
        let mut verdict = screen(&query).unwrap_or_else(|| {
            if condition.servfail {
                return Verdict { error: Some(3), ..Verdict::code(rcode::SERVFAIL) };
            }
            let slot = &self.slots[i];
            if let Some(verdict) = look.and_then(|l| plain(l, slot, &query, &mut message)) {
                return verdict;
            }
            let name = &slot.name[..query.name_len];
            self.scratch.name[..query.name_len].copy_from_slice(name);
            Resolver::new(table, &mut self.scratch, &mut message, query.qtype).run(query.name_len)
        });
        if condition.stale && verdict.error.is_none() {
            verdict.error = Some(if verdict.rcode == rcode::NXDOMAIN { 19 } else { 3 });
        }
        if let Some(edns) = query.edns {
            put_opt(&mut message, limit, &edns, &verdict, &self.nsid);
        }
        let flags = [
            0x80 | (asked[0] & 0x01)
                | if verdict.authoritative { 4 } else { 0 }
                | if verdict.truncated { 2 } else { 0 },
            (asked[1] & 0x10) | (verdict.rcode & 0x0f) as u8, // CD as asked (RFC 4035 §3.1.6), never RA nor AD
        ];
        self.counters.answered(transport, query.qtype, verdict.rcode, verdict.truncated);
        Some(message.finish(flags, 1))
    }
}

/// The short cut for what is asked most: a name that has the type, nothing else that could decide, and nothing that
/// belongs with it. The same bytes as from the general path, which answers all else.
fn plain(look: Look<'_>, slot: &Slot, query: &Query, message: &mut Message<'_>) -> Option<Verdict> {
    if !matches!(query.qtype, rtype::A | rtype::AAAA | rtype::PTR | qtype::TXT) {
        return None;
    }
    let node = look.plain(slot)?;
    let set: RrView<'_> = node.set(query.qtype)?;
    if query.edns.is_some_and(|e| e.dnssec_ok) && node.set(rtype::RRSIG).is_some() {
        return None;
    }
    message.put(Section::Answer, HEADER, set).then(|| Verdict { authoritative: true, ..Verdict::default() })
}

/// The answer's limit by transport and EDNS (RFC 6891 §6.2.3: less than 512 counts as 512).
fn limit(query: &Query, transport: Transport) -> usize {
    match (transport, query.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, Some(e)) => usize::from(e.payload.min(UDP_PAYLOAD)).max(UDP_PLAIN),
        (Transport::Udp, None) => UDP_PLAIN,
    }
}

/// What is decided without looking at any zone.
fn screen(query: &Query) -> Option<Verdict> {
    if query.edns.is_some_and(|e| e.version != 0) {
        return Some(Verdict::code(rcode::BADVERS)); // RFC 6891 §6.1.3
    }
    if query.signed {
        return Some(Verdict::code(rcode::NOTAUTH)); // RFC 8945 §5.2: we hold no key
    }
    match query.qtype {
        _ if query.class != 1 => Some(Verdict { error: Some(20), ..Verdict::code(rcode::REFUSED) }),
        qtype::AXFR | qtype::IXFR => Some(Verdict { error: Some(18), ..Verdict::code(rcode::REFUSED) }),
        0 | qtype::OPT | qtype::TKEY | qtype::TSIG => Some(Verdict::code(rcode::FORMERR)),
        qtype::MAILA | qtype::MAILB => Some(Verdict::code(rcode::NOTIMP)),
        _ => None,
    }
}

fn put_opt(message: &mut Message<'_>, limit: usize, edns: &Edns, verdict: &Verdict, nsid: &[u8]) {
    let payload = UDP_PAYLOAD.to_be_bytes();
    let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
    let head = [0, 0, 41, payload[0], payload[1], (verdict.rcode >> 4) as u8, 0, dnssec_ok, 0];
    let code = verdict.error.unwrap_or(0).to_be_bytes();
    let error = [0, 15, 0, 2, code[0], code[1]];
    let error = if verdict.error.is_some() { &error[..] } else { &[] };
    message.put_opt(limit, head, &[if edns.nsid { nsid } else { &[] }, error]);
}
