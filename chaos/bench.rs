//! How long a failover takes: the same fault over and over on one laboratory, from the fault to the changed answer on
//! every survivor. Times are the judge's own.

use crate::{
    asker::{A, Asker},
    lab::{DNS, Lab, LabError, NAME, Options},
    net::{self, Net, Path, Rule},
    wan::{Link, Wan},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    path::Path as FilePath,
    sync::Arc,
    time::{Duration, Instant},
};

/// What is done to the site that is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SIGKILL; another site leads.
    Kill,
    /// SIGKILL; it leads.
    KillLeader,
    /// Its backends die.
    Backends,
    /// All its packets are dropped; another site leads. Needs namespaces.
    Silence,
    /// All its packets are dropped; it leads. Needs namespaces.
    SilenceLeader,
    /// SIGSTOP; another site leads.
    Stop,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] =
        [Kind::Kill, Kind::KillLeader, Kind::Backends, Kind::Silence, Kind::SilenceLeader, Kind::Stop];

    fn leads(self) -> bool {
        matches!(self, Kind::KillLeader | Kind::SilenceLeader)
    }

    fn needs_net(self) -> bool {
        matches!(self, Kind::Silence | Kind::SilenceLeader)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Kill => "SIGKILL, another leads",
            Kind::KillLeader => "SIGKILL of the leader",
            Kind::Backends => "backends die",
            Kind::Silence => "packets dropped",
            Kind::SilenceLeader => "packets dropped, leader",
            Kind::Stop => "SIGSTOP",
        })
    }
}

/// What one kind took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// Which.
    pub kind: Kind,
    /// Milliseconds from the fault to the changed answer, of each survivor of each run.
    pub times_ms: Vec<f64>,
    /// Milliseconds to the slowest survivor of each run: kill to changed answer on every survivor.
    pub slowest_ms: Vec<f64>,
    /// Milliseconds that the slowest durable write of any survivor took in each run, as the upper bound of a bucket of
    /// its histogram: a decision is durable on a majority before it is answered, and one slow disk of two is waited for.
    /// As many as `slowest_ms`; infinite (`null` in JSON) beyond the last bucket; none for programs that do not tell.
    pub flush_ms: Vec<f64>,
    /// Runs in which a survivor never changed its answer.
    pub failed: usize,
}

impl Line {
    /// Nothing measured yet.
    pub fn new(kind: Kind) -> Line {
        Line { kind, times_ms: vec![], slowest_ms: vec![], flush_ms: vec![], failed: 0 }
    }

    /// A percentile of the slowest survivors, in milliseconds (nearest rank); none without runs.
    pub fn percentile(&self, p: f64) -> Option<f64> {
        let mut sorted = self.slowest_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (p / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied()
    }
}

/// How long a kind may take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Asked {
    /// At most, for half of the runs; none: nothing is asked of them.
    pub p50_ms: Option<f64>,
    /// At most, for 99 of 100 runs.
    pub p99_ms: f64,
}

impl Asked {
    /// Whether it took no longer, with no failed run.
    pub fn holds(self, line: &Line) -> bool {
        let within = |p, bound| line.percentile(p).is_some_and(|ms| ms <= bound);
        line.failed == 0 && within(99.0, self.p99_ms) && self.p50_ms.is_none_or(|bound| within(50.0, bound))
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.p50_ms.map_or(Ok(()), |ms| write!(f, "p50 {ms:.0} ms, "))?;
        write!(f, "p99 {:.0} ms", self.p99_ms)
    }
}

const fn p99(p99_ms: f64) -> Asked {
    Asked { p50_ms: None, p99_ms }
}

const fn both(p50_ms: f64, p99_ms: f64) -> Asked {
    Asked { p50_ms: Some(p50_ms), p99_ms }
}

/// An election at the timing `lan`, in milliseconds: the leader's lease has run out after 5 heartbeats, and the next
/// candidate stands after 5 more at the latest (`src/consensus/timing.rs`).
const ELECTION_LAN: f64 = 500.0;
/// The same at `wan`, which is what a round trip of 100 ms needs.
const ELECTION_WAN: f64 = 2_000.0;

