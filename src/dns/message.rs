//! Writing an answer behind the question, in the buffer that the query came in.
//!
//! The question stays as it is, so its case is kept. RRsets are copied as they are stored and only their owner, a pointer
//! of two bytes, is set: every owner that an answer needs already stands in the message, as the question, as a suffix of it,
//! or in RDATA, where names are not compressed, but for the SOA of negative answers, to which nothing points.

mod named;

use crate::wire::name_end;
use zonekeeper_core::{
    answer::Negative,
    zone::{RrView, rdata_target, rtype},
};

/// Highest place that a compression pointer reaches (RFC 1035 §4.1.4).
const POINTER_MAX: usize = 0x3fff;
/// Most names whose addresses are looked up for the additional section. A referral needs those of all name servers below
/// the cut; more of them than these do not occur.
pub(crate) const MAX_TARGETS: usize = 64;

/// The sections after the question, by their place in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer = 6,
    Authority = 8,
    Additional = 10,
}

/// A message that is being written.
pub(crate) struct Message<'b> {
    buf: &'b mut [u8],
    len: usize,
    limit: usize,
    counts: [u16; 3],
}

/// Names in RDATA, by their place in the message.
pub(crate) struct Targets {
    places: [(u16, u8); MAX_TARGETS],
    len: usize,
}

impl Default for Targets {
    fn default() -> Targets {
        Targets { places: [(0, 0); MAX_TARGETS], len: 0 }
    }
}

impl Targets {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.places[..self.len].iter().map(|&(at, len)| (usize::from(at), usize::from(len)))
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }
}

/// The smallest TTL of the answer section, or of the authority section where there is no answer; 0 where there is neither.
pub(crate) fn min_ttl(message: &[u8]) -> u32 {
    read_ttls(message).unwrap_or(0)
}

fn read_ttls(m: &[u8]) -> Option<u32> {
    let count = |at: usize| Some(u16::from_be_bytes(*m.get(at..)?.first_chunk()?));
    let mut at = crate::wire::HEADER;
    for _ in 0..count(4)? {
        at = name_end(m, at)? + 4;
    }
    let records = match count(6)? {
        0 => count(8)?,
        n => n,
    };
    let mut least = None;
    for _ in 0..records {
        let fixed = name_end(m, at)?;
        let ttl = u32::from_be_bytes(*m.get(fixed + 4..)?.first_chunk()?);
        least = Some(least.map_or(ttl, |l: u32| l.min(ttl)));
        at = fixed + 10 + usize::from(count(fixed + 8)?);
    }
    least
}

/// SVCB, HTTPS (RFC 9460).
pub(crate) fn is_svcb(rtype: u16) -> bool {
    matches!(rtype, rtype::SVCB | rtype::HTTPS)
}

