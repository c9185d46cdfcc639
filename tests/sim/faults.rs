//! Faults, drawn from the seed. Each one ends by itself; [`heal`] ends them all.

use crate::{
    client,
    cluster::SERVICES,
    members,
    network::Loss,
    rng::Rng,
    world::{Host, World},
};
use openraft::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use std::sync::Arc;
use zonekeeper_core::{
    detector::{Observation, Preset},
    id::NodeId,
};

/// Pauses of a quiet run are no longer than what `balanced` tolerates; on paths that are farther than its documentation
/// goes (a round trip of 200 ms, half the heartbeat) by so much shorter.
fn short_pause(world: &World) -> u64 {
    Preset::BALANCED.pauses_ms - (world.timing.heartbeat_ms() / 2).saturating_sub(200)
}

/// A program that is stopped in order drains so long, and is away so long.
const DRAIN_MS: u64 = 4_000;
const AWAY_MS: u64 = 3_000;
/// The hold-down and the way back of what was announced are over so long after it.
const ECHO_MS: u64 = 40_000;

/// One fault.
#[derive(Debug, Clone)]
enum Fault {
    /// Kills a program; dark: with its host.
    Crash(NodeId, bool),
    /// Kills all programs at once.
    CrashAll,
    /// A program is killed and started again, over and over.
    Storm(NodeId),
    /// A node is without power while more is written than the log keeps: it must get a snapshot.
    Flood(NodeId),
    /// Cuts these directions.
    Cut(Vec<(NodeId, NodeId)>),
    /// A link goes away and comes back, over and over.
    Flap(NodeId, NodeId),
    /// Bursty loss on all links.
    Lossy(Loss),
    /// Packets overtake each other on all links.
    Disorder(u64),
    /// A program stands still.
    Stall(NodeId),
    /// A disk is slow.
    SlowDisk(NodeId, u64),
    /// A disk takes no more writes; at the end it does, and the program is started anew.
    FullDisk(NodeId),
    /// Fsyncs fail; at the end they work again, and the program is started anew.
    FailingFsync(NodeId),
    /// A wall clock jumps, in milliseconds.
    Jump(NodeId, i64),
    /// A node's clocks run too fast, by so many thousandths.
    Drift(NodeId, i64),
    /// An endpoint does not answer as it should.
    Broken(String, NodeId, Observation),
    /// A site's backends are dead.
    Emptied(String, NodeId),
    /// A client path is cut for one observer.
    Blind(NodeId, NodeId),
    /// A program is stopped in order: it drains, goes away, and is started anew.
    Announced(NodeId),
    /// Leadership is handed over.
    Lead(NodeId),
    /// A voter is demoted, and promoted again.
    Demote(NodeId),
    /// Connections to a node are reset, and new ones refused, for these nodes, though it lives.
    Lie(NodeId, Vec<NodeId>),
}

/// All kinds of faults, and what some of them must lead to.
pub const KINDS: [&str; 24] = [
    "Announced",
    "Blind",
    "Broken",
    "Crash",
    "CrashAll",
    "Cut",
    "Demote",
    "Disorder",
    "Drift",
    "Emptied",
    "FailingFsync",
    "Flap",
    "Flood",
    "FullDisk",
    "Jump",
    "Lead",
    "Lie",
    "Lossy",
    "SlowDisk",
    "Stall",
    "Storm",
    DISK_STOPPED_RAFT,
    FLOOD_WRITTEN,
    SNAPSHOT_INSTALLED,
];

/// Raft stopped on a node whose disk failed.
pub const DISK_STOPPED_RAFT: &str = "a bad disk stopped Raft";
/// A flood was written while a node was away.
pub const FLOOD_WRITTEN: &str = "a flood was written";
/// A node got a snapshot over the network.
pub const SNAPSHOT_INSTALLED: &str = "a snapshot was installed";

