//! The DNS table: zones with the answers of services laid over them.
//!
//! The zones are the state's own (shared chunks, RRsets as they go on the wire); beside each stands a sorted list of the
//! services at its names, their A and AAAA answers prepared as wire bytes. [`ZoneTable::find`] is the whole of zone
//! semantics; what a server adds is the wire.
//!
//! Where a service has endpoints of a family, its answer replaces an A or AAAA RRset of the zone at the same name, and a
//! CNAME there is not followed (`check` refuses both). Its other types come from the zone. A service below a delegation
//! is occluded like any record there, and one outside every zone is not answered (`check` refuses it too). So it does
//! one in a signed zone: an answer without a signature would be bogus.
//!
//! **Order.** RRsets are answered in the canonical order of their RDATA, always the same: resolvers and clients shuffle
//! (RFC 1034 §4.2.1 gives the order no meaning), and bytes that do not change are cheap. `failover` and `all` answer the
//! sites in the policy's order, `weighted` one site in turn, each in exact proportion, and `nearest` the one nearest to the
//! client (see [`Steering`]); beside other records, where nobody keeps answers apart by client (RFC 7871 §7.3.1), the first
//! usable one of its sites.
//!
//! **TTL.** A service's answer lives as long as the service says, and at most [`SUSPECT_TTL`] while the next change is
//! near: a site that answers is under suspicion, or the answer is a makeshift (drained sites, the last set). So does the
//! denial of a service that answers NODATA.
//!
//! **HTTPS and SVCB** at a service's name are templates: where the target is the owner itself (`www HTTPS 1 . alpn=h2`),
//! `ipv4hint` and `ipv6hint` are those of the service now, and the TTL is not above the service's. A service that
//! is weighted or goes by the client gives no hints, for it answers one site at a time.
//!
//! **ALIAS**, at the apex too, answers the addresses of another name of ours, which may be a service; the TTL is the
//! smaller one.

mod explain;
mod nearest;
mod negative;
mod service;
mod svcb;
#[cfg(test)]
mod tests;

pub use explain::Asker;
pub use nearest::{Chosen, Direction, Steering, Step, Whereabouts};
pub use negative::Negative;
pub use service::{Prepared, SUSPECT_TTL, ServiceAnswer, WireSet};

use crate::{
    entry::Delta,
    model::{Family, Policy},
    name::Name,
    state::State,
    zone::{CutKind, Denial, Key, Node, Place, RrView, Zone, ZoneIndex, rtype},
};
use alloc::{sync::Arc, vec::Vec};
use xxhash_rust::xxh3::xxh3_64;

/// Everything that DNS answers from, immutable. A clone shares all zones.
#[derive(Debug, Clone, Default)]
pub struct DnsTable {
    /// Sorted by the hash of the origin.
    zones: Arc<Vec<(u64, Arc<ZoneTable>)>>,
    /// Bit n: some origin has n labels. Only those suffixes of a question are looked up.
    depths: u128,
    /// Weighted answers: each has a counter of this number in every worker.
    slots: u32,
    /// Some service goes by the client's address.
    steered: bool,
    /// Hash of all origins in their order.
    origins: u64,
}

/// One zone as it is served.
#[derive(Debug, Clone)]
pub struct ZoneTable {
    /// Its place among the zones.
    number: usize,
    zone: Arc<Zone>,
    index: Arc<ZoneIndex>,
    /// The chain of a zone that was signed elsewhere.
    denial: Option<Arc<Denial>>,
    negative: Option<Negative>,
    /// Has SOA and NS.
    ready: bool,
    /// `*` exists right below the apex, with records or because of names below it (RFC 4592 §2.2.2).
    starred: bool,
    /// Sorted by key.
    services: Vec<(Arc<[u8]>, Arc<ServicesAt>)>,
}

/// The services at one name; at most one per family.
#[derive(Debug, Clone, Default)]
struct ServicesAt {
    v4: Option<Arc<ServiceAnswer>>,
    v6: Option<Arc<ServiceAnswer>>,
    /// The zone's SVCB and HTTPS records at this name, with the addresses of now.
    svcb: Vec<WireSet>,
}