impl<'b> Message<'b> {
    /// A message whose first `len` bytes are header and question; nothing is written beyond `limit`.
    pub(crate) fn new(buf: &'b mut [u8], len: usize, limit: usize) -> Message<'b> {
        let limit = limit.min(buf.len());
        Message { buf, len, limit, counts: [0; 3] }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether anything stands in the answer section.
    pub(crate) fn has_answer(&self) -> bool {
        self.counts[0] > 0
    }

    /// Takes back all that was written behind the first `len` bytes.
    pub(crate) fn cut(&mut self, len: usize) {
        (self.len, self.counts) = (len, [0; 3]);
    }

    /// Bytes of the message.
    pub(crate) fn bytes(&self, at: usize, len: usize) -> &[u8] {
        self.buf.get(at..at + len).unwrap_or_default()
    }

    /// Copies an RRset; false, and nothing written, when it does not fit.
    pub(crate) fn put(&mut self, section: Section, owner: usize, set: RrView<'_>) -> bool {
        if owner > POINTER_MAX {
            return self.put_far(section, owner, set);
        }
        let wire = set.wire();
        let end = self.len + wire.len();
        if end > self.limit {
            return false;
        }
        self.buf[self.len..end].copy_from_slice(wire);
        if owner != crate::wire::HEADER {
            let pointer = (0xc000 | owner as u16).to_be_bytes();
            let mut at = self.len;
            for r in set.records() {
                self.buf[at..at + 2].copy_from_slice(&pointer);
                at += r.wire.len();
            }
        }
        self.len = end;
        self.count(section, set.count());
        true
    }

    /// The SOA of a negative answer, whose zone's apex stands at this place.
    pub(crate) fn put_negative(&mut self, apex: usize, soa: &Negative) -> bool {
        if apex > POINTER_MAX {
            return self.put_far(Section::Authority, apex, soa.whole());
        }
        let start = self.len;
        if !self.put(Section::Authority, apex, soa.short()) {
            return false;
        }
        let pointer = (0xc000 | apex as u16).to_be_bytes();
        for at in soa.pointers() {
            self.buf[start + at..start + at + 2].copy_from_slice(&pointer);
        }
        true
    }

    /// The owner lies beyond the reach of pointers (TCP only): it is copied in full.
    fn put_far(&mut self, section: Section, owner: usize, set: RrView<'_>) -> bool {
        let mut name = [0u8; 255];
        let Some(len) = self.name_len(owner) else { return false };
        name[..len].copy_from_slice(self.bytes(owner, len));
        let bytes = set.wire().len() + usize::from(set.count()) * (len - 2);
        if self.len + bytes > self.limit {
            return false;
        }
        for r in set.records() {
            self.push(&name[..len]);
            self.push(&r.wire[2..]);
        }
        self.count(section, set.count());
        true
    }

    /// A record made here: a synthesised CNAME.
    pub(crate) fn put_cname(&mut self, owner: usize, ttl: u32, target: &[u8]) -> bool {
        if self.len + 12 + target.len() > self.limit || owner > POINTER_MAX {
            return false;
        }
        self.push(&(0xc000 | owner as u16).to_be_bytes());
        self.push(&[0, 5, 0, 1]);
        self.push(&ttl.to_be_bytes());
        self.push(&(target.len() as u16).to_be_bytes());
        self.push(target);
        self.count(Section::Answer, 1);
        true
    }

    /// Notes the names in the RDATA of a set that was just put, if its type asks for their addresses.
    pub(crate) fn collect(&self, set: RrView<'_>, targets: &mut Targets) {
        if matches!(set.rtype(), rtype::CNAME | rtype::DNAME) {
            return; // asked for as such: nothing belongs with them
        }
        let mut at = self.len - set.wire().len(); // sets with targets are never put by put_far: they come first
        for r in set.records() {
            if let Some((offset, len)) = rdata_target(set.rtype(), r.rdata())
                && targets.len < MAX_TARGETS
                && let Some((place, len)) = self.target(at, set.rtype(), offset, len)
                && let Ok(place) = u16::try_from(place)
                && !targets.iter().any(|(p, l)| self.are_same((p, l), (usize::from(place), len)))
            {
                targets.places[targets.len] = (place, len as u8);
                targets.len += 1;
            }
            at += r.wire.len();
        }
    }

    /// Whether two names, each by its place and length, are the same: the question's has any case.
    pub(crate) fn are_same(&self, a: (usize, usize), b: (usize, usize)) -> bool {
        self.bytes(a.0, a.1).eq_ignore_ascii_case(self.bytes(b.0, b.1))
    }

    /// Where the name is that the record at a place leads to. The root leads nowhere, but stands for the owner in SVCB
    /// and HTTPS (RFC 9460 §2.5).
    fn target(&self, record: usize, rtype: u16, offset: usize, len: usize) -> Option<(usize, usize)> {
        if len > 1 {
            return Some((record + 12 + offset, len));
        }
        let pointer = self.bytes(record, 2).first_chunk::<2>().filter(|_| is_svcb(rtype))?;
        let owner = usize::from(u16::from_be_bytes(*pointer)) & POINTER_MAX;
        Some((owner, self.name_len(owner)?))
    }

    /// The OPT record; its room was left by the limit.
    pub(crate) fn put_opt(&mut self, limit: usize, head: [u8; 9], options: &[&[u8]]) {
        self.limit = limit.min(self.buf.len());
        let bytes: usize = options.iter().map(|o| o.len()).sum();
        if self.len + 11 + bytes > self.limit {
            return;
        }
        self.push(&head);
        self.push(&(bytes as u16).to_be_bytes());
        for o in options {
            self.push(o);
        }
        self.count(Section::Additional, 1);
    }

    /// A record behind all others; false, and nothing written, when it does not fit.
    pub(crate) fn put_last(&mut self, limit: usize, record: &[u8]) -> bool {
        self.limit = limit.min(self.buf.len());
        let fits = self.len + record.len() <= self.limit;
        if fits {
            self.push(record);
            self.count(Section::Additional, 1);
        }
        fits
    }

    /// Writes the header's flags and counts.
    pub(crate) fn finish(&mut self, flags: [u8; 2], questions: u16) -> usize {
        self.buf[2..4].copy_from_slice(&flags);
        self.buf[4..6].copy_from_slice(&questions.to_be_bytes());
        for (count, at) in self.counts.iter().zip([6, 8, 10]) {
            self.buf[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        self.len
    }

    /// Length of the uncompressed name at a place.
    fn name_len(&self, at: usize) -> Option<usize> {
        let mut end = at;
        loop {
            match *self.buf.get(end)? {
                0 => return (end - at < 255).then_some(end + 1 - at),
                n @ 1..=63 => end += 1 + usize::from(n),
                _ => return None,
            }
        }
    }

    fn count(&mut self, section: Section, n: u16) {
        self.counts[(section as usize - 6) / 2] += n;
    }

    /// Callers have checked the limit.
    fn push(&mut self, bytes: &[u8]) {
        self.buf[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}
