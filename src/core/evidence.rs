//! Reports of all observers, and the row that a decision carries.

use crate::{
    entry::Duty,
    id::{NodeId, ServiceId, SiteId},
    model::{Family, Quorum},
    mutant::{self, Mutant},
    state::State,
    time::Mono,
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};
use core::fmt;
use serde::{Deserialize, Serialize};

/// What is judged: one family of one service at one site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The service.
    pub service: ServiceId,
    /// The site.
    pub site: SiteId,
    /// The family.
    pub family: Family,
}

/// The colour of a stream of observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// Works.
    Green,
    /// Not sure.
    Yellow,
    /// Does not work.
    Red,
}

/// What kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The host answers: nobody listens, or the connection was reset.
    Refused,
    /// Nothing comes back.
    Silent,
    /// The answer is wrong, or too few backends are healthy.
    Unhealthy,
    /// The site says that it wants no new traffic.
    Draining,
}

/// A detector's word on one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The colour.
    pub colour: Colour,
    /// The trouble, unless green.
    pub kind: Option<Kind>,
    /// How long the colour stands, in milliseconds at the observer.
    pub age_ms: u64,
}

/// What a site says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfReport {
    /// The service.
    pub service: ServiceId,
    /// Healthy local backends.
    pub healthy: u32,
    /// All local backends.
    pub backends: u32,
    /// The node is going away on purpose.
    pub draining: bool,
}

/// Everything one node sees, sent to all voters on change and as a refresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who observes.
    pub node: NodeId,
    /// Counts up; an older one is ignored.
    pub seq: u64,
    /// Why this observer abstains, if it does (Lifeguard: it may be sick itself).
    pub abstains: Option<String>,
    /// Client path: endpoints of other sites.
    pub endpoints: Vec<(Target, Verdict)>,
    /// Node path: heartbeats of other nodes.
    pub nodes: Vec<(NodeId, Verdict)>,
    /// What the observer's own site declares.
    pub own: Vec<SelfReport>,
}

/// A site's vote on a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vote {
    /// Its observers agree that it works, or one of them reaches it.
    Green,
    /// Not sure.
    Yellow,
    /// None of its observers reaches it.
    Red(Kind),
    /// Sick, silent, or without a probe of this target.
    Abstain,
}

/// The evidence on one target, as the entry carries it: `apply` counts again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What is judged.
    pub target: Target,
    /// One vote per voting site; the suspect's own is not among them.
    pub votes: Vec<(SiteId, Vote)>,
    /// What the site declares of itself: unable, and why.
    pub own: Option<Kind>,
    /// What automation concludes.
    pub verdict: Standing,
}

/// What the cluster holds of one target. Orders from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Usable.
    Up,
    /// Red from fewer than a majority: shown, alarmed, not moved.
    Degraded,
    /// Red from a majority, or by its own word.
    Down,
}

/// How many red votes move a target, of so many voting sites, when the suspect is or is not one of them.
pub fn needed(voting: &BTreeSet<SiteId>, suspect: &SiteId, quorum: Quorum) -> usize {
    match quorum {
        _ if mutant::on(Mutant::OneRedMoves) => 1,
        Quorum::Majority => voting.len() / 2 + 1,
        Quorum::Unanimous => voting.iter().filter(|s| *s != suspect).count().max(1),
    }
}

