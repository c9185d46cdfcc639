//! One program: its streams, what it knows, its report.

use super::{SITES, Setup};
use crate::{
    cluster::{service, site},
    rng::Rng,
};
use zonekeeper_core::{
    decide::Decider,
    detector::{CONFIRM_MS, Detector, Fitness, Observation, Preset, Thresholds},
    evidence::{Colour, Evidence, Report, SelfReport, Target},
    id::SiteId,
    model::Family,
    time::Mono,
};

/// Wall clock at the beginning, in milliseconds since 1970.
pub(super) const EPOCH_MS: u64 = 1_700_000_000_000;
/// From one heartbeat to the next.
const BEAT_MS: u64 = 500;
/// A heartbeat that is not answered in this time was silence.
pub(super) const DEADLINE_MS: u64 = 1_000;
/// Signs of sickness count for so long.
const SICK_MS: u64 = 2_000;

/// The place of a site, from 0.
pub(super) fn place(site: &SiteId) -> Option<usize> {
    site.as_str().trim_start_matches('s').parse::<usize>().ok()?.checked_sub(1)
}

pub(super) fn number(seen: Observation) -> u8 {
    match seen {
        Observation::Answer => 0,
        Observation::Refused => 1,
        Observation::Silence => 2,
        Observation::Wrong => 3,
    }
}

pub(super) fn observation(number: u8) -> Observation {
    match number {
        0 => Observation::Answer,
        1 => Observation::Refused,
        2 => Observation::Silence,
        _ => Observation::Wrong,
    }
}

/// A stream of probes of another site's endpoint, or of heartbeats.
pub(super) struct Stream {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) beat: bool,
    pub(super) detector: Detector,
    pub(super) started: u64,
    /// When a try of a probe before this one is answered.
    pub(super) late: Option<u64>,
}

fn thresholds(setup: Setup, beat: bool) -> Thresholds {
    let patience_ms = Preset::BALANCED.patience_ms.into();
    if beat { Thresholds { rise: 1, fall: 2, patience_ms } } else { setup.thresholds() }
}

/// All streams of all programs.
pub(super) fn streams(setup: Setup) -> Vec<Stream> {
    let mut out = Vec::new();
    for beat in [false, true] {
        for from in 0..SITES {
            for to in (0..SITES).filter(|to| *to != from) {
                let detector = Detector::new(thresholds(setup, beat), Mono(0));
                out.push(Stream { from, to, beat, detector, started: 0, late: None });
            }
        }
    }
    out
}

impl Stream {
    /// A program that starts knows nothing.
    pub(super) fn begin(&mut self, setup: Setup, now: u64) {
        self.detector = Detector::new(thresholds(setup, self.beat), Mono(now));
    }

    pub(super) fn red(&self) -> bool {
        self.detector.verdict(Mono(0)).colour == Colour::Red
    }

    pub(super) fn green(&self) -> bool {
        self.detector.verdict(Mono(0)).colour == Colour::Green
    }

    /// When it looks again: never two probes at once.
    pub(super) fn next(&self, setup: Setup, rng: &mut Rng, now: u64) -> u64 {
        let wait = match (self.beat, self.detector.unconfirmed()) {
            (true, _) => BEAT_MS,
            (false, 1..) => CONFIRM_MS,
            (false, 0) => {
                let interval = u64::from(setup.preset.interval_ms);
                rng.range(interval * 9 / 10, interval * 11 / 10)
            }
        };
        (self.started + wait).max(now)
    }
}

/// What a program knows beside its streams.
#[derive(Default)]
pub(super) struct Observer {
    pub(super) evidence: Evidence,
    pub(super) decider: Decider,
    lag: (u64, u64),
    fsync: (u64, u64),
    seq: u64,
}

impl Observer {
    /// Its timers were so late.
    pub(super) fn late(&mut self, ms: u64, now: u64) {
        worse(&mut self.lag, ms, now);
    }

    /// An fsync took so long.
    pub(super) fn fsync(&mut self, ms: u64, now: u64) {
        worse(&mut self.fsync, ms, now);
    }

    pub(super) fn report(&mut self, from: usize, streams: &[Stream], draining: bool, now: u64) -> Report {
        self.seq = (self.seq + 1).max(EPOCH_MS + now);
        let own = || streams.iter().filter(|s| s.from == from);
        let nodes: Vec<_> =
            own().filter(|s| s.beat).map(|s| (s.to as u64 + 1, s.detector.verdict(Mono(now)))).collect();
        let fresh = |(at, ms): (u64, u64)| if now.saturating_sub(at) <= SICK_MS { ms } else { 0 };
        let fitness = Fitness {
            peers_missing: nodes.iter().filter(|(_, v)| v.colour == Colour::Red).count(),
            peers: nodes.len(),
            timer_lag_ms: fresh(self.lag),
            fsync_ms: fresh(self.fsync),
            no_room: false,
        };
        let target =
            |to: usize| Target { service: service("web"), site: site(to as u64 + 1), family: Family::V4 };
        let endpoints =
            own().filter(|s| !s.beat).map(|s| (target(s.to), s.detector.verdict(Mono(now)))).collect();
        let word = SelfReport { service: service("web"), healthy: 2, backends: 2, draining };
        Report {
            node: from as u64 + 1,
            seq: self.seq,
            abstains: fitness.abstains(),
            endpoints,
            nodes,
            own: vec![word],
        }
    }
}

/// Keeps the worst of the last time.
fn worse(worst: &mut (u64, u64), ms: u64, now: u64) {
    if ms >= worst.1 || now.saturating_sub(worst.0) > SICK_MS {
        *worst = (now, ms);
    }
}
