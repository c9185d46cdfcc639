//! One task per stream: probe, detect, put the verdict where it is read.

use super::{
    board::Board,
    client::{self, Blind, Refusals},
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
    detector::{CONFIRM_MS, Detector, Observation, Pace, Thresholds},
    evidence::Colour,
    id::{NodeId, SiteId},
    model::Check,
    time::Mono,
};
use zonekeeper_proxy::LocalHealth;

/// Probes of one node on their way at once, of endpoints and of local backends each: each holds a socket. Endpoints of a
/// site that swallows packets hold theirs for the whole timeout, which must not delay the look at a local backend.
pub(crate) const IN_FLIGHT: usize = 256;
/// Tries beside the first ones of all these probes. A try outlives its probe, to [`Pace::LIFE_MS`] at most: so few sockets
/// may be open beside those above.
const SPARE: usize = 1024;

/// All streams of a node.
#[derive(Debug)]
pub(crate) struct Streams {
    node: NodeId,
    board: Arc<Board>,
    health: Arc<LocalHealth>,
    endpoints_in_flight: Arc<Semaphore>,
    backends_in_flight: Arc<Semaphore>,
    spare: Arc<Semaphore>,
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
        let [endpoints_in_flight, backends_in_flight] = [(); 2].map(|()| Arc::new(Semaphore::new(IN_FLIGHT)));
        let (spare, running) = (Arc::new(Semaphore::new(SPARE)), BTreeMap::new());
        Streams { node, board, health, endpoints_in_flight, backends_in_flight, spare, running }
    }

    /// Makes the running streams those of the plan. A stream that stays keeps its detector, unless those who want to
    /// know changed.
    pub(crate) fn follow(&mut self, plan: Plan) {
        let gone = self.running.extract_if(.., |key, s| plan.get(key) != Some(&s.subjects));
        for (_, stream) in gone.collect::<Vec<_>>() {
            stream.task.abort(); // first, so that it does not put back what is taken away
            self.board.remove(&stream.subjects);
            self.forget_checks(&stream.subjects, &plan);
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

    /// A backend that nobody checks any more is not held to the last verdict: only its failures count from now on.
    fn forget_checks(&self, subjects: &[Subject], plan: &Plan) {
        for subject in subjects {
            if let Subject::Backend(pool, addr) = subject
                && self.health.get(pool, *addr).is_some()
                && !plan.values().flatten().any(|s| s == subject)
            {
                self.health.set(pool, *addr, true);
            }
        }
    }

    fn start(&self, key: Key, subjects: Vec<Subject>) -> Stream {
        let now = Arc::new(Notify::new());
        let local = subjects.iter().any(|s| matches!(s, Subject::Backend(..)));
        let in_flight = if local { &self.backends_in_flight } else { &self.endpoints_in_flight };
        let run = Run {
            phase: phase(self.node, &key),
            local,
            key: Arc::new(key),
            answers: None,
            tries: client::Tries::new(self.spare.clone(), now.clone()),
            subjects: subjects.clone(),
            now: now.clone(),
            board: self.board.clone(),
            health: self.health.clone(),
            in_flight: in_flight.clone(),
        };
        Stream { subjects, now, task: tokio::spawn(run.forever()) }
    }
}

struct Run {
    phase: u64,
    /// Checks a backend behind the local proxy.
    local: bool,
    key: Arc<Key>,
    /// How long answers take on this path, smoothed (RFC 6298 §2).
    answers: Option<Duration>,
    tries: client::Tries,
    subjects: Vec<Subject>,
    now: Arc<Notify>,
    board: Arc<Board>,
    health: Arc<LocalHealth>,
    in_flight: Arc<Semaphore>,
}

impl Run {
    async fn forever(mut self) {
        let key = self.key.clone();
        let check = &key.check;
        // Local backends are on the same network as the proxy: `fall` probes are patience enough.
        let thresholds =
            Thresholds { rise: check.rise, fall: check.fall, patience_ms: check.patience_ms.into() };
        let mut detector = Detector::new(thresholds, clock::mono());
        // Backends decide whether a site may take traffic at all: the first look does not wait.
        let mut next = Instant::now() + if self.local { Duration::ZERO } else { first_look(self.phase) };
        let mut round = 0u64;
        loop {
            let news = tokio::select! {
                biased;
                () = self.now.notified() => true,
                () = sleep_until(next) => false,
            };
            let started = Instant::now();
            let Ok(_permit) = self.in_flight.clone().acquire_owned().await else { return };
            let (sent, began) = (clock::mono(), Instant::now());
            let needed = if news { detector.missing() } else { detector.unconfirmed().max(1) };
            let refusals = Refusals { needed, on_news: detector.missing() };
            let seen = self.tries.probe(&key, self.pace(), refusals).await;
            if matches!(seen, Ok((Observation::Answer, _))) {
                let took = began.elapsed();
                self.answers = Some(self.answers.map_or(took, |old| (old * 7 + took) / 8));
            }
            let changed = match seen {
                Ok((seen, times)) => {
                    let now = clock::mono();
                    (0..times).fold(false, |changed, _| detector.observe(seen, sent, now) | changed)
                }
                Err(_) if self.local => false, // nobody else looks, so that what was counted stays
                Err(_) => detector.blind(clock::mono()),
            };
            round += 1;
            if changed || round == 1 {
                self.tell(&detector);
            }
            self.settle_backends(&detector);
            let wait = match detector.unconfirmed() {
                1.. => Duration::from_millis(CONFIRM_MS),
                0 if round == 1 => place(check, self.phase),
                0 => jittered(check, round, self.phase),
            };
            if seen == Err(Blind::NoRoom) {
                self.board.had_no_room(wait.as_millis() as u64 + 2 * self.pace().within_ms);
            }
            next = started + wait;
        }
    }

    /// Local backends get their timeout and one try; what is asked of other sites crosses a network that loses packets.
    fn pace(&self) -> Pace {
        let timeout_ms = self.key.check.timeout_ms.into();
        match self.local {
            true => Pace::once(timeout_ms),
            false => Pace::new(timeout_ms, self.answers.map(|took| took.as_millis() as u64)),
        }
    }

    /// Puts the verdict on the board, for the next report.
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

/// New streams look within this time, whatever their interval.
const FIRST_LOOK_MS: u64 = 200;

/// A number of its own for each stream of each node, by which they are spread.
fn phase(node: NodeId, key: &Key) -> u64 {
    let mut hash = DefaultHasher::new();
    (node, key).hash(&mut hash);
    hash.finish()
}

/// Many new streams do not look in one moment.
fn first_look(phase: u64) -> Duration {
    Duration::from_millis(phase % FIRST_LOOK_MS)
}

/// From the first look to the second, which finds the stream's place in the interval.
fn place(check: &Check, phase: u64) -> Duration {
    Duration::from_millis(phase % u64::from(check.interval_ms).max(1))
}

/// The interval, spread by the check's jitter; the spread needs no good randomness, only to differ between rounds and
/// between streams.
fn jittered(check: &Check, round: u64, phase: u64) -> Duration {
    let interval = u64::from(check.interval_ms);
    let spread = interval * u64::from(check.jitter_percent) / 100;
    let mut hash = DefaultHasher::new();
    (round, phase).hash(&mut hash);
    let shift = if spread == 0 { 0 } else { hash.finish() % (2 * spread + 1) };
    Duration::from_millis(interval.saturating_sub(spread) + shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use zonekeeper_core::model::CheckKind;

    fn check(jitter_percent: u8) -> Check {
        Check {
            kind: CheckKind::Tcp,
            interval_ms: 5_000,
            timeout_ms: 1_000,
            rise: 1,
            fall: 2,
            jitter_percent,
            patience_ms: 0,
        }
    }

    fn key(host: u8, check: Check) -> Key {
        let (addr, host) = (SocketAddr::from(([192, 0, 2, host], 443)), String::new());
        Key { addr, check, host, tls: None, send_proxy: None }
    }

    /// How many of 200 streams fall into the fullest of ten equal parts of `whole`.
    fn fullest(of: impl Fn(u64) -> Duration, whole: u64) -> usize {
        let mut parts = [0; 10];
        for host in 0..200 {
            let at = of(phase(1, &key(host, check(0)))).as_millis() as u64;
            parts[(at * 10 / whole) as usize] += 1;
        }
        parts.into_iter().max().unwrap_or_default()
    }

    #[test]
    fn streams_of_a_long_interval_are_spread_over_it() {
        assert!(fullest(first_look, FIRST_LOOK_MS) < 50, "first looks in one moment");
        assert!(fullest(|p| place(&check(0), p), 5_000) < 50, "the places in the interval bunch");
    }

    #[test]
    fn jitter_differs_between_streams_of_one_port_and_stays_in_its_bounds() {
        let (a, b) = (phase(1, &key(1, check(10))), phase(1, &key(2, check(10))));
        let rounds = |p: u64| (1..50).map(move |r| jittered(&check(10), r, p).as_millis());
        assert_ne!(rounds(a).collect::<Vec<_>>(), rounds(b).collect::<Vec<_>>());
        assert!(rounds(a).all(|ms| (4_500..=5_500).contains(&ms)));
        assert_eq!(jittered(&check(0), 7, a), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_backend_that_is_not_checked_any_more_is_usable_again() {
        let health = LocalHealth::new();
        let mut streams = Streams::new(1, Arc::default(), health.clone());
        let (pool, addr): (zonekeeper_core::id::PoolId, _) = ("web".parse().unwrap(), key(1, check(0)).addr);
        let plan = Plan::from([(key(1, check(0)), vec![Subject::Backend(pool.clone(), addr)])]);
        streams.follow(plan);
        health.set(&pool, addr, false);
        streams.follow(Plan::new());
        assert_eq!(health.get(&pool, addr).unwrap().checked(), zonekeeper_proxy::Checked::Up);
    }
}
