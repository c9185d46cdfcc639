//! Bugs that can be planted, each to be caught by the checker of one invariant.

use std::{collections::BTreeMap, sync::Arc};
use zonekeeper_core::{
    Command, Entry, Outcome, Proposal, State,
    entry::Delta,
    evidence::Standing,
    id::{NodeId, SiteId},
    model::{Family, Policy, Service},
    state::{Assignment, Generation, Health},
};

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A move keeps the epoch of the assignment before it: invariant 1.
    ReusedEpoch,
    /// A program that starts answers from its snapshot at once, however old it is: invariant 2.
    StalePublish,
    /// One node applies an entry in another way than the rest: invariant 3.
    DivergentApply,
    /// An acknowledged entry is left out when a node replays its log after a crash: invariant 4.
    DroppedEntry,
    /// The leader takes one red site for enough, and its entry is applied without counting again: invariant 5.
    UncheckedEvidence,
    /// A move empties the answer: invariant 6.
    EmptyAnswer,
    /// A site that is up again is answered at once: invariant 7.
    NoHoldDown,
    /// Writes are acknowledged before they are durable: invariant 11.
    NoFsync,
    /// The vote is gone after a crash: invariant 11.
    ForgottenVote,
    /// One missed probe is enough: invariant 10, in a quiet run.
    Impatience,
    /// A leader answers reads for as long as its lease, whoever leads by now: invariant 4.
    LeaseRead,
    /// A leader answers reads without asking whether it still leads: invariant 4.
    LocalRead,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 12] = [
        Bug::ReusedEpoch,
        Bug::StalePublish,
        Bug::DivergentApply,
        Bug::DroppedEntry,
        Bug::UncheckedEvidence,
        Bug::EmptyAnswer,
        Bug::NoHoldDown,
        Bug::NoFsync,
        Bug::ForgottenVote,
        Bug::Impatience,
        Bug::LeaseRead,
        Bug::LocalRead,
    ];

    /// The invariant whose checker must see it.
    pub fn breaks(self) -> u8 {
        match self {
            Bug::ReusedEpoch => 1,
            Bug::StalePublish => 2,
            Bug::DivergentApply => 3,
            Bug::DroppedEntry | Bug::LeaseRead | Bug::LocalRead => 4,
            Bug::UncheckedEvidence => 5,
            Bug::EmptyAnswer => 6,
            Bug::NoHoldDown => 7,
            Bug::NoFsync | Bug::ForgottenVote => 11,
            Bug::Impatience => 10,
        }
    }
}

/// What a buggy shell around `apply` makes of a state.
pub fn spoil(
    bug: Bug,
    node: NodeId,
    before: &State,
    after: &mut State,
    entry: &Entry,
    outcome: &mut Outcome,
) {
    match bug {
        Bug::DivergentApply if node == 2 && after.generation.index.is_multiple_of(16) => {
            after.automation ^= true
        }
        Bug::UncheckedEvidence => unchecked(after, entry, outcome),
        Bug::ReusedEpoch | Bug::EmptyAnswer | Bug::NoHoldDown => {
            for (id, service) in &mut after.services {
                let service = Arc::make_mut(service);
                let old = before.services.get(id);
                for (family, held) in &mut service.assignment {
                    let Some(old) = old.and_then(|s| s.assignment.get(family)) else { continue };
                    let moved = old.sites != held.sites;
                    match bug {
                        Bug::ReusedEpoch if moved => held.epoch = old.epoch,
                        Bug::EmptyAnswer if moved => held.sites.clear(),
                        Bug::NoHoldDown => {
                            home(&service.spec, &service.health, *family, held, after.generation)
                        }
                        _ => {}
                    }
                }
            }
        }
        _ => {}
    }
}

/// A leader for which one red site is enough.
pub fn hasty(proposal: &mut Proposal) {
    let Command::Judge(rows) = &mut proposal.command else { return };
    for row in rows.iter_mut().filter(|r| r.verdict == Standing::Degraded) {
        row.verdict = Standing::Down;
    }
}

/// Takes the verdict of every row as it is.
fn unchecked(after: &mut State, entry: &Entry, outcome: &mut Outcome) {
    let (Command::Judge(rows), Outcome::Refused(_)) = (&entry.proposal.command, &*outcome) else { return };
    for row in rows {
        let Some(service) = after.services.get_mut(&row.target.service) else { continue };
        let (since, failed) = (after.time, Some(after.time));
        let health = Health { standing: row.verdict, since, failed, flaps: 0 };
        Arc::make_mut(service).health.insert((row.target.site.clone(), row.target.family), health);
    }
    *outcome = Outcome::Applied(Delta { index: after.generation.index, ..Delta::default() });
}

/// Back to the first site of the order as soon as it is up.
fn home(
    spec: &Service,
    health: &BTreeMap<(SiteId, Family), Health>,
    family: Family,
    held: &mut Assignment,
    epoch: Generation,
) {
    let Policy::Failover(_) = spec.policy else { return };
    let up = |s: &SiteId| health.get(&(s.clone(), family)).is_none_or(|h| h.standing == Standing::Up);
    let first = spec.sites(family).into_iter().find(|s| up(s));
    if let Some(first) = first.filter(|f| held.sites.first() != Some(f)) {
        (held.sites, held.epoch) = (vec![first.clone()], epoch);
    }
}
