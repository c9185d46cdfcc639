//! Thousands of hours of ordinary trouble in virtual time, with the real detector, evidence, decisions and state, and
//! nothing beneath: no openraft, no disk, so that an hour costs milliseconds.
//!
//! Three sites probe each other as production does (`probe/stream.rs`: one probe at a time, connection by connection,
//! with TCP's own retransmissions) and beat each other's hearts. Trouble: Gilbert–Elliott loss on each link and on each
//! site's uplink (so that paths fail together), jitter, pauses of whole programs, slow fsyncs, and one announced rolling
//! restart a day. A move away from a site that was not being restarted is a false failover.
//!
//! What is left out while nothing is red: reports and decisions. Without a red verdict, with every site held up and
//! nothing pending, no report can lead to a proposal; the first red brings all reports up to date.

mod node;
mod trouble;
mod way;

use crate::{
    calm::{node::Observer, trouble::Trouble},
    cluster::{name, record, service, site, zone},
    rng::Rng,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt,
};
use zonekeeper_core::{
    Command, Entry, Outcome, Proposal, State,
    detector::{
        Observation::{self, Answer, Refused, Silence},
        Pace, Preset, Thresholds,
    },
    entry::{Duty, Init, Member, Timing},
    evidence::Standing,
    id::SiteId,
    model::{
        Change, Check, CheckKind, Endpoint, Failback, Family, Policy, Quorum, Service, Site, WhenAllDown,
        ZoneOwner,
    },
    time::{LogTime, Mono},
    zone::rtype,
};

/// What one run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Everything follows from it.
    pub seed: u64,
    /// Virtual hours.
    pub hours: u64,
    /// The detector.
    pub preset: Preset,
    /// Round trip between sites, in milliseconds.
    pub rtt_ms: u64,
    /// Mean length of bad times of links and uplinks, in milliseconds.
    pub burst_ms: u64,
    /// Whether there is more than jitter: loss, pauses, slow fsyncs.
    pub trouble: bool,
    /// At this moment (ms) the first site goes silent for good. Measures the other half.
    pub silent_at: Option<u64>,
}

impl Setup {
    fn thresholds(self) -> Thresholds {
        Thresholds { rise: 2, fall: self.preset.fall, patience_ms: self.preset.patience_ms.into() }
    }

    /// What production makes of the preset on this path: an answer takes two round trips.
    fn pace(self) -> Pace {
        Pace::new(self.preset.timeout_ms.into(), Some(2 * self.rtt_ms))
    }
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Report {
    /// What it was made of.
    pub setup: Setup,
    /// Probes and heartbeats.
    pub observations: u64,
    /// Observations of silence.
    pub silences: u64,
    /// Times that a stream turned red.
    pub reds: u64,
    /// Moves, announced ones and ways back included.
    pub moves: u64,
    /// When a site was left that served, in milliseconds, and why.
    pub wrong: Vec<(u64, String)>,
    /// When the silent site was left, in milliseconds since it went silent.
    pub left_ms: Option<u64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup { seed, hours, preset, rtt_ms, burst_ms, .. } = self.setup;
        write!(
            f,
            "{} seed {seed}: {hours} h, rtt {rtt_ms} ms, bursts {burst_ms} ms: {} observations, {} silences, \
             {} reds, {} moves, {} false failovers",
            preset.name,
            self.observations,
            self.silences,
            self.reds,
            self.moves,
            self.wrong.len()
        )?;
        self.wrong.iter().take(5).try_for_each(|(at, why)| write!(f, "\n  at {at} ms: {why}"))
    }
}

/// Sites.
const SITES: usize = 3;
/// From one look at the evidence to the next, while something is red.
const TICK_MS: u64 = 100;
/// Reports and decisions go on so long after the last red.
const TAIL_MS: u64 = 6_000;
/// From one refresh of a report to the next (`REFRESH_MS` of the core).
const REFRESH_MS: u64 = zonekeeper_core::evidence::REFRESH_MS;

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A stream probes.
    Probe(u32),
    /// What a probe saw comes in.
    Seen(u32, u8),
    /// The leader looks at its evidence, and reports are refreshed when they are due.
    Tick,
    /// Trouble begins or ends.
    Trouble,
}

/// One run.
struct Calm {
    setup: Setup,
    rng: Rng,
    trouble: Trouble,
    observers: Vec<Observer>,
    streams: Vec<node::Stream>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    state: State,
    /// Reports and decisions go on until then.
    awake_until: u64,
    refreshed: u64,
    report: Report,
}

/// Runs one.
pub fn run(setup: Setup) -> Report {
    let mut calm = Calm::new(setup);
    let end = setup.hours * 3_600_000;
    while let Some(Reverse((now, event))) = calm.events.pop() {
        if now > end || calm.report.left_ms.is_some() {
            break;
        }
        match event {
            Event::Probe(i) => calm.probe(i as usize, now),
            Event::Seen(i, seen) => calm.seen(i as usize, node::observation(seen), now),
            Event::Tick => calm.tick(now),
            Event::Trouble => calm.trouble(now),
        }
    }
    calm.report
}