impl Fault {
    /// One of [`KINDS`].
    fn kind(&self) -> &'static str {
        let text = format!("{self:?}");
        KINDS.into_iter().find(|kind| text.split('(').next() == Some(kind)).unwrap_or("unknown")
    }
}

/// Faults until the time has come.
pub async fn inflict(world: Arc<World>, until: u64) {
    let pause = if world.setup.quiet { 3_000 } else { 1_500 };
    while world.now() < until {
        world.sleep(world.draw(|r| r.exponential(pause))).await;
        if world.now() >= until {
            return;
        }
        let (fault, lasts) = if world.setup.quiet { quiet(&world) } else { any(&world) };
        world.note(|| format!("fault for {lasts}: {fault:?}"));
        world.met(fault.kind());
        begin(&world, &fault, lasts, until);
        let world = world.clone();
        drop(SimRuntime::spawn(async move {
            world.sleep(lasts).await;
            end(&world, &fault).await;
        }));
    }
}

fn quiet(world: &World) -> (Fault, u64) {
    let (nodes, longest): (Vec<NodeId>, u64) = (world.nodes().collect(), short_pause(world));
    world.draw(|r| match r.below(5) {
        _ if r.chance(5) => (Fault::Announced(*r.pick(&nodes)), DRAIN_MS + AWAY_MS),
        0 => (Fault::Lossy(Loss::bursty(r)), r.range(5_000, 20_000)),
        1 => (Fault::Stall(*r.pick(&nodes)), r.range(20, longest)),
        2 => (lie(&nodes, r), 0),
        3 => (Fault::SlowDisk(*r.pick(&nodes), r.range(50, 900)), r.range(1_000, 9_000)),
        _ => (
            Fault::Jump(*r.pick(&nodes), if r.chance(500) { 3_600_000 } else { -3_600_000 }),
            r.range(1_000, 9_000),
        ),
    })
}

fn any(world: &World) -> (Fault, u64) {
    let nodes: Vec<NodeId> = world.nodes().collect();
    world.draw(|r| {
        let a = *r.pick(&nodes);
        let b = (a + r.below(world.setup.nodes - 1)) % world.setup.nodes + 1; // another one
        let which = r.pick::<&str>(&SERVICES).to_string();
        let lasts = r.exponential(4_000).min(15_000);
        let fault = match r.below(118) {
            0..14 => Fault::Crash(a, r.chance(500)),
            14..16 => Fault::CrashAll,
            16..24 => Fault::Cut(split(&nodes, r.range(1, nodes.len() as u64 - 1))),
            24..30 => Fault::Cut(nodes.iter().filter(|n| **n != a).map(|n| (a, *n)).collect()), // is not heard
            30..36 => Fault::Cut(nodes.iter().filter(|n| **n != a).map(|n| (*n, a)).collect()), // does not hear
            36..44 => Fault::Cut(vec![(a, b), (b, a)]),
            44..48 => Fault::Cut(bridge(&nodes, a)),
            48..56 => Fault::Lossy(Loss::bursty(r)),
            56..64 => Fault::Stall(a),
            64..68 => Fault::SlowDisk(a, r.range(50, 900)),
            68..70 => Fault::FullDisk(a),
            70..72 => Fault::Lead(a),
            72..75 => Fault::Demote(a),
            75..80 => Fault::Jump(a, if r.chance(500) { 3_600_000 } else { -3_600_000 }),
            80..90 => {
                let seen = *r.pick(&[Observation::Refused, Observation::Silence, Observation::Wrong]);
                Fault::Broken(which, a, seen)
            }
            90..94 => Fault::Emptied(which, a),
            94..97 => lie(&nodes, r),
            97..100 => Fault::Blind(a, b),
            100..103 => Fault::Drift(a, *r.pick(&[-20, -5, 5, 20])),
            103..105 => Fault::FailingFsync(a),
            105..109 => Fault::Flap(a, b),
            109..111 => Fault::Storm(a),
            111..114 => Fault::Disorder(r.range(50, 1_000)),
            114..116 => return (Fault::Flood(a), r.range(6_000, 12_000)),
            _ => return (Fault::Announced(a), DRAIN_MS + AWAY_MS),
        };
        (fault, lasts)
    })
}

