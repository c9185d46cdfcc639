//! The one function from query bytes to answer bytes, used by every transport.

mod batch;
mod chaos;
mod edns;
mod proof;
mod resolve;
mod tsig;

use crate::{
    cookie::{CLIENT, CookieSecrets},
    counters::{Counters, ZoneCounts},
    geo::{Geo, Memory},
    message::{Message, Section, Targets},
    rate::{Kind, Limit, RateLimit},
    tap::Tap,
    udp_sys::BUFFER,
    wire::{Bad, HEADER, Query, lower, qtype, rcode},
};
use arc_swap::ArcSwap;
pub use batch::{BATCH, Datagrams};
use batch::{Look, Plain};
use chaos::Chaos;
use edns::{Cookie, Opt};
use resolve::Resolver;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tsig::Unsigned;
use zonekeeper_core::{
    answer::DnsTable,
    zone::{Key, rtype},
};

/// Largest message over UDP that we send, unless [`Responder::with_payload`] says otherwise: above it fragmentation begins
/// (DNS flag day 2020).
pub const UDP_PAYLOAD: u16 = 1232;
/// The class in which a server is asked about itself (RFC 4892).
const CHAOS: u16 = 3;
/// Largest message over UDP to a client without EDNS (RFC 1035 §4.2.1).
const UDP_PLAIN: usize = 512;

/// What brought the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// At most [`UDP_PAYLOAD`] bytes unless it is set otherwise, 512 without EDNS.
    Udp,
    /// At most 65535 bytes.
    Tcp,
    /// DNS over TLS (RFC 7858).
    Tls,
    /// DNS over HTTPS (RFC 8484).
    Https,
    /// DNS over QUIC (RFC 9250).
    Quic,
}

impl Transport {
    /// All of them, in the order of their counters.
    pub const ALL: [Transport; 5] =
        [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Https, Transport::Quic];

    /// Name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Https => "https",
            Transport::Quic => "quic",
        }
    }

    /// Whether a client is told how long its connection may be idle: RFC 7828; RFC 9250 §5.5.2 forbids it for QUIC, and
    /// in HTTP the connection is not ours to talk about.
    fn has_connection(self) -> bool {
        matches!(self, Transport::Tcp | Transport::Tls)
    }

    fn is_encrypted(self) -> bool {
        !matches!(self, Transport::Udp | Transport::Tcp)
    }
}

/// What the node knows about itself; `control` writes it.
#[derive(Debug, Default)]
pub struct DnsFlags {
    /// The published data is older than the operator's limit, or the node hears others but no leader: answers carry extended error 3 (RFC 8914 §4.4).
    pub stale: AtomicBool,
    /// The stale policy is to answer SERVFAIL, so that resolvers move on.
    pub servfail: AtomicBool,
    /// What is known of clients' whereabouts; none: no database.
    pub geo: ArcSwap<Option<Geo>>,
    /// The secrets of DNS cookies. At first a random one, good for one server; all servers of a zone should have the same.
    pub secrets: Secrets,
}

/// Secrets that may be replaced while the server runs; by default a random one.
#[derive(Debug)]
pub struct Secrets(pub ArcSwap<Option<CookieSecrets>>);

impl Default for Secrets {
    fn default() -> Secrets {
        Secrets(ArcSwap::from_pointee(CookieSecrets::random()))
    }
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

/// What queries are answered from.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The data.
    pub table: &'a DnsTable,
    /// What the node knows about itself.
    pub condition: Condition,
    /// Cookies are made and checked with these; none: they are ignored.
    pub secrets: Option<&'a CookieSecrets>,
    /// Clients are steered by what these databases know; none: by their networks alone.
    pub geo: Option<&'a Geo>,
    /// How the queries came.
    pub transport: Transport,
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
    /// The clients that were looked up last.
    memory: Memory,
}

/// Who is steered.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    addr: Option<IpAddr>,
    geo: Option<&'a Geo>,
}

impl Scratch {
    /// The turn that a weighted answer will have.
    fn next_turn(&self, slot: u32) -> u32 {
        self.turns.get(slot as usize).copied().unwrap_or(0)
    }

