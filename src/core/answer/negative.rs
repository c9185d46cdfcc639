//! The SOA of negative answers, prepared when a zone is published.

use super::WireSet;
use crate::zone::{RrSet, RrView, rdata_target, rtype};
use alloc::{boxed::Box, vec::Vec};

/// The SOA, its TTL the smaller of its own and its minimum (RFC 2308 §3).
///
/// The apex stands in every message that has this record, so names in it that end there can be compressed: how long a
/// pointer is does not depend on where it leads. Where to is for the one who writes it to fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negative {
    whole: WireSet,
    short: WireSet,
    /// Places in `short` of pointers to the apex.
    pointers: Vec<u16>,
}

impl Negative {
    /// Prepares the SOA of the zone at this origin.
    pub(super) fn of(mut soa: RrSet) -> Option<Negative> {
        let rdata = soa.rdata.first()?;
        let minimum = u32::from_be_bytes(*rdata.last_chunk::<4>()?);
        soa.ttl = soa.ttl.min(minimum);
        let (mut short, mut pointers, mut at) = (Vec::new(), Vec::new(), 0);
        for _ in ["the primary", "who is responsible"] {
            let (_, len) = rdata_target(rtype::CNAME, rdata.get(at..)?)?;
            let name = &rdata[at..at + len];
            match below(name, soa.name.wire()) {
                Some(labels) => {
                    short.extend_from_slice(&name[..labels]);
                    pointers.push((HEAD + short.len()) as u16);
                    short.extend_from_slice(&POINTER);
                }
                None => short.extend_from_slice(name),
            }
            at += len;
        }
        short.extend_from_slice(rdata.get(at..)?);
        let whole = WireSet::of(&soa);
        soa.rdata = [Box::from(short)].into();
        Some(Negative { whole, short: WireSet::of(&soa), pointers })
    }

    /// The record without compression.
    pub fn whole(&self) -> RrView<'_> {
        self.whole.view()
    }

    /// The record with pointers to the apex at [`Negative::pointers`].
    pub fn short(&self) -> RrView<'_> {
        self.short.view()
    }

    /// Places in the bytes of [`Negative::short`].
    pub fn pointers(&self) -> impl Iterator<Item = usize> + '_ {
        self.pointers.iter().map(|p| usize::from(*p))
    }
}

/// Bytes of a record before its RDATA, its owner a pointer.
const HEAD: usize = 12;
const POINTER: [u8; 2] = [0xc0, 0x0c];

/// Bytes of the labels before `suffix`, where the name ends with it; none for the root, which is shorter than a pointer.
fn below(name: &[u8], suffix: &[u8]) -> Option<usize> {
    let mut at = 0;
    while name.len() - at > suffix.len() {
        at += 1 + usize::from(name[at]);
    }
    (suffix.len() > 1 && name.get(at..) == Some(suffix)).then_some(at)
}
