//! Ordinary trouble: what a cluster meets every day and must not mind.

use super::{SITES, Setup};
use crate::rng::Rng;
use std::collections::VecDeque;

/// Mean time between two pauses of one program.
const PAUSE_EVERY_MS: u64 = 90_000;
/// Pauses of a program lie so far apart: two must not add up to a long one.
const APART_MS: u64 = 10_000;
/// Mean time between two slow fsyncs of one disk.
const FSYNC_EVERY_MS: u64 = 600_000;
/// The weather changes so often.
const WEATHER_MS: u64 = 1_800_000;
/// One rolling restart a day: the first node after this time, the others a minute apart.
const DAY_MS: u64 = 86_400_000;
const NOON_MS: u64 = 43_200_000;
const NEXT_NODE_MS: u64 = 60_000;
/// A program that is stopped drains so long, and is away so long.
const DRAIN_MS: u64 = 4_000;
const AWAY_MS: u64 = 3_000;
/// What was announced may move something so long after it.
const ECHO_MS: u64 = 15_000;

/// What a change means for a program.
pub(super) enum Change {
    /// An fsync took so long.
    Fsync(usize, u64),
    /// A program says that it goes away.
    Draining,
    /// It starts anew.
    Started(usize),
}

/// Good and bad times in turn, both exponentially long (Gilbert 1960, Elliott 1963).
#[derive(Clone, Default)]
struct Bursts {
    /// The last times, each with its end, good and bad in turn.
    times: VecDeque<u64>,
    /// Whether the last of them is bad.
    bad: bool,
}

impl Bursts {
    fn bad(&mut self, now: u64, good_ms: u64, bad_ms: u64, rng: &mut Rng) -> bool {
        let mut last = self.times.back().copied().unwrap_or(0);
        while last <= now {
            self.bad = !self.bad;
            last += rng.exponential(if self.bad { bad_ms } else { good_ms }).max(1);
            self.times.push_back(last);
        }
        while self.times.front().is_some_and(|end| end + REMEMBERED_MS < now) {
            self.times.pop_front();
        }
        let later = self.times.iter().rev().skip(1).take_while(|end| **end > now).count();
        self.bad ^ (later % 2 == 1)
    }
}

/// A probe is looked at to its end before the next one begins, so that the weather is asked about times that lie back.
const REMEMBERED_MS: u64 = 15_000;

/// Loss in bad times, in per mille.
const LOSS: u64 = 500;

pub(super) struct Trouble {
    setup: Setup,
    /// By direction, and by site for its uplink.
    links: [[Bursts; SITES]; SITES],
    uplinks: [Bursts; SITES],
    /// Mean of good times, as the weather is; none: no loss.
    good_ms: Option<u64>,
    weather_at: u64,
    /// A program stands still from then until then.
    pauses: [(u64, u64); SITES],
    next_pause: [u64; SITES],
    next_fsync: [u64; SITES],
    /// The next announced restart of a node: it drains from then on.
    restart: [u64; SITES],
    drained: [bool; SITES],
}

impl Trouble {
    pub(super) fn new(setup: Setup, rng: &mut Rng) -> Trouble {
        let restart = [0, 1, 2].map(|n| NOON_MS + n * NEXT_NODE_MS);
        let next_pause = [(); SITES].map(|()| 20_000 + rng.exponential(PAUSE_EVERY_MS));
        let next_fsync = [(); SITES].map(|()| 20_000 + rng.exponential(FSYNC_EVERY_MS));
        let mut all = Trouble {
            setup,
            links: Default::default(),
            uplinks: Default::default(),
            good_ms: None,
            weather_at: 20_000,
            pauses: [(0, 0); SITES],
            next_pause,
            next_fsync,
            restart,
            drained: [false; SITES],
        };
        if !setup.trouble {
            (all.next_pause, all.next_fsync, all.weather_at) =
                ([u64::MAX; SITES], [u64::MAX; SITES], u64::MAX);
        }
        all
    }

