//! RRsets and what may stand in them.

use super::{MAX_ITERATIONS, chunk::RECORD_HEAD, denial};
use crate::name::Name;
use alloc::{boxed::Box, vec::Vec};
use serde::{Deserialize, Serialize};

/// Type numbers that the zone's rules know.
pub mod rtype {
    #![allow(missing_docs)] // the constants' names are the types' names
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const MX: u16 = 15;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const NAPTR: u16 = 35;
    pub const DNAME: u16 = 39;
    pub const OPT: u16 = 41;
    pub const DS: u16 = 43;
    pub const RRSIG: u16 = 46;
    pub const NSEC: u16 = 47;
    pub const DNSKEY: u16 = 48;
    pub const NSEC3: u16 = 50;
    pub const NSEC3PARAM: u16 = 51;
    pub const SVCB: u16 = 64;
    pub const HTTPS: u16 = 65;
    pub const ANY: u16 = 255;
    /// Not for the wire: a name whose addresses are answered as the owner's (a number for private use, RFC 6895 §3.1).
    pub const ALIAS: u16 = 65401;
}

/// Largest RRset on the wire: a message of 65535 bytes less the header, the longest question, and OPT with its options.
const MAX_WIRE: usize = 65_000;
/// Largest TTL (RFC 2181 §8).
const MAX_TTL: u32 = i32::MAX as u32;

/// A set of records with one owner name and type, RDATA in uncompressed wire form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RrSet {
    /// Owner name.
    pub name: Name,
    /// RR type number.
    pub rtype: u16,
    /// TTL in seconds (RFC 2181 §5.2: one for the whole set; §8: at most 2^31 - 1).
    pub ttl: u32,
    /// RDATA of each record, sorted, without duplicates.
    pub rdata: Vec<Box<[u8]>>,
}

/// Why a zone refuses a record, or is not fit to be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each message tells its fields
pub enum ZoneError {
    #[error("{name} type {rtype}: no records; remove the RRset instead")]
    Empty { name: Name, rtype: u16 },
    #[error("{name} type {rtype}: TTL {ttl} is above {MAX_TTL} (RFC 2181 §8)")]
    Ttl { name: Name, rtype: u16, ttl: u32 },
    #[error("{name} type {rtype}: {bytes} bytes on the wire; an RRset may have {MAX_WIRE}")]
    Large { name: Name, rtype: u16, bytes: usize },
    #[error("{name} type {rtype}: records are not sorted or not unique")]
    Order { name: Name, rtype: u16 },
    #[error("{name} type {rtype}: {count} records, but only one is allowed")]
    Single { name: Name, rtype: u16, count: usize },
    #[error("{name} type {rtype}: this type is for queries and cannot be stored")]
    Meta { name: Name, rtype: u16 },
    #[error("{name} type {rtype}: RDATA is malformed")]
    Rdata { name: Name, rtype: u16 },
    #[error(
        "{name} type {rtype}: {iterations} NSEC3 iterations; at most {MAX_ITERATIONS} are served, and 0 is best \
         (RFC 9276 §3.1): sign the zone anew"
    )]
    Iterations { name: Name, rtype: u16, iterations: u16 },
    #[error("{name} is outside the zone {origin}")]
    Outside { name: Name, origin: Name },
    #[error("{0} has an SOA, which belongs to the zone's apex only")]
    SoaBelowApex(Name),
    #[error("{0} has a DS at the apex; it belongs to the parent zone")]
    DsAtApex(Name),
    #[error("{name} cannot have type {rtype} beside type {other}: a CNAME stands alone (RFC 1034 §3.6.2)")]
    CnameNotAlone { name: Name, rtype: u16, other: u16 },
    #[error("{name} cannot have addresses of its own beside an ALIAS, which brings those of another name")]
    AliasNotAlone { name: Name },
    #[error("zone {origin} has no {what} at its apex; add one")]
    Apex { origin: Name, what: &'static str },
}

impl RrSet {
    /// Sorts the records, drops duplicates and checks the set.
    pub fn new(name: Name, rtype: u16, ttl: u32, mut rdata: Vec<Box<[u8]>>) -> Result<RrSet, ZoneError> {
        rdata.sort_unstable();
        rdata.dedup();
        let set = RrSet { name, rtype, ttl, rdata };
        set.check()?;
        Ok(set)
    }

