//! One chunk: some hundred names, one block of bytes.
//!
//! ```text
//! node    key length u16 | length of what follows the key u32 | key | RRsets, by type
//! RRset   records u16 | length u16 | records
//! record  0xc00c | type | class IN | ttl | rdlength | RDATA          (network order, as it goes on the wire)
//! ```

use super::rrset::{RrSet, rtype};
use crate::name::Name;
use alloc::{boxed::Box, vec::Vec};

/// Names in a chunk before it is split.
const MAX_NODES: usize = 256;
/// Bytes in a chunk before it is split, so that a copy stays a few microseconds.
const MAX_BYTES: usize = 32 << 10;
/// Bytes before a node's key.
const HEAD: usize = 6;
/// Bytes before a record's RDATA.
pub(super) const RECORD_HEAD: usize = 12;

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    data: Vec<u8>,
    index: Vec<u32>,
}

/// One name's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node<'a> {
    key: &'a [u8],
    body: &'a [u8],
}

/// One RRset as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RrView<'a> {
    count: u16,
    wire: &'a [u8],
}

/// One record of an RRset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// The record with its owner as a pointer to the question.
    pub wire: &'a [u8],
}

impl<'a> Record<'a> {
    /// RDATA, names uncompressed.
    pub fn rdata(&self) -> &'a [u8] {
        &self.wire[RECORD_HEAD..]
    }
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

/// A node from its bytes.
pub(super) fn view(bytes: &[u8]) -> Node<'_> {
    let key = usize::from(u16_at(bytes, 0));
    let len = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]) as usize;
    Node { key: &bytes[HEAD..HEAD + key], body: &bytes[HEAD + key..HEAD + key + len] }
}

/// The bytes of `node` after one of its RRsets was replaced, added or removed; none when nothing is left.
pub(super) fn edit(
    node: Option<Node<'_>>,
    key: &[u8],
    rtype: u16,
    new: Option<(u16, &[u8])>,
) -> Option<Vec<u8>> {
    let new = new.map(|(count, wire)| RrView { count, wire });
    let old = || node.into_iter().flat_map(|n| n.sets());
    let sets = old().filter(|s| s.rtype() < rtype).chain(new).chain(old().filter(|s| s.rtype() > rtype));
    let mut out = Vec::with_capacity(
        HEAD + key.len() + node.map_or(0, |n| n.body.len()) + new.map_or(0, |n| n.wire.len() + 4),
    );
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(key);
    for s in sets {
        out.extend_from_slice(&s.count.to_le_bytes());
        out.extend_from_slice(&(s.wire.len() as u16).to_le_bytes());
        out.extend_from_slice(s.wire);
    }
    let body = out.len() - HEAD - key.len();
    out[2..HEAD].copy_from_slice(&(body as u32).to_le_bytes());
    (body > 0).then_some(out)
}

impl<'a> Node<'a> {
    /// The canonical key (see [`super::Key`]).
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The RRsets by type number.
    pub fn sets(&self) -> Sets<'a> {
        Sets(self.body)
    }

    /// The RRset of a type.
    pub fn set(&self, rtype: u16) -> Option<RrView<'a>> {
        self.sets().find(|s| s.rtype() == rtype)
    }

    /// Whether it ends the zone's authority over its subtree: a delegation below the apex, or a DNAME.
    pub fn is_cut(&self) -> bool {
        self.sets().any(|s| s.rtype() == rtype::DNAME || (s.rtype() == rtype::NS && !self.key.is_empty()))
    }
}

/// Iterator over the RRsets of a node.
#[derive(Clone)]
pub struct Sets<'a>(&'a [u8]);

impl<'a> Iterator for Sets<'a> {
    type Item = RrView<'a>;
    fn next(&mut self) -> Option<RrView<'a>> {
        let (head, rest) = self.0.split_at_checked(4)?;
        let (wire, rest) = rest.split_at_checked(usize::from(u16_at(head, 2)))?;
        self.0 = rest;
        Some(RrView { count: u16_at(head, 0), wire })
    }
}

impl<'a> RrView<'a> {
    /// A view of records that were encoded elsewhere as [`RrSet::wire`] does.
    pub fn new(count: u16, wire: &'a [u8]) -> RrView<'a> {
        RrView { count, wire }
    }

    /// Type number.
    pub fn rtype(&self) -> u16 {
        self.wire.get(2..4).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
    }

    /// TTL in seconds.
    pub fn ttl(&self) -> u32 {
        self.wire.get(6..10).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// Number of records.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// All records as they go on the wire, each owner a pointer to the question (0xc00c).
    pub fn wire(&self) -> &'a [u8] {
        self.wire
    }

    /// The records one by one.
    pub fn records(&self) -> Records<'a> {
        Records(self.wire)
    }

    /// The set with its owner.
    pub fn to_rrset(&self, name: Name) -> RrSet {
        let rdata = self.records().map(|r| Box::from(r.rdata())).collect();
        RrSet { name, rtype: self.rtype(), ttl: self.ttl(), rdata }
    }
}

/// Iterator over the records of an RRset.
#[derive(Clone)]
pub struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;
    fn next(&mut self) -> Option<Record<'a>> {
        let len = self.0.get(10..RECORD_HEAD).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])))?;
        let (wire, rest) = self.0.split_at_checked(RECORD_HEAD + len)?;
        self.0 = rest;
        Some(Record { wire })
    }
}

impl Chunk {
    /// A chunk of one node.
    pub(super) fn of(node: &[u8]) -> Chunk {
        Chunk { data: node.to_vec(), index: Vec::from([0]) }
    }

