//! SVCB and HTTPS records at a service's name, completed with its addresses (RFC 9460 §7.3).

use super::{Prepared, ServiceAnswer, WireSet};
use crate::{
    name::Name,
    zone::{RrSet, RrView},
};
use alloc::{boxed::Box, vec::Vec};

const MANDATORY: u16 = 0;
const IPV4HINT: u16 = 4;
const IPV6HINT: u16 = 6;

/// The set with the hints of now; none when no record's target is its owner, or the service gives no fixed addresses.
pub(super) fn complete(
    set: RrView<'_>,
    v4: Option<&ServiceAnswer>,
    v6: Option<&ServiceAnswer>,
) -> Option<WireSet> {
    let fixed = |a: Option<&ServiceAnswer>| match a.map(ServiceAnswer::prepared) {
        Some(Prepared::Fixed(set)) => (addresses(set.view()), set.view().ttl()),
        Some(_) => (Vec::new(), 0),
        None => (Vec::new(), u32::MAX),
    };
    let ((v4, ttl4), (v6, ttl6)) = (fixed(v4), fixed(v6));
    let mut completed = false;
    let rdata: Vec<Box<[u8]>> = set
        .records()
        .map(|r| match own_target(r.rdata()) {
            Some(params) => {
                completed = true;
                with_hints(&r.rdata()[..3], params, &v4, &v6)
            }
            None => r.rdata().into(),
        })
        .collect();
    // Where a family answers in turns or not at all there is nothing to wait for: the record's own TTL holds.
    let ttl = [ttl4, ttl6].into_iter().filter(|t| *t > 0).fold(set.ttl(), u32::min);
    completed.then(|| WireSet::of(&RrSet { name: Name::root(), rtype: set.rtype(), ttl, rdata }))
}

fn addresses(set: RrView<'_>) -> Vec<u8> {
    set.records().flat_map(|r| r.rdata()).copied().collect()
}

/// The parameters of a record in ServiceMode whose target is `.`, which stands for its owner (RFC 9460 §2.5.2).
fn own_target(rdata: &[u8]) -> Option<&[u8]> {
    let (head, params) = rdata.split_first_chunk::<3>()?;
    (head[..2] != [0, 0] && head[2] == 0).then_some(params)
}

/// The record with these hints in place of any others, its parameters in order (RFC 9460 §2.2). What is not there is not
/// mandatory (§8).
fn with_hints(head: &[u8], mut params: &[u8], v4: &[u8], v6: &[u8]) -> Box<[u8]> {
    let mut all: Vec<(u16, &[u8])> = Vec::new();
    while let Some((h, rest)) = params.split_first_chunk::<4>() {
        let len = usize::from(u16::from_be_bytes([h[2], h[3]]));
        let Some((value, rest)) = rest.split_at_checked(len) else { break };
        all.push((u16::from_be_bytes([h[0], h[1]]), value));
        params = rest;
    }
    all.retain(|(key, _)| !matches!(*key, IPV4HINT | IPV6HINT));
    all.extend([(IPV4HINT, v4), (IPV6HINT, v6)].into_iter().filter(|(_, v)| !v.is_empty()));
    all.sort_by_key(|(key, _)| *key);
    let listed = all.iter().find(|(key, _)| *key == MANDATORY).map_or(&[][..], |(_, list)| list);
    let there = |k: &&[u8]| all.iter().any(|(key, _)| key.to_be_bytes() == **k);
    let mandatory = listed.chunks_exact(2).filter(there).flatten().copied().collect::<Vec<u8>>();
    let mut out = Vec::from(head);
    for (key, value) in &all {
        let value = if *key == MANDATORY { &mandatory } else { *value };
        if *key == MANDATORY && value.is_empty() {
            continue;
        }
        out.extend_from_slice(&key.to_be_bytes());
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
    }
    out.into()
}
