//! Proofs that something is not there, for zones that were signed elsewhere: RFC 4035 §3.1.3 with NSEC, RFC 5155 §7.2 with
//! NSEC3.

use crate::message::{Message, Section};
use data_encoding::BASE32_DNSSEC;
use sha1::{Digest, Sha1};
use zonekeeper_core::{
    answer::ZoneTable,
    zone::{Denial, Key, Node, Nsec3Param, write_labels},
};

/// Most denials in one answer: a proof takes three, and few aliases lead over wildcards.
const MAX_PLACED: usize = 24;
/// A SHA-1 hash in base32hex, and the end of a label in a key.
const HASHED: usize = 33;

/// What is to be proven of a name, with labels of the name counted below the apex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Neither the name nor a wildcard exists; the closest encloser has so many labels.
    NxDomain(usize),
    /// The name exists without the type.
    NoData,
    /// The wildcard below the closest encloser with so many labels exists without the type, and the name does not exist.
    WildcardNoData(usize),
    /// The name does not exist: the answer came from the wildcard below the closest encloser with so many labels.
    Wildcard(usize),
    /// The delegation with so many labels has no DS.
    NoDs(usize),
}

/// Which denials stand in the answer: several claims may need the same.
#[derive(Default)]
pub(super) struct Placed([usize; MAX_PLACED], usize);

/// A name about which something is claimed.
pub(super) struct Prover<'a, 'm, 'b> {
    pub(super) zone: &'a ZoneTable,
    pub(super) denial: &'a Denial,
    pub(super) message: &'m mut Message<'b>,
    pub(super) placed: &'m mut Placed,
    /// Place of the zone's apex in the message.
    pub(super) apex: usize,
    /// The name in lower case, and its key in the zone.
    pub(super) name: &'m [u8],
    pub(super) key: &'m Key,
}

impl<'a> Prover<'a, '_, '_> {
    /// Writes the proof into the authority section; false when not all of it fits.
    pub(super) fn prove(&mut self, claim: Claim) -> bool {
        match self.denial.nsec3() {
            Some(param) => self.by_hash(param, claim),
            None => self.by_name(claim),
        }
    }

    fn by_name(&mut self, claim: Claim) -> bool {
        let wildcard = |labels: usize| {
            let mut key = self.key.clone();
            key.set_wildcard(labels);
            key
        };
        match claim {
            Claim::NoData | Claim::Wildcard(_) => self.place(self.key.bytes()),
            Claim::NoDs(labels) => self.place(self.key.prefix(labels)),
            Claim::NxDomain(labels) | Claim::WildcardNoData(labels) => {
                let wildcard = wildcard(labels);
                self.place(self.key.bytes()) && self.place(wildcard.bytes())
            }
        }
    }

    fn by_hash(&mut self, param: &Nsec3Param, claim: Claim) -> bool {
        match claim {
            Claim::NxDomain(labels) => {
                let labels = self.closest_encloser(param, labels);
                let Some(encloser) = labels.1 else { return labels.0 };
                labels.0 && self.place(&hashed(param, &[b"\x01*", self.ancestor(encloser)]))
            }
            Claim::NoData => self.matching_or_closest(param, self.key.labels()),
            Claim::NoDs(labels) => self.matching_or_closest(param, labels),
            Claim::WildcardNoData(labels) => {
                let (whole, encloser) = self.closest_encloser(param, labels);
                let encloser = encloser.unwrap_or(labels);
                whole && self.place(&hashed(param, &[b"\x01*", self.ancestor(encloser)]))
            }
            Claim::Wildcard(labels) => self.place(&hashed(param, &[self.ancestor(labels + 1)])),
        }
    }

    /// The name in wire form that ends the question and has so many labels below the apex.
    fn ancestor(&self, labels: usize) -> &[u8] {
        &self.name[self.key.wire_start(labels)..]
    }

    /// The record of the ancestor itself; where opt-out left it out, the proof of its closest provable encloser
    /// (RFC 5155 §7.2.4, §7.2.7).
    fn matching_or_closest(&mut self, param: &Nsec3Param, labels: usize) -> bool {
        let hash = hashed(param, &[self.ancestor(labels)]);
        match self.matching(&hash) {
            Some(node) => self.put(node),
            None => labels.checked_sub(1).is_none_or(|above| self.closest_encloser(param, above).0),
        }
    }

    /// RFC 5155 §7.2.1: a record that matches the closest encloser, and one that covers the next closer name. Opt-out may
    /// have left out the former, then one further up counts. Whether all fits, and the encloser's labels.
    fn closest_encloser(&mut self, param: &Nsec3Param, labels: usize) -> (bool, Option<usize>) {
        for labels in (0..=labels).rev() {
            let hash = hashed(param, &[self.ancestor(labels)]);
            let Some(node) = self.matching(&hash) else { continue };
            let next = hashed(param, &[self.ancestor(labels + 1)]);
            let whole = self.put(node) && (labels == self.key.labels() || self.place(&next));
            return (whole, Some(labels));
        }
        (true, None) // a chain without its apex proves nothing; the signer made it so
    }

    fn matching(&self, hash: &[u8]) -> Option<Node<'a>> {
        self.zone.index().find(hash).filter(|n| n.set(self.denial.rtype()).is_some())
    }

    /// The record at a place in the chain or before it.
    fn place(&mut self, key: &[u8]) -> bool {
        self.denial.at_or_before(self.zone.zone(), key).is_none_or(|node| self.put(node))
    }

    fn put(&mut self, node: Node<'_>) -> bool {
        let Placed(placed, n) = self.placed;
        let id = node.key().as_ptr() as usize; // the same bytes in memory: the table stays while it answers
        if placed[..*n].contains(&id) {
            return true;
        }
        let mut labels = [0u8; 255];
        let len = write_labels(node.key(), &mut labels);
        let fits =
            self.message.put_named(Section::Authority, &labels[..len], self.apex, node, self.denial.rtype());
        if let Some(slot) = placed.get_mut(*n) {
            (*slot, *n) = (id, *n + 1);
        }
        fits
    }
}

/// RFC 5155 §5, as a key in the zone: base32hex in lower case.
fn hashed(param: &Nsec3Param, name: &[&[u8]]) -> [u8; HASHED] {
    let mut hasher = Sha1::new();
    name.iter().for_each(|part| hasher.update(part));
    hasher.update(&param.salt);
    for _ in 0..param.iterations {
        let hash = hasher.finalize_reset();
        hasher.update(hash);
        hasher.update(&param.salt);
    }
    let mut key = [0; HASHED];
    BASE32_DNSSEC.encode_mut(&hasher.finalize(), &mut key[..HASHED - 1]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hashed_as_in_rfc_5155_appendix_a() {
        let param = Nsec3Param { iterations: 12, salt: Box::from([0xaa, 0xbb, 0xcc, 0xdd]) };
        let text = |name: &[u8]| String::from_utf8_lossy(&hashed(&param, &[name])[..32]).into_owned();
        assert_eq!(text(b"\x07example\0"), "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom");
        assert_eq!(text(b"\x01a\x07example\0"), "35mthgpgcu1qg68fab165klnsnk3dpvl");
    }
}