    /// Takes bytes that were stored, unless they are damaged.
    pub(super) fn parse(data: Vec<u8>) -> Option<Chunk> {
        let (mut index, mut at) = (Vec::new(), 0);
        while at < data.len() {
            let head = data.get(at..at + HEAD)?;
            let body = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
            let end = at.checked_add(HEAD + usize::from(u16_at(head, 0)))?.checked_add(body)?;
            check_node(view(data.get(at..end)?))?;
            index.push(at as u32);
            at = end;
        }
        let chunk = Chunk { data, index };
        let sorted = chunk.nodes().zip(chunk.nodes().skip(1)).all(|(a, b)| a.key < b.key);
        (sorted && !chunk.is_empty()).then_some(chunk)
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    pub(super) fn bytes(&self) -> usize {
        self.data.len() + self.index.len() * 4
    }

    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn first(&self) -> &[u8] {
        if self.is_empty() { &[] } else { self.key(0) }
    }

    pub(super) fn last(&self) -> &[u8] {
        if self.is_empty() { &[] } else { self.key(self.len() - 1) }
    }

    fn key(&self, i: usize) -> &[u8] {
        let at = self.index[i] as usize;
        &self.data[at + HEAD..at + HEAD + usize::from(u16_at(&self.data, at))]
    }

    pub(super) fn node(&self, i: usize) -> Node<'_> {
        view(&self.data[self.index[i] as usize..])
    }

    /// What says where a node is.
    pub(super) fn place_memory(&self, i: usize) -> Option<&u32> {
        self.index.get(i)
    }

    /// A node's memory, to be read later.
    pub(super) fn node_memory(&self, i: usize) -> Option<&[u8]> {
        self.data.get(*self.index.get(i)? as usize..)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = Node<'_>> + '_ {
        (0..self.index.len()).map(|i| self.node(i))
    }

    /// Where a key is, or where it belongs.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let i = self.index.partition_point(|&at| {
            let at = at as usize;
            &self.data[at + HEAD..at + HEAD + usize::from(u16_at(&self.data, at))] < key
        });
        if i < self.index.len() && self.key(i) == key { Ok(i) } else { Err(i) }
    }

    /// Whether it is full and `key` comes after all of it.
    pub(super) fn is_full_before(&self, key: &[u8]) -> bool {
        (self.len() >= MAX_NODES || self.data.len() >= MAX_BYTES) && self.last() < key
    }

    /// Gives back what it reserved to grow.
    pub(super) fn shrink_to_fit(&mut self) {
        self.data.shrink_to_fit();
        self.index.shrink_to_fit();
    }

    fn end(&self, i: usize) -> usize {
        self.index.get(i + 1).map_or(self.data.len(), |&e| e as usize)
    }

    /// Replaces, inserts or removes the node of a key, which [`Chunk::search`] has found.
    pub(super) fn replace(&mut self, found: Result<usize, usize>, node: Option<&[u8]>) {
        let (i, range) = match found {
            Ok(i) => (i, self.index[i] as usize..self.end(i)),
            Err(i) => {
                let at = self.index.get(i).map_or(self.data.len(), |&o| o as usize);
                (i, at..at)
            }
        };
        let (at, old) = (range.start, range.len());
        let bytes = node.unwrap_or_default();
        match at == self.data.len() {
            true => self.data.extend_from_slice(bytes),
            false => drop(self.data.splice(range, bytes.iter().copied())),
        }
        match (found.is_ok(), node.is_some()) {
            (true, false) => drop(self.index.remove(i)),
            (false, true) => self.index.insert(i, at as u32),
            _ => {}
        }
        let next = i + usize::from(node.is_some());
        for o in self.index.iter_mut().skip(next) {
            *o = (*o as usize + bytes.len() - old) as u32;
        }
    }

    /// Gives away its upper half when it is too large.
    pub(super) fn split(&mut self) -> Option<Chunk> {
        if self.len() < 2 || (self.len() <= MAX_NODES && self.data.len() <= MAX_BYTES) {
            return None;
        }
        let middle =
            self.index.partition_point(|&at| (at as usize) < self.data.len() / 2).clamp(1, self.len() - 1);
        let at = self.index[middle];
        let right = Chunk {
            data: self.data[at as usize..].to_vec(),
            index: self.index[middle..].iter().map(|o| o - at).collect(),
        };
        self.data.truncate(at as usize);
        self.index.truncate(middle);
        self.shrink_to_fit();
        Some(right)
    }
}

/// Checks what [`view`] and the iterators rely on.
fn check_node(node: Node<'_>) -> Option<()> {
    let mut left = node.body.len();
    for set in node.sets() {
        let (mut bytes, mut count) = (0, 0u16);
        for r in set.records() {
            bytes += r.wire.len();
            count = count.checked_add(1)?;
        }
        if bytes != set.wire.len() || count != set.count || count == 0 {
            return None;
        }
        left -= 4 + bytes;
    }
    (left == 0 && !node.body.is_empty() && key_is_valid(node.key)).then_some(())
}

/// Whole labels of 1 to 63 bytes, escapes well formed.
fn key_is_valid(key: &[u8]) -> bool {
    let (mut label, mut escaped) = (0, false);
    for &b in key {
        match (escaped, b) {
            (true, 1 | 2) => (label, escaped) = (label + 1, false),
            (true, _) => return false,
            (false, 0) if (1..=63).contains(&label) => label = 0,
            (false, 0) => return false,
            (false, 1) => escaped = true,
            (false, _) => label += 1,
        }
    }
    label == 0 && !escaped && key.len() < 512
}
