//! One program: the loop of production (`control`, `probe`) on simulated time.
//!
//! Streams observe, verdicts go into the node's report, the report goes to every voter on change and as a refresh, and
//! the leader decides on each report and every 100 ms, with one proposal of automation under way at a time.

use crate::{bug::Bug, faults::DISK_STOPPED_RAFT, machine::Machine, store::Store, types::Raft, world::World};
use openraft::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use zonekeeper_core::{
    Entry, Outcome, Proposal,
    decide::Decider,
    detector::{Detector, Fitness},
    entry::Timing,
    evidence::{Colour, Evidence, Report, SelfReport, Target},
    id::NodeId,
    placement::Placement,
    takeover::Takeover,
};

/// From one look at the evidence to the next.
const TICK_MS: u64 = 100;
/// From one look at what was applied to the next.
const PUBLISH_MS: u64 = 20;
/// Signs of sickness count for so long.
const SICK_MS: u64 = 2_000;
/// A proposal that is not through after this is decided anew.
const PROPOSE: Duration = Duration::from_secs(3);

/// What a program knows beside its state.
pub struct Brain {
    /// Client path.
    pub endpoints: BTreeMap<Target, Detector>,
    /// Node path.
    pub peers: BTreeMap<NodeId, Detector>,
    evidence: Evidence,
    decider: Decider,
    placement: Placement,
    /// Words about a leader that is gone.
    pub takeover: Takeover,
    proposing: bool,
    seq: u64,
    lag_ms: (u64, u64),
    fsync_ms: (u64, u64),
    term: u64,
}

impl Brain {
    /// Of a program that has just started.
    pub fn new(id: NodeId, timing: Timing) -> Brain {
        let heartbeat = timing.heartbeat_ms();
        Brain {
            endpoints: BTreeMap::new(),
            peers: BTreeMap::new(),
            evidence: Evidence::default(),
            decider: Decider::default(),
            placement: Placement::default(),
            takeover: Takeover::new(id, 5 * heartbeat, heartbeat),
            proposing: false,
            seq: 0,
            lag_ms: (0, 0),
            fsync_ms: (0, 0),
            term: 0,
        }
    }
}

/// A running program.
pub struct Node {
    /// The world.
    pub world: Arc<World>,
    /// Its id; its site is `s` and this number.
    pub id: NodeId,
    /// Which start of the node this is.
    pub boot: u64,
    /// Raft.
    pub raft: Raft,
    /// The state.
    pub machine: Machine,
    /// The rest.
    pub brain: Mutex<Brain>,
}

impl Node {
    /// The rest.
    pub fn brain(&self) -> MutexGuard<'_, Brain> {
        self.brain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Still the program that runs on its host.
    pub fn alive(&self) -> bool {
        self.world.boot(self.id) == self.boot
    }

    /// An fsync took so long.
    pub fn fsync_took(&self, ms: u64) {
        let now = self.world.now();
        remember(&mut self.brain().fsync_ms, ms, now);
    }

    /// The loop: reports and decisions.
    pub async fn run(self: Arc<Self>) {
        let mut due = self.world.now();
        while self.alive() {
            due += TICK_MS;
            self.world.sleep(due.saturating_sub(self.world.now())).await;
            self.world.gate(self.id).await;
            let now = self.world.now();
            remember(&mut self.brain().lag_ms, now.saturating_sub(due), now);
            due = now;
            self.watch_raft();
            self.report_self();
            self.decide();
        }
    }

    /// What DNS answers from: the state as it was applied, once the watermark of that is durable. After a start nothing
    /// is published that is older than what was published before.
    pub async fn publish(self: Arc<Self>, store: Store) {
        let floor = self.world.disk(self.id).read(|d| d.published);
        let mut last = 0;
        while self.alive() {
            self.world.gate(self.id).await;
            let state = self.machine.state();
            let index = state.generation.index;
            if index >= floor && index > last {
                if store.publish(index).await.is_err() || !self.alive() {
                    return;
                }
                last = index;
                let seen = self.world.checks().progress.observe(self.id, &state);
                self.world.found(seen);
            }
            self.world.sleep(PUBLISH_MS).await;
        }
    }

    /// What this node sees at the moment.
    pub fn report(&self) -> Report {
        let (now, mono) = (self.world.now(), self.machine.mono());
        let wall = self.world.wall(self.id);
        let own = self.own();
        let brain = &mut *self.brain();
        brain.seq = (brain.seq + 1).max(wall);
        let nodes: Vec<_> = brain.peers.iter().map(|(n, d)| (*n, d.verdict(mono))).collect();
        let fresh = |(at, ms): (u64, u64)| if now.saturating_sub(at) <= SICK_MS { ms } else { 0 };
        let fitness = Fitness {
            peers_missing: nodes.iter().filter(|(_, v)| v.colour == Colour::Red).count(),
            peers: nodes.len(),
            timer_lag_ms: fresh(brain.lag_ms),
            fsync_ms: fresh(brain.fsync_ms),
            no_room: false,
        };
        let endpoints = brain.endpoints.iter().map(|(t, d)| (t.clone(), d.verdict(mono))).collect();
        Report { node: self.id, seq: brain.seq, abstains: fitness.abstains(), endpoints, nodes, own }
    }

