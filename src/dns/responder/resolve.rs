//! From a question to the sections of its answer: aliases followed inside our zones, referrals, negative answers, and the
//! addresses that belong with them.

mod alias;
mod signed;

use super::{
    Client, Scratch, Verdict, lower,
    proof::{Claim, Placed},
};
use crate::{
    message::{Message, Section, is_svcb},
    wire::{HEADER, rcode},
};
use zonekeeper_core::{
    answer::{DnsTable, Found, Prepared, SUSPECT_TTL, ServiceAnswer, Whereabouts, ZoneTable},
    zone::{Node, RrView, rdata_target, rtype},
};

/// Most aliases that one answer follows, CNAME and DNAME together and across our zones; resolvers give up at about as
/// many. A name that came before ends the chain sooner.
const MAX_CHAIN: usize = 16;

pub(super) struct Resolver<'a, 'b> {
    table: &'a DnsTable,
    scratch: &'a mut Scratch,
    message: &'a mut Message<'b>,
    client: Client<'a>,
    qtype: u16,
    /// The client asked for signatures (RFC 3225 §3).
    dnssec_ok: bool,
    verdict: Verdict,
    /// Names on the way, so that a loop is seen.
    seen: [Step; MAX_CHAIN],
    placed: Placed,
}

/// One name on the way.
#[derive(Clone, Copy, Default)]
struct Step {
    /// Its place in the message.
    owner: usize,
    len: usize,
    /// The place of the ancestor whose DNAME led on from it; 0 for none.
    dname: usize,
    /// Labels of the closest encloser when its records are a wildcard's, and that is yet to be proven.
    wildcard: Option<u8>,
}

/// Where an alias leads: the place of its target in the message, and the target's length.
type Next = Option<(usize, usize)>;

impl<'a, 'b> Resolver<'a, 'b> {
    pub(super) fn new(
        table: &'a DnsTable,
        scratch: &'a mut Scratch,
        message: &'a mut Message<'b>,
        client: Client<'a>,
        qtype: u16,
        dnssec_ok: bool,
    ) -> Resolver<'a, 'b> {
        scratch.targets.clear();
        Resolver {
            table,
            scratch,
            message,
            client,
            qtype,
            dnssec_ok,
            verdict: Verdict::default(),
            seen: [Step::default(); MAX_CHAIN],
            placed: Placed::default(),
        }
    }

    /// Answers for the name in `scratch.name`, which is the question's.
    pub(super) fn run(mut self, name_len: usize) -> Verdict {
        let (mut owner, mut len) = (HEADER, name_len);
        for step in 0..MAX_CHAIN {
            self.seen[step] = Step { owner, len, ..Step::default() };
            match self.step(step, owner, len) {
                Some((at, n)) if !self.is_loop(step, at, n) => (owner, len) = (at, n),
                _ => break,
            }
            lower(&mut self.scratch.name[..len], self.message.bytes(owner, len));
        }
        if self.dnssec_ok {
            self.prove_wildcards();
        }
        self.verdict
    }

    fn is_loop(&self, step: usize, at: usize, len: usize) -> bool {
        self.seen[..=step].iter().any(|s| self.message.are_same((s.owner, s.len), (at, len)))
    }

    fn step(&mut self, step: usize, owner: usize, len: usize) -> Next {
        let name = &self.scratch.name[..len];
        // RFC 4035 §3.1.4.1: a DS belongs to the parent, if that is ours.
        let above = if self.qtype == rtype::DS { self.table.zone_of(name, true) } else { None };
        let Some((zone, origin)) = above.or_else(|| self.table.zone_of(name, false)) else {
            if step == 0 {
                // a node without any zone has not got its state yet: it is no authority that refuses (RFC 8914 §4.15)
                let (error, code) = match self.table.zones().next() {
                    Some(_) => (20, rcode::REFUSED),
                    None => (14, rcode::SERVFAIL),
                };
                self.verdict = Verdict { error: Some(error), ..Verdict::code(code) };
            }
            return None;
        };
        if !zone.is_ready() || !self.scratch.key.set(name, origin) {
            if step == 0 {
                self.verdict = Verdict { error: Some(14), ..Verdict::code(rcode::SERVFAIL) };
            }
            return None;
        }
        let apex = owner + len - origin;
        let found = zone.find(&mut self.scratch.key, self.qtype);
        self.verdict.authoritative |= step == 0 && !matches!(found, Found::Referral(..));
        let wildcard = if self.signs(zone) { self.wildcard(zone, len) } else { None };
        if matches!(found, Found::Set(_) | Found::Any(_) | Found::Cname(_)) {
            self.seen[step].wildcard = wildcard.map(|labels| labels as u8);
        }
        match found {
            Found::Set(set) if set.rtype() == rtype::RRSIG && zone.denial().is_some() => {
                self.signatures(zone, owner);
                None
            }
            Found::Set(set) | Found::Any(set) => self.set(zone, owner, len, set),
            Found::Service(answer) => self.service(zone, step, apex, answer),
            Found::Cname(set) => self.cname(zone, owner, set),
            Found::Alias(set) => self.alias(zone, step, apex, set),
            Found::Dname(labels, set) => self.dname(zone, step, labels, set),
            Found::Referral(labels, node) => self.referral(zone, step, labels, node),
            Found::NoData => {
                let claim = wildcard.map_or(Claim::NoData, Claim::WildcardNoData);
                self.negative(zone, step, apex, claim)
            }
            Found::NxDomain => {
                self.verdict.rcode = rcode::NXDOMAIN; // of the last name, RFC 6604 §3
                let encloser = self.scratch.key.labels().saturating_sub(1); // the key is the wildcard's below it
                self.negative(zone, step, apex, Claim::NxDomain(encloser))
            }
        }
    }