    /// The turn of a weighted answer; the next one is another.
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

/// What all responders of a server are made with.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    pub(crate) nsid: Vec<u8>,
    pub(crate) version: String,
    pub(crate) payload: u16,
    pub(crate) idle: Duration,
    pub(crate) rate: Option<Arc<RateLimit>>,
    pub(crate) tap: Option<Tap>,
}

impl Setup {
    pub(crate) fn responder(&self, counters: Arc<Counters>) -> Responder {
        let mut responder = Responder::new(&self.nsid, counters);
        responder.tap.clone_from(&self.tap);
        let responder = responder.with_version(&self.version).with_payload(self.payload);
        responder.with_keepalive(self.idle).with_rate(self.rate.clone())
    }
}

/// Answers queries; one for each worker.
pub struct Responder {
    scratch: Scratch,
    slots: Box<[Slot]>,
    /// The NSID option as it is sent; empty: none.
    nsid: Vec<u8>,
    chaos: Chaos,
    payload: u16,
    keepalive: Option<u16>,
    rate: Option<Arc<RateLimit>>,
    tap: Option<Tap>,
    /// Answers that were limited.
    limited: u32,
    counters: Arc<Counters>,
    /// Those of the zones, in the order of the table's.
    zones: Arc<ZoneCounts>,
}

/// An answer's code and flags, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Verdict {
    pub(crate) rcode: u16,
    pub(crate) authoritative: bool,
    pub(crate) truncated: bool,
    /// Extended DNS error (RFC 8914 §4).
    pub(crate) error: Option<u16>,
    /// Clients that share so many bits of their address get the same answer; 0: all do.
    pub(crate) scope: u8,
}

impl Verdict {
    pub(crate) fn code(rcode: u16) -> Verdict {
        Verdict { rcode, ..Verdict::default() }
    }
}

impl Responder {
    /// A responder that names itself `nsid` when asked (RFC 5001, and RFC 4892 `id.server`; empty: not at all; at most
    /// 128 bytes are used).
    pub fn new(nsid: &[u8], counters: Arc<Counters>) -> Responder {
        let scratch = Scratch {
            name: [0; 256],
            other: [0; 256],
            key: Key::default(),
            targets: Targets::default(),
            turns: Vec::new(),
            memory: Memory::default(),
        };
        let (mut option, mut chaos) = (Vec::new(), Chaos::default());
        if !nsid.is_empty() {
            let nsid = &nsid[..nsid.len().min(128)];
            option.extend_from_slice(&[0, 3, 0, nsid.len() as u8]);
            option.extend_from_slice(nsid);
            chaos.identity = chaos::record(nsid);
        }
        let slot = || Slot { name: [0; 256], key: Key::default() };
        Responder {
            scratch,
            slots: (0..BATCH).map(|_| slot()).collect(),
            nsid: option,
            chaos,
            payload: UDP_PAYLOAD,
            keepalive: None,
            rate: None,
            tap: None,
            limited: 0,
            zones: Arc::default(),
            counters,
        }
    }

    /// Says this as `version.bind` (at most 255 bytes; empty: refuses).
    pub fn with_version(mut self, version: &str) -> Responder {
        self.chaos.version = if version.is_empty() { Vec::new() } else { chaos::record(version.as_bytes()) };
        self
    }

    /// Sends at most so many bytes over UDP, 512 to 4096, and says so to clients with EDNS (RFC 6891 §6.2.5).
    pub fn with_payload(mut self, payload: u16) -> Responder {
        self.payload = payload.clamp(UDP_PLAIN as u16, BUFFER as u16);
        self
    }

    /// Tells clients over TCP and TLS that ask how long their connection may be idle (RFC 7828).
    pub fn with_keepalive(mut self, idle: Duration) -> Responder {
        self.keepalive = Some((idle.as_millis() / 100).min(u128::from(u16::MAX)) as u16);
        self
    }

