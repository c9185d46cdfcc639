//! From evidence to a proposal, and the reason for everything that is *not* proposed.
//!
//! Runs on the leader, at each new report and on a tick. Reads only the replicated state, the evidence and two times,
//! so the same inputs give the same proposal in a simulation and in production.

use crate::{
    assign::{Hand, Lane},
    codec,
    entry::{Cause, Command, MAX_ENTRY, Object, Proposal, Read},
    evidence::{Evidence, Row, Standing, Target, Vote, needed},
    id::{ServiceId, SiteId},
    model::Family,
    state::{HISTORY, ServiceState, State},
    time::{LogTime, Mono},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};

/// A change to or from degraded must stand so long before it is written down, in milliseconds: the first of two
/// observers to see a failure is no news.
pub const DEGRADED_MS: u64 = 1_500;

/// Rows of one entry at most: what moves at once stays in the history until everybody who looks has seen it.
const MAX_ROWS: usize = HISTORY / 16;

/// What the leader remembers between two runs. A new leader starts empty and decides on its first tick all the same.
#[derive(Debug, Default)]
pub struct Decider {
    pending: BTreeMap<Target, (Standing, Mono)>,
}

/// Why something is as it is: the visible half of every non-decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it is about.
    pub target: Target,
    /// In words: `1 of 3 sites red, 2 are needed`, `hold-down, 12 s left`.
    pub text: String,
    /// What a person should look at.
    pub alarm: Option<Alarm>,
}

/// What a person should look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// Red from fewer sites than are needed.
    Degraded,
    /// So many abstain that no majority is possible: failover would not happen.
    Disarmed,
}

/// What one run says.
#[derive(Debug, Default)]
pub struct Decision {
    /// The next entry, if one is due. The caller proposes it and decides again after it was applied.
    pub proposal: Option<Proposal>,
    /// Why everything else stays as it is.
    pub notes: Vec<Note>,
}

impl Decider {
    /// One run.
    pub fn decide(&mut self, state: &State, evidence: &Evidence, now: Mono, log_now: LogTime) -> Decision {
        let mut out = Decision::default();
        let mut rows = Vec::new();
        let voting: BTreeSet<SiteId> = state.voting_sites().into_iter().cloned().collect();
        for (id, service) in &state.services {
            for target in targets(id, service) {
                let row = self.weigh(state, service, evidence, &voting, target, now, &mut out.notes);
                rows.extend(row);
            }
        }
        let declared = |t: &Target| {
            state.services.get(&t.service).is_some_and(|s| s.spec.endpoint(&t.site, t.family).is_some())
        };
        self.pending.retain(|t, _| declared(t));
        out.proposal = judge(state, rows).or_else(|| tick(state, log_now));
        for (id, service) in &state.services {
            for target in targets(id, service) {
                let lane = Lane::new(state, id, service, target.family, log_now);
                if let Some(text) = lane.why_not(&target.site) {
                    out.notes.push(Note { target, text, alarm: None });
                }
            }
        }
        out
    }

    /// Weighs one target; a row when its standing should change now.
    #[allow(clippy::too_many_arguments, reason = "one call, of one loop body")]
    fn weigh(
        &mut self,
        state: &State,
        service: &ServiceState,
        evidence: &Evidence,
        voting: &BTreeSet<SiteId>,
        target: Target,
        now: Mono,
        notes: &mut Vec<Note>,
    ) -> Option<Row> {
        let (votes, own) = evidence.votes(state, &target, now);
        let needed = needed(voting, &target.site, service.spec.quorum);
        if service.spec.check.is_some() {
            note_alarms(&target, &votes, needed, own.is_some(), voting.len(), notes);
        }
        // where nobody else can judge a site, its silence is no word
        let silent = votes.is_empty() && own.is_none() && !evidence.heard(state, &target.site, now);
        let Some(verdict) = Row::conclude(&votes, own, needed).filter(|_| !silent) else {
            self.pending.remove(&target);
            return None;
        };
        let key = (target.site.clone(), target.family);
        let held = service.health.get(&key).map_or(Standing::Up, |h| h.standing);
        if verdict == held {
            self.pending.remove(&target);
            return None;
        }
        let (seen, since) = *self.pending.entry(target.clone()).or_insert((verdict, now));
        if seen != verdict {
            self.pending.insert(target.clone(), (verdict, now));
        }
        let since = if seen == verdict { since } else { now };
        let patient = verdict == Standing::Degraded || held == Standing::Degraded && verdict == Standing::Up;
        let due = !patient || now.since(since) >= DEGRADED_MS;
        due.then_some(Row { target, votes, own, verdict })
    }
}

