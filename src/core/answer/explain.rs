//! Why a name is answered as it is.

use super::{DnsTable, Found, Prepared, Steering, Whereabouts};
use crate::{
    assign::Lane,
    model::Policy,
    name::Name,
    state::{Basis, State},
    zone::{Key, rdata_target, rtype},
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;

/// Who asks, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Asker {
    /// The client's address, or that of its network.
    pub addr: Option<IpAddr>,
    /// What the node's databases know of it; none: it has no database.
    pub known: Option<Whereabouts>,
}

/// Most names on the way: no answer follows more.
const MAX_STEPS: usize = 16;
/// Most of them behind an ALIAS.
const MAX_FLAT: usize = 8;

/// An explanation in the making.
struct Path<'a> {
    table: &'a DnsTable,
    state: &'a State,
    qtype: u16,
    asker: Asker,
    why: Vec<String>,
    names: Vec<Name>,
    /// So many names led to an ALIAS: since then it is about addresses to answer, or nothing.
    flat: Option<usize>,
}

impl DnsTable {
    /// The path from a question to its answer in words, a line for each step, also behind aliases.
    pub fn explain(&self, state: &State, qname: &Name, qtype: u16, asker: Asker) -> Vec<String> {
        let (why, names) = (Vec::new(), Vec::from([qname.clone()]));
        let mut path = Path { table: self, state, qtype, asker, why, names, flat: None };
        while let Some(next) = path.step() {
            path.why.push(format!("which leads to {next}"));
            let most = path.flat.map_or(MAX_STEPS, |from| from + MAX_FLAT);
            let end = match (path.names.contains(&next), path.names.len() >= most) {
                (true, _) => "where it came from: a loop",
                (false, true) => "which is one alias too many",
                (false, false) => {
                    path.names.push(next);
                    continue;
                }
            };
            let then = if path.flat.is_some() { "SERVFAIL" } else { "the answer ends here" };
            path.why.push(format!("{end}; {then}"));
            break;
        }
        path.why
    }
}

impl Path<'_> {
    /// The last name; the next, when an alias leads on.
    fn step(&mut self) -> Option<Name> {
        let qname = self.names.last()?.clone();
        // RFC 4035 §3.1.4.1: a DS belongs to the parent, if that is ours.
        let above = if self.qtype == rtype::DS { self.table.zone_of(qname.wire(), true) } else { None };
        let Some((table, origin)) = above.or_else(|| self.table.zone_of(qname.wire(), false)) else {
            let then = match (self.names.len(), self.flat) {
                (1, _) => ": REFUSED",
                (_, Some(_)) => ", so its addresses are not known: SERVFAIL",
                (_, None) => "",
            };
            self.why.push(format!("{qname} lies in no zone of this cluster{then}"));
            return None;
        };
        let zone = table.zone();
        self.why.push(format!(
            "zone {} with serial {} is the closest to {qname}",
            zone.origin(),
            zone.serial()
        ));
        if !table.is_ready() {
            self.why.push("the zone lacks SOA or NS at its apex: SERVFAIL".to_string());
            return None;
        }
        let mut key = Key::default();
        if !key.set(qname.wire(), origin) {
            return None;
        }
        let asked = key.labels();
        let found = table.find(&mut key, self.qtype);
        if key.bytes().ends_with(b"*\0") && !qname.is_wildcard() && !matches!(found, Found::NxDomain) {
            self.why.push(format!(
                "the name does not exist; a wildcard {} labels above it does",
                asked - (key.labels() - 1)
            ));
        }
        if let Found::Service(answer) = found {
            service(&mut self.why, self.state, answer, self.asker);
            return None;
        }
        self.why.push(match (&found, self.flat) {
            (Found::Referral(..), Some(_)) => {
                "an ancestor is delegated, so its addresses are not known: SERVFAIL".to_string()
            }
            (Found::NoData | Found::NxDomain, Some(_)) => "it has no such addresses: NODATA".to_string(),
            _ => records(&found),
        });
        let (set, kept) = match found {
            Found::Cname(set) => (set, 0),
            Found::Alias(set) => {
                self.flat.get_or_insert(self.names.len());
                (set, 0)
            }
            Found::Dname(..) if self.qtype == rtype::CNAME => return None, // the one made up for it is the answer
            Found::Dname(labels, set) => (set, key.wire_start(labels)),
            _ => return None,
        };
        let rdata = set.records().next()?.rdata();
        let (at, len) = rdata_target(set.rtype(), rdata)?;
        let next = [&qname.wire()[..kept], &rdata[at..at + len]].concat();
        let next = Name::from_wire(&next).ok();
        if next.is_none() {
            let code = if self.flat.is_some() { "SERVFAIL" } else { "YXDOMAIN" };
            self.why.push(format!("but the name would be too long: {code}"));
        }
        next
    }
}

