//! A hash index over a zone's names, for the one who answers: a hit is one probe and one comparison, and a missing name is
//! known to be missing without a search.
//!
//! Pages of hashes are shared from one publication to the next like the chunks are: a changed record touches no page, a
//! new name those of its chunk. An entry is 32 bits of hash and where the name is: chunk and place in it. Names that exist
//! only as ancestors are counted; such a hit is confirmed by a search, so that two equal hashes never make a name exist.

mod ahead;

pub use ahead::Candidate;

use super::{CutKind, Key, Node, Place, Zone, chunk::Chunk};
use alloc::{sync::Arc, vec, vec::Vec};
use core::cmp::Ordering;
use xxhash_rust::xxh3::xxh3_64;

/// Names per page that a new index aims at; its slots are twice as many.
const PAGE: usize = 256;
/// Beyond so many times [`PAGE`] names per page the index is built anew with more pages.
const GROWTH: usize = 8;
/// Bits of an entry for the place in a chunk; a chunk holds at most 257 names.
const ORDINAL_BITS: u32 = 10;
/// Marks an entry that counts descendants.
const ANCESTOR: u32 = 1 << 31;

/// The index of one version of a zone.
#[derive(Clone)]
pub struct ZoneIndex {
    /// Open addressing, 0 is empty; with the number of entries.
    pages: Vec<(Arc<[u64]>, u32)>,
    /// Chunks by the number that entries name; numbers are stable while chunks come and go.
    chunks: Vec<Option<Arc<Chunk>>>,
    free: Vec<u32>,
    /// The numbers in the zone's order.
    order: Vec<u32>,
}

fn entry(hash: u64, place: u32) -> u64 {
    (hash << 32) | u64::from(place)
}

fn place(chunk: u32, ordinal: usize) -> u32 {
    ((chunk << ORDINAL_BITS) | ordinal as u32) + 1
}

impl ZoneIndex {
    /// Indexes a zone.
    pub fn build(zone: &Zone) -> ZoneIndex {
        let pages = (zone.names / PAGE).next_power_of_two().max(1);
        let empty: Arc<[u64]> = vec![0; 2 * PAGE].into();
        let mut index = ZoneIndex {
            pages: (0..pages).map(|_| (empty.clone(), 0)).collect(),
            chunks: Vec::with_capacity(zone.chunks.len()),
            free: Vec::new(),
            order: Vec::with_capacity(zone.chunks.len()),
        };
        for chunk in &zone.chunks {
            let id = index.adopt(chunk);
            index.order.push(id);
            index.merge(id, None, Some(chunk));
        }
        index
    }