    /// When something changes next.
    pub(super) fn next(&self) -> u64 {
        let restarts = self
            .restart
            .iter()
            .zip(&self.drained)
            .map(|(at, drained)| if *drained { at + DRAIN_MS + AWAY_MS } else { *at });
        let others = self.next_pause.iter().chain(&self.next_fsync).copied();
        restarts.chain(others).chain([self.weather_at]).min().unwrap_or(u64::MAX)
    }

    /// Makes the changes that are due.
    pub(super) fn step(&mut self, now: u64, rng: &mut Rng) -> Vec<Change> {
        let mut out = Vec::new();
        if self.weather_at <= now {
            self.weather_at = now + WEATHER_MS;
            // A way goes through two uplinks and a link; each is bad up to a 31st of the time and loses half then:
            // up to 4.8 % of packets.
            self.good_ms = rng.chance(800).then(|| self.setup.burst_ms * rng.range(30, 200));
        }
        for node in 0..SITES {
            if self.next_pause[node] <= now {
                let longest = self.setup.preset.pauses_ms;
                let long = if rng.chance(100) { longest } else { longest / 4 };
                let lasts = rng.range(20.min(long), long);
                self.pauses[node] = (now, now + lasts);
                self.next_pause[node] = now + lasts + APART_MS + rng.exponential(PAUSE_EVERY_MS);
            }
            if self.next_fsync[node] <= now {
                out.push(Change::Fsync(node, rng.range(50, 2_000)));
                self.next_fsync[node] = now + rng.exponential(FSYNC_EVERY_MS);
            }
            if !self.drained[node] && self.restart[node] <= now {
                self.drained[node] = true;
                out.push(Change::Draining);
            } else if self.drained[node] && self.restart[node] + DRAIN_MS + AWAY_MS <= now {
                self.drained[node] = false;
                self.restart[node] += DAY_MS;
                out.push(Change::Started(node));
            }
        }
        out
    }

    /// When a program last stood still, from and until.
    pub(super) fn pause(&self, node: usize) -> (u64, u64) {
        self.pauses[node]
    }

    /// When a program next does something: now, unless it stands still or is away.
    pub(super) fn free(&self, node: usize, now: u64) -> u64 {
        let (from, to) = self.pauses[node];
        let paused = if from <= now && now < to { to } else { now };
        if self.away(node, now) { paused.max(self.restart[node] + DRAIN_MS + AWAY_MS) } else { paused }
    }

    /// Whether a program is away: its host refuses.
    pub(super) fn away(&self, node: usize, now: u64) -> bool {
        let gone = self.restart[node] + DRAIN_MS;
        gone <= now && now < gone + AWAY_MS
    }

    /// Whether it says that it goes away.
    pub(super) fn draining(&self, node: usize, now: u64) -> bool {
        self.restart[node] <= now && now < self.restart[node] + DRAIN_MS + AWAY_MS
    }

    /// Whether a move away from it was announced.
    pub(super) fn announced(&self, node: usize, now: u64) -> bool {
        let near = |at: u64| at <= now && now < at + DRAIN_MS + AWAY_MS + ECHO_MS;
        near(self.restart[node]) || near(self.restart[node].saturating_sub(DAY_MS))
    }

    /// The delay of one packet; none: it is lost.
    pub(super) fn packet(&mut self, from: usize, to: usize, now: u64, rng: &mut Rng) -> Option<u64> {
        if self.setup.silent_at.is_some_and(|at| now >= at && (from == 0 || to == 0)) {
            return None;
        }
        if let Some(good_ms) = self.good_ms {
            let bad_ms = self.setup.burst_ms;
            let bad = self.links[from][to].bad(now, good_ms, bad_ms, rng)
                | self.uplinks[from].bad(now, good_ms, bad_ms, rng)
                | self.uplinks[to].bad(now, good_ms, bad_ms, rng);
            if bad && rng.chance(LOSS) {
                return None;
            }
        }
        let rtt = self.setup.rtt_ms;
        Some(rtt / 2 + rng.range(0, rtt / 4))
    }
}
