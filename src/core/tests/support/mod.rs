//! A cluster of one state: entries go in, and what is answered is seen.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use zonekeeper_core::{
    Command, Entry, Outcome, Proposal, State,
    entry::{Cause, Duty, Force, Init, Member, Object, Override, Read, Scope, Timing},
    evidence::{Kind, Row, Standing, Target, Vote},
    id::{ServiceId, SiteId},
    model::{
        Change, Check, CheckKind, Endpoint, Failback, Family, Policy, Quorum, Service, Site, WhenAllDown,
        ZoneOwner,
    },
    name::Name,
    state::Basis,
    time::LogTime,
    zone::{RrSet, rtype},
};

pub(crate) const RED: Vote = Vote::Red(Kind::Refused);
pub(crate) const SITES: [&str; 3] = ["a", "b", "c"];
pub(crate) const START: u64 = 1_000_000;

pub(crate) fn site(s: &str) -> SiteId {
    s.parse().unwrap()
}

pub(crate) fn web() -> ServiceId {
    "web".parse().unwrap()
}

pub(crate) fn name(s: &str) -> Name {
    s.parse().unwrap()
}

pub(crate) fn record(owner: &str, rtype: u16, rdata: &[u8]) -> RrSet {
    RrSet::new(name(owner), rtype, 60, vec![rdata.into()]).unwrap()
}

/// `example.com.` with SOA and NS.
pub(crate) fn zone() -> Vec<Change> {
    let soa = [&[2, b'n', b's', 0, 0][..], &[0; 20]].concat();
    let records = vec![
        record("example.com.", rtype::SOA, &soa),
        record("example.com.", rtype::NS, &[2, b'n', b's', 0]),
    ];
    vec![
        Change::PutZone(name("example.com."), ZoneOwner::Api),
        Change::PutRecords(name("example.com."), records),
    ]
}

pub(crate) fn check() -> Check {
    let kind = CheckKind::Tcp;
    Check {
        kind,
        interval_ms: 500,
        timeout_ms: 500,
        rise: 2,
        fall: 3,
        jitter_percent: 10,
        patience_ms: 2_000,
    }
}

/// `web.example.com` at the sites `a`, `b` and `c`, IPv4 only.
pub(crate) fn service(policy: Policy) -> Service {
    let endpoint = |i: usize| vec![Endpoint { addr: [192, 0, 2, i as u8 + 1].into(), port: 443 }];
    Service {
        names: vec![name("web.example.com.")],
        policy,
        endpoints: SITES.iter().enumerate().map(|(i, s)| (site(s), endpoint(i))).collect(),
        ttl: 30,
        check: Some(check()),
        pool: None,
        min_backends: 1,
        when_all_down: WhenAllDown::FailOpen,
        hold_down_ms: 60_000,
        hold_down_max_ms: 240_000,
        failback: Failback::Auto { healthy_ms: 10_000 },
        quorum: Quorum::Majority,
        min_answers: 1,
        automation: true,
    }
}

pub(crate) fn failover() -> Policy {
    Policy::Failover(SITES.map(site).to_vec())
}

/// The state, its next index and its log time.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) state: State,
    pub(crate) now: u64,
}

impl Log {
    /// Three voting sites and one service.
    pub(crate) fn new(service: Service) -> Log {
        let mut log = Log::empty();
        let mut changes = zone();
        changes.push(Change::PutService(web(), Box::new(service)));
        log.ok(Command::Configure(changes));
        log
    }

    /// Three voting sites, declared, and nothing else.
    pub(crate) fn empty() -> Log {
        let mut log = Log { state: State::default(), now: START };
        log.ok(Command::Init(Init { cluster: 7, version: 1, timing: Timing::Lan }));
        for (i, s) in (1u8..).zip(SITES) {
            let peer = ([10, 0, 0, i], 7000).into();
            log.ok(Command::PutMember(
                i.into(),
                Member { site: site(s), duty: Duty::Full, peer, admin: None, version: 1 },
            ));
        }
        let next = log.state.generation.index + 1;
        log.state.set_voters(next, BTreeSet::from([1, 2, 3]));
        log.ok(Command::Configure(SITES.map(|s| Change::PutSite(site(s), Site::default())).to_vec()));
        log
    }