    fn set(&mut self, zone: &ZoneTable, owner: usize, len: usize, set: RrView<'_>) -> Next {
        if set.rtype() == rtype::DNAME && self.seen.iter().any(|s| self.renamed(s, owner, len)) {
            return None; // it stands there
        }
        if self.put(Section::Answer, owner, set) {
            self.message.collect(set, &mut self.scratch.targets);
            self.sign(zone, Section::Answer, owner, set);
            if self.dnssec_ok {
                self.prove_wildcards();
            }
            self.additional(zone, set.rtype(), (owner, len), None);
        }
        None
    }

    fn put(&mut self, section: Section, owner: usize, set: RrView<'_>) -> bool {
        let fits = self.message.put(section, owner, set);
        self.verdict.truncated |= !fits; // at a border of RRsets, RFC 2181 §9
        fits
    }

    fn service(&mut self, zone: &ZoneTable, step: usize, apex: usize, answer: &ServiceAnswer) -> Next {
        let owner = self.seen[step].owner;
        match answer.prepared() {
            Prepared::NoData => self.denied(zone, apex),
            Prepared::ServFail => {
                (self.verdict.rcode, self.verdict.error) = (rcode::SERVFAIL, Some(14)); // not ready
                None
            }
            Prepared::Fixed(_) | Prepared::Weighted { .. } | Prepared::Nearest(_) => {
                if let Some(set) = self.steer(answer) {
                    self.put(Section::Answer, owner, set);
                }
                None
            }
        }
    }

