//! Zone data in the replicated state: copy-on-write chunks of RRsets.

use crate::{
    model::ZoneOwner,
    name::Name,
};
use alloc::{boxed::Box, vec::Vec};
use serde::{Deserialize, Serialize};

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

/// A zone: its records and its serial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    origin: Name,
    owner: ZoneOwner,
}
