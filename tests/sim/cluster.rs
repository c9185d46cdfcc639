//! Starting and killing programs, and what the cluster is configured with.

use crate::{
    bug::Bug,
    machine::Machine,
    network::Network,
    node::{Brain, Node},
    store::Store,
    types::{Raft, config},
    watch,
    world::World,
};
use openraft::{AsyncRuntime, BasicNode};
use openraft_rt_sim::SimRuntime;
use std::{collections::BTreeMap, sync::Arc};
use zonekeeper_core::{
    Command,
    detector::Preset,
    entry::{Duty, Init, Member},
    id::{NodeId, ServiceId, SiteId},
    invariant::Violation,
    model::{
        Change, Check, CheckKind, Endpoint, Failback, Policy, Quorum, Service, Site, WhenAllDown, ZoneOwner,
    },
    name::{Name, NameError},
    zone::{RrSet, ZoneError, rtype},
};

/// The services of every run.
pub const SERVICES: [&str; 3] = ["api", "cdn", "web"];

/// Longest hold-down of the services, in milliseconds: of a site that flaps.
const HOLD_DOWN_MAX_MS: u64 = 24_000;

/// Longest hold-down and failback wait of the services, together, in milliseconds.
pub const BACK_MS: u64 = HOLD_DOWN_MAX_MS + 2_000;

/// A site's id.
pub fn site(node: NodeId) -> SiteId {
    label(&format!("s{node}"))
}

/// A service's id.
pub fn service(name: &str) -> ServiceId {
    label(name)
}

#[allow(clippy::unwrap_used, reason = "the simulation's own labels are sound")]
fn label<T: std::str::FromStr<Err: std::fmt::Debug>>(s: &str) -> T {
    s.parse().unwrap()
}

/// The zone of every run.
pub fn zone() -> Name {
    name("example.com.")
}

/// A name.
#[allow(clippy::unwrap_used, reason = "the simulation's own names are sound")]
pub fn name(s: &str) -> Name {
    let parsed: Result<Name, NameError> = s.parse();
    parsed.unwrap()
}

/// An RRset of one record.
#[allow(clippy::unwrap_used, reason = "the simulation's own records are sound")]
pub fn record(owner: Name, rtype: u16, rdata: &[u8]) -> RrSet {
    let set: Result<RrSet, ZoneError> = RrSet::new(owner, rtype, 60, vec![rdata.into()]);
    set.unwrap()
}

impl World {
    /// Starts a node's program from its disk.
    pub async fn start(self: &Arc<World>, id: NodeId) {
        if self.running(id).is_some() {
            return;
        }
        if let Some(host) = self.outside().hosts.get_mut(&id) {
            host.boot += 1;
            host.dark = false;
        }
        let boot = self.boot(id);
        let store = Store::open(self, id);
        let machine = Machine::open(self, store.clone(), id);
        if self.setup.bug == Some(Bug::StalePublish) {
            let seen = self.checks().progress.observe(id, &machine.state());
            self.found(seen);
        }
        let network = Network { world: self.clone(), node: id, boot };
        let raft = match config(self.timing).validate() {
            Ok(config) => Raft::new(id, Arc::new(config), network, store.clone(), machine.clone()).await,
            Err(error) => return self.found(Err(Violation::of(9, format!("configuration: {error}")))),
        };
        let raft = match raft {
            Ok(raft) => raft,
            Err(_) if self.boot(id) != boot || self.outside().hosts[&id].bad_disk() => return,
            Err(error) => {
                return self.found(Err(Violation::of(9, format!("node {id} does not start: {error}"))));
            }
        };
        let node = Arc::new(Node {
            world: self.clone(),
            id,
            boot,
            raft,
            machine,
            brain: Brain::new(id, self.timing).into(),
        });
        self.started(node.clone());
        self.note(|| format!("n{id} started, boot {boot}"));
        drop(SimRuntime::spawn(watch::watch(node.clone())));
        drop(SimRuntime::spawn(node.clone().publish(store)));
        drop(SimRuntime::spawn(node.run()));
    }