    /// The set of a service that this client gets; none: the service has none for anybody.
    fn steer<'t>(&mut self, answer: &'t ServiceAnswer) -> Option<RrView<'t>> {
        let Prepared::Nearest(steering) = answer.prepared() else {
            let turn = match self.qtype {
                rtype::ANY => self.scratch.next_turn(answer.slot()), // takes none from those who want addresses
                _ => self.scratch.turn(answer.slot()),
            };
            return answer.set(turn);
        };
        let (geo, memory) = (self.client.geo, &mut self.scratch.memory);
        let known = |addr| geo.map_or_else(Whereabouts::default, |geo| memory.find(geo, addr));
        let chosen = steering.choose(self.client.addr, known);
        self.verdict.scope = self.verdict.scope.max(chosen.scope);
        steering.sites().get(chosen.site).map(|(_, set)| set.view())
    }

    fn cname(&mut self, zone: &ZoneTable, owner: usize, set: RrView<'_>) -> Next {
        if !self.put(Section::Answer, owner, set) {
            return None;
        }
        let (_, len) = rdata_target(rtype::CNAME, set.records().next()?.rdata())?;
        let target = (self.message.len() - len, len);
        self.sign(zone, Section::Answer, owner, set);
        Some(target)
    }

    /// RFC 6672 §3.1: the suffix is replaced, and a CNAME says so to those who do not know DNAME.
    fn dname(&mut self, zone: &ZoneTable, step: usize, labels: usize, set: RrView<'_>) -> Next {
        let (Step { owner, len, .. }, prefix) = (self.seen[step], self.scratch.key.wire_start(labels));
        self.seen[step].dname = owner + prefix;
        if !self.seen[..step].iter().any(|s| self.renamed(s, owner + prefix, len - prefix)) {
            if !self.put(Section::Answer, owner + prefix, set) {
                return None;
            }
            if self.signs(zone)
                && let Some(node) = zone.index().find(self.scratch.key.prefix(labels))
            {
                self.sign_at(Section::Answer, owner + prefix, node, set);
            }
        }
        let target = set.records().next()?.rdata();
        if prefix + target.len() > 255 || len < prefix {
            self.verdict.rcode = rcode::YXDOMAIN;
            return None;
        }
        let mut name = [0u8; 255];
        name[..prefix].copy_from_slice(self.message.bytes(owner, prefix));
        name[prefix..prefix + target.len()].copy_from_slice(target);
        let name = &name[..prefix + target.len()];
        if !self.message.put_cname(owner, set.ttl(), name) {
            self.verdict.truncated = true;
            return None;
        }
        let wanted = self.qtype == rtype::CNAME; // that was the answer
        (!wanted).then_some((self.message.len() - name.len(), name.len()))
    }

    /// Whether the DNAME of this name led on from that of the step.
    fn renamed(&self, step: &Step, at: usize, len: usize) -> bool {
        let Step { owner, len: whole, dname, .. } = *step;
        dname > 0 && self.message.are_same((dname, owner + whole - dname), (at, len))
    }

    fn referral(&mut self, zone: &ZoneTable, step: usize, labels: usize, node: Node<'_>) -> Next {
        let Step { owner, len, .. } = self.seen[step];
        let cut = owner + self.scratch.key.wire_start(labels);
        let ns = node.set(rtype::NS)?;
        if self.put(Section::Authority, cut, ns) {
            self.message.collect(ns, &mut self.scratch.targets);
            self.sign_referral(zone, step, labels, cut, node);
            if self.dnssec_ok {
                self.prove_wildcards();
            }
            let here = (cut, owner + len - cut);
            self.additional(zone, rtype::NS, here, Some(here));
        }
        None
    }

    /// A service has nothing to answer for now: that is kept no longer than an uncertain answer.
    fn denied(&mut self, zone: &ZoneTable, apex: usize) -> Next {
        let soa = zone.negative()?.whole();
        let fits = self.message.put_with_ttl(Section::Authority, apex, soa, soa.ttl().min(SUSPECT_TTL));
        self.verdict.truncated |= !fits;
        None
    }

    fn negative(&mut self, zone: &ZoneTable, step: usize, apex: usize, claim: Claim) -> Next {
        if step > 0 && self.dnssec_ok {
            self.prove_wildcards(); // BIND takes the first denial that could be one for its own, of whatever zone
        }
        let soa = zone.negative()?;
        let fits = self.message.put_negative(apex, soa);
        self.verdict.truncated |= !fits;
        if fits && self.signs(zone) {
            if let Some(node) = zone.index().find(&[]) {
                self.sign_at(Section::Authority, apex, node, soa.whole());
            }
            self.prove(zone, step, claim);
        }
        None
    }

    /// Addresses of the names that a set of this type leads to, as far as this zone has them; beside SVCB and HTTPS in
    /// AliasMode their records of the same type too (RFC 9460 §4.1). With a cut, those below it are needed to follow the referral: they
    /// must fit, or the answer is truncated (RFC 9471 §3).
    fn additional(&mut self, zone: &ZoneTable, of: u16, owner: (usize, usize), cut: Option<(usize, usize)>) {
        if self.scratch.targets.is_empty() {
            return;
        }
        let targets = core::mem::take(&mut self.scratch.targets);
        for (at, len) in targets.iter() {
            lower(&mut self.scratch.other[..len], self.message.bytes(at, len));
            let origin = zone.zone().origin().wire();
            if !self.scratch.other[..len].ends_with(origin) {
                continue;
            }
            let needed =
                cut.is_some_and(|(cut, n)| is_below(self.message.bytes(at, len), self.message.bytes(cut, n)));
            let own = self.message.are_same((at, len), owner);
            let types = [rtype::A, rtype::AAAA, of];
            let alias = is_svcb(of) && !own && self.message.bytes(at - 2, 2) == [0, 0];
            for rtype in types.into_iter().take(if alias { 3 } else { 2 }) {
                if !self.scratch.key.set(&self.scratch.other[..len], origin.len()) {
                    break;
                }
                let set = match zone.beside(&mut self.scratch.key, rtype, !is_svcb(of)) {
                    Some(Found::Set(set)) => Some(set),
                    // Nobody asked for it, so it takes no turn from those who do: shares stay exact.
                    Some(Found::Service(answer)) => answer.set(self.scratch.next_turn(answer.slot())),
                    _ => None,
                };
                if let Some(set) = set {
                    let fits = self.message.put(Section::Additional, at, set);
                    self.verdict.truncated |= needed && !fits;
                    if fits {
                        self.sign(zone, Section::Additional, at, set);
                    }
                }
            }
        }
    }
}

/// Whether a name in wire form ends with another at a border of labels.
fn is_below(name: &[u8], suffix: &[u8]) -> bool {
    let mut at = 0;
    while name.len() - at > suffix.len() {
        at += 1 + usize::from(name[at]);
        if at > name.len() {
            return false;
        }
    }
    name[at..].eq_ignore_ascii_case(suffix)
}