/// Everything of a service that is judged.
fn targets<'a>(id: &'a ServiceId, service: &'a ServiceState) -> impl Iterator<Item = Target> + 'a {
    Family::ALL.into_iter().flat_map(move |family| {
        let sites = service.spec.sites(family).into_iter();
        sites.map(move |site| Target { service: id.clone(), site: site.clone(), family })
    })
}

fn note_alarms(
    target: &Target,
    votes: &[(SiteId, Vote)],
    needed: usize,
    own: bool,
    voting: usize,
    notes: &mut Vec<Note>,
) {
    if votes.is_empty() {
        // a cluster of one site: nothing is broken, and nobody else will ever judge it
        let text = "no other site votes: only its own word can move it".into();
        return notes.push(Note { target: target.clone(), text, alarm: None });
    }
    let reds = votes.iter().filter(|(_, v)| matches!(v, Vote::Red(_))).count();
    let able = votes.iter().filter(|(_, v)| *v != Vote::Abstain).count();
    if able < needed {
        let text = format!("disarmed: {able} of {voting} voting sites can judge it, {needed} are needed");
        notes.push(Note { target: target.clone(), text, alarm: Some(Alarm::Disarmed) });
    }
    if reds > 0 && reds < needed && !own {
        let text = format!("degraded: {reds} of {voting} voting sites red, {needed} are needed");
        notes.push(Note { target: target.clone(), text, alarm: Some(Alarm::Degraded) });
    }
}

/// One entry with as many rows as fit; what moves traffic goes first, the rest follows with the next run.
fn judge(state: &State, mut rows: Vec<Row>) -> Option<Proposal> {
    rows.sort_by_key(|r| core::cmp::Reverse(r.verdict));
    rows.truncate(MAX_ROWS);
    let mut size = 1024;
    rows.retain(|row| {
        size += codec::size(row) + row.target.service.as_str().len() + 16;
        size < MAX_ENTRY
    });
    let mut reads: Vec<Read> = Vec::new();
    for row in &rows {
        let object = Object::Service(row.target.service.clone());
        if reads.iter().all(|r| r.object != object) {
            reads.push(Read { version: state.version(&object), object });
        }
    }
    reads.push(Read { object: Object::Voters, version: state.version(&Object::Voters) });
    let proposal = Proposal { reads, cause: Cause::Automation, command: Command::Judge(rows) };
    matches!(&proposal.command, Command::Judge(rows) if !rows.is_empty()).then_some(proposal)
}

/// A tick, when the passing of time alone changes something.
fn tick(state: &State, now: LogTime) -> Option<Proposal> {
    let expired = state.overrides.values().any(|o| o.expires.is_some_and(|e| e <= now))
        || state.stages.values().any(|s| s.expires <= now)
        || state.joins.values().any(|j| j.expires <= now)
        || state.tokens.values().any(|t| t.expires.is_some_and(|e| e <= now))
        || state.secrets_due(now);
    let moves = || {
        state.services.iter().any(|(id, service)| {
            service.assignment.iter().any(|(family, held)| {
                let choice = Lane::new(state, id, service, *family, now).choose(Hand::Off);
                choice.sites != held.sites || choice.basis != held.basis
            })
        })
    };
    (expired || moves()).then(|| Proposal {
        reads: Vec::new(),
        cause: Cause::Automation,
        command: Command::Tick,
    })
}
