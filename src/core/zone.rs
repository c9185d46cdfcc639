//! Zone data in the replicated state: copy-on-write chunks of RRsets, kept as they go on the wire.
//!
//! A zone is a list of [`chunk::Chunk`]s of some hundred names in canonical order (RFC 4034 §6.1). A clone shares all of
//! them; a change copies one. Every RRset is stored with its owner as a pointer to the question, so the DNS server copies
//! the same bytes into its answers and there is no second table. [`Zone::hash`] is a sum over the RRsets, so a change
//! costs what changed and the chunks' borders, which depend on history, do not matter.

mod chunk;
mod denial;
mod index;
mod key;
mod lookup;
mod rrset;
mod store;

pub use chunk::{Node, Record, Records, RrView};
pub use denial::{Denial, MAX_ITERATIONS, Nsec3Param};
pub use index::{Candidate, ZoneIndex};
pub use key::{Key, write_labels};
pub use lookup::{CutKind, Place};
pub use rrset::{RrSet, ZoneError, rdata_target, rtype};

use crate::{model::ZoneOwner, name::Name};
use alloc::{sync::Arc, vec::Vec};
use chunk::Chunk;
use core::borrow::Borrow;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128, xxh3_128_with_seed};

/// RFC 1982 step of [`Zone::advance_serial_by_incarnation`]: far beyond what a lost log may have served, and far below
/// the 2^31 at which order is lost.
pub const INCARNATION_STEP: u32 = 1 << 24;

/// A zone: its records and its serial.
#[derive(Clone)]
pub struct Zone {
    origin: Name,
    owner: ZoneOwner,
    serial: u32,
    /// Serial of the SOA as it was last put.
    declared: u32,
    /// Whether a serial was ever advanced to; before that the declared one is taken as it is.
    started: bool,
    chunks: Vec<Arc<Chunk>>,
    names: usize,
    rrsets: usize,
    /// Names with a delegation or a DNAME; while there is none, no ancestor needs a look.
    cuts: usize,
    sum: u128,
}

impl Zone {
    /// An empty zone.
    pub fn new(origin: Name, owner: ZoneOwner) -> Zone {
        Zone {
            origin,
            owner,
            serial: 0,
            declared: 0,
            started: false,
            chunks: Vec::new(),
            names: 0,
            rrsets: 0,
            cuts: 0,
            sum: 0,
        }
    }

    /// The name of the apex.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// Who edits it.
    pub fn owner(&self) -> ZoneOwner {
        self.owner
    }

    /// Changes who edits it.
    pub fn set_owner(&mut self, owner: ZoneOwner) {
        self.owner = owner;
    }

    /// Number of RRsets.
    pub fn len(&self) -> usize {
        self.rrsets
    }