/// What a firewall does that has forgotten a node; some are told and some are not.
fn lie(nodes: &[NodeId], r: &mut Rng) -> Fault {
    let about = *r.pick(nodes);
    Fault::Lie(about, nodes.iter().copied().filter(|_| r.chance(800)).collect())
}

/// The first `n` cannot talk to the rest.
fn split(nodes: &[NodeId], n: u64) -> Vec<(NodeId, NodeId)> {
    let (left, right) = nodes.split_at(n as usize);
    left.iter().flat_map(|a| right.iter().flat_map(move |b| [(*a, *b), (*b, *a)])).collect()
}

/// Two halves that only one node connects.
fn bridge(nodes: &[NodeId], over: NodeId) -> Vec<(NodeId, NodeId)> {
    let rest: Vec<NodeId> = nodes.iter().copied().filter(|n| *n != over).collect();
    split(&rest, rest.len() as u64 / 2)
}

fn begin(world: &Arc<World>, fault: &Fault, lasts: u64, until: u64) {
    let now = world.now();
    let ends = until.min(now + lasts);
    match fault {
        Fault::Crash(node, dark) => world.kill(*node, *dark),
        Fault::CrashAll => world.nodes().for_each(|n| world.kill(n, true)),
        Fault::Cut(pairs) => pairs.iter().for_each(|(a, b)| world.outside().links.cut(*a, *b)),
        Fault::Flap(a, b) => drop(SimRuntime::spawn(flap(world.clone(), *a, *b, ends))),
        Fault::Lossy(loss) => world.outside().links.loss = Some(*loss),
        Fault::Disorder(ms) => world.outside().links.disorder = Some(*ms),
        Fault::Storm(node) => drop(SimRuntime::spawn(storm(world.clone(), *node, ends))),
        Fault::Flood(node) => {
            world.kill(*node, true);
            let world = world.clone();
            drop(SimRuntime::spawn(async move {
                world.sleep(lasts / 2).await; // by now somebody leads
                client::flood(&world);
            }));
        }
        Fault::Stall(node) => host(world, *node, |h| {
            // in a quiet run two pauses must not add up to a long one
            if !world.setup.quiet
                || h.stalled_until == 0
                || h.stalled_until + Preset::BALANCED.pauses_ms < now
            {
                h.stalled_until = now + lasts;
            }
        }),
        Fault::SlowDisk(node, ms) => host(world, *node, |h| h.fsync_ms = *ms),
        Fault::FullDisk(node) => host(world, *node, |h| h.full = true),
        Fault::FailingFsync(node) => host(world, *node, |h| h.failing = true),
        Fault::Drift(node, per_mille) => host(world, *node, |h| h.drift(*per_mille, now)),
        Fault::Jump(node, ms) => host(world, *node, |h| h.wall_offset += ms),
        Fault::Broken(service, node, seen) => {
            world.outside().broken.insert((service.clone(), *node), *seen);
        }
        Fault::Emptied(service, node) => {
            world.outside().emptied.insert((service.clone(), *node));
        }
        Fault::Blind(observer, node) => {
            world.outside().blind.insert((*observer, *node));
        }
        Fault::Lie(about, to) => world.lie(*about, to),
        Fault::Lead(node) => {
            let (world, node) = (world.clone(), *node);
            drop(SimRuntime::spawn(async move { members::lead(&world, node).await }));
        }
        Fault::Demote(node) => {
            let (world, node) = (world.clone(), *node);
            drop(SimRuntime::spawn(async move { members::demote(&world, node).await }));
        }
        Fault::Announced(node) => {
            let outside = &mut *world.outside();
            outside.draining.insert(*node);
            outside.announced.insert(*node, now + lasts + ECHO_MS);
            let (world, node) = (world.clone(), *node);
            drop(SimRuntime::spawn(async move {
                world.sleep(DRAIN_MS).await;
                if world.outside().draining.contains(&node) {
                    world.kill(node, false);
                }
            }));
        }
    }
}