    /// The rules that hold for an RRset in any zone.
    pub fn check(&self) -> Result<(), ZoneError> {
        let (name, rtype) = (|| self.name.clone(), self.rtype);
        let bytes: usize = self.rdata.iter().map(|r| r.len() + RECORD_HEAD).sum();
        match rtype {
            _ if self.rdata.is_empty() => Err(ZoneError::Empty { name: name(), rtype }),
            0 | rtype::OPT | 128..=255 => Err(ZoneError::Meta { name: name(), rtype }), // RFC 6895 §3.1
            _ if self.ttl > MAX_TTL => Err(ZoneError::Ttl { name: name(), rtype, ttl: self.ttl }),
            _ if bytes > MAX_WIRE => Err(ZoneError::Large { name: name(), rtype, bytes }),
            rtype::SOA | rtype::CNAME | rtype::DNAME | rtype::ALIAS if self.rdata.len() > 1 => {
                Err(ZoneError::Single { name: name(), rtype, count: self.rdata.len() })
            }
            _ if self.rdata.windows(2).any(|w| w[0] >= w[1]) => Err(ZoneError::Order { name: name(), rtype }),
            _ if !self.rdata.iter().all(|r| rdata_is_sound(rtype, r)) => {
                Err(ZoneError::Rdata { name: name(), rtype })
            }
            rtype::NSEC3 | rtype::NSEC3PARAM => self.check_iterations(),
            _ => Ok(()),
        }
    }

    /// Each answer that denies something hashes two or three names so often.
    fn check_iterations(&self) -> Result<(), ZoneError> {
        let most = self.rdata.iter().filter_map(|r| denial::parameters(r)).map(|(n, _)| n).max();
        match most.filter(|n| *n > MAX_ITERATIONS) {
            Some(iterations) => {
                Err(ZoneError::Iterations { name: self.name.clone(), rtype: self.rtype, iterations })
            }
            None => Ok(()),
        }
    }

    /// All records as they go on the wire, each owner a pointer to the question.
    pub fn wire(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.rdata.iter().map(|r| r.len() + RECORD_HEAD).sum());
        for rdata in &self.rdata {
            out.extend_from_slice(&[0xc0, 0x0c]);
            out.extend_from_slice(&self.rtype.to_be_bytes());
            out.extend_from_slice(&[0, 1]);
            out.extend_from_slice(&self.ttl.to_be_bytes());
            out.extend_from_slice(&(rdata.len() as u16).to_be_bytes());
            out.extend_from_slice(rdata);
        }
        out
    }
}

/// Length of the uncompressed name at the start of `b`.
fn name_len(b: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *b.get(at)? {
            0 => return (at < 255).then_some(at + 1),
            n @ 1..=63 => at += 1 + usize::from(n),
            _ => return None,
        }
    }
}

fn is_name(b: &[u8]) -> bool {
    name_len(b) == Some(b.len())
}

/// The shapes that answers rely on; everything else is opaque here (RFC 3597) and was checked by its reader.
fn rdata_is_sound(rtype: u16, r: &[u8]) -> bool {
    match rtype {
        rtype::A => r.len() == 4,
        rtype::AAAA => r.len() == 16,
        rtype::NS | rtype::CNAME | rtype::DNAME | rtype::PTR | rtype::ALIAS => is_name(r),
        rtype::MX => r.len() > 2 && is_name(&r[2..]),
        rtype::SRV => r.len() > 6 && is_name(&r[6..]),
        rtype::SVCB | rtype::HTTPS => r.len() > 2 && name_len(&r[2..]).is_some(),
        rtype::SOA => soa_serial_at(r).is_some(),
        _ => true,
    }
}

/// The name in RDATA whose addresses belong in the additional section (NS, MX, SRV, SVCB, HTTPS), or to which an alias
/// leads (CNAME, DNAME, ALIAS): its place in the RDATA and its length.
pub fn rdata_target(rtype: u16, rdata: &[u8]) -> Option<(usize, usize)> {
    let at = match rtype {
        rtype::NS | rtype::CNAME | rtype::DNAME | rtype::ALIAS => 0,
        rtype::MX | rtype::SVCB | rtype::HTTPS => 2,
        rtype::SRV => 6,
        _ => return None,
    };
    Some((at, name_len(rdata.get(at..)?)?))
}

fn soa_serial_at(r: &[u8]) -> Option<usize> {
    let mname = name_len(r)?;
    let at = mname + name_len(&r[mname..])?;
    (r.len() == at + 20).then_some(at)
}

pub(super) fn soa_serial(rdata: &[Box<[u8]>]) -> u32 {
    let of =
        |r: &[u8]| soa_serial_at(r).map(|at| u32::from_be_bytes([r[at], r[at + 1], r[at + 2], r[at + 3]]));
    rdata.first().and_then(|r| of(r)).unwrap_or(0)
}

pub(super) fn set_soa_serial(rdata: &mut [Box<[u8]>], serial: u32) {
    if let Some(r) = rdata.first_mut()
        && let Some(at) = soa_serial_at(r)
    {
        r[at..at + 4].copy_from_slice(&serial.to_be_bytes());
    }
}