    /// Whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.rrsets == 0
    }

    /// Number of names that own records.
    pub fn names(&self) -> usize {
        self.names
    }

    /// Bytes of all records and names, without the allocator's overhead.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(|c| c.bytes()).sum()
    }

    /// The serial that is served.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The serial of the SOA as it was last put.
    pub fn declared_serial(&self) -> u32 {
        self.declared
    }

    /// Whether it was signed elsewhere: its apex has signatures.
    pub fn is_signed(&self) -> bool {
        self.find(&[]).is_some_and(|n| n.set(rtype::RRSIG).is_some())
    }

    /// Advances the serial after a change: the greater of the declared one and the current one plus 1 (RFC 1982). A signed
    /// zone is served with the declared one: its signature covers it, so the signer alone advances it.
    pub fn advance_serial(&mut self) {
        if self.is_signed() {
            return self.set_serial(self.declared);
        }
        let next = self.serial.wrapping_add(1);
        let ahead = !self.started || (self.declared.wrapping_sub(next) as i32) > 0;
        self.set_serial(if ahead { self.declared } else { next });
    }

    /// Goes on behind the serial that a zone of this name was served with before it was removed: its secondaries remember.
    pub(crate) fn resume(&mut self, serial: u32) {
        self.set_serial(serial);
    }

    /// Advances the serial by [`INCARNATION_STEP`]: after a restore nothing that was served before is served again. That of
    /// a signed zone stays as it was signed.
    pub fn advance_serial_by_incarnation(&mut self) {
        if self.is_signed() {
            return;
        }
        self.set_serial(self.serial.wrapping_add(INCARNATION_STEP));
    }

    fn set_serial(&mut self, serial: u32) {
        (self.serial, self.started) = (serial, true);
        if let Some(mut soa) = self.soa() {
            rrset::set_soa_serial(&mut soa.rdata, serial);
            self.store(&soa);
        }
    }

    /// Creates or replaces an RRset; true when that changed the zone. An SOA's serial is kept as the declared one, and
    /// counts as a change only when it differs from the last declared one.
    pub fn put(&mut self, set: impl Borrow<RrSet>) -> Result<bool, ZoneError> {
        let set = set.borrow();
        let (key, place) = self.check(set)?;
        if set.rtype != rtype::SOA {
            return Ok(self.write(
                key.bytes(),
                place,
                set.rtype,
                Some((set.rdata.len() as u16, &set.wire())),
            ));
        }
        let declared = rrset::soa_serial(&set.rdata);
        let changed = !self.started || declared != self.declared;
        self.declared = declared;
        let mut served = set.clone();
        rrset::set_soa_serial(&mut served.rdata, if self.started { self.serial } else { declared });
        Ok(self.store(&served) || changed)
    }

    /// Whether [`Zone::put`] would change the zone, or why it would be refused.
    pub fn would_change(&self, set: &RrSet) -> Result<bool, ZoneError> {
        let _ = self.check(set)?;
        let mut set = set.clone();
        if set.rtype == rtype::SOA {
            if !self.started || rrset::soa_serial(&set.rdata) != self.declared {
                return Ok(true);
            }
            rrset::set_soa_serial(&mut set.rdata, self.serial);
        }
        Ok(self.get(&set.name, set.rtype).as_ref() != Some(&set))
    }

    /// The rules for one RRset in this zone; where it belongs.
    fn check(&self, set: &RrSet) -> Result<(Key, Spot), ZoneError> {
        set.check()?;
        let Some(key) = Key::within(&set.name, &self.origin) else {
            return Err(ZoneError::Outside { name: set.name.clone(), origin: self.origin.clone() });
        };
        let place = self.position(key.bytes());
        match set.rtype {
            rtype::SOA if set.name != self.origin => return Err(ZoneError::SoaBelowApex(set.name.clone())),
            rtype::DS if set.name == self.origin => return Err(ZoneError::DsAtApex(set.name.clone())),
            _ => {}
        }
        let (at, Ok(i)) = place else { return Ok((key, place)) };
        let node = self.chunks[at].node(i);
        let lonely = |t: u16| t == rtype::CNAME;
        let tolerated = |t: u16| matches!(t, rtype::RRSIG | rtype::NSEC); // RFC 4034 §2.5: both stand beside a CNAME
        if let Some(other) = node.sets().map(|s| s.rtype()).find(|&t| {
            t != set.rtype && (lonely(t) || lonely(set.rtype)) && !tolerated(t) && !tolerated(set.rtype)
        }) {
            return Err(ZoneError::CnameNotAlone { name: set.name.clone(), rtype: set.rtype, other });
        }
        let has = |t: u16| t != set.rtype && node.set(t).is_some();
        if match set.rtype {
            rtype::ALIAS => has(rtype::A) || has(rtype::AAAA),
            rtype::A | rtype::AAAA => has(rtype::ALIAS),
            _ => false,
        } {
            return Err(ZoneError::AliasNotAlone { name: set.name.clone() });
        }
        Ok((key, place))
    }

    /// Removes an RRset; false when there was none.
    pub fn remove(&mut self, name: &Name, rtype: u16) -> bool {
        let Some(key) = Key::within(name, &self.origin) else { return false };
        let place = self.position(key.bytes());
        self.write(key.bytes(), place, rtype, None)
    }

    /// One RRset.
    pub fn get(&self, name: &Name, rtype: u16) -> Option<RrSet> {
        let view = self.node(name)?.set(rtype)?;
        Some(view.to_rrset(name.clone()))
    }

    /// The SOA as it is served.
    pub fn soa(&self) -> Option<RrSet> {
        self.get(&self.origin, rtype::SOA)
    }

    /// The NS RRset of the apex.
    pub fn ns(&self) -> Option<RrSet> {
        self.get(&self.origin, rtype::NS)
    }

    /// Whether the zone may be served: SOA and NS at the apex (RFC 1035 §5.2).
    pub fn validate(&self) -> Result<(), ZoneError> {
        let apex = self.node(&self.origin);
        for (rtype, what) in [(rtype::SOA, "SOA"), (rtype::NS, "NS")] {
            if apex.is_none_or(|n| n.set(rtype).is_none()) {
                return Err(ZoneError::Apex { origin: self.origin.clone(), what });
            }
        }
        Ok(())
    }

    /// All RRsets in canonical order of their owners, then by type number.
    pub fn iter(&self) -> impl Iterator<Item = RrSet> + '_ {
        self.nodes().flat_map(move |node| {
            let name = key::to_name(node.key(), &self.origin);
            node.sets().map(move |s| s.to_rrset(name.clone()))
        })
    }

    /// [`Zone::iter`] from this name on, itself included; costs what is taken and not what is skipped.
    pub fn iter_from(&self, name: &Name) -> impl Iterator<Item = RrSet> + '_ {
        let key = Key::within(name, &self.origin);
        let at = key.as_ref().map_or(self.chunks.len(), |k| self.position(k.bytes()).0);
        let nodes = self.chunks.get(at..).unwrap_or_default().iter().flat_map(|c| c.nodes());
        let nodes = nodes.skip_while(move |n| key.as_ref().is_some_and(|k| n.key() < k.bytes()));
        nodes.flat_map(move |node| {
            let name = key::to_name(node.key(), &self.origin);
            node.sets().map(move |s| s.to_rrset(name.clone()))
        })
    }

    /// All names with their records in canonical order.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_>> + '_ {
        self.chunks.iter().flat_map(|c| c.nodes())
    }

    /// Hash of the whole zone: the same on every node, whatever the order of its edits.
    pub fn hash(&self) -> u128 {
        let header = [u8::from(self.started), self.owner as u8];
        let serials = (u64::from(self.serial) << 32) | u64::from(self.declared);
        xxh3_128(&header).wrapping_add(self.sum).wrapping_add(xxh3_128_with_seed(self.origin.wire(), serials))
    }

    fn node(&self, name: &Name) -> Option<Node<'_>> {
        self.find(Key::within(name, &self.origin)?.bytes())
    }

    fn store(&mut self, set: &RrSet) -> bool {
        let Some(key) = Key::within(&set.name, &self.origin) else { return false };
        let (place, wire) = (self.position(key.bytes()), set.wire());
        self.write(key.bytes(), place, set.rtype, Some((set.rdata.len() as u16, &wire)))
    }

    /// Replaces, adds or removes one RRset, with all counts; true when something changed.
    fn write(&mut self, key: &[u8], place: Spot, rtype: u16, new: Option<(u16, &[u8])>) -> bool {
        let (at, found) = place;
        let old_node = found.ok().map(|i| self.chunks[at].node(i));
        let old = old_node.and_then(|n| n.set(rtype));
        if old.map(|s| s.wire()) == new.map(|(_, w)| w) {
            return false;
        }
        let cut = |n: Option<Node<'_>>| usize::from(n.is_some_and(|n| n.is_cut()));
        let (had, old_cut) = (old.is_some(), cut(old_node));
        let minus = old.map_or(0, |s| rrset_hash(key, s.wire()));
        let plus = new.map_or(0, |(_, w)| rrset_hash(key, w));
        let node = chunk::edit(old_node, key, rtype, new);
        let new_cut = node.as_deref().map_or(0, |n| cut(Some(chunk::view(n))));
        self.names = self.names + usize::from(node.is_some()) - usize::from(old_node.is_some());
        self.rrsets = self.rrsets + usize::from(new.is_some()) - usize::from(had);
        self.cuts = self.cuts + new_cut - old_cut;
        self.sum = self.sum.wrapping_sub(minus).wrapping_add(plus);
        self.place(place, key, node.as_deref());
        true
    }

    /// Puts the bytes of a node where they belong, splits and drops chunks.
    fn place(&mut self, (at, found): Spot, key: &[u8], node: Option<&[u8]>) {
        if self.chunks.is_empty() {
            self.chunks.extend(node.map(|n| Arc::new(Chunk::of(n))));
            return;
        }
        let last = at + 1 == self.chunks.len();
        if let Some(next) = node.filter(|_| last && self.chunks[at].is_full_before(key)) {
            if let Some(full) = Arc::get_mut(&mut self.chunks[at]) {
                full.shrink_to_fit();
            }
            self.chunks.push(Arc::new(Chunk::of(next))); // a sorted import fills chunk after chunk
            return;
        }
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        chunk.replace(found, node);
        if chunk.is_empty() {
            self.chunks.remove(at);
        } else if let Some(right) = chunk.split() {
            self.chunks.insert(at + 1, Arc::new(right));
        }
    }

    fn position(&self, key: &[u8]) -> Spot {
        let Some(last) = self.chunks.last() else { return (0, Err(0)) };
        if last.last() < key {
            return (self.chunks.len() - 1, Err(last.len())); // a sorted import comes here each time
        }
        let at = self.chunks.partition_point(|c| c.first() <= key).saturating_sub(1);
        (at, self.chunks[at].search(key))
    }
}

/// The chunk where a key is or belongs, and where it is there or belongs.
type Spot = (usize, Result<usize, usize>);

fn rrset_hash(key: &[u8], wire: &[u8]) -> u128 {
    xxh3_128_with_seed(wire, xxh3_64(key))
}

impl PartialEq for Zone {
    fn eq(&self, other: &Zone) -> bool {
        let head = |z: &Zone| (z.owner, z.serial, z.declared, z.started, z.names, z.sum);
        self.origin == other.origin && head(self) == head(other) && self.nodes().eq(other.nodes())
    }
}

impl Eq for Zone {}

impl core::fmt::Debug for Zone {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Zone({:?}, {:?}, serial {}, {} RRsets)", self.origin, self.owner, self.serial, self.rrsets)
    }
}

#[cfg(test)]
mod tests;