impl Row {
    /// Concludes from votes and the site's own word. The written truth table, first line that fits:
    ///
    /// | the site's own word | client path, other voting sites | conclusion |
    /// |---|---|---|
    /// | unable | anything | down: it needs no majority and beats a remote green |
    /// | able | red from the needed number | down, whatever the node path says |
    /// | able | red from some | degraded: shown, alarmed, not moved |
    /// | able | green from at least one, red from none | up, whatever the node path says |
    /// | able | yellow and abstentions only | none: what is held stays |
    /// | able | nobody else can judge it (no other voting site, or a service without a check) | up |
    ///
    /// The node path (heartbeats) is not in the table: red there alone moves nothing.
    pub fn conclude(votes: &[(SiteId, Vote)], own: Option<Kind>, needed: usize) -> Option<Standing> {
        let reds = votes.iter().filter(|(_, v)| matches!(v, Vote::Red(_))).count();
        let greens = votes.iter().filter(|(_, v)| *v == Vote::Green).count();
        match (own, reds, greens) {
            (Some(_), _, _) => Some(Standing::Down),
            (None, r, _) if r >= needed => Some(Standing::Down),
            (None, 1.., _) => Some(Standing::Degraded),
            (None, 0, 1..) => Some(Standing::Up),
            (None, 0, 0) if votes.is_empty() => Some(Standing::Up),
            (None, 0, 0) => None,
        }
    }

    /// Counts again, as `apply` does: the verdict must follow from votes of all voting sites, one each, without
    /// the suspect's own. A service that nobody probes (`probed` is false) may have none.
    pub fn check(&self, voting: &BTreeSet<SiteId>, quorum: Quorum, probed: bool) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for (site, _) in &self.votes {
            if *site == self.target.site || !voting.contains(site) || !seen.insert(site) {
                return Err(format!("evidence holds a vote of {site} that does not count"));
            }
        }
        let all = seen.len() == voting.iter().filter(|s| **s != self.target.site).count();
        if !all && (probed || !seen.is_empty()) {
            return Err("evidence leaves out voting sites".into());
        }
        let needed = needed(voting, &self.target.site, quorum);
        let follows = Row::conclude(&self.votes, self.own, needed);
        if follows != Some(self.verdict) {
            return Err(format!("evidence on {} does not support {}", self.target.site, self.verdict));
        }
        Ok(())
    }

    /// The row in one line: `fra down: refused from ams, iad`.
    pub fn headline(&self) -> String {
        let Target { site, family, .. } = &self.target;
        let family = if *family == Family::V4 { "" } else { " (IPv6)" };
        if let Some(kind) = self.own {
            return format!("{site}{family} {}: {kind} by its own word", self.verdict);
        }
        let reds: Vec<String> = self
            .votes
            .iter()
            .filter_map(
                |(s, v)| if let Vote::Red(kind) = v { Some(format!("{kind} from {s}")) } else { None },
            )
            .collect();
        match reds.is_empty() {
            true if self.votes.is_empty() => format!("{site}{family} {}: able by its own word", self.verdict),
            true => format!("{site}{family} {}: reached from {}", self.verdict, self.greens().join(", ")),
            false => format!("{site}{family} {}: {}", self.verdict, reds.join(", ")),
        }
    }

    fn greens(&self) -> Vec<&str> {
        self.votes.iter().filter(|(_, v)| *v == Vote::Green).map(|(s, _)| s.as_str()).collect()
    }
}

/// A report that was not renewed for so many milliseconds counts as abstention. Observers refresh every
/// [`REFRESH_MS`].
pub const REPORT_LIFE_MS: u64 = 3_500;
/// Observers send their report on change and at least so often, in milliseconds.
pub const REFRESH_MS: u64 = 1_000;

/// The newest report of each node, as one voter holds them. Ages count from local receipt, never from another
/// machine's clock.
#[derive(Debug, Default, Clone)]
pub struct Evidence {
    reports: BTreeMap<NodeId, (Mono, Report)>,
}

impl Evidence {
    /// Takes a report in; an older one than is held is ignored. A node that restarted counts from its clock again,
    /// so a report is also taken when the held one has expired.
    pub fn receive(&mut self, mut report: Report, now: Mono) -> bool {
        let held = self.reports.get(&report.node);
        let old = held.is_some_and(|(at, r)| r.seq >= report.seq && now.since(*at) < REPORT_LIFE_MS);
        if !old {
            // in order, so that a target is found among thousands; stable, so that the first of two stays the first
            report.endpoints.sort_by(|a, b| a.0.cmp(&b.0));
            report.endpoints.dedup_by(|later, first| later.0 == first.0);
            self.reports.insert(report.node, (now, report));
        }
        !old
    }

