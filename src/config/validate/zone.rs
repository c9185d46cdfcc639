//! Zones: fit to be served by the rules of `core`, which are those that `apply` holds to.

use crate::{
    cluster::{ClusterConfig, zone_path},
    log::Log,
};
use zonekeeper_core::{
    model::ZoneOwner,
    name::Name,
    zone::{RrSet, Zone, rtype},
};
use zonekeeper_dns::zonefile::type_name;

pub(super) fn check(config: &ClusterConfig, log: &Log) {
    for (origin, (_, records)) in &config.zones {
        let path = zone_path(origin);
        if log.failed(&path) {
            continue; // what could not be read would only look missing
        }
        let mut zone = Zone::new(origin.clone(), ZoneOwner::File);
        for set in records {
            if let Err(e) = zone.put(set.clone()) {
                log.error_at(&path, e.to_string());
            }
        }
        if zone.soa().is_none() {
            log.error_at(
                &path,
                "has no SOA record at its apex; add one, as \"@ SOA ns1 hostmaster 1 3600 900 1209600 300\"",
            );
        }
        match zone.ns() {
            None => log.error_at(
                &path,
                "has no NS record at its apex; add one for each name server, as \"@ NS ns1\"",
            ),
            Some(ns) => addresses(config, log, &path, &zone, &ns),
        }
    }
}

/// A name server inside the zone that has no address cannot be found (RFC 1912 §2.8).
fn addresses(config: &ClusterConfig, log: &Log, path: &str, zone: &Zone, ns: &RrSet) {
    for target in ns.rdata.iter().filter_map(|r| Name::from_wire(r).ok()) {
        let has = |t| zone.get(&target, t).is_some();
        let served = config.services.values().any(|s| s.names.contains(&target));
        let below = config
            .zones
            .keys()
            .any(|z| z != zone.origin() && z.is_within(zone.origin()) && target.is_within(z));
        if target.is_within(zone.origin()) && !below && !served && !has(rtype::A) && !has(rtype::AAAA) {
            log.warn_at(
                path,
                format!("name server {target} has no A or AAAA record; add one, or nobody finds the zone"),
            );
        }
    }
}

/// The zone that a name lies in: the deepest.
pub(super) fn zone_of<'c>(config: &'c ClusterConfig, name: &Name) -> Option<(&'c Name, &'c [RrSet])> {
    let mut at = Some(name.clone());
    while let Some(candidate) = at {
        if let Some((origin, (_, records))) = config.zones.get_key_value(&candidate) {
            return Some((origin, records));
        }
        at = candidate.parent();
    }
    None
}

/// Why a service cannot answer at this name of a zone.
pub(super) fn collision(origin: &Name, records: &[RrSet], name: &Name) -> Option<String> {
    let at = |owner: &Name, types: &[u16]| {
        let first = records.partition_point(|r| r.name < *owner);
        records[first..].iter().take_while(|r| r.name == *owner).map(|r| r.rtype).find(|t| types.contains(t))
    };
    if at(origin, &[rtype::RRSIG]).is_some() {
        return Some(format!(
            "lies in zone {origin}, which is signed: resolvers that validate would refuse the service's answers, which have no \
             signature; give the service a zone of its own, delegated without DS"
        ));
    }
    if let Some(t) = at(name, &[rtype::A, rtype::AAAA, rtype::CNAME, rtype::ALIAS]) {
        let t = type_name(t);
        return Some(format!("has {t} records in zone {origin}; take them out, the service answers there"));
    }
    let mut above = Some(name.clone());
    while let Some(owner) = above.filter(|n| n != origin) {
        if at(&owner, &[rtype::NS]).is_some() {
            return Some(format!(
                "lies at or below {owner}, which zone {origin} delegates; take out the NS records there, or rename"
            ));
        }
        above = owner.parent();
        if above.as_ref().is_some_and(|a| at(a, &[rtype::DNAME]).is_some()) {
            return Some(format!(
                "lies below a DNAME of zone {origin} (RFC 6672 §2.4); take it out, or rename"
            ));
        }
    }
    None
}
