//! All checkers of one run, and what they found.

use crate::{client, cluster::site, faults::SNAPSHOT_INSTALLED, history::Registers, world::World};
use std::collections::BTreeSet;
use zonekeeper_core::{
    Command, Entry, Outcome, State,
    id::{NodeId, SiteId},
    invariant::{
        self, Step, Violation, acknowledged::Acknowledged, agreement::Agreement, epoch::Epochs,
        progress::Progress, raft,
    },
    model::Family,
};

/// More violations than this say nothing new.
const ENOUGH: usize = 50;

/// The checkers with their memory.
#[derive(Default)]
pub struct Checks {
    /// Invariant 1.
    pub epochs: Epochs,
    /// Invariant 2.
    pub progress: Progress,
    /// Invariant 3.
    pub agreement: Agreement,
    /// Invariant 4.
    pub acknowledged: Acknowledged,
    /// Invariant 4, of records that are overwritten.
    pub registers: Registers,
    /// Invariant 11.
    pub raft: raft::Persisted,
    /// What was found, with the time.
    pub found: Vec<(u64, Violation)>,
    /// Moves that automation made, counted once each.
    pub moves: u64,
    /// Highest index that any node applied.
    pub applied: u64,
    /// Highest term of a leader.
    pub term: u64,
    /// Snapshots that were installed over the network.
    pub installed: u64,
    /// Which kinds of faults were met, and what they led to (see [`crate::faults::KINDS`]).
    pub met: BTreeSet<&'static str>,
    /// Nothing may move from now on: the run is quiet.
    pub still: bool,
}

impl Checks {
    /// A node applied an entry.
    pub fn applied(
        &mut self,
        node: NodeId,
        index: u64,
        leader: raft::Leader,
        step: Step<'_>,
    ) -> Result<(), Violation> {
        self.raft.applied(node, index, leader)?;
        self.agreement.observe(node, step.after)?;
        self.epochs.observe(node, step.after)?;
        self.acknowledged.observe(node, step.after)?;
        if let Some(value) = step.entry.and_then(client::written) {
            self.registers.applied(value, index);
        }
        invariant::step(step)
    }

    /// A node took a snapshot in place of its state.
    pub fn installed(&mut self, node: NodeId, state: &State) -> Result<(), Violation> {
        self.installed += 1;
        self.met.insert(SNAPSHOT_INSTALLED);
        self.agreement.observe(node, state)?;
        self.epochs.observe(node, state)?;
        self.acknowledged.observe(node, state)
    }
}

impl World {
    /// A fault happened, or something that it must lead to.
    pub fn met(&self, what: &'static str) {
        self.checks().met.insert(what);
    }

    /// Keeps what a checker found.
    pub fn found(&self, seen: Result<(), Violation>) {
        let Err(violation) = seen else { return };
        self.note(|| format!("VIOLATION {violation}"));
        let now = self.now();
        let mut checks = self.checks();
        if checks.found.len() < ENOUGH {
            checks.found.push((now, violation));
        }
    }

    /// Counts the moves of an entry, by the first node that applies it. In a quiet run there must be none.
    pub fn moves(&self, node: NodeId, step: Step<'_>) {
        let index = step.after.generation.index;
        let mut checks = self.checks();
        if index <= checks.applied && checks.applied > 0 {
            return;
        }
        checks.applied = index;
        let still = checks.still;
        drop(checks);
        for (id, service) in &step.after.services {
            for family in Family::ALL {
                let old = step.before.services.get(id).and_then(|s| s.assignment.get(&family));
                let (Some(old), Some(new)) = (old, service.assignment.get(&family)) else { continue };
                if old.sites == new.sites && old.basis == new.basis {
                    continue;
                }
                let why = step.after.history.back().map(|d| d.cause.clone()).unwrap_or_default();
                let text =
                    format!("{id} {family:?} {:?} -> {:?} {:?}: {why}", old.sites, new.sites, new.basis);
                self.note(|| format!("n{node} move at {index}: {text}"));
                self.checks().moves += 1;
                let same = old.sites == new.sites; // and another basis
                let moved = |s: &SiteId| old.sites.contains(s) != (new.sites.contains(s) && !same);
                let announced = self.outside().announced.clone();
                let announced = announced.iter().any(|(n, until)| self.now() < *until && moved(&site(*n)));
                if still && !announced {
                    self.found(Err(Violation::of(10, text)));
                }
            }
        }
    }
}

/// An entry and what became of it, in one line.
pub fn headline(entry: &Entry, outcome: &Outcome) -> String {
    let what = match &entry.proposal.command {
        Command::Judge(rows) => rows.iter().map(|r| r.headline()).collect::<Vec<_>>().join("; "),
        Command::Configure(changes) => format!("configure, {} changes", changes.len()),
        other => format!("{other:?}"),
    };
    let became = match outcome {
        Outcome::Applied(_) => "applied".into(),
        Outcome::Stale(read) => format!("stale: {:?}", read.object),
        Outcome::Refused(why) => format!("refused: {why}"),
    };
    format!("@{} {} [{what}] {became}", entry.time.0 % 100_000_000, entry.proposal.cause)
}
