//! Everything outside the nodes' programs: time, hosts, links, sites, and the trace of what happened.

use crate::{
    bug::Bug,
    check::Checks,
    network::Links,
    node::Node,
    rng::{FNV, Rng, fnv},
    store::Disk,
};
use openraft::{AsyncRuntime, async_runtime::Instant as _};
use openraft_rt_sim::{SimInstant, SimRuntime};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use zonekeeper_core::{detector::Observation, entry::Timing, id::NodeId};

/// Wall clock at the beginning, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// What one run is made of, before anything happens.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Everything follows from it.
    pub seed: u64,
    /// Nodes, one per site.
    pub nodes: u64,
    /// Only what must never move anything.
    pub quiet: bool,
    /// How long there is trouble, in virtual minutes; 0: as long as it takes to meet some of each kind.
    pub minutes: u64,
    /// A leader whose process is gone is replaced at once; otherwise when its lease has run out.
    pub takeover: bool,
    /// A planted bug.
    pub bug: Option<Bug>,
    /// Prints the trace as it grows.
    pub verbose: bool,
}

/// One node's host, in any state.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Counts starts; the program of an older boot is dead.
    pub boot: u64,
    /// Without power: nothing answers. Otherwise a dead program's ports refuse.
    pub dark: bool,
    /// The program stands still until then.
    pub stalled_until: u64,
    /// The wall clock is so wrong, in milliseconds.
    pub wall_offset: i64,
    /// Both clocks run too fast by so many thousandths; negative: too slow.
    drift: i64,
    /// What they had gained when the drift changed last, in milliseconds, and when that was.
    gained: (i64, u64),
    /// An fsync takes up to so long, in milliseconds.
    pub fsync_ms: u64,
    /// Its disk takes no writes.
    pub full: bool,
    /// Its fsyncs fail.
    pub failing: bool,
}

impl Host {
    /// Its disk does not keep what is written; a program that noticed writes no more.
    pub fn bad_disk(&self) -> bool {
        self.full || self.failing
    }

    /// Its clocks run too fast by so many thousandths from now on.
    pub fn drift(&mut self, per_mille: i64, now: u64) {
        self.gained = (self.gained(now), now);
        self.drift = per_mille;
    }

    fn gained(&self, now: u64) -> i64 {
        let (gained, since) = self.gained;
        gained + self.drift * now.saturating_sub(since) as i64 / 1000
    }
}

/// What changes from outside.
pub struct Outside {
    /// Chance.
    pub rng: Rng,
    /// Hosts by node.
    pub hosts: BTreeMap<NodeId, Host>,
    /// Links between sites.
    pub links: Links,
    /// Endpoints (service, site) that do not answer as they should.
    pub broken: BTreeMap<(String, NodeId), Observation>,
    /// Services whose backends at a site are dead.
    pub emptied: BTreeSet<(String, NodeId)>,
    /// Client paths (observer, site) that are cut while the node path works.
    pub blind: BTreeSet<(NodeId, NodeId)>,
    /// Programs that say that they go away.
    pub draining: BTreeSet<NodeId>,
    /// Moves away from these and back to them were announced, until then.
    pub announced: BTreeMap<NodeId, u64>,
}

struct Trace {
    hash: u64,
    lines: u64,
}

/// The world of one run.
pub struct World {
    /// What the run is made of.
    pub setup: Setup,
    /// Raft timing of the cluster, as the links need it.
    pub timing: Timing,
    start: SimInstant,
    outside: Mutex<Outside>,
    running: Mutex<BTreeMap<NodeId, Arc<Node>>>,
    disks: BTreeMap<NodeId, Arc<Disk>>,
    checks: Mutex<Checks>,
    trace: Mutex<Trace>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(setup: Setup) -> Arc<World> {
        let mut rng = Rng::new(setup.seed);
        let links = Links::new(setup.nodes, &mut rng);
        let timing = links.timing();
        let host = Host { fsync_ms: 4, ..Host::default() };
        let nodes = || 1..=setup.nodes;
        let outside = Outside {
            hosts: nodes().map(|n| (n, host.clone())).collect(),
            rng,
            links,
            broken: BTreeMap::new(),
            emptied: BTreeSet::new(),
            blind: BTreeSet::new(),
            draining: BTreeSet::new(),
            announced: BTreeMap::new(),
        };
        Arc::new(World {
            setup,
            timing,
            start: SimInstant::now(),
            outside: Mutex::new(outside),
            running: Mutex::default(),
            disks: nodes().map(|n| (n, Arc::new(Disk::new(n)))).collect(),
            checks: Mutex::default(),
            trace: Mutex::new(Trace { hash: FNV, lines: 0 }),
        })
    }