    /// What the site says of itself.
    fn own(&self) -> Vec<SelfReport> {
        let outside = self.world.outside();
        let state = self.machine.state();
        let of = |id: &zonekeeper_core::id::ServiceId| {
            let dead = outside.emptied.contains(&(id.to_string(), self.id));
            SelfReport {
                service: id.clone(),
                healthy: if dead { 0 } else { 2 },
                backends: 2,
                draining: outside.draining.contains(&self.id),
            }
        };
        state.services.keys().map(of).collect()
    }

    /// A verdict has changed: the report goes to every voter at once.
    pub fn news(self: &Arc<Self>) {
        self.report_self();
        let report = self.report();
        for to in self.world.nodes().filter(|n| *n != self.id) {
            let (node, report) = (self.clone(), report.clone());
            drop(SimRuntime::spawn(async move {
                let send = |peer: Arc<Node>| async move {
                    peer.receive(report);
                    Some(())
                };
                let _ = node.world.call(node.id, to, Duration::from_secs(1), send).await; // the refresh follows
            }));
        }
        self.decide();
    }

    fn report_self(self: &Arc<Self>) {
        let (report, mono) = (self.report(), self.machine.mono());
        self.brain().evidence.receive(report, mono);
    }

    /// A report came in.
    pub fn receive(self: &Arc<Self>, report: Report) {
        let mono = self.machine.mono();
        if self.brain().evidence.receive(report, mono) {
            self.decide();
        }
    }

    /// The leader's part.
    fn decide(self: &Arc<Self>) {
        if !self.raft.is_leader() || !self.alive() {
            let brain = &mut *self.brain();
            (brain.decider, brain.placement) = Default::default();
            return;
        }
        self.place();
        let (state, mono, log_now) = (self.machine.state(), self.machine.mono(), self.machine.log_time());
        let brain = &mut *self.brain();
        if brain.proposing {
            return;
        }
        brain.evidence.retain(|node| state.members.contains_key(&node));
        let decision = brain.decider.decide(&state, &brain.evidence, mono, log_now);
        let Some(mut proposal) = decision.proposal else { return };
        if self.world.setup.bug == Some(Bug::UncheckedEvidence) {
            crate::bug::hasty(&mut proposal);
        }
        brain.proposing = true;
        let node = self.clone();
        drop(SimRuntime::spawn(async move {
            let done = SimRuntime::timeout(PROPOSE, node.propose(proposal)).await;
            node.brain().proposing = false;
            if matches!(done, Ok(Some(_))) {
                node.decide(); // what is left is decided at once; after a failure the tick is soon enough
            }
        }));
    }

    /// Whether a node has nearly all of this leader's log: otherwise the cluster would wait for it.
    pub fn has_log(&self, node: NodeId) -> bool {
        use openraft::async_runtime::WatchReceiver;
        let metrics = self.raft.metrics().borrow_watched().clone();
        let has = metrics.replication.as_ref().and_then(|r| r.get(&node)?.as_ref().map(|l| l.index));
        has.is_some_and(|index| index + 100 >= metrics.last_log_index.unwrap_or(0))
    }

    /// Hands over to a voter that is better connected and has the log, as production does.
    fn place(self: &Arc<Self>) {
        let (state, mono) = (self.machine.state(), self.machine.mono());
        let next = {
            let brain = &mut *self.brain();
            brain.placement.look(self.id, &state.voters, &brain.evidence, mono)
        };
        let Some(next) = next else { return };
        if self.has_log(next) {
            self.world.note(|| format!("n{} hands over to n{next}", self.id));
            let node = self.clone();
            drop(SimRuntime::spawn(async move { node.raft.trigger().transfer_leader(next).await }));
        }
    }

    /// Proposes on this node; none when it is not known what became of it.
    pub async fn propose(&self, proposal: Proposal) -> Option<(u64, Outcome)> {
        self.world.gate(self.id).await;
        let entry = Entry { time: self.machine.stamp(), proposal: proposal.into() };
        let done = self.raft.client_write(entry).await.ok()?;
        Some((done.log_id.index, done.data))
    }

    /// Shows a new leadership, and a Raft that stopped, to the checkers.
    fn watch_raft(&self) {
        use openraft::async_runtime::WatchReceiver;
        let metrics = self.raft.metrics().borrow_watched().clone();
        if let Err(fatal) = &metrics.running_state
            && self.alive()
        {
            if self.world.outside().hosts[&self.id].bad_disk() {
                self.world.met(DISK_STOPPED_RAFT);
            } else {
                let text = format!("raft of node {} stopped: {fatal}", self.id);
                self.world.found(Err(zonekeeper_core::invariant::Violation::of(9, text)));
            }
        }
        let term = metrics.current_term;
        if !self.raft.is_leader() || self.brain().term == term {
            return;
        }
        self.brain().term = term;
        let last = metrics.last_log_index.unwrap_or(0);
        self.world.note(|| format!("n{} leads in term {term}, log to {last}", self.id));
        let seen = {
            let mut checks = self.world.checks();
            checks.term = checks.term.max(term);
            checks.raft.leads(self.id, (term, self.id), last)
        };
        self.world.found(seen);
    }
}

/// The worst of the last time, with when it was seen.
fn remember(worst: &mut (u64, u64), ms: u64, now: u64) {
    if ms >= worst.1 || now.saturating_sub(worst.0) > SICK_MS {
        *worst = (now, ms);
    }
}