    /// Limits answers over UDP.
    pub fn with_rate(mut self, rate: Option<Arc<RateLimit>>) -> Responder {
        self.rate = rate;
        self
    }

    /// Makes room for the counters of zones and weighted answers; call it when the table has changed.
    pub fn prepare(&mut self, table: &DnsTable) {
        if self.scratch.turns.len() < table.slots() {
            self.scratch.turns.resize(table.slots(), 0);
        }
        if self.zones.origins() != table.origins() {
            self.zones = self.counters.zones_of(table);
        }
    }

    /// Answers the query in the first `len` bytes of `buf` in place, without cookies and limits. None: no answer is sent.
    /// Allocates nothing.
    pub fn answer(
        &mut self,
        table: &DnsTable,
        condition: Condition,
        transport: Transport,
        buf: &mut [u8],
        len: usize,
    ) -> Option<usize> {
        self.answer_to(&View { table, condition, secrets: None, geo: None, transport }, None, buf, len)
    }

    /// Answers a client, in place.
    pub fn answer_to(
        &mut self,
        view: &View<'_>,
        peer: Option<SocketAddr>,
        buf: &mut [u8],
        len: usize,
    ) -> Option<usize> {
        let (query, mut look) = self.look(view.table, 0, buf.get(..len)?);
        if let Some(look) = &mut look {
            look.locate();
        }
        self.answer_read(view, peer, 0, (query, look), buf, len)
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
        self.finish(
            &View { table, condition, secrets: None, geo: None, transport },
            None,
            0,
            (query, None),
            buf,
        )
    }