    /// All node ids.
    pub fn nodes(&self) -> std::ops::RangeInclusive<NodeId> {
        1..=self.setup.nodes
    }

    /// Milliseconds since the run began.
    pub fn now(&self) -> u64 {
        (SimInstant::now() - self.start).as_millis() as u64
    }

    /// Waits, in virtual milliseconds.
    pub async fn sleep(&self, ms: u64) {
        SimRuntime::sleep(Duration::from_millis(ms)).await;
    }

    /// The outside.
    pub fn outside(&self) -> MutexGuard<'_, Outside> {
        lock(&self.outside)
    }

    /// Draws.
    pub fn draw<T>(&self, f: impl FnOnce(&mut Rng) -> T) -> T {
        f(&mut self.outside().rng)
    }

    /// The checkers.
    pub fn checks(&self) -> MutexGuard<'_, Checks> {
        lock(&self.checks)
    }

    /// A node's disk.
    pub fn disk(&self, node: NodeId) -> Arc<Disk> {
        self.disks[&node].clone()
    }

    /// The program that runs on a node's host.
    pub fn running(&self, node: NodeId) -> Option<Arc<Node>> {
        lock(&self.running).get(&node).cloned()
    }

    /// All programs that run.
    pub fn all_running(&self) -> Vec<Arc<Node>> {
        lock(&self.running).values().cloned().collect()
    }

    /// A program runs from now on.
    pub fn started(&self, node: Arc<Node>) {
        lock(&self.running).insert(node.id, node);
    }

    /// A program is gone; what is left of it belongs to an older boot.
    pub fn stopped(&self, node: NodeId) -> Option<Arc<Node>> {
        if let Some(host) = self.outside().hosts.get_mut(&node) {
            host.boot += 1;
            host.stalled_until = 0;
        }
        lock(&self.running).remove(&node)
    }

    /// Which start of a node is the newest.
    pub fn boot(&self, node: NodeId) -> u64 {
        self.outside().hosts.get(&node).map_or(0, |h| h.boot)
    }

    /// Waits while a node's program stands still.
    pub async fn gate(&self, node: NodeId) {
        loop {
            let until = self.outside().hosts.get(&node).map_or(0, |h| h.stalled_until);
            let now = self.now();
            if until <= now {
                return;
            }
            self.sleep((until - now).min(50)).await; // a pause may be ended early, by healing
        }
    }

    /// What a node's clocks count from: milliseconds since the run began, with its drift.
    pub fn clock(&self, node: NodeId) -> u64 {
        let now = self.now();
        let gained = self.outside().hosts.get(&node).map_or(0, |h| h.gained(now));
        now.saturating_add_signed(gained)
    }

    /// A node's wall clock.
    pub fn wall(&self, node: NodeId) -> u64 {
        let offset = self.outside().hosts.get(&node).map_or(0, |h| h.wall_offset);
        (EPOCH_MS + self.clock(node)).saturating_add_signed(offset)
    }

    /// Something happened.
    pub fn note(&self, what: impl FnOnce() -> String) {
        let line = format!("{:>7} {}", self.now(), what());
        let mut trace = lock(&self.trace);
        trace.hash = fnv(trace.hash, line.as_bytes());
        trace.lines += 1;
        drop(trace);
        if self.setup.verbose {
            self.print(&line);
        }
    }

    #[allow(clippy::print_stderr, clippy::print_stdout, reason = "a replay is read on the terminal")]
    fn print(&self, line: &str) {
        println!("{line}");
    }

    /// Hash of all that happened, and how much it was.
    pub fn trace(&self) -> (u64, u64) {
        let trace = lock(&self.trace);
        (trace.hash, trace.lines)
    }
}
