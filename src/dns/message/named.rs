//! Records whose TTL or owner is not what is stored: signatures, and denials with owners that no question names.

use super::{Message, POINTER_MAX, Section};
use zonekeeper_core::zone::{Node, Record, RrView, rtype};

/// Where a record's owner is written.
#[derive(Clone, Copy)]
enum Owner<'n> {
    /// It stands in the message.
    At(usize),
    /// Labels, and the place of the zone's apex in the message.
    Below(&'n [u8], usize),
}

/// The type that a signature covers.
fn covered(signature: &Record<'_>) -> u16 {
    signature.rdata().first_chunk::<2>().map_or(0, |b| u16::from_be_bytes(*b))
}

impl Message<'_> {
    /// The signatures over a set that was just put, with its TTL (RFC 4034 §3). False, and nothing written, when they do
    /// not fit.
    pub(crate) fn put_signatures(
        &mut self,
        section: Section,
        owner: usize,
        node: Node<'_>,
        set: RrView<'_>,
    ) -> bool {
        self.put_records(section, Owner::At(owner), signatures(node, set))
    }

    /// All signatures of a name, each with the TTL of what it covers.
    pub(crate) fn put_all_signatures(&mut self, section: Section, owner: usize, node: Node<'_>) -> bool {
        let Some(set) = node.set(rtype::RRSIG) else { return false };
        let ttl = |r: &Record<'_>| node.set(covered(r)).map_or(set.ttl(), |s| s.ttl());
        self.put_records(section, Owner::At(owner), set.records().map(|r| (r, ttl(&r))))
    }

    /// A set with another TTL.
    pub(crate) fn put_with_ttl(&mut self, section: Section, owner: usize, set: RrView<'_>, ttl: u32) -> bool {
        self.put_records(section, Owner::At(owner), set.records().map(|r| (r, ttl)))
    }

    /// A set at a name that is not in the message, with its signatures. `labels` are those below the zone's apex, which
    /// stands at `apex`.
    pub(crate) fn put_named(
        &mut self,
        section: Section,
        labels: &[u8],
        apex: usize,
        node: Node<'_>,
        rtype: u16,
    ) -> bool {
        let Some(set) = node.set(rtype) else { return true };
        let records = set.records().map(|r| (r, set.ttl())).chain(signatures(node, set));
        self.put_records(section, Owner::Below(labels, apex), records)
    }

    /// All of them, or nothing.
    fn put_records<'r>(
        &mut self,
        section: Section,
        mut owner: Owner<'_>,
        records: impl Iterator<Item = (Record<'r>, u32)>,
    ) -> bool {
        let (start, mut n) = (self.len, 0);
        for (record, ttl) in records {
            let at = self.len;
            let whole = self.put_owner(owner)
                && self.try_push(&record.wire[2..6])
                && self.try_push(&ttl.to_be_bytes())
                && self.try_push(&record.wire[10..]);
            if !whole {
                self.len = start;
                return false;
            }
            if matches!(owner, Owner::Below(..)) && at <= POINTER_MAX {
                owner = Owner::At(at);
            }
            n += 1;
        }
        self.count(section, n);
        true
    }

    fn put_owner(&mut self, owner: Owner<'_>) -> bool {
        let at = match owner {
            Owner::At(at) => at,
            Owner::Below(labels, apex) if self.try_push(labels) => apex,
            Owner::Below(..) => return false,
        };
        if at <= POINTER_MAX {
            return self.try_push(&(0xc000 | at as u16).to_be_bytes());
        }
        let (mut name, mut len) = ([0u8; 255], 0);
        while let Some(n) = self.buf.get(at + len).map(|n| usize::from(*n)) {
            if n >= 0xc0 {
                return false; // owners stand whole, but for those that put_named writes, and these are near
            }
            let Some(to) = name.get_mut(len..=len + n) else { return false };
            to.copy_from_slice(&self.buf[at + len..=at + len + n]);
            len += 1 + n;
            if n == 0 {
                break;
            }
        }
        self.try_push(&name[..len])
    }

    fn try_push(&mut self, bytes: &[u8]) -> bool {
        let fits = self.len + bytes.len() <= self.limit;
        if fits {
            self.push(bytes);
        }
        fits
    }
}

fn signatures<'r>(node: Node<'r>, set: RrView<'r>) -> impl Iterator<Item = (Record<'r>, u32)> {
    let (rtype, ttl) = (set.rtype(), set.ttl());
    let all = node.set(rtype::RRSIG).into_iter().flat_map(|s| s.records());
    all.filter(move |r| covered(r) == rtype).map(move |r| (r, ttl))
}