impl ServicesAt {
    fn of(&self, qtype: u16) -> Option<&Arc<ServiceAnswer>> {
        match qtype {
            rtype::A => self.v4.as_ref(),
            rtype::AAAA => self.v6.as_ref(),
            _ => None,
        }
    }

    fn svcb(&self, qtype: u16) -> Option<RrView<'_>> {
        self.svcb.iter().map(WireSet::view).find(|s| s.rtype() == qtype)
    }

    fn slot(&mut self, family: Family) -> &mut Option<Arc<ServiceAnswer>> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// Where a question leads in one zone.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// Records of the type that was asked for.
    Set(RrView<'a>),
    /// A service's answer.
    Service(&'a ServiceAnswer),
    /// An alias.
    Cname(RrView<'a>),
    /// A name whose addresses are answered as those of the name that was asked for.
    Alias(RrView<'a>),
    /// A DNAME at the ancestor with so many labels below the origin.
    Dname(usize, RrView<'a>),
    /// A delegation at the ancestor with so many labels below the origin.
    Referral(usize, Node<'a>),
    /// The name exists, the type does not.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// ANY was asked for: one RRset of the name (RFC 8482 §4.1).
    Any(RrView<'a>),
}

impl DnsTable {
    /// Builds the table of a state. Costs what there are zones and services, and an index over the zones' names; the
    /// records are shared.
    pub fn build(state: &State) -> DnsTable {
        DnsTable::default().rebuild(state)
    }

    /// Builds anew, but keeps the indices of zones.
    fn rebuild(&self, state: &State) -> DnsTable {
        let old = |z: &Zone| self.origin(z.origin().wire()).map(|i| &*self.zones[i].1);
        let table = |z: &Arc<Zone>| (xxh3_64(z.origin().wire()), ZoneTable::new(z.clone(), old(z)));
        let mut zones: Vec<(u64, ZoneTable)> = state.zones.values().map(table).collect();
        zones.sort_by(|a, b| (a.0, a.1.zone.origin()).cmp(&(b.0, b.1.zone.origin())));
        let mut table = DnsTable::default();
        for z in state.zones.keys() {
            table.depths |= 1 << z.labels().count().min(127);
        }
        table.origins = xxh3_64(&zones.iter().flat_map(|(h, _)| h.to_le_bytes()).collect::<Vec<u8>>());
        let numbered = |((h, z), number)| (h, Arc::new(ZoneTable { number, ..z }));
        table.zones = Arc::new(zones.into_iter().zip(0..).map(numbered).collect());
        let nearest = |p: &Policy| matches!(p, Policy::Nearest(_));
        table.steered = state.services.values().any(|s| nearest(&s.spec.policy));
        for (id, service) in &state.services {
            for family in Family::ALL {
                let answer = service::prepare(id, service, family, table.slots, &state.sites).map(Arc::new);
                table.slots += 1;
                for name in &service.spec.names {
                    table.lay(name, family, answer.clone());
                }
            }
        }
        table
    }

    /// The table after a delta; shares what did not change.
    pub fn update(&self, state: &State, delta: &Delta) -> DnsTable {
        let known = |z: &Name| self.origin(z.wire()).is_some() == state.zones.contains_key(z);
        if delta.config || !delta.zones.iter().all(known) {
            return self.rebuild(state);
        }
        let mut table = self.clone();
        for origin in &delta.zones {
            if let (Some(i), Some(zone)) = (self.origin(origin.wire()), state.zones.get(origin)) {
                let slot = &mut Arc::make_mut(&mut table.zones)[i].1;
                let (number, services) = (slot.number, slot.services.clone());
                let mut new = ZoneTable { number, services, ..ZoneTable::new(zone.clone(), Some(slot)) };
                new.complete_all();
                *slot = Arc::new(new);
            }
        }
        for (id, family) in &delta.services {
            let Some(service) = state.services.get(id) else { continue };
            let slot = service.spec.names.first().and_then(|n| self.laid(n, *family)).map_or(0, |a| a.slot());
            let answer = service::prepare(id, service, *family, slot, &state.sites).map(Arc::new);
            for name in &service.spec.names {
                table.lay(name, *family, answer.clone());
            }
        }
        table
    }

    /// How many counters of weighted answers a worker needs.
    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// Whether some answer goes by the client's address.
    pub fn is_steered(&self) -> bool {
        self.steered
    }

    /// The same for two tables whose zones have the same numbers.
    pub fn origins(&self) -> u64 {
        self.origins
    }

    /// The zones, in the order of their numbers.
    pub fn zones(&self) -> impl Iterator<Item = &ZoneTable> + '_ {
        self.zones.iter().map(|(_, z)| &**z)
    }

    /// The zone with the longest origin that `qname` (lower case, in wire form) ends with, and the length of that origin
    /// in bytes. With `above`, a zone whose origin is `qname` itself is passed over: a DS belongs to the parent.
    pub fn zone_of(&self, qname: &[u8], above: bool) -> Option<(&ZoneTable, usize)> {
        let mut labels = 0;
        let mut at = 0;
        while *qname.get(at)? != 0 {
            at += 1 + usize::from(qname[at]);
            labels += 1;
        }
        at = 0;
        loop {
            if self.depths >> labels.min(127) & 1 == 1
                && !(above && at == 0)
                && let Some(i) = self.origin(&qname[at..])
            {
                return Some((&self.zones[i].1, qname.len() - at));
            }
            if labels == 0 {
                return None;
            }
            at += 1 + usize::from(qname[at]);
            labels -= 1;
        }
    }

    fn origin(&self, wire: &[u8]) -> Option<usize> {
        let hash = xxh3_64(wire);
        let at = self.zones.partition_point(|(h, _)| *h < hash);
        let same = self.zones[at..].iter().take_while(|(h, _)| *h == hash);
        same.zip(at..).find(|((_, z), _)| z.zone.origin().wire() == wire).map(|(_, i)| i)
    }

    fn laid(&self, name: &Name, family: Family) -> Option<&Arc<ServiceAnswer>> {
        let (zone, _) = self.zone_of(name.wire(), false)?;
        let key = Key::within(name, zone.zone.origin())?;
        zone.services_at(key.bytes())?.of(if family == Family::V4 { rtype::A } else { rtype::AAAA })
    }

    /// Lays an answer over its zone.
    fn lay(&mut self, name: &Name, family: Family, answer: Option<Arc<ServiceAnswer>>) {
        let Some((_, origin)) = self.zone_of(name.wire(), false) else { return };
        let Some(i) = self.origin(&name.wire()[name.wire().len() - origin..]) else { return };
        let zone = Arc::make_mut(&mut Arc::make_mut(&mut self.zones)[i].1);
        let Some(key) = Key::within(name, zone.zone.origin()) else { return };
        let at = match zone.services.binary_search_by(|(k, _)| (**k).cmp(key.bytes())) {
            Ok(at) => at,
            Err(_) if answer.is_none() => return,
            Err(at) => {
                zone.services.insert(at, (key.bytes().into(), Arc::default()));
                at
            }
        };
        *Arc::make_mut(&mut zone.services[at].1).slot(family) = answer;
        zone.complete(at);
    }
}

impl ZoneTable {
    /// A table without services; `old` is the one of an earlier version.
    fn new(zone: Arc<Zone>, old: Option<&ZoneTable>) -> ZoneTable {
        let index = match old {
            Some(old) if Arc::ptr_eq(&old.zone, &zone) => old.index.clone(),
            Some(old) => Arc::new(old.index.update(&zone)),
            None => Arc::new(ZoneIndex::build(&zone)),
        };
        let negative = zone.soa().and_then(Negative::of);
        let denial = match old {
            Some(old) if Arc::ptr_eq(&old.zone, &zone) => old.denial.clone(),
            old => {
                let old = old.and_then(|o| Some((&*o.zone, o.denial.as_deref()?)));
                Denial::of(&zone, old).map(Arc::new)
            }
        };
        let ready = zone.validate().is_ok();
        let mut star = Key::default();
        star.set_wildcard(0);
        let starred = index.place_of(&zone, &star).encloser == star.labels();
        ZoneTable { number: 0, negative, ready, starred, zone, index, denial, services: Vec::new() }
    }

    fn place_of(&self, key: &Key) -> Place<'_> {
        let place = self.index.place_of(&self.zone, key);
        match &self.denial {
            Some(d) if d.nsec3().is_some() && place.encloser == 1 => self.without_hashes(key, place),
            _ => place,
        }
    }

    /// The owners of NSEC3 records are no names of the zone (RFC 5155 §7.2.8).
    fn without_hashes<'a>(&'a self, key: &Key, place: Place<'a>) -> Place<'a> {
        match self.index.find(key.prefix(1)) {
            Some(node) if node.set(rtype::NSEC3).is_some() => Place { node: None, encloser: 0, ..place },
            _ => place,
        }
    }

    /// The chain of denials, when the zone was signed elsewhere.
    pub fn denial(&self) -> Option<&Denial> {
        self.denial.as_deref()
    }

    /// Its number, from 0; it changes only where zones come and go ([`DnsTable::origins`]).
    pub fn number(&self) -> usize {
        self.number
    }

    /// The records.
    pub fn zone(&self) -> &Arc<Zone> {
        &self.zone
    }

    /// Whether it has SOA and NS; a zone that has not answers SERVFAIL.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// The index of the zone's names.
    pub fn index(&self) -> &ZoneIndex {
        &self.index
    }

    /// Whether a name's own records are all that decides its answer: no services, delegations or DNAMEs are near.
    pub fn is_plain(&self) -> bool {
        self.ready && self.services.is_empty() && !self.zone.has_cuts()
    }

    /// Whether a name that is missing right below the apex may be answered by, or as, the wildcard there.
    pub fn is_starred(&self) -> bool {
        self.starred
    }

    /// The SOA of negative answers.
    pub fn negative(&self) -> Option<&Negative> {
        self.negative.as_ref()
    }

    /// Makes the SVCB and HTTPS records at every service anew.
    fn complete_all(&mut self) {
        (0..self.services.len()).for_each(|at| self.complete(at));
    }

    /// Makes those at one service anew.
    fn complete(&mut self, at: usize) {
        let (key, services) = &self.services[at];
        let svcb = match self.index.find(key) {
            Some(node) => [rtype::SVCB, rtype::HTTPS]
                .into_iter()
                .filter_map(|t| svcb::complete(node.set(t)?, services.v4.as_deref(), services.v6.as_deref()))
                .collect(),
            None => Vec::new(),
        };
        if svcb != services.svcb {
            Arc::make_mut(&mut self.services[at].1).svcb = svcb;
        }
    }

    fn services_at(&self, key: &[u8]) -> Option<&ServicesAt> {
        let at = self.services.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.services[at].1)
    }

    /// The services at a key, and how many labels of it exist because of services.
    fn services_near(&self, key: &Key) -> (Option<&ServicesAt>, usize) {
        if self.services.is_empty() {
            return (None, 0);
        }
        match self.services.binary_search_by(|(k, _)| (**k).cmp(key.bytes())) {
            Ok(at) => (Some(&*self.services[at].1), key.labels()),
            Err(at) => {
                let near = self.services[at.saturating_sub(1)..].iter().take(2);
                (None, near.map(|(k, _)| key.common_labels(k)).max().unwrap_or(0))
            }
        }
    }

    /// Answers a question: RFC 1034 §4.3.2 step 3 with RFC 4592 wildcards and RFC 6672 DNAME. `key` is the name asked
    /// for; after a wildcard it is the wildcard's.
    pub fn find<'a>(&'a self, key: &mut Key, qtype: u16) -> Found<'a> {
        let place = self.place_of(key);
        match place.cut {
            Some((labels, CutKind::Delegation, node)) if qtype == rtype::DS && labels == key.labels() => {
                return node.set(rtype::DS).map_or(Found::NoData, Found::Set); // RFC 4035 §3.1.4.1: ours, not the child's
            }
            Some((labels, CutKind::Delegation, node)) => return Found::Referral(labels, node),
            Some((labels, CutKind::Dname, node)) => {
                return node.set(rtype::DNAME).map_or(Found::NxDomain, |d| Found::Dname(labels, d));
            }
            None => {}
        }
        let (services, near) = self.services_near(key);
        let encloser = place.encloser.max(near);
        if encloser == key.labels() {
            return select(place.node, services, qtype);
        }
        key.set_wildcard(encloser);
        let wild = self.place_of(key);
        let (services, near) = self.services_near(key);
        if wild.encloser.max(near) < key.labels() {
            return Found::NxDomain;
        }
        select(wild.node, services, qtype)
    }

    /// What an additional section may add: an RRset at a name, services included. With `far` also glue below a cut of
    /// this zone, and what a wildcard makes (RFC 1034 §4.3.2 step 6; the others do neither beside SVCB). What lies below a
    /// DNAME does not exist (RFC 6672 §2.4).
    pub fn beside<'a>(&'a self, key: &mut Key, rtype: u16, far: bool) -> Option<Found<'a>> {
        let place = self.place_of(key);
        match place.cut {
            Some((_, CutKind::Delegation, _)) => {
                return place.node.filter(|_| far)?.set(rtype).map(Found::Set);
            }
            Some((_, CutKind::Dname, _)) => return None,
            None => {}
        }
        let exists = place.encloser.max(self.services_near(key).1) == key.labels();
        match self.find(key, rtype) {
            found @ (Found::Set(_) | Found::Service(_)) if far || exists => Some(found),
            _ => None,
        }
    }
}

