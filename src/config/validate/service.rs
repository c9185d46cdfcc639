//! Services: names in zones, endpoints, policy, and whether automation could ever act.

use super::{known_site, list, zone};
use crate::{cluster::ClusterConfig, duration::show, log::Log, reader::join};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use zonekeeper_core::{
    evidence::needed,
    id::{ServiceId, SiteId},
    model::{Check, Family, Policy, Quorum, Service},
    name::Name,
};

/// A probe may outlast its interval by so much; more is a typing error.
const LONGEST_TIMEOUT: u32 = 20;

pub(super) fn check(config: &ClusterConfig, log: &Log) {
    let mut owners = BTreeMap::new();
    for (id, service) in &config.services {
        let this = At { config, log, id, service, path: join("service", id.as_str()) };
        this.names(&mut owners);
        this.endpoints();
        this.policy();
        this.answers();
        this.quorum();
        this.pool();
        timing(log, &this.field("check"), service.check.as_ref());
        this.hold_down();
    }
    one_site_per_address(config, log);
}

/// The times of a check fit together.
pub(super) fn timing(log: &Log, field: &str, check: Option<&Check>) {
    let Some(check) = check else { return };
    if check.timeout_ms > check.interval_ms.saturating_mul(LONGEST_TIMEOUT) {
        let (timeout, interval) = (show(u64::from(check.timeout_ms)), show(u64::from(check.interval_ms)));
        let message = format!(
            "timeout {timeout} is more than {LONGEST_TIMEOUT} times the interval {interval}; probes would seldom run, so lower it"
        );
        log.error_at(field, message);
    }
}

struct At<'c> {
    config: &'c ClusterConfig,
    log: &'c Log,
    id: &'c ServiceId,
    service: &'c Service,
    path: String,
}

impl<'c> At<'c> {
    fn field(&self, name: &str) -> String {
        join(&self.path, name)
    }

    fn hold_down(&self) {
        let (least, most) = (self.service.hold_down_ms, self.service.hold_down_max_ms);
        if most < least {
            let (least, most) = (show(least), show(most));
            let message = format!("{most} is less than hold_down, {least}; raise it, or take it out");
            self.log.error_at(&self.field("hold_down_max"), message);
        }
    }

    fn names(&self, owners: &mut BTreeMap<&'c Name, &'c ServiceId>) {
        let field = self.field("names");
        if self.service.names.is_empty() && !self.log.failed(&field) {
            self.log.error_at(&field, "has no name; give at least one, as [\"www.example.com\"]");
        }
        for (i, name) in self.service.names.iter().enumerate() {
            // With an element left out the numbers do not fit any more.
            let field = if self.log.failed(&field) { field.clone() } else { format!("{field}[{i}]") };
            if let Some(other) = owners.insert(name, self.id) {
                self.log.error_at(
                    &field,
                    format!("{name} belongs to service {other} already; a name has one service"),
                );
            }
            match zone::zone_of(self.config, name) {
                None => {
                    let zones = list(self.config.zones.keys());
                    self.log.error_at(
                        &field,
                        format!("{name} lies in no declared zone ({zones}); declare its zone, or rename"),
                    );
                }
                Some((origin, records)) => {
                    if let Some(message) = zone::collision(origin, records, name) {
                        self.log.error_at(&field, format!("{name} {message}"));
                    }
                }
            }
        }
    }

    fn endpoints(&self) {
        let field = self.field("endpoint");
        if self.service.endpoints.is_empty() && !self.log.failed(&field) {
            self.log.error_at(
                &field,
                "has no endpoint; give at least one, as endpoint.SITE = [\"192.0.2.1:443\"]",
            );
        }
        for (site, endpoints) in &self.service.endpoints {
            let field = join(&field, site.as_str());
            known_site(self.config, self.log, &field, site);
            if endpoints.is_empty() && !self.log.failed(&field) {
                self.log.error_at(&field, "has no endpoint; give one, or take the site out");
            }
            for family in Family::ALL {
                let count = endpoints.iter().filter(|e| Family::of(e.addr) == family).count();
                if count > 1 {
                    let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
                    let message = format!(
                        "has {count} {name} endpoints; a site has at most one of each family, as clients reach it by one address"
                    );
                    self.log.error_at(&field, message);
                }
            }
            for endpoint in endpoints.iter().filter(|e| e.addr.is_unspecified() || e.addr.is_multicast()) {
                self.log.error_at(
                    &field,
                    format!(
                        "{} is no address that a client can connect to; give the public address",
                        endpoint.addr
                    ),
                );
            }
        }
    }

