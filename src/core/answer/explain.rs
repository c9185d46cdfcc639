//! Why a name is answered as it is.

use super::{DnsTable, Found, Prepared, Steering, Whereabouts};
use crate::{
    assign::Lane,
    id::ServiceId,
    model::{Family, Policy},
    name::Name,
    state::{Assignment, Basis, State},
    zone::Key,
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

/// The path from a question to its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The zone that answers; none: REFUSED.
    pub zone: Option<Name>,
    /// Its serial.
    pub serial: u32,
    /// The service and family that answer; none: the zone's records do.
    pub service: Option<(ServiceId, Family)>,
    /// That service's assignment.
    pub assignment: Option<Assignment>,
    /// Each step in words.
    pub why: Vec<String>,
}

impl DnsTable {
    /// Explains the answer to a question (the first step of it, when an alias leads on).
    pub fn explain(&self, state: &State, qname: &Name, qtype: u16, asker: Asker) -> Explanation {
        let mut out = Explanation { zone: None, serial: 0, service: None, assignment: None, why: Vec::new() };
        let Some((table, origin)) = self.zone_of(qname.wire(), false) else {
            out.why.push(format!("{qname} lies in no zone of this cluster: REFUSED"));
            return out;
        };
        let zone = table.zone();
        (out.zone, out.serial) = (Some(zone.origin().clone()), zone.serial());
        out.why.push(format!(
            "zone {} with serial {} is the closest to {qname}",
            zone.origin(),
            zone.serial()
        ));
        if !table.is_ready() {
            out.why.push("the zone lacks SOA or NS at its apex: SERVFAIL".to_string());
            return out;
        }
        let mut key = Key::default();
        if !key.set(qname.wire(), origin) {
            return out;
        }
        let asked = key.labels();
        let found = table.find(&mut key, qtype);
        if key.bytes().ends_with(b"*\0") && !qname.is_wildcard() && !matches!(found, Found::NxDomain) {
            out.why.push(format!(
                "the name does not exist; a wildcard {} labels above it does",
                asked - (key.labels() - 1)
            ));
        }
        if let Found::Service(answer) = found {
            service(&mut out, state, answer, asker);
        } else {
            out.why.push(records(&found));
        }
        out
    }
}

fn records(found: &Found<'_>) -> String {
    match found {
        Found::Set(set) | Found::Any(set) => format!("{} static records with TTL {}", set.count(), set.ttl()),
        Found::Cname(_) => "an alias (CNAME) leads on".to_string(),
        Found::Alias(_) => "an ALIAS gives the addresses of another name".to_string(),
        Found::Dname(..) => "an ancestor has a DNAME, which leads on (RFC 6672)".to_string(),
        Found::Referral(..) => "an ancestor is delegated: referral to its name servers".to_string(),
        Found::NoData => "the name exists, but not with this type: NODATA".to_string(),
        Found::NxDomain => "neither the name nor a wildcard for it exists: NXDOMAIN".to_string(),
        Found::Service(_) => String::new(),
    }
}

fn service(out: &mut Explanation, state: &State, answer: &super::ServiceAnswer, asker: Asker) {
    let (id, family) = (answer.service(), answer.family());
    out.service = Some((id.clone(), family));
    let Some(s) = state.services.get(id) else { return };
    let policy = match s.spec.policy {
        Policy::Failover(_) => "failover",
        Policy::Weighted(_) => "weighted",
        Policy::All => "all",
        Policy::Nearest(_) => "nearest",
    };
    out.why.push(format!("service {id} stands at this name with policy {policy}"));
    out.assignment = s.assignment.get(&family).cloned();
    match &out.assignment {
        Some(a) => {
            let sites: Vec<&str> = a.sites.iter().map(|s| s.as_str()).collect();
            let basis = match a.basis {
                Basis::Usable => "usable",
                Basis::Drained => "drained; nothing better is usable",
                Basis::LastSet => "the last set; everything is down and the service fails open",
                Basis::Nothing => "none; everything is down or forced down",
            };
            let (i, n) = (a.epoch.incarnation, a.epoch.index);
            out.why.push(format!(
                "assigned to [{}] ({basis}) by the decision at epoch {i}.{n}",
                sites.join(", ")
            ));
        }
        None => out.why.push("no decision has assigned this family yet".to_string()),
    }
    let lane = Lane::new(state, id, s, family, state.time);
    for site in s.spec.sites(family) {
        out.why.extend(lane.unused(site).map(|why| format!("{site} is not answered: {why}")));
    }
    if !s.suspects.is_empty() {
        let sites: Vec<&str> = s.suspects.iter().map(|s| s.as_str()).collect();
        out.why.push(format!(
            "under suspicion: {}; answers live at most {} s",
            sites.join(", "),
            super::service::SUSPECT_TTL
        ));
    }
    out.why.push(match answer.prepared() {
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