fn select<'a>(node: Option<Node<'a>>, services: Option<&'a ServicesAt>, qtype: u16) -> Found<'a> {
    if let Some(answer) = services.and_then(|s| s.of(qtype)) {
        return Found::Service(answer);
    }
    if qtype == rtype::ANY {
        return any(node, services);
    }
    if let Some(set) = services.and_then(|s| s.svcb(qtype)) {
        return Found::Set(set);
    }
    let Some(node) = node.filter(|_| qtype != rtype::ALIAS) else { return Found::NoData };
    if let Some(set) = node.set(qtype) {
        return Found::Set(set);
    }
    if let Some(alias) = node.set(rtype::ALIAS).filter(|_| matches!(qtype, rtype::A | rtype::AAAA)) {
        return Found::Alias(alias);
    }
    // RRSIG and NSEC stand beside a CNAME (RFC 4035 §2.5): where they are asked for and missing, that is the answer.
    let beside = matches!(qtype, rtype::RRSIG | rtype::NSEC);
    match node.set(rtype::CNAME) {
        Some(cname) if services.is_none() && !beside => Found::Cname(cname),
        _ => Found::NoData,
    }
}

/// One RRset stands for all (RFC 8482 §4.1): the addresses of a service that has some, or the smallest other set. Only
/// where there is neither, the service says why.
fn any<'a>(node: Option<Node<'a>>, services: Option<&'a ServicesAt>) -> Found<'a> {
    let service = |rtype| services.and_then(|s| s.of(rtype)).map(|a| &**a);
    let mut answers = [rtype::A, rtype::AAAA].into_iter().filter_map(service);
    if let Some(answer) = answers.clone().find(|a| a.set(0).is_some()) {
        return Found::Service(answer);
    }
    let hidden = |t| match t {
        rtype::RRSIG | rtype::ALIAS => true,
        rtype::CNAME => services.is_some(),
        t => service(t).is_some(),
    };
    let sets = node.into_iter().flat_map(|n| n.sets()).filter(|s| !hidden(s.rtype()));
    let sets = sets.map(|s| services.and_then(|at| at.svcb(s.rtype())).unwrap_or(s));
    match sets.min_by_key(|s| s.wire().len()) {
        Some(set) => Found::Any(set),
        None => answers.next().map_or(Found::NoData, Found::Service),
    }
}