    pub(crate) fn apply(&mut self, proposal: Proposal) -> Outcome {
        let entry = Entry { time: LogTime(self.now), proposal: proposal.into() };
        let index = self.state.generation.index + 1;
        let before = self.state.clone();
        let outcome = self.state.apply(index, &entry);
        let step =
            zonekeeper_core::invariant::Step { before: &before, entry: Some(&entry), after: &self.state };
        assert_eq!(zonekeeper_core::invariant::step(step), Ok(()), "after {entry:?}");
        outcome
    }

    /// An operator's command.
    pub(crate) fn by_hand(&mut self, command: Command) -> Outcome {
        self.apply(Proposal::by("ops", command))
    }

    /// An operator's command that must be applied.
    pub(crate) fn ok(&mut self, command: Command) {
        let outcome = self.by_hand(command);
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }

    /// An operator's command that must be refused, for this reason.
    pub(crate) fn refused(&mut self, command: Command, why: &str) {
        match self.by_hand(command) {
            Outcome::Refused(text) if text.contains(why) => {}
            other => panic!("expected a refusal with {why:?}, got {other:?}"),
        }
    }

    pub(crate) fn automatic(&mut self, command: Command) -> Outcome {
        self.apply(Proposal { reads: vec![], cause: Cause::Automation, command })
    }

    /// Evidence that fits: the site is down, degraded or up.
    pub(crate) fn judge(&mut self, at: &str, verdict: Standing) {
        let outcome = self.automatic(Command::Judge(vec![fitting(at, verdict)]));
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }

    /// Time passes, and automation looks.
    pub(crate) fn after(&mut self, ms: u64) {
        self.now += ms;
        assert!(matches!(self.automatic(Command::Tick), Outcome::Applied(_)));
    }

    pub(crate) fn force(&mut self, at: &str, force: Force) {
        self.ok(over(Scope::Site(site(at)), force, None));
    }

    pub(crate) fn release(&mut self, at: &str) {
        self.ok(Command::Release(Scope::Site(site(at))));
    }

    pub(crate) fn configure(&mut self, change: Change) {
        self.ok(Command::Configure(vec![change]));
    }

    /// The sites that are answered, as text.
    pub(crate) fn answered(&self) -> String {
        self.lane(Family::V4)
    }

    pub(crate) fn lane(&self, family: Family) -> String {
        let sites = self.state.services[&web()].assignment[&family].sites.iter();
        sites.map(|s| s.as_str()).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn basis(&self) -> Basis {
        self.state.services[&web()].assignment[&Family::V4].basis
    }

    pub(crate) fn read(&self, object: Object) -> Read {
        Read { version: self.state.version(&object), object }
    }
}

pub(crate) fn over(scope: Scope, force: Force, expires: Option<u64>) -> Command {
    let (author, reason, expires) = ("ops".into(), "test".into(), expires.map(LogTime));
    Command::Override(Override { scope, force, author, reason, expires })
}

pub(crate) fn target(at: &str) -> Target {
    Target { service: web(), site: site(at), family: Family::V4 }
}

pub(crate) fn row(at: &str, votes: &[(&str, Vote)], own: Option<Kind>, verdict: Standing) -> Row {
    let votes = votes.iter().map(|(s, v)| (site(s), *v)).collect();
    Row { target: target(at), votes, own, verdict }
}

/// A row of the two other sites that supports a verdict.
pub(crate) fn fitting(at: &str, verdict: Standing) -> Row {
    let votes = match verdict {
        Standing::Up => [Vote::Green, Vote::Green],
        Standing::Degraded => [RED, Vote::Green],
        Standing::Down => [RED, RED],
    };
    let others: Vec<(&str, Vote)> = SITES.into_iter().filter(|s| *s != at).zip(votes).collect();
    row(at, &others, None, verdict)
}