impl Calm {
    fn new(setup: Setup) -> Calm {
        let mut rng = Rng::new(setup.seed);
        let trouble = Trouble::new(setup, &mut rng);
        let streams = node::streams(setup);
        let mut events = BinaryHeap::new();
        for i in 0..streams.len() as u32 {
            events.push(Reverse((rng.below(setup.preset.interval_ms.into()), Event::Probe(i))));
        }
        events.push(Reverse((trouble.next(), Event::Trouble)));
        let report = Report {
            setup,
            observations: 0,
            silences: 0,
            reds: 0,
            moves: 0,
            wrong: Vec::new(),
            left_ms: None,
        };
        let observers = (0..SITES).map(|_| Observer::default()).collect();
        let state = state(setup.preset);
        Calm { setup, rng, trouble, observers, streams, events, state, awake_until: 0, refreshed: 0, report }
    }

    fn push(&mut self, at: u64, event: Event) {
        self.events.push(Reverse((at, event)));
    }

    /// A stream's timer fires. A program that stands still or is away looks later.
    fn probe(&mut self, i: usize, now: u64) {
        let stream = &self.streams[i];
        let (from, to, beat) = (stream.from, stream.to, stream.beat);
        let free = self.trouble.free(from, now);
        if free > now {
            self.observers[from].late(free - now, free);
            return self.push(free, Event::Probe(i as u32));
        }
        let pace = if beat { Pace::once(node::DEADLINE_MS) } else { self.setup.pace() };
        let late = &mut self.streams[i].late;
        let (seen, at) = way::probe(&mut self.trouble, &mut self.rng, (from, to), beat, now, (pace, late));
        self.report.observations += 1;
        let stream = &mut self.streams[i];
        stream.started = now;
        if seen == Answer && stream.green() {
            // nothing that anybody else could notice: no event of its own
            stream.detector.observe(seen, Mono(now), Mono(at));
            let next = stream.next(self.setup, &mut self.rng, at);
            return self.push(next, Event::Probe(i as u32));
        }
        self.push(at, Event::Seen(i as u32, node::number(seen)));
    }

    fn seen(&mut self, i: usize, seen: Observation, now: u64) {
        self.report.silences += u64::from(seen == Silence);
        let stream = &mut self.streams[i];
        let red = stream.red();
        // the probes that confirm a refusal go out a few milliseconds apart: what the first of them sees, all do
        let times = if stream.beat || seen != Refused { 1 } else { stream.detector.unconfirmed().max(1) };
        for _ in 0..times {
            stream.detector.observe(seen, Mono(stream.started), Mono(now));
        }
        let turned = stream.red() != red;
        self.report.reds += u64::from(turned && !red);
        let beat = stream.beat;
        let next = stream.next(self.setup, &mut self.rng, now);
        self.push(next, Event::Probe(i as u32));
        if turned && !beat {
            self.wake(now);
        }
    }

    /// Something is red, or was: reports go out and are looked at.
    fn wake(&mut self, now: u64) {
        let asleep = self.awake_until < now;
        self.awake_until = now + TAIL_MS;
        self.tell(now);
        if asleep {
            self.push(now + TICK_MS, Event::Tick);
        }
        self.decide(now);
    }

    /// All reports reach all nodes. What loss delays is small beside what a red verdict takes, and a delay only helps.
    fn tell(&mut self, now: u64) {
        self.refreshed = now;
        for from in 0..SITES {
            if self.trouble.free(from, now) > now {
                continue; // a program that stands still sends nothing
            }
            let draining = self.trouble.draining(from, now);
            let report = self.observers[from].report(from, &self.streams, draining, now);
            for to in 0..SITES {
                self.observers[to].evidence.receive(report.clone(), Mono(now));
            }
        }
    }

    fn tick(&mut self, now: u64) {
        if now >= self.refreshed + REFRESH_MS {
            self.tell(now);
        }
        self.decide(now);
        let up = |s: &Standing| *s == Standing::Up;
        let health = self.state.services.values().flat_map(|s| s.health.values().map(|h| &h.standing));
        let moved = self.answered() != Some(0);
        if moved || !health.into_iter().all(up) || self.streams.iter().any(|s| !s.beat && s.red()) {
            self.awake_until = now + TAIL_MS;
        }
        if now <= self.awake_until {
            self.push(now + TICK_MS, Event::Tick);
        }
    }

    /// The site that is answered.
    fn answered(&self) -> Option<usize> {
        let held = self.state.services.get(&service("web"))?.assignment.get(&Family::V4)?;
        node::place(held.sites.first()?)
    }