/// What is asked of three sites: by preset, round trip in milliseconds, and kind. Where silence cuts the leader off, an
/// election is added.
const ASKED: [(&str, u32, Kind, Asked); 10] = [
    ("balanced", 0, Kind::Kill, both(100.0, 250.0)),
    ("balanced", 0, Kind::KillLeader, both(350.0, 750.0)),
    ("balanced", 0, Kind::Silence, p99(3_500.0)),
    ("balanced", 0, Kind::SilenceLeader, p99(3_500.0 + ELECTION_LAN)),
    ("fast", 0, Kind::Silence, p99(1_000.0)),
    ("fast", 0, Kind::SilenceLeader, p99(1_000.0 + ELECTION_LAN)),
    ("balanced", 100, Kind::Kill, p99(600.0)),
    ("balanced", 100, Kind::KillLeader, p99(2_500.0)),
    ("balanced", 100, Kind::Silence, p99(4_000.0)),
    ("balanced", 100, Kind::SilenceLeader, p99(4_000.0 + ELECTION_WAN)),
];

/// What is measured.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Runs of each kind.
    pub runs: usize,
    /// Which kinds.
    pub kinds: Vec<Kind>,
    /// Sites.
    pub sites: usize,
    /// Round trip between sites, in milliseconds; 0: as near as the kernel makes them.
    pub rtt_ms: u32,
    /// The preset of the service's check: `fast`, `balanced` or `patient`.
    pub preset: String,
}

/// Longest wait for a changed answer.
const WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for everything to be as before.
const HEAL: Duration = Duration::from_secs(90);
/// Between two questions of an asker.
const EVERY: Duration = Duration::from_millis(2);

impl Bench {
    /// How long a kind may take here; none where nothing is asked.
    pub fn asked(&self, kind: Kind) -> Option<Asked> {
        let here = (3, self.preset.as_str(), self.rtt_ms, kind);
        let of = |(preset, rtt_ms, kind, _): &&(&str, u32, Kind, Asked)| {
            (self.sites, *preset, *rtt_ms, *kind) == here
        };
        ASKED.iter().find(of).map(|(.., asked)| *asked)
    }

    /// Runs everything. What this machine cannot do is said and left out.
    pub fn run(&self, exe: &FilePath, say: &mut (dyn FnMut(&str) + Send)) -> Result<Vec<Line>, LabError> {
        match net::possible() {
            Ok(()) => {
                let net = Arc::new(Net::new(self.sites)?);
                net.clone().inside(|| self.on(exe, Some(net), say))?
            }
            Err(why) => {
                say(&format!("NOT MEASURED: silence by dropped packets, distance: {why}"));
                if self.rtt_ms > 0 { Ok(vec![]) } else { self.on(exe, None, say) }
            }
        }
    }