    /// Forgets nodes that are no members any more.
    pub fn retain(&mut self, member: impl Fn(NodeId) -> bool) {
        self.reports.retain(|node, _| member(*node));
    }

    /// Reports that still count, with their age in milliseconds.
    pub fn fresh(&self, now: Mono) -> impl Iterator<Item = (&Report, u64)> {
        self.reports.values().map(move |(at, r)| (r, now.since(*at))).filter(|(_, age)| *age < REPORT_LIFE_MS)
    }

    /// Whether a node that serves at this site has been heard of lately.
    pub fn heard(&self, state: &State, site: &SiteId, now: Mono) -> bool {
        let serves = |node| {
            let member = state.members.get(node);
            member.is_some_and(|m| m.site == *site && m.duty == Duty::Full)
        };
        self.fresh(now).any(|(report, _)| serves(&report.node))
    }

    /// The row on one target, without conclusion: one vote per voting site but the suspect, and the site's own word. No
    /// votes on a service that nobody probes.
    pub fn votes(&self, state: &State, target: &Target, now: Mono) -> (Vec<(SiteId, Vote)>, Option<Kind>) {
        let voting = state.voting_sites();
        let probed = state.services.get(&target.service).is_some_and(|s| s.spec.check.is_some());
        let votes = voting.iter().filter(|s| probed && ***s != target.site);
        (
            votes.map(|s| ((*s).clone(), self.vote(state, s, target, now))).collect(),
            self.own(state, target, now),
        )
    }

    /// One site, one vote, however many nodes it has: green when one of them gets through, red when all of them that
    /// do not abstain see red.
    fn vote(&self, state: &State, site: &SiteId, target: &Target, now: Mono) -> Vote {
        let mut vote = Vote::Abstain;
        for (report, _) in self.fresh(now) {
            let member = state.members.get(&report.node).is_some_and(|m| m.site == *site);
            let sick = report.abstains.is_some() && !mutant::on(Mutant::SickObserversVote);
            if !member || !state.voters.contains(&report.node) || sick {
                continue;
            }
            let Ok(place) = report.endpoints.binary_search_by(|(t, _)| t.cmp(target)) else { continue };
            let (_, verdict) = &report.endpoints[place];
            let this = match (verdict.colour, verdict.kind) {
                (Colour::Green, _) => Vote::Green,
                (Colour::Red, Some(kind)) => Vote::Red(kind),
                _ => Vote::Yellow,
            };
            vote = match (vote, this) {
                (Vote::Abstain, v) => v,
                (Vote::Green, _) | (_, Vote::Green) => Vote::Green,
                (Vote::Red(k), Vote::Red(_)) => Vote::Red(k),
                _ => Vote::Yellow,
            };
        }
        vote
    }

    /// A site declares itself unable when each of its nodes that reports says so.
    fn own(&self, state: &State, target: &Target, now: Mono) -> Option<Kind> {
        let minimum = state.services.get(&target.service)?.spec.min_backends;
        let at_site = |node: &NodeId| state.members.get(node).is_some_and(|m| m.site == target.site);
        let mut word = None;
        for (report, _) in self.fresh(now).filter(|(r, _)| at_site(&r.node)) {
            let Some(own) = report.own.iter().find(|o| o.service == target.service) else { continue };
            word = match (own.draining, own.healthy < minimum) {
                (true, _) => Some(Kind::Draining),
                (false, true) => Some(Kind::Unhealthy),
                (false, false) => return None,
            };
        }
        word
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Refused => "refused",
            Kind::Silent => "silent",
            Kind::Unhealthy => "unhealthy",
            Kind::Draining => "draining",
        })
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standing::Up => "up",
            Standing::Degraded => "degraded",
            Standing::Down => "down",
        })
    }
}
