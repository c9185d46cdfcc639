//! One task per stream: probe, detect, put the verdict where it is read.

use super::{
    board::Board,
    client,
    plan::{Key, Plan, Subject},
};
use crate::clock;
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use zonekeeper_core::{
    detector::{CONFIRM_MS, Detector, Thresholds},
    evidence::Colour,
    id::{NodeId, SiteId},
    model::Check,
    time::Mono,
};
use zonekeeper_proxy::LocalHealth;

/// Probes of one node on their way at once: each holds a socket.
pub(crate) const IN_FLIGHT: usize = 256;

/// Silence shorter than this moves nothing, in milliseconds (`balanced`).
pub(crate) const PATIENCE_MS: u64 = 2_000;

/// All streams of a node.
#[derive(Debug)]
pub(crate) struct Streams {
    node: NodeId,
    board: Arc<Board>,
    health: Arc<LocalHealth>,
    in_flight: Arc<Semaphore>,
    running: BTreeMap<Key, Stream>,
}

#[derive(Debug)]
struct Stream {
    subjects: Vec<Subject>,
    now: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Streams {
    /// No streams yet.
    pub(crate) fn new(node: NodeId, board: Arc<Board>, health: Arc<LocalHealth>) -> Streams {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
        Streams { node, board, health, in_flight, running: BTreeMap::new() }
    }

    /// Makes the running streams those of the plan. A stream that stays keeps its detector, unless those who want to
    /// know changed.
    pub(crate) fn follow(&mut self, plan: Plan) {
        let gone = self.running.extract_if(.., |key, s| plan.get(key) != Some(&s.subjects));
        for (_, stream) in gone {
            self.board.remove(&stream.subjects);
        }
        for (key, subjects) in plan {
            if !self.running.contains_key(&key) {
                let stream = self.start(key.clone(), subjects);
                self.running.insert(key, stream);
            }
        }
    }

    /// News of a site: its endpoints are probed at once.
    pub(crate) fn kick(&self, site: &SiteId) {
        let of_site = |s: &Subject| matches!(s, Subject::Endpoint(t) if t.site == *site);
        for stream in self.running.values().filter(|s| s.subjects.iter().any(of_site)) {
            stream.now.notify_one();
        }
    }

    fn start(&self, key: Key, subjects: Vec<Subject>) -> Stream {
        let now = Arc::new(Notify::new());
        let run = Run {
            first: self.offset(&key),
            key,
            subjects: subjects.clone(),
            now: now.clone(),
            board: self.board.clone(),
            health: self.health.clone(),
            in_flight: self.in_flight.clone(),
        };
        Stream { subjects, now, task: tokio::spawn(run.forever()) }
    }

    /// Spreads the streams of all nodes over the interval.
    fn offset(&self, key: &Key) -> Duration {
        let mut hash = DefaultHasher::new();
        (self.node, key.addr).hash(&mut hash);
        Duration::from_millis(hash.finish() % u64::from(key.check.interval_ms).max(1))
    }
}

struct Run {
    first: Duration,
    key: Key,
    subjects: Vec<Subject>,
    now: Arc<Notify>,
    board: Arc<Board>,
    health: Arc<LocalHealth>,
    in_flight: Arc<Semaphore>,
}

impl Run {
    async fn forever(self) {
        let check = &self.key.check;
        let thresholds = Thresholds { rise: check.rise, fall: check.fall, patience_ms: self.patience() };
        let mut detector = Detector::new(thresholds, clock::mono());
        // Backends decide whether a site may take traffic at all: the first look does not wait.
        let local = self.subjects.iter().any(|s| matches!(s, Subject::Backend(..)));
        let mut next = Instant::now() + if local { Duration::ZERO } else { self.first.min(FIRST_LOOK) };
        let mut round = 0u64;
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.now.notified() => {}
            }
            let started = Instant::now();
            let Ok(_permit) = self.in_flight.acquire().await else { return };
            let seen = client::probe(check, self.key.addr, &self.key.host).await;
            let changed = detector.observe(seen, clock::mono());
            round += 1;
            if changed || round == 1 {
                self.tell(&detector);
            }
            self.settle_backends(&detector);
            let wait = match detector.confirming() {
                true => Duration::from_millis(CONFIRM_MS),
                false => jittered(check, round, self.key.addr.port()),
            };
            next = started + wait;
        }
    }

    /// Local backends are on the same network as the proxy: `fall` probes are patience enough.
    fn patience(&self) -> u64 {
        let remote = self.subjects.iter().any(|s| matches!(s, Subject::Endpoint(_)));
        if remote { PATIENCE_MS } else { 0 }
    }

    fn tell(&self, detector: &Detector) {
        let now = clock::mono();
        let verdict = detector.verdict(now);
        self.board.put(&self.subjects, verdict, Mono(now.0 - verdict.age_ms.min(now.0)));
    }

    /// After each probe, since a success also ends a passive ejection. Yellow keeps what is held: one lost probe takes no
    /// backend out.
    fn settle_backends(&self, detector: &Detector) {
        let colour = detector.verdict(clock::mono()).colour;
        for subject in &self.subjects {
            if let Subject::Backend(pool, addr) = subject
                && colour != Colour::Yellow
            {
                self.health.set(pool, *addr, colour == Colour::Green);
            }
        }
    }
}

/// A new stream looks soon, whatever its interval.
const FIRST_LOOK: Duration = Duration::from_millis(200);

/// The interval, spread by the check's jitter; the spread needs no good randomness, only to differ between rounds.
fn jittered(check: &Check, round: u64, salt: u16) -> Duration {
    let interval = u64::from(check.interval_ms);
    let spread = interval * u64::from(check.jitter_percent) / 100;
    let mut hash = DefaultHasher::new();
    (round, salt, std::process::id()).hash(&mut hash);
    let shift = if spread == 0 { 0 } else { hash.finish() % (2 * spread + 1) };
    Duration::from_millis(interval - spread + shift)
}
