//! Where a signed zone's denials stand: for any place in the canonical order, the NSEC or NSEC3 record at it or before it.
//!
//! The zone's own order does the work. Canonical order is the order of NSEC (RFC 4034 §6.1), and base32hex keeps the order
//! of hashes (RFC 4648 §7), so NSEC3 records stand in the order of their hashes too, with other names between them. What is
//! added is small: for each chunk the last one before it that holds such a record, so that a search never walks.

use super::{Node, Zone, chunk::Chunk, rtype};
use alloc::{boxed::Box, sync::Arc, vec::Vec};

/// Most iterations of an NSEC3 hash. RFC 9276 §3.1 asks for 0; above 100 resolvers treat the zone as unsigned (§3.2).
pub const MAX_ITERATIONS: u16 = 100;
/// SHA-1, the only one there is (RFC 5155 §11).
const SHA1: u8 = 1;

/// How names are hashed (RFC 5155 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nsec3Param {
    /// Further rounds.
    pub iterations: u16,
    /// What is added in each.
    pub salt: Box<[u8]>,
}

/// The denials of one version of a signed zone.
#[derive(Debug, Clone)]
pub struct Denial {
    nsec3: Option<Nsec3Param>,
    /// For each chunk: whether a denial is in it.
    marks: Vec<bool>,
    /// For each chunk: the last one up to it with a denial, plus 1.
    last: Vec<u32>,
}

/// Iterations and salt of NSEC3 and NSEC3PARAM, which begin alike (RFC 5155 §3.2, §4.2).
pub(super) fn parameters(rdata: &[u8]) -> Option<(u16, &[u8])> {
    let (head, rest) = rdata.split_first_chunk::<5>()?;
    (head[0] == SHA1).then_some((u16::from_be_bytes([head[2], head[3]]), rest.get(..usize::from(head[4]))?))
}

impl Denial {
    /// The denials of a zone; none when it has no signatures or no chain. `old` is an earlier version of the same zone with
    /// its denials: chunks that both share are not looked at again.
    pub fn of(zone: &Zone, old: Option<(&Zone, &Denial)>) -> Option<Denial> {
        let apex = zone.find(&[]).filter(|n| n.set(rtype::RRSIG).is_some())?;
        let param = apex.set(rtype::NSEC3PARAM);
        // RFC 5155 §4.1: flags other than 0 are not for us.
        let param = param.and_then(|s| s.records().find(|r| r.rdata().get(1) == Some(&0)));
        let nsec3 = param.and_then(|r| parameters(r.rdata()));
        let nsec3 = nsec3.map(|(iterations, salt)| Nsec3Param { iterations, salt: salt.into() });
        if nsec3.is_none() {
            apex.set(rtype::NSEC)?;
        }
        let mut denial = Denial { nsec3, marks: Vec::with_capacity(zone.chunks.len()), last: Vec::new() };
        denial.mark(zone, old.filter(|(_, o)| o.nsec3 == denial.nsec3));
        let mut last = 0;
        for (i, mark) in (1..).zip(&denial.marks) {
            last = if *mark { i } else { last };
            denial.last.push(last);
        }
        Some(denial)
    }

    fn mark(&mut self, zone: &Zone, old: Option<(&Zone, &Denial)>) {
        let known: &[Arc<Chunk>] = old.map_or(&[], |(z, _)| &z.chunks);
        let mut i = 0;
        for chunk in &zone.chunks {
            while known.get(i).is_some_and(|k| !Arc::ptr_eq(k, chunk) && k.first() < chunk.first()) {
                i += 1;
            }
            let same = known.get(i).is_some_and(|k| Arc::ptr_eq(k, chunk));
            let mark = match old {
                Some((_, old)) if same => old.marks[i],
                _ => chunk.nodes().any(|n| self.is_denial(n)),
            };
            self.marks.push(mark);
        }
    }

    /// How names are hashed; none where NSEC is used.
    pub fn nsec3(&self) -> Option<&Nsec3Param> {
        self.nsec3.as_ref()
    }

    /// Type number of its records.
    pub fn rtype(&self) -> u16 {
        if self.nsec3.is_some() { rtype::NSEC3 } else { rtype::NSEC }
    }

    /// Whether a name has a record of this chain. There may be others for a while, when the signer changes salt.
    fn is_denial(&self, node: Node<'_>) -> bool {
        match (&self.nsec3, node.set(self.rtype())) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(p), Some(set)) => {
                set.records().any(|r| parameters(r.rdata()) == Some((p.iterations, &*p.salt)))
            }
        }
    }

    /// The record at a place in the canonical order or before it; before the first of all stands the last (RFC 4034
    /// §4.1.1, RFC 5155 §3.1.7). `zone` is the version that this was made of.
    pub fn at_or_before<'a>(&self, zone: &'a Zone, key: &[u8]) -> Option<Node<'a>> {
        let at = zone.chunks.partition_point(|c| c.first() <= key);
        let here = at.checked_sub(1).and_then(|i| {
            let chunk = &zone.chunks[i];
            let end = chunk.search(key).map_or_else(|i| i, |i| i + 1);
            self.marks.get(i).filter(|m| **m)?;
            (0..end).rev().map(|i| chunk.node(i)).find(|n| self.is_denial(*n))
        });
        here.or_else(|| self.last_of(zone, at.saturating_sub(1)))
            .or_else(|| self.last_of(zone, self.last.len()))
    }

    /// The last record of the chunks before this one.
    fn last_of<'a>(&self, zone: &'a Zone, end: usize) -> Option<Node<'a>> {
        let chunk = (*self.last.get(end.checked_sub(1)?)? as usize).checked_sub(1)?;
        let chunk = zone.chunks.get(chunk)?;
        (0..chunk.len()).rev().map(|i| chunk.node(i)).find(|n| self.is_denial(*n))
    }
}
