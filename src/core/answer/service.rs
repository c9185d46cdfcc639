//! A service's answer, prepared as wire bytes when it is published.

use super::Steering;
use crate::{
    id::{ServiceId, SiteId},
    model::{Family, Policy, Site, WhenAllDown},
    name::Name,
    state::{Basis, ServiceState},
    zone::{RrSet, RrView, rtype},
};
use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec, vec::Vec};
use core::net::IpAddr;

/// While a site is under suspicion, or the answer is a makeshift (drained sites, the last set), answers live at most so
/// many seconds: the next change is near.
pub const SUSPECT_TTL: u32 = 5;

/// One family of one service.
#[derive(Debug, Clone)]
pub struct ServiceAnswer {
    service: ServiceId,
    family: Family,
    slot: u32,
    prepared: Prepared,
}

/// What is answered.
#[derive(Debug, Clone)]
pub enum Prepared {
    /// Always the same records, in the policy's order.
    Fixed(WireSet),
    /// One site per answer. The schedule repeats; each site stands in it in exact proportion to its weight, spread
    /// evenly (smooth weighted round-robin).
    Weighted {
        /// One RRset per site.
        sets: Vec<WireSet>,
        /// Indices into `sets`.
        schedule: Vec<u16>,
    },
    /// One site per answer, the one nearest to the client.
    Nearest(Box<Steering>),
    /// Nothing is usable, and the service asks for NODATA.
    NoData,
    /// Nothing is usable, and the service asks for SERVFAIL, or an operator forced everything down.
    ServFail,
}

/// An RRset in wire form, each owner a pointer to the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireSet {
    count: u16,
    wire: Box<[u8]>,
}

impl WireSet {
    /// Encodes an RRset.
    pub fn of(set: &RrSet) -> WireSet {
        WireSet { count: set.rdata.len() as u16, wire: set.wire().into() }
    }

    /// The set as a zone would hold it.
    pub fn view(&self) -> RrView<'_> {
        RrView::new(self.count, &self.wire)
    }
}

impl ServiceAnswer {
    /// Whose answer it is.
    pub fn service(&self) -> &ServiceId {
        &self.service
    }

    /// A or AAAA.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Number of its counter in each worker.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// What is answered.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The records of the answer number `turn`, and for no client in particular; none for NODATA and SERVFAIL.
    pub fn set(&self, turn: u32) -> Option<RrView<'_>> {
        match &self.prepared {
            Prepared::Fixed(set) => Some(set.view()),
            Prepared::Weighted { sets, schedule } => {
                let at = schedule.get(turn as usize % schedule.len().max(1))?;
                sets.get(usize::from(*at)).map(WireSet::view)
            }
            Prepared::Nearest(steering) => steering.sites().first().map(|(_, set)| set.view()),
            Prepared::NoData | Prepared::ServFail => None,
        }
    }
}

/// Prepares the answer of one family; none when the service has no endpoint of it.
pub(super) fn prepare(
    id: &ServiceId,
    s: &ServiceState,
    family: Family,
    slot: u32,
    declared: &BTreeMap<SiteId, Arc<Site>>,
) -> Option<ServiceAnswer> {
    s.spec.endpoints.keys().find_map(|site| s.spec.endpoint(site, family))?;
    let sites: Vec<&SiteId> = s.assignment.get(&family).map_or(Vec::new(), |a| a.sites.iter().collect());
    let nothing = s.assignment.get(&family).is_none_or(|a| a.basis == Basis::Nothing);
    let makeshift =
        s.assignment.get(&family).is_some_and(|a| matches!(a.basis, Basis::Drained | Basis::LastSet));
    let ttl = if s.suspects.is_empty() && !makeshift { s.spec.ttl } else { s.spec.ttl.min(SUSPECT_TTL) };
    let prepared = match &s.spec.policy {
        _ if nothing => none(s),
        Policy::Weighted(weights) => {
            let weighed: Vec<(WireSet, u32)> = sites
                .iter()
                .filter_map(|site| Some((wire(s, &[site], family, ttl)?, u32::from(*weights.get(*site)?))))
                .filter(|(_, weight)| *weight > 0)
                .collect();
            let schedule = schedule(&weighed.iter().map(|(_, w)| *w).collect::<Vec<_>>());
            let sets: Vec<WireSet> = weighed.into_iter().map(|(set, _)| set).collect();
            if sets.is_empty() { none(s) } else { Prepared::Weighted { sets, schedule } }
        }
        Policy::Nearest(nearest) => {
            let set = |site: &&SiteId| Some(((*site).clone(), wire(s, &[site], family, ttl)?));
            let sets: Vec<(SiteId, WireSet)> = sites.iter().filter_map(set).collect();
            match sets.is_empty() {
                true => none(s),
                false => Prepared::Nearest(Box::new(Steering::new(nearest, sets, declared))),
            }
        }
        Policy::Failover(_) | Policy::All => {
            wire(s, &sites, family, ttl).map_or_else(|| none(s), Prepared::Fixed)
        }
    };
    Some(ServiceAnswer { service: id.clone(), family, slot, prepared })
}

fn none(s: &ServiceState) -> Prepared {
    match s.spec.when_all_down {
        WhenAllDown::NoData => Prepared::NoData,
        // Fail open reaches this only when an operator forced everything down: resolvers keep what they have.
        WhenAllDown::ServFail | WhenAllDown::FailOpen => Prepared::ServFail,
    }
}

/// The addresses of some sites, in their order.
fn wire(s: &ServiceState, sites: &[&SiteId], family: Family, ttl: u32) -> Option<WireSet> {
    let rdata: Vec<Box<[u8]>> = sites
        .iter()
        .filter_map(|site| s.spec.endpoint(site, family))
        .map(|e| match e.addr {
            IpAddr::V4(a) => Box::from(a.octets()),
            IpAddr::V6(a) => Box::from(a.octets()),
        })
        .collect();
    let rtype = if family == Family::V4 { rtype::A } else { rtype::AAAA };
    (!rdata.is_empty()).then(|| WireSet::of(&RrSet { name: Name::root(), rtype, ttl, rdata }))
}

/// Smooth weighted round-robin: every period of the schedule gives each index its exact share, spread evenly.
pub(super) fn schedule(weights: &[u32]) -> Vec<u16> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let weights: Vec<i64> = weights.iter().map(|w| i64::from(w / divisor)).collect();
    let total: i64 = weights.iter().sum();
    let mut current = vec![0i64; weights.len()];
    let mut out = Vec::with_capacity(total as usize);
    for _ in 0..total {
        let mut best = 0;
        for (i, w) in weights.iter().enumerate() {
            current[i] += w;
            if current[i] > current[best] {
                best = i;
            }
        }
        current[best] -= total;
        out.push(best as u16);
    }
    out
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
