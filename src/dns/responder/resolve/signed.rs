//! What a client that understands DNSSEC gets besides (RFC 4035 §3.1): signatures behind each RRset, and proofs of what is
//! not there. Only for zones that were signed elsewhere; a service's answer has no signature, and `check` refuses services
//! in such zones.

use super::{Resolver, Step};
use crate::{
    message::Section,
    responder::{
        lower,
        proof::{Claim, Prover},
    },
};
use zonekeeper_core::{
    answer::ZoneTable,
    zone::{Key, Node, RrView, rtype},
};

impl Resolver<'_, '_> {
    /// Whether answers from this zone carry signatures.
    pub(super) fn signs(&self, zone: &ZoneTable) -> bool {
        self.dnssec_ok && zone.denial().is_some()
    }

    /// The closest encloser's labels when the records at `scratch.key` came from a wildcard; only asked where it must be
    /// proven.
    pub(super) fn wildcard(&self, zone: &ZoneTable, len: usize) -> Option<usize> {
        let found = &self.scratch.key;
        let same = self.key_of(zone, &self.scratch.name[..len])?.bytes() == found.bytes();
        found.labels().checked_sub(1).filter(|_| !same)
    }

    fn key_of(&self, zone: &ZoneTable, name: &[u8]) -> Option<Key> {
        let mut key = Key::default();
        key.set(name, zone.zone().origin().wire().len()).then_some(key)
    }

    /// Puts the signatures over a set that was just put and stands at `scratch.key`.
    pub(super) fn sign(&mut self, zone: &ZoneTable, section: Section, owner: usize, set: RrView<'_>) {
        if self.signs(zone)
            && let Some(node) = zone.index().find(self.scratch.key.bytes())
        {
            self.sign_at(section, owner, node, set);
        }
    }

    /// Puts the signatures over a set of this node. An answer without them is cut short (RFC 4035 §3.1.1), but not for
    /// the additional section.
    pub(super) fn sign_at(&mut self, section: Section, owner: usize, node: Node<'_>, set: RrView<'_>) {
        let fits = self.message.put_signatures(section, owner, node, set);
        self.verdict.truncated |= !fits && section != Section::Additional;
    }

    /// Answers a question for signatures: each has the TTL of what it covers (RFC 4034 §3).
    pub(super) fn signatures(&mut self, zone: &ZoneTable, owner: usize) -> bool {
        let node = zone.index().find(self.scratch.key.bytes());
        let fits = node.is_some_and(|n| self.message.put_all_signatures(Section::Answer, owner, n));
        self.verdict.truncated |= !fits;
        fits
    }

    /// The DS of a delegation, or the proof that it has none (RFC 4035 §3.1.4, RFC 5155 §7.2.7).
    pub(super) fn sign_referral(
        &mut self,
        zone: &ZoneTable,
        step: usize,
        labels: usize,
        cut: usize,
        node: Node<'_>,
    ) {
        if !self.signs(zone) {
            return;
        }
        match node.set(rtype::DS) {
            Some(ds) => {
                if self.put(Section::Authority, cut, ds) {
                    self.sign_at(Section::Authority, cut, node, ds);
                }
            }
            None => self.prove(zone, step, Claim::NoDs(labels)),
        }
    }

    /// Writes a proof about the name of a step.
    pub(super) fn prove(&mut self, zone: &ZoneTable, step: usize, claim: Claim) {
        let Some(denial) = zone.denial().filter(|_| self.dnssec_ok) else { return };
        let (Step { owner, len, .. }, mut name) = (self.seen[step], [0u8; 255]);
        lower(&mut name[..len], self.message.bytes(owner, len));
        let Some(key) = self.key_of(zone, &name[..len]) else { return };
        let apex = owner + key.wire_start(0);
        let mut prover = Prover {
            zone,
            denial,
            message: self.message,
            placed: &mut self.placed,
            apex,
            name: &name[..len],
            key: &key,
        };
        let whole = prover.prove(claim);
        self.verdict.truncated |= !whole;
    }

    /// Proves of every answer so far that came from a wildcard that the name itself does not exist: in the authority
    /// section, so when all answers stand there.
    pub(super) fn prove_wildcards(&mut self) {
        for step in 0..self.seen.len() {
            let Step { owner, len, wildcard, .. } = self.seen[step];
            let Some(encloser) = core::mem::take(&mut self.seen[step].wildcard).and(wildcard) else {
                continue;
            };
            let mut name = [0u8; 255];
            lower(&mut name[..len], self.message.bytes(owner, len));
            if let Some((zone, _)) = self.table.zone_of(&name[..len], false) {
                self.prove(zone, step, Claim::Wildcard(usize::from(encloser)));
            }
        }
    }
}