    /// Answers the query that was read into the slot `i`, and logs it.
    fn answer_read(
        &mut self,
        view: &View<'_>,
        peer: Option<SocketAddr>,
        i: usize,
        read: (Result<Query, Bad>, Option<Look<'_>>),
        buf: &mut [u8],
        len: usize,
    ) -> Option<usize> {
        let taken = self.tap.as_mut().and_then(|tap| tap.take(&buf[..len]));
        let reply = self.finish(view, peer, i, read, buf)?;
        if let (Some(tap), Some(taken)) = (&self.tap, taken) {
            tap.give(taken, view.transport, peer, &buf[..reply]);
        }
        Some(reply)
    }

    /// Answers the query that was read into the slot `i`.
    fn finish(
        &mut self,
        view: &View<'_>,
        peer: Option<SocketAddr>,
        i: usize,
        (query, look): (Result<Query, Bad>, Option<Look<'_>>),
        buf: &mut [u8],
    ) -> Option<usize> {
        let query = match query {
            Ok(query) => query,
            Err(bad) => return self.finish_bad(view, peer, bad, buf),
        };
        if view.transport == Transport::Quic && query.edns.is_some_and(|e| e.keepalive) {
            self.counters.dropped();
            return None; // RFC 9250 §5.5.2: that ends the connection
        }
        let asked = [buf[2], buf[3]];
        let cookie = Cookie::of(view, peer, query.edns, buf);
        let tsig = (query.tsig != 0).then(|| Unsigned::of(buf, usize::from(query.tsig)));
        let limit = limit(&query, view.transport, self.payload).min(buf.len());
        let mut opt = query.edns.map(|e| Opt {
            payload: self.payload,
            ..Opt::new(e, cookie, view.transport, &self.nsid, self.keepalive)
        });
        if let (Some(opt), Some(Some(tsig))) = (&mut opt, &tsig) {
            opt.behind = tsig.bytes().len();
        }
        let reserve = opt.as_ref().map_or(0, Opt::reserve);
        let mut message = Message::new(buf, query.end(), limit.saturating_sub(reserve));
        let slot = &self.slots[i];
        let mut verdict = screen(&query, cookie, tsig.as_ref()).unwrap_or_else(|| {
            let name = &slot.name[..query.name_len];
            if query.class == CHAOS {
                return self.chaos.answer(&query, name, &mut message);
            }
            if view.condition.servfail {
                return Verdict { error: Some(3), ..Verdict::code(rcode::SERVFAIL) };
            }
            if let Some(verdict) = look.and_then(|l| plain(l, slot, &query, &mut message)) {
                return verdict;
            }
            self.scratch.name[..query.name_len].copy_from_slice(name);
            let dnssec_ok = query.edns.is_some_and(|e| e.dnssec_ok);
            let subnet = query.edns.and_then(|e| e.subnet?.client());
            let client = Client { addr: subnet.or(peer.map(|p| p.ip())), geo: view.geo };
            let scratch = &mut self.scratch;
            let resolver = Resolver::new(view.table, scratch, &mut message, client, query.qtype, dnssec_ok);
            resolver.run(query.name_len)
        });
        if view.condition.stale && verdict.error.is_none() {
            verdict.error = Some(if verdict.rcode == rcode::NXDOMAIN { 19 } else { 3 });
        }
        if let Some(rate) = self.rate.as_deref().filter(|_| view.transport == Transport::Udp && !cookie.valid)
            && let Some(ip) = peer.map(|p| p.ip())
        {
            match rate.count(ip, kind(&verdict, &message), &mut self.limited) {
                Limit::Send => {}
                Limit::Drop => {
                    self.counters.withheld();
                    return None;
                }
                Limit::Slip => {
                    message.cut(query.end());
                    verdict = slip(verdict, cookie);
                    self.counters.slipped();
                }
            }
        }
        if let Some(opt) = opt {
            opt.put(&mut message, limit, &verdict);
        }
        if let Some(Some(tsig)) = tsig
            && verdict.rcode == rcode::NOTAUTH
        {
            verdict.truncated = !message.put_last(limit, tsig.bytes());
        }
        let flags = [
            0x80 | (asked[0] & 0x01)
                | if verdict.authoritative { 4 } else { 0 }
                | if verdict.truncated { 2 } else { 0 },
            (asked[1] & 0x10) | (verdict.rcode & 0x0f) as u8, // CD as asked (RFC 4035 §3.1.6), never RA nor AD
        ];
        self.counters.answered(view.transport, query.qtype, verdict.rcode, verdict.truncated);
        if let Some(look) = look {
            self.zones.answered(look.number());
        }
        Some(message.finish(flags, query.questions))
    }

    /// What is no query gets a header and an OPT record for its own, or nothing.
    fn finish_bad(
        &mut self,
        view: &View<'_>,
        peer: Option<SocketAddr>,
        bad: Bad,
        buf: &mut [u8],
    ) -> Option<usize> {
        let Bad::Code(code, edns) = bad else {
            self.counters.dropped();
            return None;
        };
        let cookie = Cookie::of(view, peer, edns, buf);
        if let (Some(rate), Some(peer), Transport::Udp, false) =
            (&self.rate, peer, view.transport, cookie.valid)
            && rate.count(peer.ip(), Kind::Error, &mut self.limited) == Limit::Drop
        {
            self.counters.withheld();
            return None;
        }
        self.counters.answered(view.transport, 0, code, false);
        let flags = [0x80 | (buf[2] & 0x79), code as u8];
        let limit = buf.len().min(UDP_PLAIN);
        let mut message = Message::new(buf, HEADER, limit);
        if let Some(edns) = edns {
            let opt = Opt { payload: self.payload, ..Opt::new(edns, cookie, view.transport, &[], None) };
            opt.put(&mut message, limit, &Verdict::code(code));
        }
        Some(message.finish(flags, 0))
    }
}

/// The rate that an answer counts for.
fn kind(verdict: &Verdict, message: &Message<'_>) -> Kind {
    match verdict.rcode {
        0 if message.has_answer() => Kind::Positive,
        0 if verdict.authoritative => Kind::NoData,
        0 => Kind::Referral,
        rcode::NXDOMAIN => Kind::NxDomain,
        _ => Kind::Error,
    }
}

/// What goes out in place of an answer that was limited: who knows cookies is asked for the one that comes along (RFC
/// 7873 §5.2.3), who does not is sent to TCP.
fn slip(verdict: Verdict, cookie: Cookie) -> Verdict {
    match cookie.answer {
        Some(_) => Verdict::code(rcode::BADCOOKIE),
        None => Verdict { truncated: true, error: None, ..verdict },
    }
}

/// The short cut for what is asked most: a name that has the type, or one without it, or one that does not exist, where
/// nothing else could decide and nothing belongs with it. The same bytes as from the general path, which answers all else.
fn plain(look: Look<'_>, slot: &Slot, query: &Query, message: &mut Message<'_>) -> Option<Verdict> {
    let dnssec_ok = query.edns.is_some_and(|e| e.dnssec_ok) && look.is_signed();
    let verdict = Verdict { authoritative: true, ..Verdict::default() };
    let negative = |message: &mut Message<'_>| {
        let apex = HEADER + look.origin(query.name_len);
        !dnssec_ok && look.soa().is_some_and(|soa| message.put_negative(apex, soa))
    };
    match look.plain(slot)? {
        Plain::Node(node) => match node.set(query.qtype) {
            Some(_) if dnssec_ok && node.set(rtype::RRSIG).is_some() => None,
            Some(set) => {
                (is_alone(query.qtype) && message.put(Section::Answer, HEADER, set)).then_some(verdict)
            }
            None if query.qtype == rtype::ANY => None,
            None => (node.sets().all(|s| is_common(s.rtype())) && negative(message)).then_some(verdict),
        },
        Plain::Missing => negative(message).then_some(Verdict { rcode: rcode::NXDOMAIN, ..verdict }),
    }
}

/// Types with which nothing else belongs.
fn is_alone(of: u16) -> bool {
    matches!(of, rtype::A | rtype::AAAA | rtype::PTR | qtype::TXT)
}

/// Types that say nothing about questions for others.
fn is_common(of: u16) -> bool {
    is_alone(of) || matches!(of, rtype::MX | rtype::SRV | rtype::SVCB | rtype::HTTPS)
}

/// The answer's limit by transport and EDNS (RFC 6891 §6.2.3: less than 512 counts as 512).
fn limit(query: &Query, transport: Transport, payload: u16) -> usize {
    match (transport, query.edns) {
        (Transport::Udp, Some(e)) => usize::from(e.payload.min(payload)).max(UDP_PLAIN),
        (Transport::Udp, None) => UDP_PLAIN,
        _ => usize::from(u16::MAX),
    }
}

/// What is decided without looking at any zone.
fn screen(query: &Query, cookie: Cookie, tsig: Option<&Option<Unsigned>>) -> Option<Verdict> {
    if query.edns.is_some_and(|e| e.version != 0) {
        return Some(Verdict::code(rcode::BADVERS)); // RFC 6891 §6.1.3
    }
    if let Some(tsig) = tsig {
        // RFC 8945 §5.2: what cannot be read; §5.2.1: we hold no key
        return Some(Verdict::code(if tsig.is_some() { rcode::NOTAUTH } else { rcode::FORMERR }));
    }
    if query.questions == 0 {
        // RFC 7873 §5.4: a server cookie is asked for, or whether the one that came along is good.
        let with_ours = query.edns.and_then(|e| e.cookie).is_some_and(|(_, len)| usize::from(len) > CLIENT);
        return Some(Verdict::code(match cookie.answer {
            None => rcode::FORMERR,
            Some(_) if with_ours && !cookie.valid => rcode::BADCOOKIE,
            Some(_) => 0,
        }));
    }
    match query.qtype {
        _ if query.class == CHAOS => None,
        _ if query.class != 1 => Some(Verdict { error: Some(20), ..Verdict::code(rcode::REFUSED) }),
        qtype::AXFR | qtype::IXFR => Some(Verdict { error: Some(18), ..Verdict::code(rcode::REFUSED) }),
        0 | qtype::OPT | qtype::TKEY | qtype::TSIG => Some(Verdict::code(rcode::FORMERR)),
        qtype::MAILA | qtype::MAILB => Some(Verdict { error: Some(21), ..Verdict::code(rcode::NOTIMP) }),
        _ => None,
    }
}