async fn end(world: &Arc<World>, fault: &Fault) {
    match fault {
        Fault::Crash(node, _) | Fault::Storm(node) | Fault::Flood(node) => world.start(*node).await,
        Fault::Announced(node) => {
            world.outside().draining.remove(node);
            world.start(*node).await;
        }
        Fault::CrashAll => {
            for node in world.nodes() {
                world.start(node).await;
            }
        }
        Fault::Cut(pairs) => pairs.iter().for_each(|(a, b)| world.outside().links.mend(*a, *b)),
        Fault::Lossy(_) => world.outside().links.loss = None,
        Fault::Disorder(_) => world.outside().links.disorder = None,
        Fault::Flap(..) | Fault::Stall(_) | Fault::Lie(..) | Fault::Lead(_) => {}
        // who cannot be promoted now is promoted when everything heals
        Fault::Demote(_) => _ = members::promote_all(world).await,
        Fault::FullDisk(node) | Fault::FailingFsync(node) => repair(world, *node).await,
        Fault::Drift(node, _) => host(world, *node, |h| h.drift(0, world.now())),
        Fault::SlowDisk(node, _) => host(world, *node, |h| h.fsync_ms = 4),
        Fault::Jump(node, ms) => host(world, *node, |h| h.wall_offset -= ms),
        Fault::Broken(service, node, _) => {
            world.outside().broken.remove(&(service.clone(), *node));
        }
        Fault::Emptied(service, node) => {
            world.outside().emptied.remove(&(service.clone(), *node));
        }
        Fault::Blind(observer, node) => {
            world.outside().blind.remove(&(*observer, *node));
        }
    }
}

/// A link goes down and up every few hundred milliseconds.
async fn flap(world: Arc<World>, a: NodeId, b: NodeId, ends: u64) {
    while world.now() < ends {
        for (from, to) in [(a, b), (b, a)] {
            world.outside().links.cut(from, to);
        }
        world.sleep(world.draw(|r| r.range(100, 800))).await;
        for (from, to) in [(a, b), (b, a)] {
            world.outside().links.mend(from, to);
        }
        world.sleep(world.draw(|r| r.range(100, 800))).await;
    }
}

/// A program is killed whenever it has been up for a moment.
async fn storm(world: Arc<World>, node: NodeId, ends: u64) {
    while world.now() < ends {
        world.kill(node, false);
        world.sleep(world.draw(|r| r.range(20, 500))).await;
        world.start(node).await;
        world.sleep(world.draw(|r| r.range(100, 1_500))).await;
    }
}

/// A node's disk keeps what is written again, and its program, which gave up writing, is started anew.
async fn repair(world: &Arc<World>, node: NodeId) {
    let bad = world.outside().hosts.get(&node).is_some_and(Host::bad_disk);
    host(world, node, |h| (h.full, h.failing) = (false, false));
    if bad && world.running(node).is_some() {
        world.kill(node, false);
        world.start(node).await;
    }
}

fn host(world: &World, node: NodeId, f: impl FnOnce(&mut Host)) {
    if let Some(host) = world.outside().hosts.get_mut(&node) {
        f(host);
    }
}

/// Everything works again: all programs run, all links, disks, sites and paths are whole.
pub async fn heal(world: &Arc<World>) {
    let now = world.now();
    {
        let outside = &mut *world.outside();
        outside.links.heal();
        outside.broken.clear();
        outside.emptied.clear();
        outside.blind.clear();
        outside.draining.clear();
        for host in outside.hosts.values_mut() {
            (host.stalled_until, host.fsync_ms) = (0, 4);
            host.drift(0, now);
        }
    }
    for node in world.nodes() {
        repair(world, node).await;
        world.start(node).await;
    }
    world.note(|| "healed".into());
}
