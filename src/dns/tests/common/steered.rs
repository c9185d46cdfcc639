//! A state with services that go by the client, and a database that knows some clients.
#![allow(dead_code, clippy::unwrap_used)] // each binary uses a part; a test ends at a surprise

use super::{
    common::{self, name},
    mmdb::{self, city},
};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};
use tempfile::NamedTempFile;
use zonekeeper_core::{
    id::SiteId,
    model::{
        Area, Endpoint, Failback, Family, Location, Nearest, Policy, Quorum, Service, Site, WhenAllDown,
    },
    state::{Assignment, Basis, Generation, ServiceState, State},
    time::LogTime,
};

const ZONE: &str = "$TTL 300\n@ SOA ns host 7 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.80\n\
    mail MX 10 cdn\nflat ALIAS cdn\nshort CNAME cdn\nsub NS ns.sub\nns.sub A 192.0.2.2\n";

pub(crate) fn site(s: &str) -> SiteId {
    s.parse().unwrap()
}

/// A service at one name, with the address `192.0.2.n` and `2001:db8::n` at its site number n.
pub(crate) fn service(at: &str, policy: Policy, sites: &[&str]) -> ServiceState {
    let endpoints = |n: u8| {
        let v6: IpAddr = format!("2001:db8::{n}").parse().unwrap();
        [IpAddr::from([192, 0, 2, n]), v6].map(|addr| Endpoint { addr, port: 443 }).to_vec()
    };
    let assignment = Assignment {
        epoch: Generation::default(),
        since: LogTime(0),
        sites: sites.iter().map(|s| site(s)).collect(),
        basis: Basis::Usable,
    };
    ServiceState {
        version: 1,
        spec: Service {
            names: vec![name(at)],
            policy,
            endpoints: sites.iter().zip(1..).map(|(s, n)| (site(s), endpoints(n))).collect(),
            ttl: 20,
            check: None,
            pool: None,
            min_backends: 0,
            when_all_down: WhenAllDown::FailOpen,
            hold_down_ms: 0,
            hold_down_max_ms: 0,
            failback: Failback::Manual,
            quorum: Quorum::Majority,
            min_answers: 1,
            automation: true,
        },
        health: Default::default(),
        assignment: Family::ALL.map(|f| (f, assignment.clone())).into(),
        suspects: Default::default(),
        pinned: None,
        automation: None,
    }
}

/// fra is 1, iad 2, hnd 3.
pub(crate) fn steered() -> State {
    let areas: BTreeMap<Area, Vec<SiteId>> = [
        ("198.51.100.0/24", "iad"),
        ("198.51.100.64/26", "hnd"),
        ("2001:db8:5::/48", "hnd"),
        ("AS64500", "hnd"),
        ("country:CA", "iad"),
        ("continent:EU", "fra"),
    ]
    .map(|(area, s)| (area.parse().unwrap(), vec![site(s)]))
    .into();
    let sites = ["fra", "iad", "hnd"];
    let policy = Policy::Nearest(Box::new(Nearest { sites: sites.map(site).into(), areas }));
    let mut state = common::state(&[("example.", ZONE)]);
    state.services.insert("cdn".parse().unwrap(), Arc::new(service("cdn.example.", policy, &sites)));
    for (id, latitude, longitude) in
        [("fra", 501_100, 86_800), ("iad", 390_400, -774_900), ("hnd", 355_500, 1_397_800)]
    {
        let location = Some(Location { latitude, longitude });
        state.sites.insert(site(id), Arc::new(Site { location, ..Site::default() }));
    }
    state
}

pub(crate) fn cities() -> NamedTempFile {
    mmdb::write(&[
        ("203.0.113.0/25", city("DE", "EU", Some((48.1, 11.6)))),
        ("203.0.113.128/26", city("CA", "NA", Some((49.3, -123.1)))),
        ("203.0.113.192/27", city("AU", "OC", Some((-33.9, 151.2)))),
        ("203.0.113.224/28", city("BR", "SA", None)),
        ("2001:db8:1::/48", city("US", "NA", Some((38.9, -77.0)))),
    ])
}
