//! One run: faults with safety at each step, then healing and liveness.

use crate::{
    client,
    cluster::{BACK_MS, SERVICES, service, site},
    faults, members,
    world::{Setup, World},
};
use openraft::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use std::{collections::BTreeSet, fmt, sync::Arc};
use zonekeeper_core::{invariant::Violation, model::Family};

/// What came out of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// What it was made of.
    pub setup: Setup,
    /// What was violated, and when.
    pub violations: Vec<(u64, Violation)>,
    /// Hash of all that happened, and how many lines that is.
    pub trace: (u64, u64),
    /// Virtual milliseconds.
    pub lasted: u64,
    /// Entries, moves, acknowledged edits, highest term, snapshots sent.
    pub counts: [u64; 5],
    /// Which kinds of faults were met, and what they led to.
    pub met: BTreeSet<&'static str>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Setup { seed, nodes, quiet, .. }, [entries, moves, edits, term, snapshots]) =
            (self.setup, self.counts);
        write!(
            f,
            "seed {seed} nodes {nodes}{} trace {:016x} lines {} seconds {} entries {entries} moves {moves} \
             edits {edits} term {term} snapshots {snapshots}",
            if quiet { " quiet" } else { "" },
            self.trace.0,
            self.trace.1,
            self.lasted / 1000,
        )?;
        self.violations.iter().try_for_each(|(at, v)| write!(f, "\n  at {at} ms: {v}"))
    }
}

/// Runs a whole simulation.
pub fn run(setup: Setup) -> Report {
    let mut runtime = SimRuntime::with_seed(setup.seed);
    runtime.block_on(async move {
        let world = World::new(setup);
        script(&world).await;
        report(&world)
    })
}

fn report(world: &World) -> Report {
    let checks = world.checks();
    let edits = checks.acknowledged.len() as u64;
    Report {
        setup: world.setup,
        violations: checks.found.clone(),
        trace: world.trace(),
        lasted: world.now(),
        counts: [checks.applied, checks.moves, edits, checks.term, checks.installed],
        met: checks.met.clone(),
    }
}

async fn script(world: &Arc<World>) {
    world.bootstrap().await;
    let heartbeat = world.timing.heartbeat_ms();
    world.sleep(2_000 + 10 * heartbeat).await;
    world.checks().still = world.setup.quiet;
    let short = 20_000 + 40 * heartbeat;
    let until = world.now() + short.max(world.setup.minutes * 60_000);
    drop(SimRuntime::spawn(faults::inflict(world.clone(), until)));
    drop(SimRuntime::spawn(client::operate(world.clone(), until)));
    drop(SimRuntime::spawn(client::look(world.clone(), until)));
    while world.now() < until {
        world.sleep(100).await;
        let found = !world.checks().found.is_empty();
        if found && world.setup.bug.is_none() {
            return; // what comes after a violation proves nothing
        }
    }
    // Faults end by themselves within 20 s; whatever is left ends now.
    world.sleep(200).await;
    faults::heal(world).await;
    recover(world, heartbeat).await;
}

/// Liveness: a write commits, all nodes come to the same state, the services come home.
async fn recover(world: &Arc<World>, heartbeat: u64) {
    let healed = world.now();
    // An election takes the lease and a timeout, 10 heartbeats; three of them are allowed, and the penalty of a node
    // that saw a longer log (openraft #2088), 10 more.
    let bound = 40 * heartbeat + 3_000;
    let mut number = 1_000_000;
    while !world.edit(number).await {
        number += 1;
        if world.now() > healed + bound {
            return world.found(Err(Violation::of(9, format!("no write for {bound} ms after healing"))));
        }
    }
    let took = world.now() - healed;
    world.note(|| format!("a write commits {took} ms after healing"));
    client::tidy(world).await;
    let patience = BACK_MS + 10_000 + 30 * heartbeat;
    let until = world.now() + patience;
    loop {
        let whole = members::promote_all(world).await;
        let missing = converged(world).err().or_else(|| at_home(world).err());
        let Some(missing) = missing.or((!whole).then(|| "not everybody has a vote".into())) else { break };
        if world.now() > until {
            return world.found(Err(Violation::of(9, format!("{patience} ms after healing: {missing}"))));
        }
        // a command that was under way when the operators stopped may have come through late
        client::tidy(world).await;
        world.sleep(200).await;
    }
    for node in world.all_running() {
        let seen = world.checks().acknowledged.all(node.id, &node.machine.state());
        world.found(seen);
    }
    world.note(|| "recovered".into());
}

/// All nodes run, hold the same state, and answer from it.
fn converged(world: &World) -> Result<(), String> {
    let states: Vec<_> = world.all_running().iter().map(|n| n.machine.state()).collect();
    let at: BTreeSet<_> = states.iter().map(|s| (s.generation.index, s.hash())).collect();
    if states.len() as u64 != world.setup.nodes || at.len() != 1 {
        return Err(format!("{} nodes run, with states {at:?}", states.len()));
    }
    let published: BTreeSet<_> = world.nodes().map(|n| world.disk(n).read(|d| d.published)).collect();
    match published.iter().eq(at.iter().map(|(index, _)| index)) {
        true => Ok(()),
        false => Err(format!("states {at:?}, but nodes answer from {published:?}")),
    }
}

fn at_home(world: &World) -> Result<(), String> {
    let Some(node) = world.running(1) else { return Err("node 1 does not run".into()) };
    let state = node.machine.state();
    for which in SERVICES {
        let wanted: Vec<_> = if which == "web" { vec![site(1)] } else { world.nodes().map(site).collect() };
        let service = state.services.get(&service(which));
        let assignment = service.and_then(|s| s.assignment.get(&Family::V4));
        if assignment.is_none_or(|a| a.sites != wanted) {
            return Err(format!("{which} is at {assignment:?}, healths {:?}", service.map(|s| &s.health)));
        }
    }
    Ok(())
}
