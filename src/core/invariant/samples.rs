//! A small state to spoil: three sites that vote, one service on the first of them.

use crate::{
    Command, Entry, Proposal, State,
    entry::{Cause, Duty, Force, Member, Override, Scope},
    evidence::{Kind, Row, Standing, Target, Vote},
    id::{ServiceId, SiteId},
    model::{Endpoint, Failback, Family, Policy, Quorum, Service, Site, WhenAllDown, ZoneOwner},
    name::Name,
    state::{Assignment, Basis, Health, ServiceState},
    time::LogTime,
    zone::{RrSet, Zone},
};
use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    format,
    string::ToString,
    sync::Arc,
    vec,
    vec::Vec,
};

pub(super) const HOLD_DOWN_MS: u64 = 60_000;
const SITES: [&str; 3] = ["a", "b", "c"];

pub(super) fn site(s: &str) -> SiteId {
    s.parse().unwrap()
}

pub(super) fn id() -> ServiceId {
    "web".parse().unwrap()
}

fn zone_name() -> Name {
    "example.com.".parse().unwrap()
}

fn spec() -> Service {
    let endpoint = |i: usize| vec![Endpoint { addr: format!("192.0.2.{i}").parse().unwrap(), port: 80 }];
    Service {
        names: vec![zone_name()],
        policy: Policy::Failover(SITES.map(site).to_vec()),
        endpoints: SITES.iter().enumerate().map(|(i, s)| (site(s), endpoint(i + 1))).collect(),
        ttl: 30,
        check: None,
        pool: None,
        min_backends: 1,
        when_all_down: WhenAllDown::FailOpen,
        hold_down_ms: HOLD_DOWN_MS,
        hold_down_max_ms: HOLD_DOWN_MS,
        failback: Failback::Auto { healthy_ms: 0 },
        quorum: Quorum::Majority,
        min_answers: 1,
        automation: true,
    }
}

pub(super) fn state() -> State {
    let mut state = State { cluster: 1, cluster_version: 1, time: LogTime(1_000_000), ..State::default() };
    for (node, name) in (1..).zip(SITES) {
        let peer = format!("10.0.0.{node}:7000").parse().unwrap();
        let member = Member { site: site(name), duty: Duty::Full, peer, admin: None, version: 1 };
        state.members.insert(node, Arc::new(member));
        state.sites.insert(site(name), Arc::new(Site::default()));
    }
    state.set_voters(10, BTreeSet::from([1, 2, 3]));
    state.zones.insert(zone_name(), Arc::new(Zone::new(zone_name(), ZoneOwner::Api)));
    let (health, suspects) = (BTreeMap::new(), BTreeSet::new());
    let service = ServiceState {
        version: 10,
        spec: spec(),
        health,
        assignment: BTreeMap::new(),
        suspects,
        pinned: None,
        automation: None,
    };
    state.services.insert(id(), Arc::new(service));
    assign(&mut state, &["a"]);
    state
}

pub(super) fn service_mut(state: &mut State) -> &mut ServiceState {
    Arc::make_mut(state.services.get_mut(&id()).unwrap())
}

/// Puts an assignment in, with the epoch of index 10.
pub(super) fn assign(state: &mut State, sites: &[&str]) {
    let (mut epoch, since) = (state.generation, state.time);
    epoch.index = 10;
    let sites = sites.iter().map(|s| site(s)).collect();
    service_mut(state)
        .assignment
        .insert(Family::V4, Assignment { epoch, since, sites, basis: Basis::Usable });
}

pub(super) fn judge(state: &mut State, at: &str, standing: Standing) {
    let now = state.time;
    let service = service_mut(state);
    let fresh = Health { standing, since: now, failed: None, flaps: 0 };
    let health = service.health.entry((site(at), Family::V4)).or_insert(fresh);
    (health.standing, health.since) = (standing, now);
    if standing == Standing::Down {
        health.failed = Some(now);
    }
}

pub(super) fn force(state: &mut State, at: &str, force: Force) {
    let (scope, author, reason) = (Scope::Site(site(at)), "ops".to_string(), "test".to_string());
    let o = Override { scope: scope.clone(), force, author, reason, expires: None };
    state.overrides.insert(scope, Arc::new(o));
}

pub(super) fn row(at: &str, votes: &[(&str, Vote)], own: Option<Kind>, verdict: Standing) -> Row {
    let target = Target { service: id(), site: site(at), family: Family::V4 };
    Row { target, votes: votes.iter().map(|(s, v)| (site(s), *v)).collect(), own, verdict }
}

pub(super) fn automatic(command: Command) -> Entry {
    Entry {
        time: LogTime(1_000_000),
        proposal: Proposal { reads: Vec::new(), cause: Cause::Automation, command }.into(),
    }
}

/// A record edit that carries `value`, at the next index.
pub(super) fn write(state: &mut State, value: u8) -> (Name, RrSet) {
    state.skip(state.generation.index + 1);
    let set = RrSet::new(zone_name(), 16, 60, vec![Box::new([1, value]) as Box<[u8]>]).unwrap();
    let zone = Arc::make_mut(state.zones.get_mut(&zone_name()).unwrap());
    zone.put(set.clone()).unwrap();
    (zone_name(), set)
}

pub(super) fn without(state: &State, zone: &Name, set: &RrSet) -> State {
    let mut state = state.clone();
    Arc::make_mut(state.zones.get_mut(zone).unwrap()).remove(&set.name, set.rtype);
    state
}