    /// Sites of the policy and sites with endpoints are the same.
    fn policy(&self) {
        let endpoints = &self.service.endpoints;
        let (field, sites): (&str, Vec<&SiteId>) = match &self.service.policy {
            Policy::All => return,
            Policy::Failover(order) => ("sites", order.iter().collect()),
            Policy::Weighted(weights) => ("weights", weights.keys().collect()),
            Policy::Nearest(nearest) => ("sites", nearest.sites.iter().collect()),
        };
        let path = self.field(field);
        if self.log.failed(&path)
            || self.log.failed(&self.field("endpoint"))
            || self.log.failed(&self.field("policy"))
        {
            return; // what could not be read would only look missing
        }
        let mut seen = BTreeSet::new();
        for (i, site) in sites.into_iter().enumerate() {
            let at = if field == "sites" { format!("{path}[{i}]") } else { join(&path, site.as_str()) };
            if !endpoints.contains_key(site) {
                let give = join(&self.field("endpoint"), site.as_str());
                self.log.error_at(
                    &at,
                    format!("site \"{site}\" has no endpoint here; add {give}, or take the site out"),
                );
            }
            if !seen.insert(site) {
                self.log.error_at(&at, format!("site \"{site}\" is named twice; keep the first"));
            }
        }
        if let Policy::Nearest(nearest) = &self.service.policy {
            for (area, sites) in &nearest.areas {
                let field = join(&self.field("nearest"), &area.to_string());
                for site in sites.iter().filter(|s| !endpoints.contains_key(*s)) {
                    let message = format!("site \"{site}\" has no endpoint here; name one that has");
                    self.log.error_at(&field, message);
                }
            }
        }
        for site in endpoints.keys().filter(|s| !seen.contains(s)) {
            let at = join(&self.field("endpoint"), site.as_str());
            self.log.error_at(&at, format!("would never be answered: {field} does not name site \"{site}\"; add it there, or take the endpoint out"));
        }
    }

    fn answers(&self) {
        let (have, want) = (self.service.endpoints.len(), self.service.min_answers);
        if want as usize > have && !self.log.failed(&self.field("endpoint")) && have > 0 {
            let message = format!(
                "{want} is more than the {have} sites with an endpoint, so automation could never move anything; use 0 to {have}"
            );
            self.log.error_at(&self.field("min_answers"), message);
        }
    }

    /// Enough sites can vote on each of its sites (design: red from a majority of the voting sites moves).
    fn quorum(&self) {
        let (service, voters) = (self.service, &self.config.voters);
        // With one site there is nowhere to go; without probes only a site's own word counts, which needs no majority.
        if !service.automation
            || service.check.is_none()
            || service.endpoints.len() < 2
            || self.log.failed("site")
        {
            return;
        }
        let field = self.field("quorum");
        let others = |site: &SiteId| voters.iter().filter(|v| *v != site).count();
        let stuck = service.endpoints.keys().find(|s| others(s) < needed(voters, s, service.quorum));
        if let Some(site) = stuck {
            let (need, have) = (needed(voters, site, service.quorum), others(site));
            let message = format!(
                "an unreachable quorum: {need} sites must see \"{site}\" down, but only {have} of the {} voting sites can \
                 judge it; declare another voting site (a witness will do), or set automation = false",
                voters.len()
            );
            self.log.error_at(&field, message);
        } else if service.quorum == Quorum::Unanimous && service.endpoints.keys().any(|s| others(s) == 1) {
            self.log.warn_at(&field, "one other voting site decides alone; declare a third one, so that a broken path is no failover");
        }
    }

    fn pool(&self) {
        let Some(id) = &self.service.pool else { return };
        let field = self.field("pool");
        let path = join("pool", id.as_str());
        let Some(pool) = self.config.pools.get(id) else {
            if !self.log.failed(&path) {
                let pools = list(self.config.pools.keys());
                self.log.error_at(
                    &field,
                    format!("pool \"{id}\" is not declared; add [{path}], or use a declared one ({pools})"),
                );
            }
            return;
        };
        for site in self.service.endpoints.keys().filter(|_| !self.log.failed(&path)) {
            let have = pool.backends.iter().filter(|b| b.site.as_ref().is_none_or(|s| s == site)).count();
            let want = self.service.min_backends;
            let named = pool.names.iter().any(|b| b.site.as_ref().is_none_or(|s| s == site));
            if want as usize > have && !named {
                let message = format!(
                    "{want} can never be met: pool {id} has {have} backends at site \"{site}\"; add backends, or lower it"
                );
                self.log.error_at(&self.field("min_backends"), message);
            }
        }
    }
}

/// An address is at one site. Several services may share one there.
fn one_site_per_address(config: &ClusterConfig, log: &Log) {
    let mut first: BTreeMap<IpAddr, (&SiteId, String)> = BTreeMap::new();
    for (id, service) in &config.services {
        for (site, endpoints) in &service.endpoints {
            let field = join(&join(&join("service", id.as_str()), "endpoint"), site.as_str());
            for (i, endpoint) in endpoints.iter().enumerate() {
                let at = if log.failed(&field) { field.clone() } else { format!("{field}[{i}]") };
                let (owner, place) = first.entry(endpoint.addr).or_insert_with(|| (site, at.clone()));
                if *owner != site {
                    let message = format!(
                        "{} is a duplicate address: it is at site \"{owner}\" already ({place}); each site has its own",
                        endpoint.addr
                    );
                    log.error_at(&at, message);
                }
            }
        }
    }
}