    fn on(
        &self,
        exe: &FilePath,
        net: Option<Arc<Net>>,
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Line>, LabError> {
        let mut options = Options::new(exe.into());
        options.sites = ["fra", "ams", "iad", "sin", "gru", "syd", "nrt"]
            .iter()
            .take(self.sites)
            .map(|s| (*s).into())
            .collect();
        options.founders = self.sites;
        options.net = net.clone();
        options.check = format!("{{ kind = \"http\", path = \"/\", preset = {:?} }}", self.preset);
        let wan = match &net {
            Some(net) if self.rtt_ms > 0 => Some(Wan::start(net, Link::default(), 1)?),
            _ => None,
        };
        let mut lab = Lab::start(options, say)?;
        if let Some(wan) = &wan {
            let timing = if self.rtt_ms > 100 { "global" } else { "wan" };
            lab.put(0, "/v1/timing", &json!(timing))?;
            (0..self.sites).for_each(|a| (0..a).for_each(|b| wan.set(a, b, Link::rtt(self.rtt_ms))));
        }
        self.measure(&mut lab, net.as_deref(), say)
            .inspect_err(|_| say(&format!("the nodes' logs stay in {}", lab.keep().display())))
    }

    fn measure(
        &self,
        lab: &mut Lab,
        net: Option<&Net>,
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Line>, LabError> {
        let mut lines = Vec::new();
        for kind in self.kinds.iter().filter(|k| net.is_some() || !k.needs_net()) {
            let mut line = Line::new(*kind);
            for run in 1..=self.runs {
                let (times, flush_ms) = once(lab, net, *kind)?;
                let known: Vec<f64> = times.iter().flatten().copied().collect();
                let slowest = known.iter().copied().fold(0.0, f64::max);
                say(&format!("{kind} {run}/{}: {slowest:.0} ms, slowest fsync {flush_ms:.0} ms", self.runs));
                match known.len() == times.len() {
                    true => {
                        line.slowest_ms.push(slowest);
                        line.flush_ms.push(flush_ms);
                    }
                    false => line.failed += 1,
                }
                line.times_ms.extend(known);
            }
            lines.push(line);
        }
        Ok(lines)
    }
}

/// One failover and the way back; milliseconds of each survivor, and of the slowest durable write meanwhile.
fn once(lab: &mut Lab, net: Option<&Net>, kind: Kind) -> Result<(Vec<Option<f64>>, f64), LabError> {
    lab.wait("every node answers the first site", HEAL, Lab::settled)?;
    lab.lead(usize::from(!kind.leads()))?;
    std::thread::sleep(Duration::from_millis(300));
    lab.wait("every node answers the first site", HEAL, Lab::settled)?;
    let survivors = if kind == Kind::Backends { 0..lab.nodes.len() } else { 1..lab.nodes.len() };
    let ask = |i: usize| Asker::start(lab.nodes[i].at(DNS), NAME, A, EVERY);
    let askers: Vec<Asker> = survivors.clone().map(ask).collect::<Result<_, _>>()?;
    let before: Vec<Flushes> = survivors.clone().map(|i| flushes(lab, i)).collect::<Result<_, _>>()?;
    std::thread::sleep(Duration::from_millis(100));

    let at = inflict(lab, net, kind)?;
    let next: BTreeSet<IpAddr> = [lab.nodes[1].ip].into();
    let took = |a: &Asker| a.wait(&next, at, WITHIN).map(|t| (t - at).as_secs_f64() * 1e3);
    let times = askers.iter().map(took).collect();
    drop(askers);
    let mut flush_ms = 0.0;
    for (i, before) in survivors.zip(&before) {
        let grown = |(now, then): &(&(f64, u64), &(f64, u64))| now.1 > then.1;
        let after = flushes(lab, i)?;
        let slowest = after.iter().zip(before).filter(grown).map(|(now, _)| now.0).next_back();
        flush_ms = slowest.unwrap_or_default().max(flush_ms);
    }
    std::thread::sleep(Duration::from_millis(200));
    relieve(lab, net, kind)?;
    Ok((times, flush_ms))
}

/// How many durable writes took up to so many milliseconds, bucket by bucket.
type Flushes = Vec<(f64, u64)>;

fn flushes(lab: &Lab, i: usize) -> Result<Flushes, LabError> {
    let answer = lab.request(i, "GET", "/metrics", None)?;
    Ok(buckets(&String::from_utf8_lossy(&answer.body)))
}

/// The histogram of durable writes, each bucket by itself.
fn buckets(metrics: &str) -> Flushes {
    let bucket = |line: &str| {
        let (bound, total) =
            line.strip_prefix("zonekeeper_flush_seconds_bucket{le=\"")?.split_once("\"} ")?;
        Some((bound.replace('+', "").parse::<f64>().ok()? * 1e3, total.trim().parse::<u64>().ok()?))
    };
    let mut before = 0;
    let own = |(bound, total): (f64, u64)| (bound, total - std::mem::replace(&mut before, total));
    metrics.lines().filter_map(bucket).map(own).collect()
}

/// The moment before it, so that what it takes to inflict counts, as it does for peers.
fn inflict(lab: &mut Lab, net: Option<&Net>, kind: Kind) -> Result<Instant, LabError> {
    let at = Instant::now();
    match kind {
        Kind::Kill | Kind::KillLeader => drop(lab.kill(0)?),
        Kind::Backends => lab.backends[0].iter_mut().for_each(|b| *b = None),
        Kind::Silence | Kind::SilenceLeader => {
            let others = 1..lab.nodes.len();
            let pairs = others.flat_map(|o| [(0, o), (o, 0)]);
            let rules: Vec<Rule> =
                pairs.map(|(from, to)| Rule { from, to, path: Path::All, loss: 1000 }).collect();
            net.map_or(Ok(()), |net| net.rules(&rules))?;
        }
        Kind::Stop => lab.pause(0, true),
    }
    Ok(at)
}

fn relieve(lab: &mut Lab, net: Option<&Net>, kind: Kind) -> Result<(), LabError> {
    match kind {
        Kind::Kill | Kind::KillLeader => lab.restart(0).map(drop),
        Kind::Backends => (0..lab.backends[0].len()).try_for_each(|b| lab.revive_backend(0, b)),
        Kind::Silence | Kind::SilenceLeader => Ok(net.map_or(Ok(()), |net| net.rules(&[]))?),
        Kind::Stop => {
            lab.pause(0, false);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonekeeper_core::entry::Timing;

    #[test]
    fn a_histogram_is_read_bucket_by_bucket() {
        let text = "zonekeeper_flush_seconds_bucket{le=\"0.0005\"} 3\n\
                    zonekeeper_flush_seconds_bucket{le=\"1.024\"} 4\n\
                    zonekeeper_flush_seconds_bucket{le=\"+Inf\"} 9\nzonekeeper_flush_seconds_sum 7\n";
        assert_eq!(buckets(text), [(0.5, 3), (1024.0, 1), (f64::INFINITY, 5)]);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let slowest_ms = (1..=50).rev().map(f64::from).collect();
        let line = Line { slowest_ms, ..Line::new(Kind::Kill) };
        assert_eq!([50.0, 90.0, 99.0].map(|p| line.percentile(p)), [Some(25.0), Some(45.0), Some(50.0)]);
        let none = Line::new(Kind::Kill);
        assert_eq!(none.percentile(50.0), None);
    }

    #[test]
    fn bounds_are_for_three_sites_at_the_stated_preset_and_distance() {
        let bench = |sites, preset: &str, rtt_ms| {
            let bench = Bench { runs: 1, kinds: vec![], sites, rtt_ms, preset: preset.into() };
            [Kind::Kill, Kind::SilenceLeader].map(|kind| bench.asked(kind).map(|a| a.p99_ms))
        };
        assert_eq!(bench(3, "balanced", 0), [Some(250.0), Some(4_000.0)]);
        assert_eq!(bench(3, "balanced", 100), [Some(600.0), Some(6_000.0)]);
        assert_eq!(bench(3, "fast", 0), [None, Some(1_500.0)]);
        for (sites, preset, rtt_ms) in [(5, "balanced", 0), (3, "patient", 0), (3, "balanced", 50)] {
            assert_eq!(bench(sites, preset, rtt_ms), [None, None]);
        }
    }

    #[test]
    fn a_bound_is_missed_by_slow_failed_and_missing_runs() {
        let holds = |slowest_ms: &[f64], failed| {
            both(100.0, 250.0).holds(&Line { slowest_ms: slowest_ms.into(), failed, ..Line::new(Kind::Kill) })
        };
        assert!(holds(&[90.0, 100.0, 250.0], 0));
        assert!(!holds(&[90.0, 101.0, 250.0], 0), "p50");
        assert!(!holds(&[90.0, 100.0, 251.0], 0), "p99");
        assert!(!holds(&[90.0], 1));
        assert!(!holds(&[], 0));
    }

    #[test]
    fn an_election_is_ten_heartbeats() {
        let ms = |timing: Timing| 10.0 * timing.heartbeat_ms() as f64;
        assert_eq!([ELECTION_LAN, ELECTION_WAN], [Timing::Lan, Timing::Wan].map(ms));
    }
}
