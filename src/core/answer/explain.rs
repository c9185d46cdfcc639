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

/// Most names that are explained on the way: no answer follows more.
const MAX_STEPS: usize = 16;

impl DnsTable {
    /// The path from a question to its answer in words, a line for each step, also behind aliases.
    pub fn explain(&self, state: &State, qname: &Name, qtype: u16, asker: Asker) -> Vec<String> {
        let (mut why, mut names) = (Vec::new(), Vec::from([qname.clone()]));
        while let Some(next) = self.step(state, &names[names.len() - 1], qtype, asker, &mut why) {
            why.push(format!("which leads to {next}"));
            if names.contains(&next) {
                why.push("where it came from: a loop, and the answer ends here".to_string());
                break;
            }
            if names.len() == MAX_STEPS {
                why.push("which is one alias too many: the answer ends here".to_string());
                break;
            }
            names.push(next);
        }
        why
    }

    /// One name; the next, when an alias leads on.
    fn step(
        &self,
        state: &State,
        qname: &Name,
        qtype: u16,
        asker: Asker,
        why: &mut Vec<String>,
    ) -> Option<Name> {
        // RFC 4035 §3.1.4.1: a DS belongs to the parent, if that is ours.
        let above = if qtype == rtype::DS { self.zone_of(qname.wire(), true) } else { None };
        let Some((table, origin)) = above.or_else(|| self.zone_of(qname.wire(), false)) else {
            why.push(format!(
                "{qname} lies in no zone of this cluster{}",
                match why.is_empty() {
                    true => ": REFUSED",
                    false => "",
                }
            ));
            return None;
        };
        let zone = table.zone();
        why.push(format!("zone {} with serial {} is the closest to {qname}", zone.origin(), zone.serial()));
        if !table.is_ready() {
            why.push("the zone lacks SOA or NS at its apex: SERVFAIL".to_string());
            return None;
        }
        let mut key = Key::default();
        if !key.set(qname.wire(), origin) {
            return None;
        }
        let asked = key.labels();
        let found = table.find(&mut key, qtype);
        if key.bytes().ends_with(b"*\0") && !qname.is_wildcard() && !matches!(found, Found::NxDomain) {
            why.push(format!(
                "the name does not exist; a wildcard {} labels above it does",
                asked - (key.labels() - 1)
            ));
        }
        if let Found::Service(answer) = found {
            service(why, state, answer, asker);
            return None;
        }
        why.push(records(&found));
        let (set, kept) = match found {
            Found::Cname(set) | Found::Alias(set) => (set, 0),
            Found::Dname(labels, set) => (set, key.wire_start(labels)),
            _ => return None,
        };
        let rdata = set.records().next()?.rdata();
        let (at, len) = rdata_target(set.rtype(), rdata)?;
        let next = [&qname.wire()[..kept], &rdata[at..at + len]].concat();
        match Name::from_wire(&next) {
            Ok(next) => Some(next),
            Err(_) => {
                why.push("but the name would be too long: YXDOMAIN".to_string());
                None
            }
        }
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
