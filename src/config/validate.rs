//! What no single field can tell: references, collisions, and what can never happen.

pub(crate) mod listener;
mod pool;
mod service;
mod zone;

use crate::{cluster::ClusterConfig, log::Log, reader::join};
use std::collections::BTreeSet;
use zonekeeper_core::id::SiteId;

/// Notes every problem of a whole configuration.
pub(crate) fn all(config: &ClusterConfig, log: &Log) {
    zone::check(config, log);
    service::check(config, log);
    pool::check(config, log);
    listener::check(config, log);
    unused_sites(config, log);
}

/// A reference to a site that is not declared.
fn known_site(config: &ClusterConfig, log: &Log, field: &str, site: &SiteId) {
    let path = join("site", site.as_str());
    if !config.sites.contains_key(site) && !log.failed(&path) {
        log.error_at(
            field,
            format!(
                "site \"{site}\" is not declared; add [{path}], or use a declared one ({})",
                list(config.sites.keys())
            ),
        );
    }
}

/// Names for people, or the word `none`.
fn list<T: std::fmt::Display>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<String> = items.map(|i| i.to_string()).collect();
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

/// A site without a vote that nothing uses is most likely a leftover.
fn unused_sites(config: &ClusterConfig, log: &Log) {
    let endpoints = config.services.values().flat_map(|s| s.endpoints.keys());
    let backends = config.pools.values().flat_map(|p| p.backends.iter().filter_map(|b| b.site.as_ref()));
    let named = config.pools.values().flat_map(|p| p.names.iter().filter_map(|b| b.site.as_ref()));
    let backends = backends.chain(named);
    let binds = config.listeners.values().flat_map(|l| l.binds.iter().filter_map(|b| b.site.as_ref()));
    let used: BTreeSet<&SiteId> = endpoints.chain(backends).chain(binds).chain(&config.voters).collect();
    for site in config.sites.keys().filter(|s| !used.contains(s)) {
        log.warn_at(
            &join("site", site.as_str()),
            "is not used: no service, pool or listener names it, and it has no vote",
        );
    }
}
