//! The streams of one program: probes of the endpoints of other sites, and heartbeats of other nodes.

use crate::{bug::Bug, network::Lost, node::Node, world::World};
use futures_util::future::{self, Either};
use openraft::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use std::{mem, pin::pin, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use zonekeeper_core::{
    detector::{CONFIRM_MS, Detector, Observation, Pace, Preset, Thresholds},
    evidence::Target,
    id::{NodeId, SiteId},
    model::Check,
};

/// From one heartbeat to the next.
const BEAT_MS: u64 = 500;

/// The node of a site.
pub fn node_of(site: &SiteId) -> NodeId {
    site.as_str().trim_start_matches('s').parse().unwrap_or(0)
}

fn patience(world: &World) -> u64 {
    if world.setup.bug == Some(Bug::Impatience) { 0 } else { Preset::BALANCED.patience_ms.into() }
}

/// Starts the heartbeats, and probes whatever the state declares.
pub async fn watch(node: Arc<Node>) {
    for peer in node.world.nodes().filter(|n| *n != node.id) {
        drop(SimRuntime::spawn(beat(node.clone(), peer)));
    }
    while node.alive() {
        for (target, check) in wanted(&node) {
            if !node.brain().endpoints.contains_key(&target) {
                let fall = if patience(&node.world) == 0 { 1 } else { check.fall };
                let thresholds = Thresholds { rise: check.rise, fall, patience_ms: patience(&node.world) };
                let detector = Detector::new(thresholds, node.machine.mono());
                node.brain().endpoints.insert(target.clone(), detector);
                drop(SimRuntime::spawn(stream(node.clone(), target, check)));
            }
        }
        node.world.sleep(500).await;
    }
}

fn wanted(node: &Node) -> Vec<(Target, Check)> {
    let state = node.machine.state();
    let mut wanted = Vec::new();
    for (id, service) in &state.services {
        let Some(check) = &service.spec.check else { continue };
        for (site, endpoints) in &service.spec.endpoints {
            for endpoint in endpoints.iter().filter(|_| node_of(site) != node.id) {
                let family = zonekeeper_core::model::Family::of(endpoint.addr);
                wanted.push((Target { service: id.clone(), site: site.clone(), family }, check.clone()));
            }
        }
    }
    wanted
}

/// One endpoint, for ever.
async fn stream(node: Arc<Node>, target: Target, check: Check) {
    let world = node.world.clone();
    world.sleep(world.draw(|r| r.below(200))).await;
    while node.alive() {
        world.gate(node.id).await;
        let (started, sent) = (world.now(), node.machine.mono());
        let Some(unconfirmed) = node.brain().endpoints.get(&target).map(Detector::unconfirmed) else {
            return;
        };
        let seen = confirm(&node, &target, u64::from(check.timeout_ms), unconfirmed.max(1)).await;
        let mono = node.machine.mono();
        let (changed, confirming) = {
            let brain = &mut *node.brain();
            let Some(detector) = brain.endpoints.get_mut(&target) else { return };
            let changed =
                seen.into_iter().fold(false, |changed, s| detector.observe(s, sent, mono) | changed);
            (changed, detector.unconfirmed() > 0)
        };
        if changed && node.alive() {
            node.news();
        }
        let interval = u64::from(check.interval_ms);
        let wait = if confirming {
            CONFIRM_MS
        } else {
            world.draw(|r| r.range(interval * 9 / 10, interval * 11 / 10))
        };
        world.sleep((started + wait).saturating_sub(world.now())).await;
    }
}

/// So many probes, none of which waits for the one before it; what each of them saw, up to the first that was not refused.
async fn confirm(node: &Arc<Node>, target: &Target, timeout_ms: u64, times: u8) -> Vec<Observation> {
    let mut under_way = Vec::new();
    for i in 0..times {
        if i > 0 {
            node.world.sleep(CONFIRM_MS).await;
        }
        let (node, target) = (node.clone(), target.clone());
        under_way.push(SimRuntime::spawn(async move { probe(&node, &target, timeout_ms).await }));
    }
    let mut seen = Vec::new();
    for ended in under_way {
        seen.push(ended.await.unwrap_or(Observation::Silence));
        if seen.last() != Some(&Observation::Refused) {
            break;
        }
    }
    seen
}

/// Probes as a client connects, again and again while nothing comes. What arrived while this program stood still is seen
/// when it goes on.
async fn probe(node: &Arc<Node>, target: &Target, timeout_ms: u64) -> Observation {
    let (world, from, to) = (node.world.clone(), node.id, node_of(&target.site));
    let pace = Pace::new(timeout_ms, Some(world.outside().links.rtt_ms(from, to)));
    let service = target.service.to_string();
    let (tx, mut rx) = mpsc::unbounded_channel();
    let mut wait = pace.again_ms;
    let tries = async {
        loop {
            world.gate(from).await; // who stands still tries nothing
            let (world_, service, tx) = (world.clone(), service.clone(), tx.clone());
            drop(SimRuntime::spawn(async move {
                if let Some(seen) = knock(&world_, from, to, service).await {
                    let _ = tx.send(seen); // the prober may have given up
                }
            }));
            world.sleep(mem::replace(&mut wait, pace.more_ms)).await;
        }
    };
    let within = Duration::from_millis(pace.within_ms);
    let seen = match SimRuntime::timeout(within, future::select(pin!(tries), pin!(rx.recv()))).await {
        Ok(Either::Right((seen, _))) => seen,
        Ok(Either::Left((never, _))) => never,
        Err(_) => None,
    };
    node.world.gate(from).await;
    seen.or_else(|| rx.try_recv().ok()).unwrap_or(Observation::Silence)
}

/// The way to an endpoint and back; none when nothing comes back.
async fn knock(world: &Arc<World>, from: NodeId, to: NodeId, service: String) -> Option<Observation> {
    if world.outside().blind.contains(&(from, to)) {
        return None;
    }
    world.packet(from, to).await?;
    if world.outside().hosts.get(&to)?.dark {
        return None;
    }
    let seen = match world.running(to) {
        None => Observation::Refused,
        Some(_) => {
            world.gate(to).await;
            let outside = world.outside();
            let emptied = outside.emptied.contains(&(service.clone(), to));
            let broken = outside.broken.get(&(service, to)).copied();
            broken.unwrap_or(if emptied { Observation::Refused } else { Observation::Answer })
        }
    };
    if seen == Observation::Silence {
        return None;
    }
    world.packet(to, from).await?;
    Some(seen)
}

/// Heartbeats to one peer, for ever; each carries the report.
async fn beat(node: Arc<Node>, peer: NodeId) {
    let thresholds = Thresholds { rise: 1, fall: 2, patience_ms: Preset::BALANCED.patience_ms.into() };
    let detector = Detector::new(thresholds, node.machine.mono());
    node.brain().peers.insert(peer, detector);
    while node.alive() {
        node.world.gate(node.id).await;
        let (started, sent) = (node.world.now(), node.machine.mono());
        let report = node.report();
        let send = |to: Arc<Node>| async move {
            to.receive(report);
            Some(())
        };
        let answer = node.world.call(node.id, peer, Duration::from_secs(1), send).await;
        node.world.gate(node.id).await;
        let seen = match answer {
            Ok(()) => Observation::Answer,
            Err(Lost::Refused) => Observation::Refused,
            Err(Lost::Silence) => Observation::Silence,
        };
        let mono = node.machine.mono();
        let changed = node.brain().peers.get_mut(&peer).is_some_and(|d| d.observe(seen, sent, mono));
        if changed && node.alive() {
            node.news();
        }
        node.world.sleep((started + BEAT_MS).saturating_sub(node.world.now())).await;
    }
}