    /// Kills a node's program: nothing of it goes on, and what was not synced is lost in part.
    pub fn kill(self: &Arc<World>, id: NodeId, dark: bool) {
        let Some(node) = self.stopped(id) else { return };
        if let Some(host) = self.outside().hosts.get_mut(&id) {
            host.dark = dark;
        }
        let lost = self.draw(|rng| self.disk(id).crash(rng, self.setup.bug));
        self.note(|| format!("n{id} killed, {lost} writes lost{}", if dark { ", dark" } else { "" }));
        drop(SimRuntime::spawn(async move { node.raft.shutdown().await })); // only frees its tasks
        if !dark {
            self.announce_death(id);
        }
    }

    /// The first start of all nodes, and the commands that make the cluster.
    pub async fn bootstrap(self: &Arc<World>) {
        for id in self.nodes() {
            self.start(id).await;
        }
        let members: BTreeMap<NodeId, BasicNode> =
            self.nodes().map(|n| (n, BasicNode::new(format!("10.0.0.{n}:7000")))).collect();
        if let Some(first) = self.running(1)
            && let Err(error) = first.raft.initialize(members).await
        {
            self.found(Err(Violation::of(9, format!("bootstrap: {error}"))));
        }
        for command in setup(self) {
            self.insist("bootstrap", command).await;
        }
    }
}

/// Init, members and configuration.
fn setup(world: &World) -> Vec<Command> {
    let mut commands = vec![Command::Init(Init { cluster: 7, version: 1, timing: world.timing })];
    for id in world.nodes() {
        let peer = std::net::SocketAddr::from(([10, 0, 0, id as u8], 7000));
        commands.push(Command::PutMember(
            id,
            Member { site: site(id), duty: Duty::Full, peer, admin: None, version: 1 },
        ));
    }
    let soa = [&[2, b'n', b's', 0, 0][..], &[0; 20]].concat();
    let records = vec![record(zone(), rtype::SOA, &soa), record(zone(), rtype::NS, &[2, b'n', b's', 0])];
    let mut changes: Vec<Change> = world.nodes().map(|n| Change::PutSite(site(n), Site::default())).collect();
    changes.push(Change::PutZone(zone(), ZoneOwner::Api));
    changes.push(Change::PutRecords(zone(), records));
    changes.extend(SERVICES.map(|s| Change::PutService(service(s), Box::new(declare(world, s, 30)))));
    commands.push(Command::Configure(changes));
    commands
}

/// A service as it is declared: `web` is failover with IPv6 at two sites, `api` answers all sites, `cdn` is weighted
/// and fails closed.
pub fn declare(world: &World, which: &str, ttl: u32) -> Service {
    let last = SERVICES.iter().position(|s| *s == which).unwrap_or(0) as u8 + 1;
    let endpoint = |n: NodeId, v6: bool| match v6 {
        false => Endpoint { addr: [192, 0, n as u8, last].into(), port: 443 },
        true => Endpoint { addr: [0x2001, 0xdb8, n as u16, 0, 0, 0, 0, last.into()].into(), port: 443 },
    };
    let v6 = |n: NodeId| (which == "web" && n <= 2).then(|| endpoint(n, true));
    let rtt = world.outside().links.longest_rtt_ms() as u32;
    let (interval_ms, timeout_ms) = (500.max(2 * rtt), 500.max(2 * rtt));
    let (rise, fall, jitter_percent, patience_ms) = (2, 3, 10, Preset::BALANCED.patience_ms);
    let policy = match which {
        "web" => Policy::Failover(world.nodes().map(site).collect()),
        "cdn" => Policy::Weighted(world.nodes().map(|n| (site(n), n as u8)).collect()),
        _ => Policy::All,
    };
    Service {
        names: vec![name(&format!("{which}.example.com."))],
        policy,
        endpoints: world
            .nodes()
            .map(|n| (site(n), [endpoint(n, false)].into_iter().chain(v6(n)).collect()))
            .collect(),
        ttl,
        check: Some(Check {
            kind: CheckKind::Tcp,
            interval_ms,
            timeout_ms,
            rise,
            fall,
            jitter_percent,
            patience_ms,
        }),
        pool: None,
        min_backends: 1,
        when_all_down: if which == "cdn" { WhenAllDown::NoData } else { WhenAllDown::FailOpen },
        hold_down_ms: 6_000,
        hold_down_max_ms: HOLD_DOWN_MAX_MS,
        failback: Failback::Auto { healthy_ms: 2_000 },
        quorum: Quorum::Majority,
        min_answers: if which == "api" { 2 } else { 1 },
        automation: true,
    }
}