fn records(found: &Found<'_>) -> String {
    match found {
        Found::Set(set) | Found::Any(set) => format!("{} static records with TTL {}", set.count(), set.ttl()),
        Found::Cname(_) => "an alias (CNAME) stands there".to_string(),
        Found::Alias(_) => "an ALIAS gives it the addresses of another name".to_string(),
        Found::Dname(..) => {
            "an ancestor has a DNAME, which replaces the end of the name (RFC 6672)".to_string()
        }
        Found::Referral(..) => "an ancestor is delegated: referral to its name servers".to_string(),
        Found::NoData => "the name exists, but not with this type: NODATA".to_string(),
        Found::NxDomain => "neither the name nor a wildcard for it exists: NXDOMAIN".to_string(),
        Found::Service(_) => String::new(),
    }
}

fn service(why: &mut Vec<String>, state: &State, answer: &super::ServiceAnswer, asker: Asker) {
    let (id, family) = (answer.service(), answer.family());
    let Some(s) = state.services.get(id) else { return };
    let policy = match s.spec.policy {
        Policy::Failover(_) => "failover",
        Policy::Weighted(_) => "weighted",
        Policy::All => "all",
        Policy::Nearest(_) => "nearest",
    };
    why.push(format!("service {id} stands at this name with policy {policy}"));
    match s.assignment.get(&family) {
        Some(a) => {
            let sites: Vec<&str> = a.sites.iter().map(|s| s.as_str()).collect();
            let basis = match a.basis {
                Basis::Usable => "usable",
                Basis::Drained => "drained; nothing better is usable",
                Basis::LastSet => "the last set; everything is down and the service fails open",
                Basis::Nothing => "none; everything is down or forced down",
            };
            let (i, n) = (a.epoch.incarnation, a.epoch.index);
            why.push(format!(
                "assigned to [{}] ({basis}) by the decision at epoch {i}.{n}",
                sites.join(", ")
            ));
        }
        None => why.push("no decision has assigned this family yet".to_string()),
    }
    let lane = Lane::new(state, id, s, family, state.time);
    for site in s.spec.sites(family) {
        why.extend(lane.unused(site).map(|reason| format!("{site} is not answered: {reason}")));
    }
    if !s.suspects.is_empty() {
        let sites: Vec<&str> = s.suspects.iter().map(|s| s.as_str()).collect();
        why.push(format!(
            "under suspicion: {}; answers live at most {} s",
            sites.join(", "),
            super::service::SUSPECT_TTL
        ));
    }
    why.push(match answer.prepared() {
        Prepared::Fixed(set) => format!("{} addresses with TTL {}", set.view().count(), set.view().ttl()),
        Prepared::Weighted { sets, schedule } => {
            let share = |i: usize| schedule.iter().filter(|&&s| usize::from(s) == i).count();
            let shares: Vec<String> =
                (0..sets.len()).map(|i| format!("{}/{}", share(i), schedule.len())).collect();
            format!("one site per answer, in shares of {}", shares.join(", "))
        }
        Prepared::Nearest(steering) => nearest(steering, asker),
        Prepared::NoData => "answers NODATA".to_string(),
        Prepared::ServFail => "answers SERVFAIL".to_string(),
    });
}

fn nearest(steering: &Steering, asker: Asker) -> String {
    let chosen = steering.choose(asker.addr, |_| asker.known.unwrap_or_default());
    let site = steering.sites().get(chosen.site).map_or("nothing", |(id, _)| id.as_str());
    let who = match asker.addr {
        Some(addr) => format!("to {addr}, and to all that share its first {} bits, ", chosen.scope),
        None => "to a client without an address ".to_string(),
    };
    let blind = match asker.known.is_none() && steering.asks_whereabouts() {
        true => "; this node has no database that knows where clients are",
        false => "",
    };
    format!("{who}the nearest usable site is {site}, by {}{blind}", chosen.step.words())
}
