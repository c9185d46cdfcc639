//! A lookup in steps, so that the lookups of many names wait for memory together instead of one after another.
//!
//! A table of a million names does not fit into any cache: its slot, the place of the name in its chunk and its records
//! are three waits in a row. Who has several names at hand takes each step for all of them before the next, and tells the
//! processor at each step what will be read: [`ZoneIndex::slot_memory`], then [`ZoneIndex::candidate`] and
//! [`ZoneIndex::place_memory`], then [`ZoneIndex::node_memory`], and last [`ZoneIndex::node_at`].

use super::{ANCESTOR, Node, ORDINAL_BITS, ZoneIndex};
use crate::zone::Zone;
use xxhash_rust::xxh3::xxh3_64;

/// What a hash says of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidate {
    /// It may own the records at this place.
    At(u32),
    /// It has no records, but there may be names below it.
    Below,
    /// Neither it nor a name below it exists.
    Absent,
}

impl ZoneIndex {
    /// The hash by which a key is found.
    pub fn hash(key: &[u8]) -> u64 {
        xxh3_64(key)
    }

    /// What a lookup of this hash reads first.
    pub fn slot_memory(&self, hash: u64) -> Option<&u64> {
        let slots = &self.pages.get(self.page(hash))?.0;
        slots.get(hash as usize & (slots.len() - 1))
    }

    /// Where the name with this hash may be; two names may have the same hash, and only the first is found.
    pub fn candidate(&self, hash: u64) -> Candidate {
        let slots = &self.pages[self.page(hash)].0;
        let mask = slots.len() - 1;
        let (mut at, mut found) = (hash as usize & mask, Candidate::Absent);
        loop {
            let (tag, place) = ((slots[at] >> 32) as u32, slots[at] as u32);
            match tag == hash as u32 {
                _ if slots[at] == 0 => return found,
                true if place & ANCESTOR == 0 => return Candidate::At(place),
                true => found = Candidate::Below,
                false => {}
            }
            at = (at + 1) & mask;
        }
    }

    /// What says where in its chunk the name at a place is.
    pub fn place_memory(&self, place: u32) -> Option<&u32> {
        let (chunk, ordinal) = self.chunk_at(place)?;
        chunk.place_memory(ordinal)
    }

    /// The memory of the name at a place: its key, then its records.
    pub fn node_memory(&self, place: u32) -> Option<&[u8]> {
        let (chunk, ordinal) = self.chunk_at(place)?;
        chunk.node_memory(ordinal)
    }

    /// The records at a place, if they are those of `key`.
    pub fn node_at(&self, place: u32, key: &[u8]) -> Option<Node<'_>> {
        self.node(place).filter(|node| node.key() == key)
    }

    fn chunk_at(&self, place: u32) -> Option<(&super::Chunk, usize)> {
        let at = (place & !ANCESTOR).checked_sub(1)?;
        let chunk = self.chunks.get((at >> ORDINAL_BITS) as usize)?.as_ref()?;
        Some((chunk, (at & ((1 << ORDINAL_BITS) - 1)) as usize))
    }
}

impl Zone {
    /// Whether some name ends the zone's authority: a delegation or a DNAME. While there is none, no ancestor needs a look.
    pub fn has_cuts(&self) -> bool {
        self.cuts > 0
    }
}