    /// Whoever can, leads: a new leader has its own evidence and starts with an empty memory.
    fn decide(&mut self, now: u64) {
        let Some(leader) = (0..SITES).find(|n| self.trouble.free(*n, now) <= now) else { return };
        for other in (0..SITES).filter(|n| *n != leader) {
            self.observers[other].decider = Default::default();
        }
        for _ in 0..4 {
            let o = &mut self.observers[leader];
            let time = LogTime(self.state.time.0.max(node::EPOCH_MS + now));
            let decision = o.decider.decide(&self.state, &o.evidence, Mono(now), time);
            let Some(proposal) = decision.proposal else { return };
            let before = self.answered();
            let entry = Entry { time, proposal: proposal.into() };
            let outcome = self.state.apply(self.state.generation.index + 1, &entry);
            if self.answered() != before {
                self.moved(before, now, &entry);
            }
            if !matches!(outcome, Outcome::Applied(_)) {
                return;
            }
        }
    }

    fn moved(&mut self, before: Option<usize>, now: u64, entry: &Entry) {
        self.report.moves += 1;
        let (Some(left), Some(taken)) = (before, self.answered()) else { return };
        if let Some(at) = self.setup.silent_at {
            if left == 0 && now >= at {
                self.report.left_ms = Some(now - at);
            }
            return;
        }
        let back = taken < left; // the order of the policy
        if !back && !self.trouble.announced(left, now) {
            let why = match &entry.proposal.command {
                Command::Judge(rows) => rows.iter().map(|r| r.headline()).collect::<Vec<_>>().join("; "),
                other => format!("{other:?}"),
            };
            let (from, to) = self.trouble.pause(left);
            let ago = now.saturating_sub(to);
            let paused = format!("it stood still last for {} ms, until {ago} ms before", to - from);
            let (left, taken) = (site(left as u64 + 1), site(taken as u64 + 1));
            self.report.wrong.push((now, format!("{left} -> {taken}: {why}; {paused}")));
        }
    }

    /// Pauses, fsyncs, restarts.
    fn trouble(&mut self, now: u64) {
        for change in self.trouble.step(now, &mut self.rng) {
            match change {
                trouble::Change::Fsync(node, ms) => self.observers[node].fsync(ms, now),
                trouble::Change::Draining => self.wake(now),
                trouble::Change::Started(node) => {
                    self.observers[node] = Observer::default();
                    self.streams.iter_mut().filter(|s| s.from == node).for_each(|s| s.begin(self.setup, now));
                    self.wake(now);
                }
            }
        }
        let next = self.trouble.next();
        self.push(next, Event::Trouble);
    }
}

/// A cluster of three sites with one service on the first of them.
fn state(preset: Preset) -> State {
    let mut state = State::default();
    let nodes = 1..=SITES as u64;
    let mut commands = vec![Command::Init(Init { cluster: 7, version: 1, timing: Timing::Lan })];
    for id in nodes.clone() {
        let peer = std::net::SocketAddr::from(([10, 0, 0, id as u8], 7000));
        commands.push(Command::PutMember(
            id,
            Member { site: site(id), duty: Duty::Full, peer, admin: None, version: 1 },
        ));
    }
    let soa = [&[2, b'n', b's', 0, 0][..], &[0; 20]].concat();
    let records = vec![record(zone(), rtype::SOA, &soa), record(zone(), rtype::NS, &[2, b'n', b's', 0])];
    let mut changes: Vec<Change> = nodes.clone().map(|n| Change::PutSite(site(n), Site::default())).collect();
    changes.push(Change::PutZone(zone(), ZoneOwner::Api));
    changes.push(Change::PutRecords(zone(), records));
    changes.push(Change::PutService(service("web"), Box::new(declaration(preset))));
    commands.push(Command::Configure(changes));
    for command in commands {
        let entry = Entry { time: LogTime(node::EPOCH_MS), proposal: Proposal::by("setup", command).into() };
        let outcome = state.apply(state.generation.index + 1, &entry);
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }
    state.set_voters(state.generation.index + 1, nodes.collect::<BTreeSet<_>>());
    state
}

fn declaration(preset: Preset) -> Service {
    let endpoint = |n: u64| vec![Endpoint { addr: [192, 0, n as u8, 1].into(), port: 443 }];
    let sites: Vec<SiteId> = (1..=SITES as u64).map(site).collect();
    let endpoints: BTreeMap<SiteId, Vec<Endpoint>> =
        (1..=SITES as u64).map(|n| (site(n), endpoint(n))).collect();
    let check = Check {
        kind: CheckKind::Tcp,
        interval_ms: preset.interval_ms,
        timeout_ms: preset.timeout_ms,
        rise: 2,
        fall: preset.fall,
        jitter_percent: 10,
        patience_ms: preset.patience_ms,
    };
    Service {
        names: vec![name("web.example.com.")],
        policy: Policy::Failover(sites),
        endpoints,
        ttl: 30,
        check: Some(check),
        pool: None,
        min_backends: 1,
        when_all_down: WhenAllDown::FailOpen,
        hold_down_ms: 10_000,
        hold_down_max_ms: 160_000,
        failback: Failback::Auto { healthy_ms: 10_000 },
        quorum: Quorum::Majority,
        min_answers: 1,
        automation: true,
    }
}