    /// The index of a later version of the same zone; costs a comparison of pointers and what changed.
    pub fn update(&self, zone: &Zone) -> ZoneIndex {
        if zone.names > self.pages.len() * PAGE * GROWTH {
            return ZoneIndex::build(zone);
        }
        let mut index = self.clone();
        let mut order = Vec::with_capacity(zone.chunks.len());
        let (mut old, mut new) = (0, 0);
        loop {
            let before =
                self.order.get(old).and_then(|id| self.chunks[*id as usize].as_ref().map(|c| (*id, c)));
            let after = zone.chunks.get(new);
            let which = match (before, after) {
                (None, None) => break,
                (Some((_, b)), Some(a)) if Arc::ptr_eq(b, a) => Ordering::Equal,
                (Some((_, b)), Some(a)) => b.first().cmp(a.first()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            match (which, before, after) {
                (Ordering::Equal, Some((id, b)), Some(a)) => {
                    if !Arc::ptr_eq(a, b) {
                        index.merge(id, Some(b), Some(a));
                        index.chunks[id as usize] = Some(a.clone());
                    }
                    order.push(id);
                    (old, new) = (old + 1, new + 1);
                }
                (Ordering::Less, Some((id, b)), _) => {
                    index.merge(id, Some(b), None);
                    index.chunks[id as usize] = None;
                    index.free.push(id);
                    old += 1;
                }
                (_, _, Some(a)) => {
                    let id = index.adopt(a);
                    index.merge(id, None, Some(a));
                    order.push(id);
                    new += 1;
                }
                (_, _, None) => break, // the cases above leave none
            }
        }
        index.order = order;
        index
    }

    fn adopt(&mut self, chunk: &Arc<Chunk>) -> u32 {
        if let Some(id) = self.free.pop() {
            self.chunks[id as usize] = Some(chunk.clone());
            return id;
        }
        self.chunks.push(Some(chunk.clone()));
        self.chunks.len() as u32 - 1
    }

    /// Replaces the names of one chunk by those of another: only what moved is touched.
    fn merge(&mut self, id: u32, old: Option<&Arc<Chunk>>, new: Option<&Arc<Chunk>>) {
        let (mut i, mut j) = (0, 0);
        loop {
            let a = old.filter(|c| i < c.len()).map(|c| c.node(i).key());
            let b = new.filter(|c| j < c.len()).map(|c| c.node(j).key());
            let which = match (a, b) {
                (None, None) => return,
                (Some(a), Some(b)) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            match which {
                Ordering::Equal => {
                    if let Some(key) = a.filter(|_| i != j) {
                        self.replace(key, place(id, i), place(id, j));
                    }
                    (i, j) = (i + 1, j + 1);
                }
                Ordering::Less => {
                    if let Some(key) = a {
                        self.delete(xxh3_64(key), place(id, i));
                        self.ancestors(key, false);
                    }
                    i += 1;
                }
                Ordering::Greater => {
                    if let Some(key) = b {
                        self.insert(xxh3_64(key), place(id, j));
                        self.ancestors(key, true);
                    }
                    j += 1;
                }
            }
        }
    }

    fn page(&self, hash: u64) -> usize {
        // The top bits choose the page, the low 32 are the tag.
        ((u128::from(hash) * self.pages.len() as u128) >> 64) as usize
    }

    /// The slot of the first entry with this tag for which `is` holds.
    fn slot(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<usize> {
        let slots = &self.pages[self.page(hash)].0;
        let mask = slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let e = slots[at];
            if e == 0 {
                return None;
            }
            if (e >> 32) as u32 == hash as u32 && is(e as u32) {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    fn insert(&mut self, hash: u64, place: u32) {
        let page = self.page(hash);
        let (slots, used) = &mut self.pages[page];
        if (*used as usize + 1) * 4 > slots.len() * 3 {
            let mut larger = vec![0u64; slots.len() * 2];
            for e in slots.iter().filter(|e| **e != 0) {
                put(&mut larger, *e);
            }
            *slots = larger.into();
        }
        *used += 1;
        put(Arc::make_mut(slots), entry(hash, place));
    }

    fn replace(&mut self, key: &[u8], old: u32, new: u32) {
        let hash = xxh3_64(key);
        if let Some(at) = self.slot(hash, |p| p == old) {
            let page = self.page(hash);
            Arc::make_mut(&mut self.pages[page].0)[at] = entry(hash, new);
        }
    }

    /// Empties a slot and moves back what was pushed beyond it (linear probing without tombstones).
    fn delete(&mut self, hash: u64, place: u32) {
        let Some(mut hole) = self.slot(hash, |p| p == place) else { return };
        let page = self.page(hash);
        let (slots, used) = &mut self.pages[page];
        let slots = Arc::make_mut(slots);
        let mask = slots.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            if slots[at] == 0 {
                break;
            }
            let home = (slots[at] >> 32) as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                slots[hole] = slots[at];
                hole = at;
            }
        }
        slots[hole] = 0;
        *used -= 1;
    }

    /// Counts a name in or out at each of its ancestors below the apex.
    fn ancestors(&mut self, key: &[u8], come: bool) {
        let ends = key.iter().enumerate().filter(|(i, b)| **b == 0 && i + 1 < key.len()).map(|(i, _)| i + 1);
        for end in ends {
            let hash = xxh3_64(&key[..end]);
            let page = self.page(hash);
            let Some(at) = self.slot(hash, |p| p & ANCESTOR != 0) else {
                if come {
                    self.insert(hash, ANCESTOR | 1);
                }
                continue;
            };
            let count = self.pages[page].0[at] as u32 & !ANCESTOR;
            match (come, count) {
                (false, 1) => self.delete(hash, ANCESTOR | 1),
                (false, n) => Arc::make_mut(&mut self.pages[page].0)[at] = entry(hash, ANCESTOR | (n - 1)),
                (true, n) => Arc::make_mut(&mut self.pages[page].0)[at] = entry(hash, ANCESTOR | (n + 1)),
            }
        }
    }

    fn node(&self, place: u32) -> Option<Node<'_>> {
        let at = (place & !ANCESTOR).checked_sub(1)?;
        let chunk = self.chunks.get((at >> ORDINAL_BITS) as usize)?.as_ref()?;
        let ordinal = (at & ((1 << ORDINAL_BITS) - 1)) as usize;
        (ordinal < chunk.len()).then(|| chunk.node(ordinal))
    }

    /// The records of a key.
    pub fn find(&self, key: &[u8]) -> Option<Node<'_>> {
        self.find_hashed(xxh3_64(key), key)
    }

    fn find_hashed(&self, hash: u64, key: &[u8]) -> Option<Node<'_>> {
        let slots = &self.pages[self.page(hash)].0;
        let mask = slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let e = slots[at];
            if e == 0 {
                return None;
            }
            if (e >> 32) as u32 == hash as u32
                && e as u32 & ANCESTOR == 0
                && let Some(node) = self.node(e as u32)
                && node.key() == key
            {
                return Some(node);
            }
            at = (at + 1) & mask;
        }
    }

    /// As [`Zone::place_of`]. `zone` is the version that this index was made of.
    pub fn place_of<'a>(&'a self, zone: &'a Zone, key: &Key) -> Place<'a> {
        let mut hash = xxh3_64(key.bytes());
        let node = self.find_hashed(hash, key.bytes());
        let mut encloser = key.labels();
        while node.is_none() && encloser > 0 {
            if self.slot(hash, |p| p & ANCESTOR != 0).is_some() {
                return zone.place_of(key); // an empty non-terminal, most likely: look and see
            }
            encloser -= 1;
            hash = if encloser == 0 { break } else { xxh3_64(key.prefix(encloser)) };
            if self.find_hashed(hash, key.prefix(encloser)).is_some() {
                break;
            }
        }
        let cut = if zone.cuts == 0 { None } else { self.cut(key, encloser, node) };
        Place { node, encloser, cut }
    }

    fn cut<'a>(
        &'a self,
        key: &Key,
        encloser: usize,
        node: Option<Node<'a>>,
    ) -> Option<(usize, CutKind, Node<'a>)> {
        super::lookup::cut(key, encloser, node, |prefix| self.find(prefix))
    }
}

impl core::fmt::Debug for ZoneIndex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ZoneIndex({} pages, {} chunks)", self.pages.len(), self.order.len())
    }
}

fn put(slots: &mut [u64], e: u64) {
    let mask = slots.len() - 1;
    let mut at = (e >> 32) as usize & mask;
    while slots[at] != 0 {
        at = (at + 1) & mask;
    }
    slots[at] = e;
}
